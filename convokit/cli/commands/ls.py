"""Define `convokit ls`: list conversations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from convokit import Conversation, Page
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, open_kit

_COLUMNS = ("conversation", "messages", "last used", "erased", "title", "subject")
_LEAST_CELLS = {"conversation": 24, "erased": 16, "title": 20, "subject": 10}
"""A column is not cut below this. A time takes 16 cells."""
_ID_CELLS = 36
_GAP = 2


def ls(
    *,
    subject: shared_options.Subject = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, metavar="N", help="Conversations on a page.")
    ] = 20,
    before: shared_options.Before = None,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """List conversations, the last used first."""
    with open_kit(DatabaseOption(database, tenant), read_only=True) as kit:
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
    rows = [_describe(item, now) for item in page.items]
    columns = [name for name in _COLUMNS if any(row[name] for row in rows)]
    longest = {name: max(len(name), *(cell_len(row[name]) for row in rows)) for name in columns}
    # Counts and times are never cut. The others share what is left of the line.
    flexible = [name for name in columns if name in _LEAST_CELLS]
    fixed = sum(longest[name] for name in columns if name not in flexible)
    free = console.width - fixed - _GAP * (len(columns) - 1)
    if not console.is_terminal:  # a program gets whole texts
        free = max(free, sum(longest[name] for name in flexible))
        console.width = max(console.width, fixed + free + _GAP * len(columns))
    least = dict(_LEAST_CELLS)
    if any(item.key is None for item in page.items):
        least["conversation"] = _ID_CELLS
    widths = output.fit_columns([longest[name] for name in flexible], [least[name] for name in flexible], free)
    if widths is None:
        _print_stacked(console, rows)
    else:
        cells = dict(zip(flexible, widths, strict=True))
        table = output.make_table(*columns, right=("messages",))
        for row in rows:
            table.add_row(*(output.fit_text(row[name], cells.get(name, longest[name])) for name in columns))
        console.print(table)
        if cells["conversation"] < longest["conversation"]:
            output.print_note("a long key is cut: `convokit ls --json` shows keys in full")
    if page.next is not None:
        output.print_note(f"more: convokit ls --before {page.next}")


def _print_stacked(console: Console, rows: list[dict[str, str]]) -> None:
    """Print the parts of a conversation below each other, for a narrow terminal."""
    for row in rows:
        console.print(Text(row["conversation"], style="bold"))
        for label, value in (("", row["title"]), ("subject ", row["subject"]), ("erased ", row["erased"])):
            if value:
                console.print("  ", output.fit_text(label + value, console.width - 2), sep="")
        noun = "message" if row["messages"] == "1" else "messages"
        console.print(f"  {row['messages']} {noun}, {row['last used']}")


def _describe(item: Conversation, now: datetime) -> dict[str, str]:
    """Return the cells of a conversation, by column."""
    erased = item.erased_at
    return {
        "conversation": _name(item),
        "messages": f"{item.last_seq:,}",
        "last used": output.format_age(item.updated_at, now),
        "erased": "" if erased is None else output.format_removal(erased, item.erased_by, item.erase_reason),
        "title": output.to_one_line(item.title or ""),
        "subject": output.to_one_line(item.subject or ""),
    }


def _name(conversation: Conversation) -> str:
    return output.to_one_line(conversation.key) if conversation.key is not None else str(conversation.id)
