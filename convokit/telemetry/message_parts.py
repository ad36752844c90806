"""Convert messages of the API into the JSON of the GenAI conventions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


def encode(value: Any) -> str:
    """Return a value as JSON: attributes of spans hold no objects."""
    return _ENCODER.encode(value)


def encode_messages(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return messages with their parts. Images, audio and files become parts without their data."""
    found = []
    for message in messages:
        shown: dict[str, Any] = {"role": message["role"], "parts": list(_list_parts(message))}
        if "finish_reason" in message:
            shown["finish_reason"] = message["finish_reason"]
        found.append(shown)
    return encode(found)


def _list_parts(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if "tool_call_id" in message:
        yield {"type": "tool_call_response", "id": message["tool_call_id"], "response": message.get("content")}
        return
    content = message.get("content")
    if isinstance(content, str):
        yield {"type": "text", "content": content}
    for part in content if isinstance(content, list) else ():
        yield {"type": "text", "content": part["text"]} if part.get("type") == "text" else {"type": part.get("type")}
    if message.get("refusal"):
        yield {"type": "refusal", "content": message["refusal"]}
    if message.get("audio"):
        yield {"type": "audio", "content": message["audio"].get("transcript")}
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        yield {
            "type": "tool_call",
            "id": call.get("id"),
            "name": function.get("name"),
            "arguments": _decode(function.get("arguments")),
        }


def _decode(arguments: Any) -> Any:
    """Return the arguments of a tool call as an object, or as text if they are no JSON."""
    try:
        return json.loads(arguments)
    except (TypeError, ValueError):
        return arguments
