"""Define `convokit replay`: show the request of an API call again."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from json import dumps
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from convokit import Replay
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, find_chat, open_kit
from convokit.domain.message import extract_text

_STATUS_STYLES = {"exact": "green", "redacted": "yellow", "mismatch": "bold red"}


def replay(
    conversation: shared_options.Conversation = None,
    *,
    turn: Annotated[str | None, typer.Option("--turn", metavar="ID", help="Turn; default: the newest.")] = None,
    call: Annotated[
        int | None,
        typer.Option(
            "--call",
            metavar="N",
            help="API call within the turn, counted from 1; default: the last one with an answer.",
        ),
    ] = None,
    body: Annotated[bool, typer.Option("--body", help="Write only the exact bytes of the request.")] = False,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Show the request of an API call again.

    The request is rebuilt from stored rows and checked against its digest. Exits with 1 if it differs from the one that was
    sent.
    """
    if body and json:
        raise typer.BadParameter("--body and --json exclude each other")
    with open_kit(DatabaseOption(database, tenant), read_only=True) as kit:
        replayed = find_chat(kit, conversation).replay(turn, call=call)
    if body:
        _write_body(replayed)
    elif json:
        output.print_json(replayed.model_dump(mode="json", exclude={"body"}))
    else:
        _print(replayed)
    if replayed.status == "mismatch":
        raise typer.Exit(1)


def _write_body(replayed: Replay) -> None:
    if replayed.body is None:
        output.print_note(f"there are no bytes to write: {replayed.problem}")
        raise typer.Exit(1)
    if sys.stdout.isatty():  # raw bytes could steer the terminal
        raise typer.BadParameter("--body writes raw bytes: redirect them to a file or a program")
    sys.stdout.buffer.write(replayed.body)
    sys.stdout.buffer.flush()


def _print(replayed: Replay) -> None:
    console = output.get_console()
    head = Text(replayed.status, style=_STATUS_STYLES[replayed.status])
    head.append(f"  call {replayed.call} of turn {replayed.turn_id}", style="not bold default")
    model, started_at = output.to_one_line(replayed.model), output.format_time(replayed.started_at)
    head.append(f"  {model}  {started_at}", style="not bold default dim")
    console.print(head)
    if replayed.problem is not None:
        output.print_wrapped(console, Text(output.make_safe(replayed.problem), style="yellow"))
    for name, value in replayed.parameters.items():
        shown = f"{len(value)} ({', '.join(_list_tool_names(value))})" if name == "tools" else _to_json(value)
        _print_cut(console, f"{name}: {shown}")
    console.print()
    for message in replayed.messages:
        _print_message(console, message)


def _list_tool_names(tools: list[dict[str, Any]]) -> list[str]:
    # A tool's definition stands under the name of its type: {"type": "function", "function": {"name": ...}}.
    definitions = [tool.get(str(tool.get("type"))) for tool in tools]
    return [str(each.get("name")) if isinstance(each, Mapping) else "?" for each in definitions]


def _print_message(console: Console, message: dict[str, Any]) -> None:
    role = str(message.get("role"))
    console.print(Text(output.make_safe(role), style=output.get_role_style(role)))
    content = message.get("content")
    if text := extract_text(content):
        output.write_text(f"{text}\n")
    for part in content if isinstance(content, list) else ():
        if part.get("type") != "text":
            _print_cut(console, _to_json(part), "dim")
    for call in message.get("tool_calls") or ():
        _print_cut(console, f"calls {_to_json(call)}", "yellow")
    rest = {name: value for name, value in message.items() if name not in ("role", "content", "tool_calls")}
    if rest:
        _print_cut(console, _to_json(rest), "dim")
    console.print()


def _to_json(value: Any) -> str:
    return dumps(value, ensure_ascii=False, separators=(",", ":"))


def _print_cut(console: Console, text: str, style: str = "") -> None:
    # A whole value may be an image of megabytes.
    console.print(output.fit_text(text, console.width, style))
