"""Define `convokit ls`: list conversations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.cells import cell_len
from rich.text import Text

from convokit import Conversation, Page
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, open_kit
from convokit.cli.invocation import format_command

_COLUMNS = ("conversation", "messages", "last used", "state", "erased", "title", "subject", "last message")
_LEAST_CELLS = {"conversation": 24, "erased": 16, "title": 20, "subject": 10, "last message": 20}
"""A column is not cut below this. A time takes 16 cells."""
_ID_CELLS = 36
_GAP = 2


def ls(
    *,
    subject: shared_options.Subject = None,
    prefix: Annotated[
        str | None,
        typer.Option("--prefix", metavar="TEXT", help="Only keys that begin with TEXT, in the order of the keys."),
    ] = None,
    archived: Annotated[
        bool | None, typer.Option("--archived/--no-archived", help="Only archived conversations, or only the others.")
    ] = None,
    open_: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Only conversations with an open turn, or only the others.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=shared_options.TIME_FORMATS, metavar="TIME", help="Last used at TIME (local) or later."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=shared_options.TIME_FORMATS, metavar="TIME", help="Last used before TIME (local)."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, metavar="N", help="Conversations on a page.")
    ] = 20,
    before: shared_options.Before = None,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """List conversations, the last used first, with the beginning of their last messages."""
    with open_kit(DatabaseOption(database, tenant), read_only=True) as kit:
        page = kit.conversations(
            subject=subject,
            prefix=prefix,
            archived=archived,
            open=open_,
            since=shared_options.add_zone(since),
            until=shared_options.add_zone(until),
            limit=limit,
            before=before,
        )
    if json:
        conversations = [conversation.model_dump(mode="json") for conversation in page]
        output.print_json({"conversations": conversations, "next": page.next})
    elif page.items:
        _print_page(page)
    elif any(each is not None for each in (prefix, archived, open_, since, until, before)):
        output.print_note("no conversation found")
    else:
        output.print_note("no conversations" + (f" of {output.to_one_line(subject)}" if subject else "") + " yet")


def _print_page(page: Page[Conversation]) -> None:
    rows = [_describe(item, datetime.now(UTC)) for item in page]
    columns = [name for name in _COLUMNS if any(row[name] for row in rows)]
    least = dict(_LEAST_CELLS)
    if any(item.key is None for item in page):
        least["conversation"] = _ID_CELLS
    # A terminal that is too narrow for all columns gets no messages in the table, or else no table.
    without_messages = [name for name in columns if name != "last message"]
    if not (_print_table(rows, columns, least) or _print_table(rows, without_messages, least)):
        _print_stacked(rows)
    if page.next is not None:
        output.print_note(f"more: repeat the command with --before {page.next}")


def _print_table(rows: list[dict[str, str]], columns: list[str], least: dict[str, int]) -> bool:
    """Print these columns of all rows. Print nothing and return False if they do not fit."""
    console = output.get_console()
    longest = {name: max(len(name), *(cell_len(row[name]) for row in rows)) for name in columns}
    # Counts and times are never cut. The others share what is left of the line.
    flexible = [name for name in columns if name in _LEAST_CELLS]
    fixed = sum(longest[name] for name in columns if name not in flexible)
    free = console.width - fixed - _GAP * (len(columns) - 1)
    if not console.is_terminal:  # a program gets whole texts
        free = max(free, sum(longest[name] for name in flexible))
        console.width = max(console.width, fixed + free + _GAP * len(columns))
    widths = output.fit_columns([longest[name] for name in flexible], [least[name] for name in flexible], free)
    if widths is None:
        return False
    cells = dict(zip(flexible, widths, strict=True))
    table = output.make_table(*columns, right=("messages",))
    for row in rows:
        table.add_row(*(output.fit_text(row[name], cells.get(name, longest[name])) for name in columns))
    console.print(table)
    if cells["conversation"] < longest["conversation"]:
        output.print_note(f"a long key is cut: `{format_command('ls', '--json')}` shows keys in full")
    return True


def _print_stacked(rows: list[dict[str, str]]) -> None:
    """Print the parts of a conversation below each other, for a narrow terminal."""
    console = output.get_console()
    labels = {"title": "", "subject": "subject ", "erased": "erased ", "last message": ""}
    for row in rows:
        console.print(Text(row["conversation"], style="bold"))
        for name, label in labels.items():
            if row[name]:
                console.print("  ", output.fit_text(label + row[name], console.width - 2), sep="")
        noun = "message" if row["messages"] == "1" else "messages"
        state = f", {row['state']}" if row["state"] else ""
        console.print(f"  {row['messages']} {noun}, {row['last used']}{state}")


def _describe(item: Conversation, now: datetime) -> dict[str, str]:
    """Return the cells of a conversation, by column."""
    erased = item.erased_at
    marks = (("open", item.open), ("archived", item.archived_at is not None))
    return {
        "conversation": _name(item),
        "messages": f"{item.last_seq:,}",
        "last used": output.format_age(item.updated_at, now),
        "state": " ".join(name for name, is_set in marks if is_set),
        "erased": "" if erased is None else output.format_removal(erased, item.erased_by, item.erase_reason),
        "title": output.to_one_line(item.title or ""),
        "subject": output.to_one_line(item.subject or ""),
        "last message": "" if item.preview is None else output.to_one_line(item.preview.text),
    }


def _name(conversation: Conversation) -> str:
    return output.to_one_line(conversation.key) if conversation.key is not None else str(conversation.id)
