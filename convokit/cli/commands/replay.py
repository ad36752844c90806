"""`replay` and `diff`: what was sent to the model, and where two requests part. No server is called."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from convokit import Chat, Diff, Replay
from convokit.cli import options
from convokit.cli.connect import Place, existing_chat, opened
from convokit.cli.output import (
    OTHER_ROLE,
    ROLE_STYLES,
    cell,
    local_time,
    note,
    one_line,
    out,
    print_json,
    safe,
    wrapped,
    write,
)
from convokit.domain.message import extract_text
from convokit.domain.text import dump_json
from convokit.errors import NotFound

_STYLES = {"exact": "green", "redacted": "yellow", "mismatch": "bold red"}
Call = Annotated[
    int | None,
    typer.Option(
        "--call",
        metavar="N",
        help="The call within the turn, from 1; else the last that was answered.",
        show_default=False,
    ),
]


def replay(
    conversation: options.Conversation = None,
    *,
    turn: Annotated[
        str | None, typer.Option("--turn", metavar="ID", help="The turn; else the newest.", show_default=False)
    ] = None,
    call: Call = None,
    body: Annotated[
        bool, typer.Option("--body", help="Write the exact bytes of the request, and nothing else.")
    ] = False,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Show what was sent with an API call, put together again and checked against its digest.

    Exit code 1 when what is stored no longer gives what was sent.
    """
    if body and json:
        raise typer.BadParameter("--body and --json exclude each other")
    with opened(Place(database, tenant)) as kit:
        shown = existing_chat(kit, conversation).replay(turn, call=call)
    if body:
        _write_bytes(shown)
    elif json:
        print_json(_plain(shown))
    else:
        _print(shown)
    if shown.status == "mismatch":
        raise typer.Exit(1)


def _write_bytes(shown: Replay) -> None:
    if shown.body is None:
        note(f"there are no bytes to write: {shown.problem}")
        raise typer.Exit(1)
    if sys.stdout.isatty():
        raise typer.BadParameter("--body writes bytes as they are: send them to a file or to a program")
    sys.stdout.buffer.write(shown.body)
    sys.stdout.buffer.flush()


def _plain(shown: Replay) -> dict[str, Any]:
    return shown.model_dump(mode="json", exclude={"body"})


def _print(shown: Replay) -> None:
    console = out()
    head = Text(shown.status, style=_STYLES[shown.status])
    head.append(f"  call {shown.call} of turn {shown.turn_id}", style="not bold default")
    head.append(f"  {one_line(shown.model)}  {local_time(shown.started_at)}", style="not bold default dim")
    console.print(head)
    if shown.problem is not None:
        wrapped(console, Text(safe(shown.problem), style="yellow"))
    for name, value in shown.parameters.items():
        words = f"{len(value)} ({', '.join(_names(value))})" if name == "tools" else dump_json(value)
        _print_cut(console, f"{name}: {words}")
    console.print()
    for message in shown.messages:
        _print_message(console, message)


def _names(tools: list[dict[str, Any]]) -> list[str]:
    bodies = [tool.get(str(tool.get("type"))) for tool in tools]
    return [str(body.get("name")) if isinstance(body, Mapping) else "?" for body in bodies]


def _print_message(console: Console, message: dict[str, Any]) -> None:
    role = str(message.get("role"))
    console.print(Text(safe(role), style=ROLE_STYLES.get(role, OTHER_ROLE)))
    content = message.get("content")
    if text := extract_text(content):
        write(f"{text}\n")
    for part in content if isinstance(content, list) else ():
        if part.get("type") != "text":
            _print_cut(console, dump_json(part), "dim")
    for call in message.get("tool_calls") or ():
        _print_cut(console, f"calls {dump_json(call)}", "yellow")
    rest = {name: value for name, value in message.items() if name not in ("role", "content", "tool_calls")}
    if rest:
        _print_cut(console, dump_json(rest), "dim")
    console.print()


def _print_cut(console: Console, text: str, style: str = "") -> None:
    """Print one line, cut to the terminal: an image alone may be megabytes."""
    line = cell(text, style)
    line.truncate(console.width, overflow="ellipsis")
    console.print(line)


def diff(
    conversation: Annotated[str, typer.Argument(metavar="KEY-or-ID", help="The conversation.", show_default=False)],
    a: Annotated[
        str | None, typer.Argument(metavar="[TURN_A]", help="A turn's id; else the last but one.", show_default=False)
    ] = None,
    b: Annotated[
        str | None, typer.Argument(metavar="[TURN_B]", help="Another turn's id; else the last.", show_default=False)
    ] = None,
    *,
    json: options.Json = False,
    database: options.Database = options.DEFAULT_DATABASE,
    tenant: options.Tenant = "default",
) -> None:
    """Show where the requests of two turns first differ, and why a prompt cache could not serve the second."""
    with opened(Place(database, tenant)) as kit:
        chat = existing_chat(kit, conversation)
        found = chat.diff(*_two(chat, a, b))
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        _print_diff(found)


def _two(chat: Chat, a: str | None, b: str | None) -> tuple[str, str]:
    """Return the turns that were named, else the last two of the path."""
    if a is not None and b is not None:
        return a, b
    last = [str(each.id) for each in chat.turns(limit=2)]
    if len(last) < 2:
        raise NotFound("turn", "to compare with", "the conversation has one only")
    return a or last[0], last[1]


def _print_diff(found: Diff) -> None:
    console = out()
    wrapped(console, Text(f"{found.reason}: {safe(found.why)}", style="bold"))
    for name, turn, call in zip("ab", found.turns, found.calls, strict=True):
        console.print(Text(f"{name}  turn {turn}, call {call}", style="dim"))
    if found.place is not None:
        console.print(Text(f"\n{safe(found.place)}"))
        for name, value in (("a", found.a), ("b", found.b)):
            console.print(Text(f"{name}  ", style="cyan").append(_shown(value)))
    messages = "message" if found.common_messages == 1 else "messages"
    common = (
        f"\nin common: {found.common_messages:,} {messages}, {found.common_tokens:,} tokens of the prompt's beginning"
    )
    wrapped(console, Text(common))


def _shown(value: str | None) -> Text:
    return Text("(nothing)", style="dim") if value is None else Text(one_line(value))
