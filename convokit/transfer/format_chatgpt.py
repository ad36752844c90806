"""Import ChatGPT's data export.

The export is a ZIP archive or folder with `conversations.json`, or with many files `conversations-000.json`. A file is an array
of conversations, each a tree of nodes. All branches are kept, and the branch head is ChatGPT's current node. Nodes without text
are stepped over: the root, empty system messages, the model's thoughts.

A message to a tool becomes a tool call, and the tool's messages become its results. Only the first result is sent later.
Images in a user's message are read from the export. An image that is missing, or in another message, becomes a text with its
id.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from convokit.context.message_draft import MessageDraft
from convokit.domain.message import ASSISTANT, DEVELOPER, INSTRUCTION_ROLES, TOOL, USER
from convokit.domain.text import dump_json
from convokit.errors import BadRecord, InvalidInput
from convokit.transfer.drafts import ConversationDraft, validate_label
from convokit.transfer.foreign_formats import find_hint
from convokit.transfer.foreign_tree import MessageTree, read_children, read_parent, read_title, sort_nodes
from convokit.transfer.import_file import read_values
from convokit.transfer.import_sources import IMAGE_TYPES
from convokit.transfer.importer import FormatReader, Record
from convokit.transfer.timestamps import read_time

_ASSET_POINTER = re.compile(r"(?:file-service|sediment)://(file[-_][A-Za-z0-9]{1,200})", re.ASCII)
_NOT_IN_TOOL_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_THOUGHTS = frozenset({"thoughts", "reasoning_recap"})
_MAX_TYPE_CHARS = 50


class ChatGPTReader(FormatReader):
    """Reads the conversations of an export, and its images."""

    file_names = ("conversations*.json",)

    def read_records(self) -> Iterator[Record]:
        """Yield the conversations of the array, or a single one."""
        try:
            yield from read_values(self._file)
        except BadRecord as error:
            yield error.line or 1, error

    def convert(self, value: Any) -> ConversationDraft:
        """Return the draft of a conversation. Raises: InvalidInput, TooLarge."""
        if not isinstance(value, Mapping) or not isinstance(value.get("mapping"), Mapping):
            raise InvalidInput("conversation", f'is not from ChatGPT: it has no object "mapping"{find_hint(value)}')
        id_ = value.get("conversation_id") or value.get("id")
        if not isinstance(id_, str) or not id_:
            raise InvalidInput("conversation_id", "is missing")
        key = f"chatgpt:{id_}"
        # ASCII escapes lone surrogates, which have no UTF-8 form.
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()
        # The ref of an import entry has this form: source, number of chain entries there (none), hash.
        draft = ConversationDraft(f"{validate_label('conversation_id', key, self._limits)}:0:{digest}")
        draft.key = self._options.add_prefix(key)
        draft.set_fields({"title": read_title(value.get("title"), self._limits)}, self._limits)
        draft.created_at = read_time(value.get("create_time"))
        draft.updated_at = read_time(value.get("update_time"))
        self._add_messages(draft, value["mapping"], value.get("current_node"))
        return draft

    def _add_messages(self, draft: ConversationDraft, mapping: Mapping[str, Any], current_node: Any) -> None:
        nodes = {node: value for node, value in mapping.items() if isinstance(value, Mapping)}
        parents = {node: read_parent(value.get("parent")) for node, value in nodes.items()}
        children = {node: read_children(value.get("children")) for node, value in nodes.items()}
        tree = MessageTree(draft, self._limits)
        for node, parent in sort_nodes(parents, children):
            self._add_node(tree, draft, node, parent, nodes[node].get("message"))
        draft.left_out["unreadable_messages"] += len(mapping) - len(nodes)
        tree.set_head(current_node)

    def _add_node(self, tree: MessageTree, draft: ConversationDraft, node: str, parent: str | None, value: Any) -> None:
        """Add the message of a node. Step over a node without text."""
        content = value.get("content") if isinstance(value, Mapping) else None
        if not isinstance(content, Mapping):
            tree.step_over(node, parent)
            return
        author, content_type = value.get("author"), content.get("content_type")
        role = author.get("role") if isinstance(author, Mapping) else None
        if isinstance(content_type, str) and content_type in _THOUGHTS:
            tree.leave_out(node, parent, "thoughts")
            return
        # The API accepts images only in messages of the user.
        parts = list(self._read_parts(draft, content, with_images=role == USER))
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        shape: dict[str, Any] = {"role": role}
        shape["content"] = parts if any(part["type"] != "text" for part in parts) else text
        if role == USER and content_type == "user_editable_context":
            shape["role"] = DEVELOPER  # the custom instructions of ChatGPT's settings
        recipient = value.get("recipient")
        if role == ASSISTANT and isinstance(recipient, str) and recipient not in ("all", ""):
            shape |= {"content": None, "tool_calls": [_build_call(node, recipient, text)]}
        elif not shape["content"]:
            tree.step_over(node, parent)
            return
        elif role == TOOL:
            shape["tool_call_id"] = _find_call_id(draft.messages, tree.find_last(parent)) or f"call_{node}"
        if shape["role"] in INSTRUCTION_ROLES and not self._options.trusted:
            tree.leave_out(node, parent, "instructions")
            return
        tree.add(node, parent, shape, created_at=read_time(value.get("create_time")))

    def _read_parts(
        self, draft: ConversationDraft, content: Mapping[str, Any], *, with_images: bool
    ) -> Iterator[dict[str, Any]]:
        """Yield the content of a message as content parts of the API. Parts without text are left out."""
        parts = content.get("parts")
        if not isinstance(parts, list):
            text = _read_text(content)
            if text:
                yield {"type": "text", "text": text}
            return
        for part in parts:
            if isinstance(part, str) and part:
                yield {"type": "text", "text": part}
            elif isinstance(part, Mapping):
                yield self._convert_part(draft, part, with_images=with_images)
            elif part:
                draft.left_out["parts"] += 1

    def _convert_part(self, draft: ConversationDraft, part: Mapping[str, Any], *, with_images: bool) -> dict[str, Any]:
        content_type = str(part.get("content_type"))[:_MAX_TYPE_CHARS]
        if content_type != "image_asset_pointer":
            return {"type": "text", "text": _read_text(part) or f"[{content_type}]"}
        pointer = _ASSET_POINTER.match(str(part.get("asset_pointer")))
        file_id = pointer[1] if pointer is not None else "unknown"
        image = self._file.read_image(file_id, self._limits.attachment_bytes) if with_images else None
        if image is None:
            draft.left_out["images"] += 1
            return {"type": "text", "text": f"[image {file_id}]"}
        suffix, data = image
        url = f"data:{IMAGE_TYPES[suffix]};base64,{base64.b64encode(data).decode('ascii')}"
        return {"type": "image_url", "image_url": {"url": url}}


def _read_text(content: Mapping[str, Any]) -> str:
    """Return the text of content without parts: code, output, quotes, errors, web pages."""
    for name in ("text", "result", "content", "user_instructions", "model_set_context"):
        value = content.get(name)
        if isinstance(value, str) and value:
            context = (content.get(other) for other in ("title", "url", "user_profile"))
            return "\n".join([*(each for each in context if isinstance(each, str) and each), value])
    profile = content.get("user_profile")
    return profile if isinstance(profile, str) else ""


def _build_call(node: str, recipient: str, text: str) -> dict[str, Any]:
    """Return a message to a tool as a tool call."""
    try:
        is_object = isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        is_object = False
    function = {
        "name": _NOT_IN_TOOL_NAMES.sub("_", recipient)[:64],
        "arguments": text if is_object else dump_json({"input": text}),
    }
    return {"id": f"call_{node}", "type": "function", "function": function}


def _find_call_id(messages: list[MessageDraft], parent: int | None) -> str | None:
    """Return the id of the last tool call on the path. Only other tool messages, which have this id too, may be between."""
    if parent is None:
        return None
    message = messages[parent]
    return message.tool_calls[0]["id"] if message.tool_calls else message.tool_call_id
