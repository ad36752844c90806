"""ChatGPT's data export: `conversations.json`, an array of conversations, each a tree of nodes.

Branches stay branches, and the conversation stands where it stood there. Nodes without words (the root, hidden and empty system
messages, what the model thought to itself) are stepped over. A message to a tool becomes a tool call, the tool's own messages
its results: the first is the call's answer, later ones are kept and not sent. Pictures are taken from the export's folder where
they lie there; where they do not, and in every message but a user's, a text says which it was.
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
from convokit.transfer.format_messages import describe, draft_of
from convokit.transfer.importer import Values
from convokit.transfer.models import Draft, Incoming
from convokit.transfer.reader import Source, elements

_IMAGES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}
_ASSET = re.compile(r"(?:file-service|sediment)://(file[-_][A-Za-z0-9]{1,200})", re.ASCII)
_NAMED = re.compile(r"(file[-_][A-Za-z0-9]+)", re.ASCII)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_THOUGHTS = frozenset({"thoughts", "reasoning_recap"})
_MOST_S = 253_402_300_799


def values(source: Source) -> Values:
    """Yield the file's conversations, each as its JSON value."""
    found = elements(source)
    while True:
        try:
            each = next(found, None)
        except BadRecord as error:
            yield error.line or 1, error
            return
        if each is None:
            return
        yield each


class Exports:
    """Makes conversations of ChatGPT's; `folder` is where its pictures may lie."""

    def __init__(self, limits: Limits, folder: Path | None) -> None:
        self._limits = limits
        self._folder = folder
        self._files: dict[str, Path] | None = None

    def __call__(self, value: Any) -> Incoming:
        """Return the conversation of a value. Raises: InvalidInput."""
        if not isinstance(value, Mapping) or not isinstance(value.get("mapping"), Mapping):
            raise InvalidInput("conversation", "is not one of ChatGPT's: it has no mapping of nodes")
        id_ = value.get("conversation_id") or value.get("id")
        if not isinstance(id_, str) or not id_:
            raise InvalidInput("conversation_id", "is missing")
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()
        facts = {"key": f"chatgpt:{id_}", "title": value.get("title")}
        incoming = Incoming(f"{facts['key']}:0:{digest}")
        describe(incoming, facts, self._limits)
        incoming.created_at = _time(value.get("create_time"))
        incoming.updated_at = _time(value.get("update_time"))
        self._fill(incoming, value["mapping"], value.get("current_node"))
        return incoming

    def _fill(self, incoming: Incoming, mapping: Mapping[str, Any], current: Any) -> None:
        """Add the tree's messages, each branch in one piece."""
        stands: dict[str, int | None] = {}
        """For each node, the message that the path to it ends with."""
        for node, parent in _ordered(mapping):
            above = None if parent is None else stands[parent]
            message = mapping[node].get("message")
            draft = None if message is None else self._draft(incoming, node, message, above)
            if draft is not None:
                draft.parent = above
                incoming.drafts.append(draft)
            stands[node] = above if draft is None else len(incoming.drafts) - 1
        last = len(incoming.drafts) - 1 if incoming.drafts else None
        incoming.head = stands.get(current, last) if isinstance(current, str) else last

    def _draft(self, incoming: Incoming, node: str, message: Any, above: int | None) -> Draft | None:
        """Return a node's message; None where it holds nothing that was said. Raises: InvalidInput naming the node."""
        place = f"mapping.{node[:64]}.message"
        author, content = (
            (message.get(name) for name in ("author", "content")) if isinstance(message, Mapping) else "  "
        )
        if not isinstance(author, Mapping) or not isinstance(content, Mapping):
            raise InvalidInput(place, "must be an object with an author and content")
        role, kind = author.get("role"), content.get("content_type")
        if kind in _THOUGHTS:
            return None
        if role == USER and kind == "user_editable_context":
            role = DEVELOPER  # what the user told ChatGPT for all conversations
        parts = list(self._parts(content, pictures=role == USER))
        words = "\n".join(part["text"] for part in parts if part["type"] == "text")
        shape: dict[str, Any] = {"role": role}
        shape["content"] = parts if any(part["type"] != "text" for part in parts) else words
        recipient = message.get("recipient")
        if role == ASSISTANT and isinstance(recipient, str) and recipient not in ("all", ""):
            shape |= {"content": None, "tool_calls": [_call(node, recipient, words)]}
        elif not shape["content"]:
            return None
        elif role == TOOL:
            call = _asked(incoming.drafts, above)
            shape["tool_call_id"] = call or f"call_{node}"
        draft, found = draft_of(place, shape, self._limits)
        incoming.blobs |= {blob.digest: blob for blob in found.blobs}
        draft.created_at = _time(message.get("create_time"))
        return draft

    def _parts(self, content: Mapping[str, Any], *, pictures: bool) -> Iterator[dict[str, Any]]:
        """Yield what a message holds as content parts."""
        given = content.get("parts")
        if not isinstance(given, list):
            words = _words(content)
            if words:
                yield {"type": "text", "text": words}
            return
        for part in given:
            if isinstance(part, str):
                if part:
                    yield {"type": "text", "text": part}
            elif isinstance(part, Mapping):
                yield self._part(part, pictures=pictures)
            else:
                raise InvalidInput("parts", f"holds what is neither text nor an object: {type(part).__name__}")

    def _part(self, part: Mapping[str, Any], *, pictures: bool) -> dict[str, Any]:
        kind = str(part.get("content_type"))
        if kind != "image_asset_pointer":
            return {"type": "text", "text": _words(part) or f"[{kind}]"}
        found = _ASSET.match(str(part.get("asset_pointer")))
        name = found[1] if found is not None else "unknown"
        url = self._picture(name) if pictures else None
        if url is None:
            return {"type": "text", "text": f"[image {name}]"}
        return {"type": "image_url", "image_url": {"url": url}}

    def _picture(self, name: str) -> str | None:
        """Return a picture of the export as a data: URL, where it lies in the folder and is not too large."""
        if self._files is None:
            self._files = {} if self._folder is None else _pictures(self._folder)
        path = self._files.get(name)
        try:
            if path is None or path.stat().st_size > self._limits.attachment_bytes:
                return None
            data = path.read_bytes()
        except OSError:
            return None
        return f"data:{_IMAGES[path.suffix.lower()]};base64,{base64.b64encode(data).decode('ascii')}"


