"""Define `convokit ls`: list conversations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from convokit import Conversation, Page
from convokit.cli import options
from convokit.cli.connect import Database, open_kit
from convokit.cli.output import (
    fit_text,
    format_age,
    format_count,
    get_console,
    make_cell,
    make_table,
    print_json,
    print_note,
    to_one_line,
)

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
        print_json({"conversations": conversations, "next": page.next})
    elif page.items:
        _print_page(page)
    else:
        print_note("no conversations" + (f" of {to_one_line(subject)}" if subject else "") + " yet")


def _print_page(page: Page[Conversation]) -> None:
    console, now = get_console(), datetime.now(UTC)
    extras = [name for name in ("title", "subject") if any(getattr(item, name) for item in page.items)]
    if extras and console.width < _WIDE_COLUMNS:
        for item in page.items:
            console.print(Text(_name(item), style="bold"))
            for label, value in (("", item.title), ("subject ", item.subject)):
                if value:
                    console.print("  ", fit_text(label + value, console.width - 2), sep="")
            console.print(f"  {format_count(item.last_seq, 'message')}, {format_age(item.updated_at, now)}")
    else:
        columns = ("conversation", "messages", "last used", *extras)
        table = make_table(*columns, right=("messages",), cut=("title", "subject"))
        for item in page.items:
            cells = [make_cell(getattr(item, name) or "") for name in extras]
            table.add_row(_name(item), f"{item.last_seq:,}", format_age(item.updated_at, now), *cells)
        console.print(table)
    if page.next is not None:
        print_note(f"more: convokit ls --before {page.next}")


def _name(conversation: Conversation) -> str:
    return to_one_line(conversation.key) if conversation.key is not None else str(conversation.id)
