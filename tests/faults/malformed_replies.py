"""Answers that no server should give, written byte by byte, and the look at what became of the conversation."""

from __future__ import annotations

import json
from typing import Any

from tests.faults.shared_kit import Stage
from tests.support.server import Script

SSE = {"content-type": "text/event-stream"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
"""Scripted: the replies are malformed on purpose, so nobody can count them."""


def goes_on(stage: Stage, chat: Any, **settings: Any) -> list[Any]:
    """Hold that the conversation can be read, verified, and continued with a valid request; return the messages before."""
    before = list(stage.settle(chat.messages()))
    assert stage.settle(chat.send("go on", **settings)).text == "echo: go on"
    asked: dict[str, int] = {}
    for message in stage.server.requests[-1].body["messages"]:
        assert message.get("content") is not None or message.get("tool_calls")
        if message["role"] == "tool":
            asked[message["tool_call_id"]] -= 1
        asked |= {call["id"]: 1 for call in message.get("tool_calls", ())}
    assert not any(asked.values())
    json.dumps([each.model_dump(mode="json") for each in before], ensure_ascii=False).encode()
    stage.settle(chat.verify())
    return before


def raw(body: dict[str, Any], **replaced: str) -> Script:
    """Return a plain answer with each word in capitals replaced by JSON text of any kind."""
    text = json.dumps(body)
    for word, written in replaced.items():
        text = text.replace(f'"{word}"', written)
    return Script([text.encode()])


def body_of(content: Any = "ok", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"id": "x", "model": "m", "choices": [choice], "usage": USAGE, **more}


def asks(id: str, name: str, arguments: str) -> Script:
    """Return an answer that calls a tool; each argument is JSON text."""
    call = {"id": "ID", "type": "function", "function": {"name": "NAME", "arguments": "ARGUMENTS"}}
    body = body_of(None)
    body["choices"][0]["message"]["tool_calls"] = [call]
    return raw(body, ID=id, NAME=name, ARGUMENTS=arguments)
