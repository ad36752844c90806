"""Import ChatGPT's data export (`conversations.json`).

The file is an array of conversations, each a tree of nodes. All branches are kept, and the branch head is ChatGPT's current
node. Nodes without text are skipped: the root, empty system messages, the model's thoughts.

A message to a tool becomes a tool call, and the tool's messages become its results. Only the first result is sent later.
Images in a user's message are read from the folder of the export. An image that is missing, or in another message, becomes a
text with its id.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convokit.domain.message import ASSISTANT, DEVELOPER, TOOL, USER
from convokit.domain.text import dump_json
from convokit.errors import BadRecord, InvalidInput
from convokit.settings import Limits
from convokit.transfer.drafts import ConversationDraft, MessageDraft, draft_message
from convokit.transfer.import_file import ImportFile, read_array
from convokit.transfer.importer import FormatReader, Record

_IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}
_ASSET_POINTER = re.compile(r"(?:file-service|sediment)://(file[-_][A-Za-z0-9]{1,200})", re.ASCII)
_FILE_ID = re.compile(r"(file[-_][A-Za-z0-9]+)", re.ASCII)
_NOT_IN_TOOL_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_THOUGHTS = frozenset({"thoughts", "reasoning_recap"})
_MAX_TIME_S = 253_402_300_799


class ChatGPTReader(FormatReader):
    """Reads `conversations.json`, and images next to it."""

    def __init__(self, file: ImportFile, limits: Limits, key: str | None) -> None:
        super().__init__(file, limits, key)
        self._image_paths: dict[str, Path] | None = None

    def read_records(self) -> Iterator[Record]:
        """Yield the conversations of the array."""
        try:
            yield from read_array(self._file)
        except BadRecord as error:
            yield error.line or 1, error

    def convert(self, value: Any) -> ConversationDraft:
        """Return the draft of a conversation. Raises: InvalidInput, TooLarge."""
        if not isinstance(value, Mapping) or not isinstance(value.get("mapping"), Mapping):
            raise InvalidInput("conversation", 'is not from ChatGPT: it has no object "mapping"')
        id_ = value.get("conversation_id") or value.get("id")
        if not isinstance(id_, str) or not id_:
            raise InvalidInput("conversation_id", "is missing")
        key = f"chatgpt:{id_}"
        # ASCII escapes lone surrogates, which have no UTF-8 form.
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()
        # The ref of an import entry has this form: source, number of chain entries there (none), hash.
        draft = ConversationDraft(f"{key}:0:{digest}")
        draft.set_fields({"key": key, "title": value.get("title")}, self._limits)
        draft.created_at = _read_time(value.get("create_time"))
        draft.updated_at = _read_time(value.get("update_time"))
        self._add_messages(draft, value["mapping"], value.get("current_node"))
        return draft

    def _add_messages(self, draft: ConversationDraft, mapping: Mapping[str, Any], current_node: Any) -> None:
        last_message: dict[str, int | None] = {}
        """For each node, the last message on the path to it."""
        for node, parent_node in _sort_nodes(mapping):
            parent = None if parent_node is None else last_message[parent_node]
            value = mapping[node].get("message")
            message = None if value is None else self._draft_node(draft, node, value, parent)
            if message is not None:
                message.parent = parent
                draft.messages.append(message)
            last_message[node] = parent if message is None else len(draft.messages) - 1
        last = len(draft.messages) - 1 if draft.messages else None
        draft.head = last_message.get(current_node, last) if isinstance(current_node, str) else last

    def _draft_node(self, draft: ConversationDraft, node: str, value: Any, parent: int | None) -> MessageDraft | None:
        """Return the message of a node, None if it has no text. Raises: InvalidInput."""
        path = f"mapping.{node[:64]}.message"
        author, content = (value.get("author"), value.get("content")) if isinstance(value, Mapping) else (None, None)
        if not isinstance(author, Mapping) or not isinstance(content, Mapping):
            raise InvalidInput(path, "must be an object with an author and content")
        role, content_type = author.get("role"), content.get("content_type")
        if content_type in _THOUGHTS:
            return None
        if role == USER and content_type == "user_editable_context":
            role = DEVELOPER  # the custom instructions of ChatGPT's settings
        # The API accepts images only in messages of the user.
        parts = list(self._read_parts(content, with_images=role == USER))
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        shape: dict[str, Any] = {"role": role}
        shape["content"] = parts if any(part["type"] != "text" for part in parts) else text
        recipient = value.get("recipient")
        if role == ASSISTANT and isinstance(recipient, str) and recipient not in ("all", ""):
            shape |= {"content": None, "tool_calls": [_build_call(node, recipient, text)]}
        elif not shape["content"]:
            return None
        elif role == TOOL:
            shape["tool_call_id"] = _find_call_id(draft.messages, parent) or f"call_{node}"
        message, stored = draft_message(path, shape, self._limits)
        draft.add_blobs(stored)
        message.created_at = _read_time(value.get("create_time"))
        return message

    def _read_parts(self, content: Mapping[str, Any], *, with_images: bool) -> Iterator[dict[str, Any]]:
        """Yield the content of a message as content parts of the API."""
        parts = content.get("parts")
        if not isinstance(parts, list):
            text = _read_text(content)
            if text:
                yield {"type": "text", "text": text}
            return
        for part in parts:
            if isinstance(part, str):
                if part:
                    yield {"type": "text", "text": part}
            elif isinstance(part, Mapping):
                yield self._convert_part(part, with_images=with_images)
            else:
                raise InvalidInput("parts", f"must contain text or objects, not {type(part).__name__}")

    def _convert_part(self, part: Mapping[str, Any], *, with_images: bool) -> dict[str, Any]:
        content_type = str(part.get("content_type"))
        if content_type != "image_asset_pointer":
            return {"type": "text", "text": _read_text(part) or f"[{content_type}]"}
        pointer = _ASSET_POINTER.match(str(part.get("asset_pointer")))
        file_id = pointer[1] if pointer is not None else "unknown"
        url = self._read_image(file_id) if with_images else None
        if url is None:
            return {"type": "text", "text": f"[image {file_id}]"}
        return {"type": "image_url", "image_url": {"url": url}}

    def _read_image(self, file_id: str) -> str | None:
        """Return an image as a data URL; None if it is missing or too large."""
        if self._image_paths is None:
            self._image_paths = {} if self._file.path is None else _find_images(self._file.path.parent)
        path = self._image_paths.get(file_id)
        try:
            if path is None or path.stat().st_size > self._limits.attachment_bytes:
                return None
            data = path.read_bytes()
        except OSError:
            return None
        return f"data:{_IMAGE_TYPES[path.suffix.lower()]};base64,{base64.b64encode(data).decode('ascii')}"


def _find_images(folder: Path) -> dict[str, Path]:
    """Return the images in a folder and its direct subfolders, by the file id at the start of their names."""
    images: dict[str, Path] = {}
    with contextlib.suppress(OSError):
        for parent in (folder, *(each for each in sorted(folder.iterdir()) if each.is_dir())):
            for path in sorted(parent.glob("file[-_]*.*")):
                file_id = _FILE_ID.match(path.name)
                if file_id is not None and path.suffix.lower() in _IMAGE_TYPES:
                    images.setdefault(file_id[1], path)
    return images


def _sort_nodes(mapping: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield each node and its parent: parents first, and each branch without a gap. Raises: InvalidInput for a cycle."""
    children: dict[str | None, list[str]] = {}
    for node, value in mapping.items():
        if not isinstance(value, Mapping):
            raise InvalidInput(f"mapping.{node[:64]}", "must be an object")
        parent = value.get("parent")
        children.setdefault(parent if isinstance(parent, str) and parent in mapping else None, []).append(node)
    for parent, nodes in children.items():
        listed = mapping[parent].get("children") if parent is not None else None
        if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
            listed = []
        order = {child: index for index, child in enumerate(listed)}
        nodes.sort(key=lambda node: order.get(node, len(order)), reverse=True)  # the stack reverses them again
    # No recursion: a conversation may have more messages than Python's stack has frames.
    count = 0
    stack: list[tuple[str, str | None]] = [(node, None) for node in children.get(None, ())]
    while stack:
        node, parent = stack.pop()
        count += 1
        yield node, parent
        stack += [(child, node) for child in children.get(node, ())]
    if count != len(mapping):
        problem = f"{len(mapping) - count} nodes are their own ancestors, or below such nodes"
        raise InvalidInput("mapping", f"must be a tree, but {problem}")


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
    """Return the id of the last tool call on the path. Only other tool messages may be between."""
    while parent is not None and messages[parent].role == TOOL:
        parent = messages[parent].parent
    calls = None if parent is None else messages[parent].tool_calls
    return calls[0]["id"] if calls else None


def _read_time(seconds: Any) -> int | None:
    """Return Unix seconds as microseconds, None if they are missing or out of range."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _MAX_TIME_S:
        return None
    return int(seconds * 1_000_000)
