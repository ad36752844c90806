"""Convert between the Chat Completions API, as clients speak it, and turns."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID

from convokit import Reply, Usage
from convokit.domain.events import ReasoningDelta, RefusalDelta, StreamEvent, TextDelta, ToolCallDelta
from convokit.domain.message import ASSISTANT
from convokit.server.api_ids import format_completion_id
from convokit.server.event_stream import DONE, PING, dump_event
from convokit.server.refusals import Refusal, to_refusal, unsupported
from convokit.server.running_turns import RunningTurn

_PASSED = (
    "temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs",
    "max_tokens", "max_completion_tokens", "stop", "seed", "reasoning_effort", "verbosity", "service_tier",
    "response_format", "tools", "tool_choice", "parallel_tool_calls", "modalities", "audio", "prediction",
    "web_search_options", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user",
)  # fmt: skip
"""The fields that are sent on as they are."""
_READ = frozenset(("model", "messages", "stream", "stream_options", "n", "store", "metadata"))
"""The fields that the gateway reads itself. It keeps every turn, whatever `store` says."""


def read_options(body: Mapping[str, Any], forward: tuple[str, ...]) -> dict[str, Any]:
    """Return the options of the call. None of them becomes a setting of the conversation. Raises: Refusal."""
    extra: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in _READ:
            continue
        if name in _PASSED:
            options[name] = value
        elif name in forward:
            extra[name] = value
        else:
            raise Refusal(f"Unsupported parameter: '{name}'.", code="unsupported_parameter", param=name)
    if body.get("n") not in (None, 1):
        raise unsupported("n", "one reply is kept for each turn: send the request again for another one")
    if body.get("stream") and options.get("logprobs"):
        raise unsupported("logprobs", "cannot be streamed: send stream=false")
    if body.get("stream") and options.get("audio"):
        raise unsupported("audio", "cannot be streamed: send stream=false")
    if extra:
        options["extra_body"] = extra
    if not options.get("tools", True):
        del options["tools"]
        options.pop("tool_choice", None)
    return options


def format_usage(usage: Usage) -> dict[str, Any]:
    """Return token counts in the shape of the API, which has no counts that are unknown."""
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
    }


def format_completion(reply: Reply, conversation_id: UUID, model: str) -> dict[str, Any]:
    """Return a whole reply as a `chat.completion`."""
    has_no_text = reply.refusal is not None or (reply.tool_calls and not reply.text)
    content = None if has_no_text else reply.text
    message: dict[str, Any] = {"role": ASSISTANT, "content": content, "refusal": reply.refusal}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = reply.tool_calls
    choice = {
        "index": 0,
        "message": message,
        "logprobs": reply.logprobs,
        "finish_reason": reply.finish_reason or "stop",
    }
    return {
        "id": format_completion_id(conversation_id, reply.turn_id),
        "object": "chat.completion",
        "created": int(reply.message.created_at.timestamp()),
        "model": model,
        "choices": [choice],
        "usage": format_usage(reply.usage),
    }


class ChunkWriter:
    """Writes the chunks of one reply."""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._model = model
        self._include_usage = include_usage
        self._created = int(time.time())
        self._id = ""
        self._calls: set[int] = set()

    def write_start(self, conversation_id: UUID, turn_id: UUID) -> bytes:
        """Return the first chunk, which names the role."""
        self._id = format_completion_id(conversation_id, turn_id)
        return self._write({"role": ASSISTANT, "content": ""})

    def write(self, event: StreamEvent) -> bytes:
        """Return the chunk of an event, empty for events without content."""
        if isinstance(event, TextDelta):
            return self._write({"content": event.text})
        if isinstance(event, ToolCallDelta):
            return self._write({"tool_calls": [self._format_call(event)]})
        if isinstance(event, ReasoningDelta):
            return self._write({"reasoning_content": event.reasoning})
        if isinstance(event, RefusalDelta):
            return self._write({"refusal": event.refusal})
        return b""

    def _format_call(self, event: ToolCallDelta) -> dict[str, Any]:
        function: dict[str, Any] = {"arguments": event.arguments}
        call: dict[str, Any] = {"index": event.position, "function": function}
        if event.position not in self._calls:
            self._calls.add(event.position)
            function["name"] = event.name
            call |= {"id": event.id, "type": "function"}
        return call

    def write_end(self, reply: Reply) -> bytes:
        """Return the chunks after the reply was saved: the finish reason, the token counts, the end."""
        last = self._write({}, reply.finish_reason or "stop")
        if self._include_usage:
            last += dump_event({**self._envelope(), "choices": [], "usage": format_usage(reply.usage)})
        return last + DONE

    def _envelope(self) -> dict[str, Any]:
        return {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": self._model}

    def _write(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        chunk = self._envelope()
        chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
        if self._include_usage:
            chunk["usage"] = None
        return dump_event(chunk)


async def stream_chunks(turn: RunningTurn, model: str, *, include_usage: bool, ping_s: float) -> AsyncIterator[bytes]:
    """Yield the stream of a turn. An error that comes after the first chunk is the last event, without `[DONE]`."""
    writer = ChunkWriter(model, include_usage=include_usage)
    has_started = False
    try:
        async for events in turn.read(ping_s):
            data = b""
            if not has_started and turn.turn_id is not None:
                has_started = True
                data = writer.write_start(turn.conversation_id, turn.turn_id)
            data += b"".join(map(writer.write, events))
            if data or not events:
                yield data or PING
        yield writer.write_end(await turn.wait_for_reply())
    except Exception as error:
        yield dump_event(to_refusal(error, turn.base_url).body)
