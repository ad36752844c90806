"""Convert messages of LangChain and LangGraph into messages of convokit."""

import json
import re
from collections.abc import Mapping
from typing import Any

from convokit import NewMessage

KIND = "langchain/1"
ROLES = {"human": "user", "HumanMessageChunk": "user", "ai": "assistant", "AIMessageChunk": "assistant", "tool": "tool"}


def dump_message(message: Any) -> dict[str, Any]:
    """Return a message as `message_to_dict` of langchain-core does, with JSON values only."""
    return {"type": message.type, "data": message.model_dump(mode="json")}


def make_message(item: Mapping[str, Any]) -> NewMessage:
    """Convert a message that `dump_message` or LangChain's message table wrote. The item is kept as it is."""
    data = item["data"]
    # An instruction, or a message of a role that the model's API does not have: kept, and never sent.
    role = ROLES.get(item["type"], "system")
    calls = [
        {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": _dump(call["args"])}}
        for call in data.get("tool_calls") or []
        # The API refuses other names, such as Japanese ones; the item has them.
        if call["id"] and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", call["name"]) and role == "assistant"
    ]
    answered = data.get("tool_call_id") if role == "tool" else None
    return NewMessage(role, _read_content(role, data["content"]), calls, answered, kind=KIND, item=item)


def _read_content(role: str, content: str | list[Any]) -> str | list[Any]:
    """Return the texts, and the images that a user sent by URL. Thoughts and other blocks are in the item only."""
    if isinstance(content, str):
        return content
    blocks = [{"type": "text", "text": block} if isinstance(block, str) else block for block in content]
    if role == "user" and any(block.get("type") == "image_url" for block in blocks):
        return [block for block in blocks if block.get("type") in ("text", "image_url")]
    return "".join(block["text"] for block in blocks if block.get("type") == "text")


def _dump(arguments: Any) -> str:
    return json.dumps(arguments, ensure_ascii=False)
