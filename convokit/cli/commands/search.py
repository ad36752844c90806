"""Define `convokit search`: find messages by their text."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.text import Text

from convokit import Conversation, Hit
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, open_kit

_MARK_STYLE = "bold reverse"
Since = Annotated[
    datetime | None,
    typer.Option(formats=shared_options.TIME_FORMATS, metavar="TIME", help="Written at TIME (local) or later."),
]
Until = Annotated[
    datetime | None,
    typer.Option(formats=shared_options.TIME_FORMATS, metavar="TIME", help="Written before TIME (local)."),
]


def search(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORDS...", help="Words that a message must contain, all of them.")
    ] = None,
    *,
    role: Annotated[str | None, typer.Option(metavar="ROLE", help="Only this role: user, assistant or tool.")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Only the conversation with this key.")] = None,
    subject: shared_options.Subject = None,
    since: Since = None,
    until: Until = None,
    summaries: Annotated[
        bool, typer.Option("--summaries", help="Also the rolling summaries that convokit had a model write.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, metavar="N", help="Messages on a page.")] = 10,
    before: shared_options.Before = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Index the messages that are not indexed yet, instead of searching.")
    ] = False,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Find messages that contain every word, and conversations by id, key or title.

    Conversations come first: those with this id, with a key that begins so, or with the words in their title. Then come
    messages, the best match first. Words in double quotes must follow each other: convokit search '"port 80" taken'.
    """
    if rebuild == bool(words):
        raise typer.BadParameter("--rebuild takes no words" if rebuild else "name words to search for, or --rebuild")
    with open_kit(DatabaseOption(database, tenant), read_only=not rebuild) as kit:
        if rebuild:
            with output.show_spinner("indexing messages"):
                count = kit.reindex()
            _report_indexed(count, json=json)
            return
        page = kit.search(
            " ".join(words or ()),
            role=role,
            key=key,
            subject=subject,
            since=shared_options.add_zone(since),
            until=shared_options.add_zone(until),
            summaries=summaries,
            limit=limit,
            before=before,
        )
    if json:
        conversations = [each.model_dump(mode="json") for each in page.conversations]
        output.print_json({"conversations": conversations, "hits": [_dump_hit(hit) for hit in page], "next": page.next})
        return
    for conversation in page.conversations:
        _print_conversation(conversation)
    for hit in page:
        _print_hit(hit)
    if page.next is not None:
        output.print_note(f"more: repeat the command with --before {page.next}")
    if not page:
        output.print_note("no message found")


def _report_indexed(count: int, *, json: bool) -> None:
    if json:
        output.print_json({"indexed": count})
    else:
        output.print_note(
            f"indexed {output.format_count(count, 'text')}" if count else "every message was already indexed"
        )


def _dump_hit(hit: Hit) -> dict[str, Any]:
    """Return a hit for `--json`: with the text around the words, not the whole message."""
    return {
        "conversation_id": str(hit.conversation_id),
        "key": hit.key,
        "message_id": hit.message.id,
        "seq": hit.message.seq,
        "role": hit.message.role,
        "is_summary": hit.is_summary,
        "created_at": hit.message.created_at.isoformat(),
        "snippet": hit.snippet,
        "marks": hit.marks,
        "rank": hit.rank,
    }


def _print_conversation(found: Conversation) -> None:
    console = output.get_console()
    line = Text(output.to_one_line(found.key) if found.key is not None else str(found.id), style="bold")
    if found.title is not None:
        line.append(f"  {output.to_one_line(found.title)}", style="not bold")
    marks = f"  {output.format_time(found.updated_at)}{'  archived' if found.archived_at is not None else ''}"
    line.append(f"  conversation{marks}", style="not bold default dim")
    line.truncate(console.width, overflow="ellipsis")
    console.print(line)


def _print_hit(hit: Hit) -> None:
    console, message = output.get_console(), hit.message
    head = Text(output.to_one_line(hit.key) if hit.key is not None else str(hit.conversation_id), style="bold")
    if hit.is_summary:
        head.append("  summary", style=output.get_role_style(message.status))
    else:
        head.append(f"  {output.make_safe(message.role)}", style=output.get_role_style(message.role))
    head.append(f"  {output.format_time(message.created_at)}  no. {message.seq}", style="not bold default dim")
    head.truncate(console.width, overflow="ellipsis")
    console.print(head)
    console.print("  ", _draw_snippet(hit, console.width - 2), sep="")


def _draw_snippet(hit: Hit, cells: int) -> Text:
    """Return the snippet as one line of at most `cells` cells, cut so that its first mark is visible."""
    start = 0
    if hit.marks and cell_len(hit.snippet) > cells:
        start, before = hit.marks[0][0], cells // 3
        while start > 0 and (before := before - cell_len(hit.snippet[start - 1])) > 0:
            start -= 1
    line = Text("…" if start else "", no_wrap=True)
    for mark_start, mark_end in hit.marks:
        line.append(output.make_safe(hit.snippet[start:mark_start]))
        line.append(output.make_safe(hit.snippet[mark_start:mark_end]), style=_MARK_STYLE)
        start = mark_end
    line.append(output.make_safe(hit.snippet[start:]))
    line.truncate(cells, overflow="ellipsis")
    return line
