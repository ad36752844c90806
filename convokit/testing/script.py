"""Define scripted replies, and render them as answers of a server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convokit.domain.message import ASSISTANT
from convokit.domain.profiles import resolve_profile
from convokit.domain.text import to_plain_json
from convokit.errors import SettingsError
from convokit.tokens import choose_counter, count_message, count_schema, count_tools
from convokit.tokens.counter import REPLY_PRIMER, TOOL_OVERHEAD

_WIDE = "\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef\U0001b000-\U0001b2ff\U00020000-\U0003ffff"
_CHUNK = re.compile(rf"\s*(?:[{_WIDE}]|[^\s{_WIDE}]+)|\s+")
"""A word, or one character of a script without spaces between words, with the space before it."""
_ARGUMENT_CHARS = 12


@dataclass(frozen=True, slots=True)
class ScriptedCall:
    """A call of a tool that the model asks for."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    """The arguments, or a text that is sent as it is, for example broken JSON."""
    id: str | None = None
    """The id of the call. None: `call_1`, `call_2` and so on, counted over all replies of the model."""

    def __post_init__(self) -> None:
        if not isinstance(self.arguments, str | Mapping):
            raise SettingsError("ScriptedCall.arguments", f"must be a mapping or a text, not {self.arguments!r}")
        to_plain_json("ScriptedCall.arguments", self.arguments, any_text=True)


@dataclass(frozen=True, slots=True)
class ScriptedReply:
    """A reply of the model. It is sent whole or as a stream, as the request asks."""

    text: str | Sequence[str] | None = None
    """The text. A stream sends it word by word, Japanese character by character. A list is sent item by item."""
    calls: Sequence[ScriptedCall] = ()
    refusal: str | None = None
    reasoning: str | None = None
    """Sent as `reasoning_content`, before the text."""
    finish_reason: str | None = None
    """None: `tool_calls` with calls, else `stop`."""
    usage: Mapping[str, Any] | None = None
    """The usage that the server reports. None: what the request and the reply count. `{}`: no usage is reported."""
    delay_s: float = 0.0
    """Seconds before the answer begins."""
    pause_s: float = 0.0
    """Seconds before each chunk of a stream."""
    break_after: int | None = None
    """The connection breaks after so many chunks of a stream; a whole answer breaks in its middle. None: it does not break."""

    def __post_init__(self) -> None:
        chunks = [] if self.text is None else self.text
        if not isinstance(chunks, Sequence) or not all(isinstance(chunk, str) for chunk in chunks):
            raise SettingsError("ScriptedReply.text", f"must be a text, a list of texts or None, not {self.text!r}")
        if not isinstance(self.calls, Sequence) or not all(isinstance(call, ScriptedCall) for call in self.calls):
            raise SettingsError("ScriptedReply.calls", f"must be a list of ScriptedCall, not {self.calls!r}")


@dataclass(frozen=True, slots=True)
class ScriptedError:
    """An error that the server answers with."""

    status: int = 500
    message: str = "scripted error"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers, for example `{"retry-after": "0"}`."""
    delay_s: float = 0.0
    """Seconds before the answer begins."""


ScriptItem = str | ScriptedCall | ScriptedReply | ScriptedError
"""A reply of a script. A text stands for `ScriptedReply(text)`, a call for a reply that makes it."""


@dataclass(frozen=True, slots=True)
class RenderedAnswer:
    """An answer of the server. The parts of its body are sent one by one; a number waits, None breaks the connection."""

    status: int
    headers: Mapping[str, str]
    delay_s: float
    parts: Sequence[bytes | float | None]


def render_error(error: ScriptedError) -> RenderedAnswer:
    """Return an error in the envelope of the API."""
    body = {"error": {"message": error.message, "type": "scripted", "param": None, "code": error.code}}
    return RenderedAnswer(
        error.status, {"content-type": "application/json", **error.headers}, error.delay_s, [_dump(body)]
    )


