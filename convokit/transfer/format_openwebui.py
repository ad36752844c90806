"""Import the chats of Open WebUI.

The file is an array of chats, each with a tree of messages. All branches are kept, and the branch head is the chat's current
message. Images in messages of the user are imported where the file has their data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from convokit.domain.message import ASSISTANT, INSTRUCTION_ROLES, USER
from convokit.errors import BadRecord, InvalidInput
from convokit.transfer.drafts import ConversationDraft, validate_label
from convokit.transfer.foreign_formats import find_hint
from convokit.transfer.foreign_tree import MessageTree, read_children, read_parent, read_title, sort_nodes
from convokit.transfer.import_file import read_values
from convokit.transfer.importer import FormatReader, Record
from convokit.transfer.timestamps import read_time


class OpenWebUIReader(FormatReader):
    """Reads the chats of an export."""

    file_names = ("*.json",)

    def read_records(self) -> Iterator[Record]:
        """Yield the chats of the array, or a single one."""
        try:
            yield from read_values(self._file)
        except BadRecord as error:
            yield error.line or 1, error

    def convert(self, value: Any) -> ConversationDraft:
        """Return the draft of a chat. Raises: InvalidInput, TooLarge."""
        record = value if isinstance(value, Mapping) else {}
        chat = record["chat"] if isinstance(record.get("chat"), Mapping) else record
        # Other programs have a list of messages, too, but not within a chat.
        nodes, current = _find_nodes(chat) if "chat" in record or "history" in record else (None, None)
        if nodes is None:
            problem = 'is not from Open WebUI: it has no "chat" with "history" or "messages"'
            raise InvalidInput("chat", f"{problem}{find_hint(value)}")
        # ASCII escapes lone surrogates, which have no UTF-8 form.
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()
        id_ = record.get("id") or chat.get("id")
        key = validate_label("id", f"openwebui:{id_}", self._limits) if isinstance(id_, str) and id_ else None
        draft = ConversationDraft(f"{key or 'openwebui'}:0:{digest}")
        draft.key = None if key is None else self._options.add_prefix(key)
        draft.set_fields({"title": read_title(record.get("title") or chat.get("title"), self._limits)}, self._limits)
        draft.created_at = _read_first_time(record.get("created_at"), chat.get("timestamp"))
        draft.updated_at = read_time(record.get("updated_at"))
        tree = MessageTree(draft, self._limits)
        parents = {node: read_parent(each.get("parentId")) for node, each in nodes.items()}
        children = {node: read_children(each.get("childrenIds")) for node, each in nodes.items()}
        for node, parent in sort_nodes(parents, children):
            self._add_node(tree, draft, node, parent, nodes[node])
        tree.set_head(current)
        return draft

    def _add_node(
        self, tree: MessageTree, draft: ConversationDraft, node: str, parent: str | None, value: Mapping[str, Any]
    ) -> None:
        role, content = value.get("role"), value.get("content")
        if role in INSTRUCTION_ROLES and not self._options.trusted:
            tree.leave_out(node, parent, "instructions")
            return
        images = list(_read_images(draft, value, with_images=role == USER))
        if images:
            texts = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
            content = [*texts, *images]
        if role not in (USER, ASSISTANT, *INSTRUCTION_ROLES) and content:
            tree.leave_out(node, parent, "unreadable_messages")
            return
        shape = {"role": role if content else USER, "content": content or ""}
        tree.add(node, parent, shape, created_at=read_time(value.get("timestamp")))


def _find_nodes(chat: Mapping[str, Any]) -> tuple[dict[str, Mapping[str, Any]] | None, object]:
    """Return the messages of a chat by their ids, and the current one; None if there are neither a tree nor a list."""
    history = chat.get("history")
    tree = history.get("messages") if isinstance(history, Mapping) else None
    if isinstance(history, Mapping) and isinstance(tree, Mapping) and tree:
        return {node: each for node, each in tree.items() if isinstance(each, Mapping)}, history.get("currentId")
    listed = chat.get("messages")
    if isinstance(listed, list):
        nodes: dict[str, Mapping[str, Any]] = {}
        last: str | None = None
        for index, each in enumerate(listed):
            if isinstance(each, Mapping):
                nodes[f"#{index}"] = {**each, "parentId": last}
                last = f"#{index}"
        return nodes, last
    return ({}, None) if isinstance(tree, Mapping) else (None, None)


def _read_images(draft: ConversationDraft, value: Mapping[str, Any], *, with_images: bool) -> Iterator[dict[str, Any]]:
    """Yield the images of a message that the file contains. Count other files."""
    files = value.get("files")
    for each in files if isinstance(files, list) else ():
        url = each.get("url") if isinstance(each, Mapping) and each.get("type") == "image" else None
        if with_images and isinstance(url, str) and url.startswith("data:image/"):
            yield {"type": "image_url", "image_url": {"url": url}}
        else:
            draft.left_out["files"] += 1


def _read_first_time(*values: Any) -> int | None:
    return next((time for value in values if (time := read_time(value)) is not None), None)
