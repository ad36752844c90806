"""`show --tree`: all messages of a conversation as the tree they are, the current path straight down the left.

What parts from a line is drawn beside it, where it parts; then the line goes on. So depth on the screen is how often paths
part, not how many messages there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from convokit import Chat, Message
from convokit.cli.output import OTHER_ROLE, ROLE_STYLES, as_json, fitted, note, one_line, out, print_json
from convokit.domain.conversation import Branch
from convokit.domain.ids import parse_message_seq
from convokit.domain.message import PASSAGE

_PAGE = 1000
_LABEL_CELLS = 24
_LEAST_TEXT = 16
"""What is kept for the words, however deep the tree."""
Line = tuple[str, Message]


def show_tree(chat: Chat, last: int, *, json: bool) -> None:
    """Print the newest `last` messages on all branches as a tree."""
    messages = _newest(chat, last)
    branches = _branches(chat)
    heads = {branch.number: _seq(chat, branch) for branch in branches}
    path = _path(messages, heads[0])
    if json:
        listed = [branch.model_dump(mode="json") for branch in branches]
        found = [as_json(message) for message in messages]
        named: dict[str, Any] = {"conversation_id": str(chat.id), "key": chat.key}
        print_json({**named, "branches": listed, "path": sorted(path), "messages": found})
        return
    if messages and messages[0].seq > 1:
        note(f"earlier messages are not shown: --last {last * 2} shows more")
    labels: dict[int, list[str]] = defaultdict(list)
    for branch in branches:
        seq = heads[branch.number]
        if seq is not None:
            labels[seq].append(_label(branch))
    console, digits = out(), len(str(messages[-1].seq)) if messages else 1
    for beside, message in _drawn(messages, path):
        label = ", ".join(labels[message.seq])
        console.print(_line(beside, message, label, message.seq in path, digits, console.width))


def _newest(chat: Chat, count: int) -> list[Message]:
    found = chat.log(limit=min(count, _PAGE))
    while found and len(found) < count and found[0].seq > 1:
        found = [*chat.log(limit=min(count - len(found), _PAGE), before=found[0].seq), *found]
    return found


def _branches(chat: Chat) -> list[Branch]:
    found = chat.branches(limit=_PAGE)
    return found if found[0].number == 0 else [*chat.branches(before=1), *found]


def _seq(chat: Chat, branch: Branch) -> int | None:
    assert chat.id is not None
    return None if branch.head is None else parse_message_seq(chat.id, branch.head)


def _label(branch: Branch) -> str:
    if branch.number == 0:
        return str(branch.name)
    return f"{branch.number} {one_line(branch.name)}" if branch.name else str(branch.number)


def _path(messages: Sequence[Message], head: int | None) -> set[int]:
    """Return the places of the path to `head`, as far back as it is among these messages."""
    parents = {message.seq: message.parent_seq for message in messages}
    found = set()
    while head in parents:
        found.add(head)
        head = parents[head]
    return found


def _drawn(messages: Sequence[Message], path: set[int]) -> Iterator[Line]:
    """Yield each message with what is drawn before it: parents before children, what parts before what goes on."""
    shown = {message.seq: message for message in messages}
    children: dict[int | None, list[Message]] = defaultdict(list)
    for message in messages:
        if message.status != PASSAGE:
            children[_before_passages(shown, message.parent_seq)].append(message)
    left = _following(children[None], path, "", first="┌─")
    while left:
        beside, rest, message = left.pop()
        yield beside, message
        left += _following(children[message.seq], path, rest, first="├─")


def _before_passages(shown: dict[int, Message], parent: int | None) -> int | None:
    while parent is not None and parent in shown and shown[parent].status == PASSAGE:
        parent = shown[parent].parent_seq
    return parent if parent in shown else None


def _following(found: list[Message], path: set[int], rest: str, *, first: str) -> list[tuple[str, str, Message]]:
    """Return what follows a message, last what is drawn first: the line goes on with the current path, or with the newest."""
    if not found:
        return []
    goes_on = next((each for each in found if each.seq in path), found[-1])
    beside = [each for each in found if each is not goes_on]
    parting = [(rest + (first if number == 0 else "├─"), rest + "│ ", each) for number, each in enumerate(beside)]
    return [(rest, rest, goes_on), *parting[::-1]]


def _line(beside: str, message: Message, label: str, current: bool, digits: int, width: int) -> Text:
    """Return one line of at most `width` cells: where, which, who, what, and which branches end there."""
    most = max(width - _LEAST_TEXT - digits - 16, 2)
    if cell_len(beside) > most:
        beside = "…" + beside[-most:]
    line = Text(beside, style="dim", no_wrap=True)
    line.append("●" if current else "○", style="not dim bold green" if current else "not dim")
    line.append(f" {message.seq:>{digits}} ", style="dim")
    line.append(set_cell_size(one_line(message.role), 9), style=f"not dim {ROLE_STYLES.get(message.role, OTHER_ROLE)}")
    line.append(" ")
    if message.status != "complete":
        line.append(f"({message.status}) ", style="not dim yellow")
    ends = fitted(label, _LABEL_CELLS)
    room = width - line.cell_len - (ends.cell_len + 3 if label else 0)
    line.append_text(fitted(_words(message), max(room, 1)).copy())
    if label:
        line.append(" ← ", style="dim")
        line.append(ends.plain, style="not dim bold")
    return line


def _words(message: Message) -> str:
    calls = [f"calls {each.get('function', {}).get('name', '?')}" for each in message.tool_calls or ()]
    return " ".join(filter(None, (message.text, ", ".join(calls))))