def _pictures(folder: Path) -> dict[str, Path]:
    """Return the pictures in a folder and the folders right below it, by the id that their names begin with."""
    found: dict[str, Path] = {}
    with contextlib.suppress(OSError):
        for place in (folder, *(each for each in sorted(folder.iterdir()) if each.is_dir())):
            for path in sorted(place.glob("file[-_]*.*")):
                asset = _NAMED.match(path.name)
                if asset is not None and path.suffix.lower() in _IMAGES:
                    found.setdefault(asset[1], path)
    return found


def _ordered(mapping: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield each node with its parent, parents first and a branch in one piece. Raises: InvalidInput where it is no tree."""
    below: dict[str | None, list[str]] = {}
    for node, held in mapping.items():
        if not isinstance(held, Mapping):
            raise InvalidInput(f"mapping.{node[:64]}", "must be an object")
        parent = held.get("parent")
        below.setdefault(parent if isinstance(parent, str) and parent in mapping else None, []).append(node)
    for parent, nodes in below.items():
        listed = mapping[parent].get("children") if parent is not None else None
        order = {child: at for at, child in enumerate(listed)} if isinstance(listed, list) and _texts(listed) else {}
        nodes.sort(key=lambda node: order.get(node, len(order)), reverse=True)  # the stack turns them round
    seen = 0
    stack: list[tuple[str, str | None]] = [(node, None) for node in below.get(None, ())]
    while stack:
        node, parent = stack.pop()
        seen += 1
        yield node, parent
        stack += [(child, node) for child in below.get(node, ())]
    if seen != len(mapping):
        raise InvalidInput("mapping", f"{len(mapping) - seen} nodes are their own parents: it is no tree")


def _texts(values: list[Any]) -> bool:
    return all(isinstance(each, str) for each in values)


def _words(content: Mapping[str, Any]) -> str:
    """Return the words of content that is not a list of parts: code, output, quotes, errors, what a browser showed."""
    for name in ("text", "result", "content", "user_instructions", "model_set_context"):
        value = content.get(name)
        if isinstance(value, str) and value:
            rest = (content.get(other) for other in ("title", "url", "user_profile"))
            return "\n".join([*(each for each in rest if isinstance(each, str) and each), value])
    profile = content.get("user_profile")
    return profile if isinstance(profile, str) else ""


def _call(node: str, recipient: str, words: str) -> dict[str, Any]:
    """Return a message to a tool as a call: its words are the arguments, where they are no JSON object as one in it."""
    try:
        is_object = isinstance(json.loads(words), dict)
    except (ValueError, RecursionError):
        is_object = False
    function = {
        "name": _NOT_IN_NAMES.sub("_", recipient)[:64],
        "arguments": words if is_object else dump_json({"input": words}),
    }
    return {"id": f"call_{node}", "type": "function", "function": function}


def _asked(drafts: list[Draft], above: int | None) -> str | None:
    """Return the id of the call that a tool's message answers: the last one on its path, before anyone else spoke."""
    while above is not None and drafts[above].role == TOOL:
        above = drafts[above].parent
    calls = None if above is None else drafts[above].tool_calls
    return calls[0]["id"] if calls else None


def _time(seconds: Any) -> int | None:
    """Return Unix seconds as microseconds; None where there are none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _MOST_S:
        return None
    return int(seconds * 1_000_000)
