"""Import Claude's data export (`conversations.json`).

The file is an array of conversations with their messages. An edited message makes a branch if the export names the parents of
messages. Text, and the text of attachments, is imported. Thoughts, tool calls and binary files are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from convokit.domain.message import ASSISTANT, USER
from convokit.errors import BadRecord, InvalidInput
from convokit.transfer.drafts import ConversationDraft, validate_label
from convokit.transfer.foreign_formats import find_hint
from convokit.transfer.foreign_tree import MessageTree, read_title, sort_nodes
from convokit.transfer.import_file import read_values
from convokit.transfer.importer import FormatReader, Record
from convokit.transfer.timestamps import read_time

_ROLES = {"human": USER, ASSISTANT: ASSISTANT}
_LEFT_OUT = {
    "thinking": "thoughts",
    "redacted_thinking": "thoughts",
    "tool_use": "calls",
    "tool_result": "tool_results",
}


class ClaudeReader(FormatReader):
    """Reads the conversations of an export."""

    file_names = ("conversations*.json",)

    def read_records(self) -> Iterator[Record]:
        """Yield the conversations of the array, or a single one."""
        try:
            yield from read_values(self._file)
        except BadRecord as error:
            yield error.line or 1, error

    def convert(self, value: Any) -> ConversationDraft:
        """Return the draft of a conversation. Raises: InvalidInput, TooLarge."""
        messages = value.get("chat_messages") if isinstance(value, Mapping) else None
        if not isinstance(messages, list):
            raise InvalidInput("conversation", f'is not from Claude: it has no list "chat_messages"{find_hint(value)}')
        id_ = value.get("uuid")
        if not isinstance(id_, str) or not id_:
            raise InvalidInput("uuid", "is missing")
        key = validate_label("uuid", f"claude:{id_}", self._limits)
        # ASCII escapes lone surrogates, which have no UTF-8 form.
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()
        draft = ConversationDraft(f"{key}:0:{digest}")
        draft.key = self._options.add_prefix(key)
        draft.set_fields({"title": read_title(value.get("name"), self._limits)}, self._limits)
        draft.created_at, draft.updated_at = read_time(value.get("created_at")), read_time(value.get("updated_at"))
        self._add_messages(draft, messages, value.get("current_leaf_message_uuid"))
        return draft

    def _add_messages(self, draft: ConversationDraft, messages: list[Any], leaf: object) -> None:
        nodes: dict[str, Mapping[str, Any]] = {}
        for index, value in enumerate(messages):
            if not isinstance(value, Mapping):
                draft.left_out["unreadable_messages"] += 1
                continue
            id_ = value.get("uuid")
            nodes[id_ if isinstance(id_, str) and id_ not in nodes else f"#{index}"] = value
        tree = MessageTree(draft, self._limits)
        for node, parent in sort_nodes(_find_parents(nodes), {}):
            self._add_node(tree, draft, node, parent, nodes[node])
        tree.set_head(leaf if isinstance(leaf, str) and leaf in nodes else next(reversed(nodes), None))

    def _add_node(
        self, tree: MessageTree, draft: ConversationDraft, node: str, parent: str | None, value: Mapping[str, Any]
    ) -> None:
        text = "\n".join([*_read_texts(draft, value), *_read_attachments(draft, value)])
        sender = value.get("sender")
        role = _ROLES.get(sender) if isinstance(sender, str) else None
        if role is None and text:
            tree.leave_out(node, parent, "unreadable_messages")
            return
        tree.add(node, parent, {"role": role or USER, "content": text}, created_at=read_time(value.get("created_at")))


def _find_parents(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """Return the parent of each message. Without parents in the file, a message follows the one before it."""
    named = {node: value.get("parent_message_uuid") for node, value in nodes.items()}
    if any(isinstance(parent, str) for parent in named.values()):
        return {node: parent if isinstance(parent, str) and parent in nodes else None for node, parent in named.items()}
    order = list(nodes)
    return dict(zip(order, [None, *order], strict=False))


def _read_texts(draft: ConversationDraft, value: Mapping[str, Any]) -> list[str]:
    """Return the texts of a message's content blocks, else its plain text."""
    blocks, texts = value.get("content"), []
    for block in blocks if isinstance(blocks, list) else ():
        kind = block.get("type") if isinstance(block, Mapping) else None
        text = block.get("text") if kind == "text" else None
        if isinstance(text, str):
            texts.append(text)
        elif block:
            draft.left_out[_LEFT_OUT.get(kind, "parts") if isinstance(kind, str) else "parts"] += 1
    plain = value.get("text")
    if not any(texts) and isinstance(plain, str):
        texts = [plain]
    return [text for text in texts if text]


def _read_attachments(draft: ConversationDraft, value: Mapping[str, Any]) -> Iterator[str]:
    """Yield the extracted texts of attachments. Binary files are not in an export."""
    attachments, files = value.get("attachments"), value.get("files")
    for each in attachments if isinstance(attachments, list) else ():
        text = each.get("extracted_content") if isinstance(each, Mapping) else None
        if isinstance(text, str) and text:
            yield f"[{each.get('file_name') or 'attachment'}]\n{text}"
        else:
            draft.left_out["files"] += 1
    if isinstance(files, list):
        draft.left_out["files"] += len(files)
