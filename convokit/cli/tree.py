"""Draw the messages of all branches as a tree.

The current path runs straight down the left edge. An alternative is drawn beside its path, at the message where it starts, and
then the path continues. The depth on the screen is therefore the number of forks, not the number of messages. `rich.tree`
indents every message below its parent and drops the messages for which a terminal is too narrow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from convokit import Branch, Message
from convokit.cli import output
from convokit.domain.message import PASSAGE

_LABEL_CELLS = 24
# Cells for the text of a message, however deep the tree is.
_MIN_TEXT_CELLS = 16
_ROLE_CELLS = 9


def find_path(messages: Sequence[Message], head: str | None) -> set[int]:
    """Return the seqs on the path to the message with id `head`, as far as they are among `messages`."""
    parents = {message.seq: message.parent_seq for message in messages}
    seq = next((message.seq for message in messages if message.id == head), None)
    path = set()
    while seq in parents:
        path.add(seq)
        seq = parents[seq]
    return path


def draw_tree(messages: Sequence[Message], branches: Sequence[Branch], path: set[int], width: int) -> Iterator[Text]:
    """Yield one line of at most `width` cells for each message, parents before children.

    `path` holds the seqs of the current path. A branch's name stands at its last message.
    """
    labels: dict[str | None, list[str]] = defaultdict(list)
    for branch in branches:
        labels[branch.head].append(_label(branch))
    digits = len(str(messages[-1].seq)) if messages else 1
    for guides, message in _walk(messages, path):
        label = ", ".join(labels[message.id])
        yield _draw_message(guides, message, label, message.seq in path, digits, width)


def _label(branch: Branch) -> str:
    if branch.number == 0:
        return str(branch.name)
    return f"{branch.number} {output.to_one_line(branch.name)}" if branch.name else str(branch.number)


def _walk(messages: Sequence[Message], path: set[int]) -> Iterator[tuple[str, Message]]:
    """Yield each message with the guide lines on its left, alternatives before the continuation of their path."""
    by_seq = {message.seq: message for message in messages}
    children: dict[int | None, list[Message]] = defaultdict(list)
    for message in messages:
        if message.status != PASSAGE:
            children[_find_shown_parent(by_seq, message)].append(message)
    pending = _order_children(children[None], path, "", first="┌─")
    while pending:
        guides, inner_guides, message = pending.pop()
        yield guides, message
        pending += _order_children(children[message.seq], path, inner_guides, first="├─")


def _find_shown_parent(by_seq: dict[int, Message], message: Message) -> int | None:
    """Return the nearest ancestor that is drawn: passages are not drawn."""
    parent = message.parent_seq
    while parent in by_seq and by_seq[parent].status == PASSAGE:
        parent = by_seq[parent].parent_seq
    return parent if parent in by_seq else None


def _order_children(
    children: list[Message], path: set[int], guides: str, *, first: str
) -> list[tuple[str, str, Message]]:
    """Return children as a stack of (guides, guides of its descendants, message): the last one is drawn first.

    The child on the current path, or else the newest child, continues its parent's line and is drawn last.
    """
    if not children:
        return []
    continuation = next((child for child in children if child.seq in path), children[-1])
    alternatives = [child for child in children if child is not continuation]
    stack = [
        (guides + (first if number == 0 else "├─"), guides + "│ ", child) for number, child in enumerate(alternatives)
    ]
    return [(guides, guides, continuation), *stack[::-1]]


def _draw_message(guides: str, message: Message, label: str, is_current: bool, digits: int, width: int) -> Text:
    max_guides = max(width - _MIN_TEXT_CELLS - digits - 16, 2)
    if cell_len(guides) > max_guides:
        guides = "…" + guides[-max_guides:]
    line = Text(guides, style="dim", no_wrap=True)
    line.append("●" if is_current else "○", style="not dim bold green" if is_current else "not dim")
    line.append(f" {message.seq:>{digits}} ", style="dim")
    role_style = output.get_role_style(message.role)
    line.append(set_cell_size(output.to_one_line(message.role), _ROLE_CELLS) + " ", style=f"not dim {role_style}")
    if message.status != "complete":
        line.append(f"({message.status}) ", style="not dim yellow")
    branches = output.fit_text(label, _LABEL_CELLS)
    text_cells = width - line.cell_len - (branches.cell_len + 3 if label else 0)
    line.append_text(output.fit_text(_describe_content(message), max(text_cells, 1)))
    if label:
        line.append(" ← ", style="dim")
        line.append(branches.plain, style="not dim bold")
    return line


def _describe_content(message: Message) -> str:
    calls = [f"calls {call.get('function', {}).get('name', '?')}" for call in message.tool_calls or ()]
    return " ".join(filter(None, (message.text, ", ".join(calls))))
