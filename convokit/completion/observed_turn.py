"""Report one run of a turn to observers.

Whatever ends the run, the end of each call, tool call and turn that was reported as started is reported once.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from convokit.completion.effects import Stopped
from convokit.completion.notifier import Facts, Notifier
from convokit.completion.prepare import PreparedRequest
from convokit.completion.retry import describe_error
from convokit.completion.state import KitState
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import ASSISTANT, MessageRow
from convokit.domain.reply import ParsedReply, ReplyChoice
from convokit.domain.turn import LATE, CallRow, ToolCallRow
from convokit.observers import (
    CallEnded,
    CallStarted,
    FirstChunk,
    ToolEnded,
    ToolStarted,
    TurnEnded,
    TurnStarted,
)
from convokit.tools.arguments import find_tool

BoundCall = tuple[Callable[..., Any], dict[str, Any]]
_PORTS = {"https": 443, "http": 80}
_MAX_CHARS = 200
"""The longest text of a server in an event without content: the names of a model, a finish reason and ids."""
_MESSAGE_FIELDS = ("content", "refusal", "tool_calls", "audio", "finish_reason")


class _Call:
    """A call that was reported as started."""

    def __init__(
        self, row: CallRow, request: PreparedRequest, parse_reply: Callable[[], ParsedReply], url: str, now: float
    ) -> None:
        self.row, self.parse_reply, self.started_at = row, parse_reply, now
        parts = urlsplit(url)
        self.facts: Facts = {
            "number": row.number,  # a late reply gets another number
            "model": request.options.model,
            "provider": request.options.provider,
            "stream": request.stream,
            "is_summary": bool(request.transcript_of),
            "server_address": parts.hostname or "",
            "server_port": parts.port or _PORTS[parts.scheme],
        }
        self.duration_s: float | None = None
        self.first_chunk_s: float | None = None


class _ToolCall:
    """A tool call that was reported as started."""

    def __init__(self, row: ToolCallRow, position: int, name: str | None) -> None:
        self.row = row
        self.facts: Facts = {"position": position, "call_id": row.call_id[:_MAX_CHARS], "name": name}
        self.duration_s: float | None = None


class ObservedTurn:
    """One run of a turn, which observers follow. It is a context manager around the run."""

    def __init__(
        self,
        kit: KitState,
        notifier: Notifier,
        conversation: ConversationRow,
        branch: int,
        turn_id: UUID,
        epoch: int,
        request: PreparedRequest,
    ) -> None:
        self._notifier, self._url, self._key = notifier, kit.url, conversation.key
        self._now = kit.clock.monotonic
        self._ids: Facts = {
            "tenant": conversation.tenant,
            "conversation_id": conversation.id,
            "branch": branch,
            "turn_id": turn_id,
            "epoch": epoch,
        }
        self._model: Facts = {
            "model": request.options.model,
            "provider": request.options.provider,
            "stream": request.stream,
        }
        self._call: _Call | None = None
        self._tools: list[_ToolCall] = []
        self._counts = {"calls": 0, "tool_calls": 0}
        self._tokens: dict[str, int | None] = {"prompt_tokens": None, "completion_tokens": None}
        self._finish_reason: str | None = None
        self._started_at = self._now()
        self._has_ended = False
        self.is_taken_over = False

    def _notify(self, method: str, kind: Any, facts: Facts, content: Callable[[], Facts] = dict) -> dict[str, str]:
        return self._notifier.notify(method, kind, {**self._ids, **facts}, lambda: {"key": self._key, **content()})

    def __enter__(self) -> None:
        return

    def start(self) -> None:
        """Report the start of the turn, whose question is saved. Not in `__enter__`: an interrupt here needs `__exit__`."""
        self._notify("turn_started", TurnStarted, self._model)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._has_ended:
            self.end("taken_over" if self.is_taken_over else "unsaved", error)

    def start_call(
        self, row: CallRow, request: PreparedRequest, parse_reply: Callable[[], ParsedReply], sent: Mapping[str, str]
    ) -> dict[str, str]:
        """Report that a request is about to be sent. Return the headers to add to the `sent` ones."""
        self._call = call = _Call(row, request, parse_reply, self._url, self._now())
        self._counts["calls"] += 1

        def content() -> Facts:
            parameters = {name: value for name, value in request.rendered.body.items() if name != "messages"}
            return {"messages": request.rendered.body["messages"], "parameters": parameters}

        headers = self._notify("call_started", CallStarted, call.facts, content)
        taken = {name.lower() for name in sent}
        return {name: value for name, value in headers.items() if name.lower() not in taken}

    def note_chunk(self) -> None:
        """Report the first chunk of a stream."""
        call = self._call
        if call is not None and call.first_chunk_s is None:
            call.first_chunk_s = self._now() - call.started_at
            facts = {"number": call.facts["number"], "duration_s": call.first_chunk_s}
            self._notify("first_chunk", FirstChunk, facts)

    def stop_clock(self) -> None:
        """Take the duration of the call: its answer has ended, and its outcome will be saved."""
        if self._call is not None:
            self._call.duration_s = self._now() - self._call.started_at

    def end_call(self) -> None:
        """Report the end of the call, whose outcome is saved."""
        call, self._call = self._call, None
        if call is None:
            return
        row = call.row
        failure = json.loads(row.error) if row.error is not None else {}
        if row.state == LATE or self.is_taken_over:
            state = LATE
        else:
            state = "ok" if row.state == "ok" else "error" if failure else "stopped"
        for name in self._tokens:
            count = getattr(row, name)
            self._tokens[name] = self._tokens[name] if count is None else (self._tokens[name] or 0) + count
        self._finish_reason = _shorten(row.finish_reason)
        facts = {
            **call.facts,
            "state": state,
            "duration_s": self._now() - call.started_at if call.duration_s is None else call.duration_s,
            "first_chunk_s": call.first_chunk_s,
            "served_model": _shorten(row.served_model),
            "response_id": _shorten(row.response_id),
            "request_id": row.request_id,
            "finish_reason": self._finish_reason,
            "prompt_tokens": row.prompt_tokens,
            "completion_tokens": row.completion_tokens,
            "cached_tokens": row.cached_tokens,
            "cache_write_tokens": row.cache_write_tokens,
            "reasoning_tokens": row.reasoning_tokens,
            "usage_source": row.usage_source or "absent",
            "error": failure.get("type"),
            "status": failure.get("status"),
        }

        def content() -> Facts:
            replies = [_to_message(choice) for choice in call.parse_reply().choices]
            return {"error_message": failure.get("message"), "replies": replies}

        self._notify("call_ended", CallEnded, facts, content)

    def start_tools(
        self, request: PreparedRequest, rows: Sequence[ToolCallRow], tool_calls: Sequence[dict[str, Any]]
    ) -> None:
        """Report tool calls that are saved and about to run."""
        self._counts["tool_calls"] += len(rows)
        for position, (row, tool_call) in enumerate(zip(rows, tool_calls, strict=True)):
            # The name of a tool that does not exist is text of the model.
            tool = _ToolCall(row, position, None if find_tool(request.options.tools, row.name) is None else row.name)
            self._tools.append(tool)
            arguments = (tool_call.get("function") or {}).get("arguments")
            self._notify("tool_started", ToolStarted, tool.facts, lambda text=arguments: {"arguments": text})  # type: ignore[misc]

    def time_tool(self, position: int, bound: BoundCall) -> BoundCall:
        """Return a tool call that takes its own duration when it runs."""
        tool, (function, arguments) = self._tools[position], bound

        def stop(started_at: float) -> None:
            tool.duration_s = self._now() - started_at

        return _time_call(function, self._now, stop), arguments

    def end_tools(self, results: Sequence[MessageRow] = ()) -> None:
        """Report the end of the tool calls, whose results are saved. Without results their caller left meanwhile."""
        while self._tools:
            self._end_tool(results)

    def _end_tool(self, results: Sequence[MessageRow] = ()) -> None:
        tool = self._tools.pop(0)
        row, position = tool.row, tool.facts["position"]
        facts = {
            **tool.facts,
            "state": row.state if row.state in ("done", "failed") else "unknown",
            "duration_s": tool.duration_s,
            "error": row.error,
        }
        text = results[position].content if position < len(results) else None
        self._notify("tool_ended", ToolEnded, facts, lambda: {"result": text})

    def end(self, state: str, error: BaseException | None) -> None:
        """Report the end of the turn, once, and before it the ends of what is still running."""
        if self._has_ended:
            return
        self._has_ended = True
        error = None if isinstance(error, Stopped) else error
        with ExitStack() as steps:  # an interrupt in an observer skips none of them
            steps.callback(self._end_turn, state, error)
            steps.callback(self.end_call)
            for _ in self._tools:
                steps.callback(self._end_tool)

    def _end_turn(self, state: str, error: BaseException | None) -> None:
        facts = {
            **self._model,
            **self._counts,
            **self._tokens,
            "state": state,
            "duration_s": self._now() - self._started_at,
            "finish_reason": self._finish_reason,
            "error": None if error is None else type(error).__name__,
        }

        def content() -> Facts:
            return {"error_message": describe_error(error)["message"] if isinstance(error, Exception) else None}

        self._notify("turn_ended", TurnEnded, facts, content)


def _shorten(text: str | None) -> str | None:
    return None if text is None else text[:_MAX_CHARS]


def _to_message(choice: ReplyChoice) -> Facts:
    values = {name: getattr(choice, name) for name in _MESSAGE_FIELDS}
    return {"role": ASSISTANT, **{name: value for name, value in values.items() if value}}


def _time_call(
    function: Callable[..., Any], now: Callable[[], float], stop: Callable[[float], None]
) -> Callable[..., Any]:
    """Return a function of the same kind, plain or async, that calls `stop` with its start when it ends."""

    async def wait(value: Any, started_at: float) -> Any:
        try:
            return await value
        finally:
            stop(started_at)

    async def arun(**arguments: Any) -> Any:
        return await wait(function(**arguments), now())

    def run(**arguments: Any) -> Any:
        started_at = now()
        try:
            value = function(**arguments)
        finally:
            stop(started_at)
        return wait(value, started_at) if inspect.iscoroutine(value) else value

    return arun if inspect.iscoroutinefunction(function) else run
