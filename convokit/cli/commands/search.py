"""`search`: messages by the words in them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.text import Text

from convokit import Hit
from convokit.cli import options
from convokit.cli.connect import Place, opened
from convokit.cli.output import OTHER_ROLE, ROLE_STYLES, local_time, note, one_line, out, print_json, safe, waiting

_MARK = "bold reverse"
_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"]
Since = Annotated[
    datetime | None,
    typer.Option(formats=_FORMATS, metavar="TIME", help="Not before this, by the local clock.", show_default=False),
]
Until = Annotated[
    datetime | None,
    typer.Option(formats=_FORMATS, metavar="TIME", help="Before this, by the local clock.", show_default=False),
]


def search(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORDS...", help="What all of them must hold.", show_default=False)
    ] = None,
    *,
    role: Annotated[
        str | None, typer.Option(metavar="ROLE", help="user, assistant or tool.", show_default=False)
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Only in this conversation.", show_default=False)
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Only in this person's conversations.", show_default=False)
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, metavar="N", help="How many at most.")] = 10,
    before: Annotated[
        str | None, typer.Option("--before", metavar="CURSOR", help="The page after this one.", show_default=False)
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Index the messages that were written without, and search nothing.")
    ] = False,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Find messages that hold every one of these words, the best first.

    Words between double quotes must follow each other: convokit search '"port 80" taken'.
    """
    if rebuild == bool(words):
        raise typer.BadParameter(
            "say what to search for, or --rebuild" if rebuild is False else "--rebuild takes no words"
        )
    with opened(Place(database, tenant)) as kit:
        if rebuild:
            with waiting("indexing messages"):
                count = kit.reindex()
            _say_indexed(count, json=json)
            return
        page = kit.search(
            " ".join(words or ()),
            role=role,
            key=key,
            subject=subject,
            since=_zoned(since),
            until=_zoned(until),
            limit=limit,
            before=before,
        )
    if json:
        print_json({"hits": [_as_json(hit) for hit in page], "next": page.next})
    elif page.items:
        for hit in page:
            _print(hit)
        if page.next is not None:
            note(f"more: the same with --before {page.next}")
    else:
        note("nothing was found")


def _say_indexed(count: int, *, json: bool) -> None:
    if json:
        print_json({"indexed": count})
    else:
        note(f"{count:,} messages were not in the index and are now" if count else "every message is in the index")


def _zoned(given: datetime | None) -> datetime | None:
    return None if given is None else given.astimezone()


def _as_json(hit: Hit) -> dict[str, Any]:
    """Return a hit for programs: where it is, and the words around it, not the whole message."""
    return {
        "conversation_id": str(hit.conversation_id),
        "key": hit.key,
        "message_id": hit.message.id,
        "seq": hit.message.seq,
        "role": hit.message.role,
        "created_at": hit.message.created_at.isoformat(),
        "snippet": hit.snippet,
        "marks": hit.marks,
        "rank": hit.rank,
    }


def _print(hit: Hit) -> None:
    console, message = out(), hit.message
    head = Text(one_line(hit.key) if hit.key is not None else str(hit.conversation_id), style="bold")
    head.append(f"  {safe(message.role)}", style=ROLE_STYLES.get(message.role, OTHER_ROLE))
    head.append(f"  {local_time(message.created_at)}  no. {message.seq}", style="not bold default dim")
    head.truncate(console.width, overflow="ellipsis")
    console.print(head)
    console.print("  ", _line(hit, console.width - 2), sep="")


def _line(hit: Hit, cells: int) -> Text:
    """Return the snippet on one line of so many cells, with its first mark in it."""
    first = hit.marks[0][0] if hit.marks else 0
    start, room = first, cells // 3
    if cell_len(hit.snippet) > cells:
        while start > 0 and (room := room - cell_len(hit.snippet[start - 1])) > 0:
            start -= 1
    else:
        start = 0
    line = Text("…" if start else "", no_wrap=True)
    last = start
    for begin, end in hit.marks:
        line.append(safe(hit.snippet[last:begin])).append(safe(hit.snippet[begin:end]), style=_MARK)
        last = end
    line.append(safe(hit.snippet[last:]))
    line.truncate(cells, overflow="ellipsis")
    return line
