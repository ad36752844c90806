"""Define `convokit ls`: list conversations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from convokit import Conversation, Page
from convokit.cli import options, output
from convokit.cli.connect import Database, open_kit

# An id, a title and a subject need this many columns on one line.
_WIDE_COLUMNS = 100


def ls(
    *,
    subject: options.Subject = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, metavar="N", help="Conversations on a page.")
    ] = 20,
    before: options.Before = None,
    json: options.Json = False,
    database: options.DatabaseUrl = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """List conversations, the last used first."""
    with open_kit(Database(database, tenant)) as kit:
        page = kit.conversations(subject=subject, limit=limit, before=before)
    if json:
        conversations = [conversation.model_dump(mode="json") for conversation in page]
        output.print_json({"conversations": conversations, "next": page.next})
    elif page.items:
        _print_page(page)
    else:
        output.print_note("no conversations" + (f" of {output.to_one_line(subject)}" if subject else "") + " yet")


def _print_page(page: Page[Conversation]) -> None:
    console, now = output.get_console(), datetime.now(UTC)
    extras = [name for name in ("title", "subject") if any(getattr(item, name) for item in page.items)]
    if extras and console.width < _WIDE_COLUMNS:
        for item in page.items:
            console.print(Text(_name(item), style="bold"))
            for label, value in (("", item.title), ("subject ", item.subject)):
                if value:
                    console.print("  ", output.fit_text(label + value, console.width - 2), sep="")
            console.print(
                f"  {output.format_count(item.last_seq, 'message')}, {output.format_age(item.updated_at, now)}"
            )
    else:
        columns = ("conversation", "messages", "last used", *extras)
        table = output.make_table(*columns, right=("messages",), cut=("title", "subject"))
        for item in page.items:
            cells = [output.make_cell(getattr(item, name) or "") for name in extras]
            table.add_row(_name(item), f"{item.last_seq:,}", output.format_age(item.updated_at, now), *cells)
        console.print(table)
    if page.next is not None:
        output.print_note(f"more: convokit ls --before {page.next}")


def _name(conversation: Conversation) -> str:
    return output.to_one_line(conversation.key) if conversation.key is not None else str(conversation.id)
