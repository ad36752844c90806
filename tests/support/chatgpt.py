"""A conversation in the shape of ChatGPT's data export: branches, a picture, tool calls, hidden nodes, thoughts, Japanese."""

from __future__ import annotations

import base64
from typing import Any

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PICTURE_NAME = "file-Ab3dEf7hIj-cat.png"


def node(
    id: str,
    parent: str | None,
    role: str = "",
    content: Any = None,
    *,
    recipient: str = "all",
    at: float | None = 1_714_521_700.25,
    **metadata: Any,
) -> dict[str, Any]:
    """Return a node; plain text becomes content of type text."""
    if isinstance(content, str):
        content = {"content_type": "text", "parts": [content]}
    message = None
    if role:
        message = {
            "id": id,
            "author": {"role": role, "name": None, "metadata": {}},
            "create_time": at,
            "update_time": None,
            "content": content,
            "status": "finished_successfully",
            "end_turn": True,
            "weight": 1.0,
            "metadata": metadata,
            "recipient": recipient,
            "channel": None,
        }
    return {"id": id, "message": message, "parent": parent, "children": []}


def picture(pointer: str = "file-service://file-Ab3dEf7hIj") -> dict[str, Any]:
    """Return the part that stands for a picture."""
    return {
        "content_type": "image_asset_pointer",
        "asset_pointer": pointer,
        "size_bytes": len(PICTURE),
        "width": 1,
        "height": 1,
        "fovea": None,
        "metadata": None,
    }


def tree(*nodes: dict[str, Any]) -> dict[str, Any]:
    """Return nodes as a mapping, each listed among its parent's children."""
    mapping = {each["id"]: each for each in nodes}
    for each in nodes:
        if each["parent"] in mapping:
            mapping[each["parent"]]["children"].append(each["id"])
    return mapping


def conversation(id: str = "6632a1b4-0001-8000-a000-000000000001", title: str = "猫とポート80") -> dict[str, Any]:
    """Return a conversation of 12 messages on three branches; it stands at the second answer to the edited question."""
    hidden: dict[str, Any] = {"is_visually_hidden_from_conversation": True}
    told = {
        "content_type": "user_editable_context",
        "user_profile": "The user is an administrator.",
        "user_instructions": "Answer in one sentence.",
    }
    nodes = [
        node("root", None),
        node("system", "root", "system", "", at=None, **hidden),
        node("told", "system", "user", told, at=None, is_user_system_message=True, **hidden),
        node("q1", "told", "user", {"content_type": "multimodal_text", "parts": [picture(), "この写真は何ですか?"]}),
        node("a1", "q1", "assistant", "猫です。", at=1_714_521_710.5, model_slug="gpt-4o"),
        node("q2", "a1", "user", "Why is port 80 taken?"),
        node("a2", "q2", "assistant", "A web server listens on it."),
        node("q2b", "a1", "user", "Which process listens on port 80? Run it."),
        node("think", "q2b", "assistant", {"content_type": "thoughts", "thoughts": [{"summary": "", "content": "hm"}]}),
        node(
            "call",
            "think",
            "assistant",
            {"content_type": "code", "language": "unknown", "text": "print(ports()[80])"},
            recipient="python",
        ),
        node("result", "call", "tool", {"content_type": "execution_output", "text": "nginx"}),
        node(
            "result2", "result", "tool", {"content_type": "multimodal_text", "parts": [picture("sediment://file_00")]}
        ),
        node("a3", "result2", "assistant", "It is nginx."),
        node("a3b", "result2", "assistant", "nginx listens on it."),
        node(
            "quote",
            "a2",
            "tool",
            {"content_type": "tether_quote", "url": "https://nginx.org", "text": "a web server", "title": "nginx"},
        ),
    ]
    return {
        "title": title,
        "create_time": 1_714_521_600.5,
        "update_time": 1_714_521_999.0,
        "mapping": tree(*nodes),
        "moderation_results": [],
        "current_node": "a3b",
        "conversation_id": id,
        "id": id,
        "is_archived": False,
    }
