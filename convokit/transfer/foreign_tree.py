"""Convert a tree of foreign messages into drafts.

A node that holds no message, or one that cannot be read, is stepped over: the messages below it follow the message above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convokit.context.message_draft import draft_message
from convokit.domain.message import TOOL
from convokit.domain.text import map_texts, repair_text
from convokit.errors import InvalidInput
from convokit.settings import Limits
from convokit.transfer.drafts import ConversationDraft


class MessageTree:
    """Adds the messages of a tree to a draft, parents first."""

    def __init__(self, draft: ConversationDraft, limits: Limits) -> None:
        self._draft = draft
        self._limits = limits
        self._last_messages: dict[str, int | None] = {}
        """For each node, the last message on the path to it."""

    def find_last(self, node: object) -> int | None:
        """Return the last message on the path to a node, as an index; None if there is none or the node is unknown."""
        return self._last_messages.get(node) if isinstance(node, str) else None

    def step_over(self, node: str, parent: object) -> None:
        """Add a node without a message."""
        self._last_messages[node] = self.find_last(parent)

    def add(
        self,
        node: str,
        parent: object,
        shape: Mapping[str, Any],
        *,
        created_at: int | None,
        status: str = "complete",
    ) -> None:
        """Add a node with a message in the API's shape. Step over it, and count it, if the message is invalid."""
        try:
            message, content = draft_message("message", repair_texts(shape), self._limits)
        except (InvalidInput, RecursionError):
            self.leave_out(node, parent, "unreadable_messages")
            return
        if not (message.has_content() or message.role == TOOL):
            self.step_over(node, parent)
            return
        message.parent, message.created_at, message.status = self.find_last(parent), created_at, status
        self._draft.left_out["vendor_keys"] += message.drop_vendor_keys()
        self._draft.left_out["files"] += message.drop_file_ids()
        self._draft.add_blobs(content)
        self._draft.messages.append(message)
        self._last_messages[node] = len(self._draft.messages) - 1

    def leave_out(self, node: str, parent: object, kind: str) -> None:
        """Step over a node whose message is not imported, and count the message as `kind`."""
        self._draft.left_out[kind] += 1
        self.step_over(node, parent)

    def set_head(self, node: object) -> None:
        """Put the branch head at a node; at the last message if the node is unknown."""
        messages = self._draft.messages
        last = len(messages) - 1 if messages else None
        self._draft.head = self._last_messages.get(node, last) if isinstance(node, str) else last


def sort_nodes(
    parents: Mapping[str, str | None], children: Mapping[str, Sequence[str]]
) -> list[tuple[str, str | None]]:
    """Return each node and its parent: parents first, and each branch without a gap.

    `children` gives the order of siblings. A cycle is opened at its first node. Raises: InvalidInput if no node is a root.
    """
    below: dict[str | None, list[str]] = {}
    for node, parent in parents.items():
        below.setdefault(parent if parent in parents and parent != node else None, []).append(node)
    for parent, nodes in below.items():
        order = {child: index for index, child in enumerate(children.get(parent, ()) if parent is not None else ())}
        nodes.sort(key=lambda node: order.get(node, len(order)))
    if parents and None not in below:
        problem = f"{len(parents)} nodes are their own ancestors, or below such nodes"
        raise InvalidInput("mapping", f"must be a tree, but {problem}")
    result: dict[str, str | None] = {}
    for root in [*below.get(None, ()), *parents]:
        # No recursion: a conversation may have more messages than Python's stack has frames.
        stack: list[tuple[str, str | None]] = [(root, None)]
        while stack:
            node, parent = stack.pop()
            if node not in result:
                result[node] = parent
                stack += [(child, node) for child in reversed(below.get(node, ()))]
    return list(result.items())


def read_parent(value: object) -> str | None:
    """Return the id of a node's parent if it is text."""
    return value if isinstance(value, str) else None


def read_children(value: object) -> list[str]:
    """Return the ids of a node's children as far as they are text."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def repair_texts(value: Any) -> Any:
    """Return a copy of a JSON value whose texts both databases can store: as replies are repaired."""
    return map_texts(value, repair_text)


def read_title(value: object, limits: Limits) -> str | None:
    """Return a title that can be stored: cut if it is long, None if it is no text. A title never costs its conversation."""
    return repair_text(value)[: limits.key_chars] if isinstance(value, str) else None