def render_reply(
    reply: ScriptedReply, body: Mapping[str, Any], url: str, number: int, calls_so_far: int
) -> RenderedAnswer:
    """Return a reply to the request with `body`, whole or as a stream."""
    message = _make_message(reply, calls_so_far)
    finish = reply.finish_reason or ("tool_calls" if reply.calls else "stop")
    usage = count_usage(body, message, url) if reply.usage is None else dict(reply.usage)
    envelope = {"id": f"chatcmpl-{number}", "created": 1, "model": body.get("model")}
    headers = {"x-request-id": f"req-{number}"}
    if not body.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": finish}
        whole = {**envelope, "object": "chat.completion", "choices": [choice], **({"usage": usage} if usage else {})}
        data = _dump(whole)
        parts: list[bytes | float | None] = [data] if reply.break_after is None else [data[: len(data) // 2], None]
        return RenderedAnswer(200, {"content-type": "application/json", **headers}, reply.delay_s, parts)
    envelope["object"] = "chat.completion.chunk"
    asks_usage = (body.get("stream_options") or {}).get("include_usage")
    parts = list(_render_stream(reply, message, finish, envelope, usage if asks_usage else {}))
    return RenderedAnswer(200, {"content-type": "text/event-stream", **headers}, reply.delay_s, parts)


def _make_message(reply: ScriptedReply, calls_so_far: int) -> dict[str, Any]:
    """Return the reply as a message of the API."""
    text = reply.text if reply.text is None or isinstance(reply.text, str) else "".join(reply.text)
    message: dict[str, Any] = {"role": ASSISTANT, "content": text, "refusal": reply.refusal}
    if reply.reasoning is not None:
        message["reasoning_content"] = reply.reasoning
    if reply.calls:
        message["tool_calls"] = [
            _make_call(call, calls_so_far + place) for place, call in enumerate(reply.calls, start=1)
        ]
    return message


def _make_call(call: ScriptedCall, number: int) -> dict[str, Any]:
    arguments = call.arguments
    written = arguments if isinstance(arguments, str) else json.dumps(dict(arguments), ensure_ascii=False)
    function = {"name": call.name, "arguments": written}
    return {"id": call.id or f"call_{number}", "type": "function", "function": function}


def _render_stream(
    reply: ScriptedReply, message: dict[str, Any], finish: str, envelope: dict[str, Any], usage: dict[str, Any]
) -> Iterator[bytes | float | None]:
    def make_event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return b"data: " + _dump({**envelope, "choices": [choice]}) + b"\n\n"

    yield make_event({"role": ASSISTANT, "content": ""})
    for number, delta in enumerate(_list_deltas(reply, message)):
        if number == reply.break_after:
            yield None
        if reply.pause_s:
            yield reply.pause_s
        yield make_event(delta)
    if reply.break_after is not None:
        yield None
    yield make_event({}, finish)
    if usage:
        yield b"data: " + _dump({**envelope, "choices": [], "usage": usage}) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _list_deltas(reply: ScriptedReply, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the deltas of a stream: reasoning, text, refusal, tool calls."""
    for chunk in split_text(reply.reasoning or ""):
        yield {"reasoning_content": chunk}
    for chunk in split_text(reply.text or "") if isinstance(reply.text, str | None) else reply.text:
        yield {"content": chunk}
    for chunk in split_text(reply.refusal or ""):
        yield {"refusal": chunk}
    for index, call in enumerate(message.get("tool_calls", ())):
        arguments = call["function"]["arguments"]
        started = {"index": index, **call, "function": {"name": call["function"]["name"], "arguments": ""}}
        yield {"tool_calls": [started]}
        for start in range(0, len(arguments), _ARGUMENT_CHARS):
            function = {"arguments": arguments[start : start + _ARGUMENT_CHARS]}
            yield {"tool_calls": [{"index": index, "function": function}]}


def split_text(text: str) -> list[str]:
    """Return the chunks in which a stream sends a text: words, or characters where words have no spaces between them."""
    return _CHUNK.findall(text)


def count_usage(body: Mapping[str, Any], reply: Mapping[str, Any], url: str) -> dict[str, int]:
    """Return the usage of a request and its reply, as the counter of the requested model counts them."""
    profile = resolve_profile(str(body.get("model") or ""), url)
    counter = choose_counter(profile)
    messages = body.get("messages") or []
    prompt = REPLY_PRIMER + sum(count_message(counter, message) for message in messages)
    prompt += count_tools(counter, body.get("tools") or ()) + count_schema(counter, body.get("response_format"))
    texts = [reply.get(key) or "" for key in ("content", "refusal", "reasoning_content")]
    calls = [f"{call['function']['name']} {call['function']['arguments']}" for call in reply.get("tool_calls", ())]
    completion = sum(map(counter.count, texts + calls)) + TOOL_OVERHEAD * len(calls)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()
