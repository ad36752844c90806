"""Builders of chunks, replies and streams for the tests of the codec."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from convokit.domain.events import StreamEvent
from convokit.domain.reply import ParsedReply
from convokit.settings import Limits
from convokit.wire.reply_parser import ReplyParser
from convokit.wire.response import ReplyReader


def sse(*payloads: Any, done: bool = True) -> bytes:
    """Return payloads as a stream. Text and bytes are sent as they are."""
    out = b""
    for payload in payloads:
        if isinstance(payload, bytes):
            out += payload
        else:
            text = payload if isinstance(payload, str) else dumps(payload)
            out += b"data: " + text.encode() + b"\n\n"
    return out + (b"data: [DONE]\n\n" if done else b"")


def dumps(value: Any) -> str:
    """Return JSON text, with non-ASCII characters as they are where UTF-8 can encode them."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def chunk(
    delta: dict[str, Any] | None = None, finish: str | None = None, /, index: int = 0, **top: Any
) -> dict[str, Any]:
    """Return a chunk with one choice, as OpenAI sends it."""
    choice: dict[str, Any] = {"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
        **top,
    }


def reply(message: dict[str, Any] | None = None, finish: str | None = "stop", **top: Any) -> dict[str, Any]:
    """Return a whole reply with one choice."""
    choice = {"index": 0, "message": message or {"role": "assistant", "content": "Hi"}, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **top}


def reader(*, streaming: bool = True, content_type: str = "", limits: Limits | None = None) -> ReplyReader:
    """Return a reader for one response."""
    kind = content_type or ("text/event-stream" if streaming else "application/json")
    return ReplyReader(content_type=kind, streaming=streaming, limits=limits or Limits())


def read(
    data: bytes, *, streaming: bool = True, content_type: str = "", step: int | None = None
) -> tuple[list[StreamEvent], ParsedReply]:
    """Read a body `step` bytes at a time, and return its events and its reply."""
    found = reader(streaming=streaming, content_type=content_type)
    events: list[StreamEvent] = []
    for piece in cut_bytes(data, step or len(data) or 1):
        events += found.feed(piece)
    events += found.end()
    return events, found.build_reply()


def parse(*chunks: Any) -> ParsedReply:
    """Return the reply that these chunks make. A whole reply is one chunk."""
    parser = ReplyParser()
    for each in chunks:
        parser.feed(each)
    return parser.build_reply()


def cut_bytes(data: bytes, step: int) -> Iterable[bytes]:
    """Cut bytes into pieces of one size."""
    return (data[at : at + step] for at in range(0, len(data), step))


def join_text(events: Iterable[StreamEvent]) -> str:
    """Return the text that a reader of the stream sees."""
    return "".join(event.text for event in events)


def tool_delta(
    index: int | None = None, id: str | None = None, name: str | None = None, arguments: str = ""
) -> dict[str, Any]:
    """Return a delta of one tool call. What is None is absent."""
    function: dict[str, Any] = {"arguments": arguments}
    call: dict[str, Any] = {"function": function}
    call |= {key: value for key, value in (("index", index), ("id", id)) if value is not None}
    if name is not None:
        function["name"] = name
    return {"tool_calls": [call]}


WEATHER = {"name": "weather", "arguments": '{"city":"Oslo"}'}


@dataclass(frozen=True)
class Vendor:
    """The same answer twice: `text` is what it says, `usage` its prompt and completion tokens (None: not reported)."""

    name: str
    plain: bytes
    stream: bytes
    text: str
    reasoning: str | None = None
    calls: int = 0
    usage: tuple[int | None, int | None] = (9, 3)
    stream_usage: tuple[int | None, int | None] = (9, 3)
    extra: set[str] = field(default_factory=set)


def tool_call(id: str, arguments: str | None = None) -> dict[str, Any]:
    function = WEATHER if arguments is None else {**WEATHER, "arguments": arguments}
    return {"id": id, "type": "function", "function": dict(function)}


def as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
