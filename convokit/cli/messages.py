"""Messages on the terminal: who, when, and the words, made safe to look at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from convokit import Chat, Message
from convokit.cli.display import local_time, one_line, out, safe, write

ROLE_STYLES = {"user": "bold cyan", "assistant": "bold green", "tool": "bold yellow"}
OTHER_ROLE = "bold magenta"
_PAGE = 1000


def newest(chat: Chat, count: int) -> list[Message]:
    """Return the newest `count` messages, oldest first, however many pages that takes."""
    found = chat.messages(limit=min(count, _PAGE))
    while found and len(found) < count and found[0].parent_seq is not None:
        earlier = chat.messages(limit=min(count - len(found), _PAGE), before=found[0].seq)
        if not earlier:
            break
        found = [*earlier, *found]
    return found


def print_messages(messages: Iterable[Message]) -> None:
    """Print messages for a person."""
    console = out()
    for message in messages:
        _print(console, message)


def _print(console: Console, message: Message) -> None:
    head = Text(safe(message.role), style=ROLE_STYLES.get(message.role, OTHER_ROLE))
    head.append(f"  {local_time(message.created_at)}", style="not bold default dim")
    if message.status != "complete":
        head.append(f"  ({message.status})", style="not bold yellow")
    console.print(head)
    if message.text:
        write(f"{message.text}\n")  # not through rich, which expands tabs
    for call in message.tool_calls or ():
        function: dict[str, Any] = call.get("function", {})
        said = one_line(f"{function.get('name', '?')}({function.get('arguments', '')})")
        console.print(Text(f"calls {said}", style="yellow"))
    console.print()


def as_json(message: Message) -> dict[str, Any]:
    """Return a message for programs: its fields, and its words whatever shape they have."""
    return {**message.model_dump(mode="json"), "text": message.text}
