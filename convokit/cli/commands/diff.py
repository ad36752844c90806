"""Define `convokit diff`: compare the requests of two turns."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from convokit import Chat, Diff
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, find_chat, open_kit
from convokit.errors import NotFound


def diff(
    conversation: shared_options.Conversation = None,
    a: Annotated[
        str | None, typer.Argument(metavar="[TURN_A]", help="Id of a turn; default: the last but one.")
    ] = None,
    b: Annotated[
        str | None, typer.Argument(metavar="[TURN_B]", help="Id of another turn; default: the last one.")
    ] = None,
    *,
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Compare the requests of two turns.

    Shows where they first differ, and why a prompt cache cannot serve the second one.
    """
    with open_kit(DatabaseOption(database, tenant), read_only=True) as kit:
        chat = find_chat(kit, conversation)
        compared = chat.diff(*_choose_turns(chat, a, b))
    if json:
        output.print_json(compared.model_dump(mode="json"))
    else:
        _print(compared)


def _choose_turns(chat: Chat, a: str | None, b: str | None) -> tuple[str, str]:
    """Return the turns that are named; a missing one is taken from the last two turns of the path."""
    if a is not None and b is not None:
        return a, b
    last = [str(turn.id) for turn in chat.turns(limit=2)]
    if len(last) < 2:
        raise NotFound("turn", "to compare with", "the conversation has only one turn")
    return a or last[0], last[1]


def _print(compared: Diff) -> None:
    console = output.get_console()
    output.print_wrapped(console, Text(f"{compared.reason}: {output.make_safe(compared.why)}", style="bold"))
    for name, turn, call in zip("ab", compared.turns, compared.calls, strict=True):
        console.print(Text(f"{name}  turn {turn}, call {call}", style="dim"))
    if compared.place is not None:
        console.print(Text(f"\n{output.make_safe(compared.place)}"))
        for name, value in (("a", compared.a), ("b", compared.b)):
            shown = Text("(nothing)", style="dim") if value is None else Text(output.to_one_line(value))
            console.print(Text(f"{name}  ", style="cyan").append(shown))
    messages = output.format_count(compared.common_messages, "message")
    prefix = f"\nin common: {messages}, the first {compared.common_tokens:,} tokens of the prompt"
    output.print_wrapped(console, Text(prefix))
