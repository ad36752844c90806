"""Convert between the items of the Responses API and messages."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from convokit.async_chat import AsyncChat
from convokit.domain.message import ASSISTANT, INSTRUCTION_ROLES, TOOL, USER, Message
from convokit.errors import NotFound
from convokit.server.client_messages import check_count
from convokit.server.refusals import Refusal, unsupported

_TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_ROLES = (USER, ASSISTANT, *INSTRUCTION_ROLES)
Item = dict[str, Any]
ResolveItem = Callable[[str], Awaitable[Item]]
"""Returns the item that an id names, with its binaries. Raises: Refusal."""


async def to_messages(given: Any, resolve: ResolveItem, *, param: str = "input") -> list[dict[str, Any]]:
    """Return input items as messages in the shape of Chat Completions. Raises: Refusal.

    Calls join the assistant message right before them. Reasoning is left out: it belongs to the server that wrote it.
    """
    if isinstance(given, str):
        return [{"role": USER, "content": given}]
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise Refusal(f"{param}: must be a text or a list of items", param=param, code="invalid_type")
    check_count(param, given)
    messages: list[dict[str, Any]] = []
    for number, each in enumerate(given):
        path, item = f"{param}[{number}]", each
        if is_reference(item):
            item = await resolve(_read_text(path, item, "id"))
        kind = item.get("type") or ("message" if "role" in item else None)
        if kind == "message":
            messages.append(_to_message(path, item))
        elif kind == "function_call":
            _add_call(messages, path, item)
        elif kind == "function_call_output":
            messages.append(_to_result(path, item))
        elif kind != "reasoning":
            raise unsupported(f"{path}.type", f"items of type {kind!r} are not served")
    return messages


def is_reference(item: Mapping[str, Any]) -> bool:
    """Return whether an item is the id of a stored one. Its type may be left out."""
    return item.get("type") == "item_reference" or (item.get("type") is None and "role" not in item and "id" in item)


def _read_text(path: str, item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise Refusal(f"{path}.{name}: must be a text", param=f"{path}.{name}", code="invalid_type")
    return value


def _to_message(path: str, item: Mapping[str, Any]) -> dict[str, Any]:
    role = item.get("role")
    if role not in _ROLES:
        raise Refusal(f"{path}.role: must be one of {', '.join(_ROLES)}", param=f"{path}.role", code="invalid_value")
    content, refusal = _to_content(f"{path}.content", item.get("content"), role)
    return {"role": role, "content": content, **({"refusal": refusal} if refusal else {})}


def _add_call(messages: list[dict[str, Any]], path: str, item: Mapping[str, Any]) -> None:
    call_id, name, arguments = (_read_text(path, item, key) for key in ("call_id", "name", "arguments"))
    call: dict[str, Any] = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    if not messages or messages[-1]["role"] != ASSISTANT:
        messages.append({"role": ASSISTANT, "content": None})
    messages[-1].setdefault("tool_calls", []).append(call)


def _to_result(path: str, item: Mapping[str, Any]) -> dict[str, Any]:
    content, _ = _to_content(f"{path}.output", item.get("output"), TOOL)
    return {"role": TOOL, "tool_call_id": _read_text(path, item, "call_id"), "content": content or ""}


def _to_content(path: str, content: Any, role: str) -> tuple[str | list[dict[str, Any]] | None, str | None]:
    """Return content parts as those of Chat Completions, and the refusal among them."""
    if content is None or isinstance(content, str):
        return content, None
    if not isinstance(content, list):
        raise Refusal(f"{path}: must be a text or a list of parts", param=path, code="invalid_type")
    parts: list[dict[str, Any]] = []
    refusals: list[str] = []
    for number, part in enumerate(content):
        where = f"{path}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXT_PARTS:
            parts.append({"type": "text", "text": _read_text(where, part, "text")})
        elif kind == "refusal":
            refusals.append(_read_text(where, part, "refusal"))
        elif kind == "input_image":
            parts.append(_to_image(where, part))
        elif kind == "input_file":
            if part.get("file_id") or part.get("file_url"):
                raise unsupported(where, "send file_data")
            data = {name: part[name] for name in ("file_data", "filename") if part.get(name)}
            parts.append({"type": "file", "file": data})
        else:
            raise unsupported(f"{where}.type", f"parts of type {kind!r} are not served")
    if all(part["type"] == "text" for part in parts) and (role == ASSISTANT or len(parts) < 2):
        return "".join(part["text"] for part in parts) or None, "".join(refusals) or None
    return parts, "".join(refusals) or None


def _to_image(path: str, part: Mapping[str, Any]) -> dict[str, Any]:
    if not part.get("image_url"):
        raise unsupported(path, "send image_url")
    image: dict[str, Any] = {"url": part["image_url"]}
    if part.get("detail"):
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image}


def format_items(conversation_id: UUID, message: Message, *, is_reply: bool) -> list[dict[str, Any]]:
    """Return a stored message as items. Binaries are references still: see `inline_binaries`.

    Args:
        is_reply: Whether the message is the reply of its turn, whose items are named by the turn.
    """
    turn_id = message.turn_id if is_reply else None
    name = f"{conversation_id.hex}_{message.seq}" if turn_id is None else f"{conversation_id.hex}{turn_id.hex}"
    status = "incomplete" if message.status == "partial" else "completed"
    if message.role == TOOL:
        output = message.content if isinstance(message.content, str) else _format_parts(message) or ""
        facts = {"call_id": message.tool_call_id, "output": output, "status": status}
        return [{"type": "function_call_output", "id": f"fco_{name}", **facts}]
    items: list[dict[str, Any]] = []
    parts = _format_parts(message)
    if message.tool_calls and not message.text:  # some servers send an empty text beside calls
        parts = []
    if message.refusal:
        parts.append({"type": "refusal", "refusal": message.refusal})
    if parts or message.role != ASSISTANT or not message.tool_calls:
        items.append({"type": "message", "id": f"msg_{name}", "role": message.role, "status": status, "content": parts})
    for number, call in enumerate(message.tool_calls or ()):
        function = call.get("function") or {}
        facts = {"call_id": call.get("id"), "name": function.get("name"), "arguments": function.get("arguments")}
        items.append({"type": "function_call", "id": f"fc_{name}_{number}", **facts, "status": status})
    return items


def _format_parts(message: Message) -> list[dict[str, Any]]:
    content = message.content
    parts: Sequence[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content or ()
    return [part for each in parts if (part := _format_part(each, message.role)) is not None]


def _format_part(part: Mapping[str, Any], role: str) -> dict[str, Any] | None:
    kind = part["type"]
    if kind == "text" and role == ASSISTANT:
        return {"type": "output_text", "text": part["text"], "annotations": [], "logprobs": []}
    if kind == "text":
        return {"type": "input_text", "text": part["text"]}
    if kind == "image_url":
        image = part["image_url"]
        return {"type": "input_image", "image_url": image["url"], "detail": image.get("detail", "auto")}
    if kind == "file":
        return {"type": "input_file", **part["file"]}
    return None  # the items of the API have no audio


async def inline_binaries(chat: AsyncChat, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return items with the data of their images and files in place of the references."""
    return [await _inline_item(chat, item) for item in items]


def _find_content(item: Mapping[str, Any]) -> list[str]:
    return [name for name in ("content", "output") if isinstance(item.get(name), list)]


async def _inline_item(chat: AsyncChat, item: dict[str, Any]) -> dict[str, Any]:
    names = _find_content(item)
    return {**item, **{name: await _inline(chat, item[name]) for name in names}} if names else item


async def _inline(chat: AsyncChat, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for part in parts:
        whole = dict(part)
        for name in ("image_url", "file_data"):
            reference = part.get(name)
            if isinstance(reference, str) and reference.startswith("blob:"):
                whole[name] = await _read_data_url(chat, reference)
        found.append(whole)
    return found


async def _read_data_url(chat: AsyncChat, reference: str) -> str:
    try:
        blob = await chat.blob(reference)
    except NotFound:  # redacted meanwhile
        return "data:text/plain,erased"
    return f"data:{blob.media_type};base64,{base64.b64encode(blob.data).decode('ascii')}"
