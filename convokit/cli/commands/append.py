"""Define `convokit append`: write messages without a model."""

from __future__ import annotations

import sys
from json import loads
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from convokit import Chat, Convokit
from convokit.cli import output, shared_options
from convokit.cli.connect import DatabaseOption, find_chat, open_kit
from convokit.completion.on_busy import OnBusy
from convokit.domain.message import USER
from convokit.errors import InvalidInput, NotFound

STDIN = "-"


def append(
    conversation: Annotated[
        str, typer.Argument(metavar="KEY-or-ID", help="Key or id of the conversation; a new key creates one.")
    ],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]", help="JSON file with an array of messages in the API's shape; - reads a text from stdin."
        ),
    ] = None,
    *,
    text: Annotated[str | None, typer.Option("--text", metavar="TEXT", help="Text of one message.")] = None,
    role: Annotated[
        Literal["user", "assistant"] | None, typer.Option("--role", help="Role of a text; default: user.")
    ] = None,
    after: Annotated[
        int | None,
        typer.Option("--after", min=0, metavar="SEQ", help="Message to follow; 0 is before the first one."),
    ] = None,
    expect: Annotated[
        int | None,
        typer.Option("--expect", min=0, metavar="SEQ", help="Write only if the conversation ends with this message."),
    ] = None,
    on_busy: Annotated[
        OnBusy, typer.Option("--on-busy", help="What to do while a turn is open in the conversation.")
    ] = "raise",
    json: shared_options.Json = False,
    database: shared_options.DatabaseUrl = shared_options.DEFAULT_DATABASE,
    tenant: shared_options.Tenant = "default",
) -> None:
    """Write messages to a conversation without calling a model.

    Prints the number (seq) of each message. `convokit append KEY --after SEQ` alone goes back to a message.
    """
    if source is not None and text is not None:
        raise typer.BadParameter("FILE and --text exclude each other")
    if role is not None and source not in (None, STDIN):
        raise typer.BadParameter("--role is for a text: the messages of a file have their own roles")
    if source is None and text is None and (after is None or role is not None):
        raise typer.BadParameter("pass --text TEXT, FILE or -")
    messages = _read_messages(source, text, role or USER)
    with open_kit(DatabaseOption(database, tenant)) as kit:
        chat = _find_or_make_chat(kit, conversation)
        written = chat.append(messages, after=after, expect=expect, on_busy=on_busy)
        if json:
            output.print_json({"id": str(chat.id), "key": chat.key, "seqs": [each.seq for each in written]})
            return
    for each in written:
        output.write_text(f"{each.seq}\n")


def _find_or_make_chat(kit: Convokit, name: str) -> Chat:
    try:
        return find_chat(kit, name)
    except NotFound:
        return kit.chat(name)


def _read_messages(source: str | None, text: str | None, role: str) -> list[Any]:
    """Return the messages to write. Raises: InvalidInput if a file or stdin cannot be read."""
    if source == STDIN:
        text = _read(STDIN).removesuffix("\n").removesuffix("\r")
    if text is not None:
        return [{"role": role, "content": text}]
    if source is None:
        return []
    content = _read(source)
    try:
        value = loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(source, f"is not JSON ({error})") from None
    return value if isinstance(value, list) else [value]


def _read(source: str) -> str:
    """Return a file or stdin as text, without a byte order mark."""
    try:
        data = sys.stdin.buffer.read() if source == STDIN else Path(source).expanduser().read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        name = "stdin" if source == STDIN else source
        raise InvalidInput(name, f"byte {error.start} is not valid UTF-8 text") from None
    except OSError as error:
        raise InvalidInput(source, f"cannot be read ({error.strerror})") from None
