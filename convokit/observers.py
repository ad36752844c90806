"""Define observers of turns and the events that they receive.

Pass observers to a kit: `Convokit(..., observers=[MyObserver()])`. A turn calls their methods in order:

- `turn_started`: the question is saved
- `call_started`, `first_chunk`, `call_ended`: for each API call
- `tool_started`, `tool_ended`: for each tool call that the turn runs
- `turn_ended`: the reply is saved, or the turn ended without one

`turn_closed` reports that this process closed the turn of another worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEvent:
    """The facts that every event has.

    `turn_id` and `epoch` together name one run of a turn. A turn that is resumed runs again under a higher epoch.
    """

    tenant: str
    conversation_id: UUID
    branch: int
    turn_id: UUID
    epoch: int
    key: str | None = field(default=None, repr=False)
    """The key of the conversation. Only with `include_content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted(TurnEvent):
    """The question is saved, and a turn runs in this process."""

    model: str
    provider: str
    """The provider of the profile, else the host of the server."""
    stream: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent(TurnEvent):
    """The facts that the start and the end of an API call have."""

    number: int
    """The number of the call in its turn, retries and summaries included, from 1."""
    model: str
    provider: str
    stream: bool
    is_summary: bool
    """Whether the call asks for a rolling summary."""
    server_address: str
    server_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted(CallEvent):
    """An API call is about to be sent."""

    messages: Sequence[Mapping[str, Any]] | None = field(default=None, repr=False)
    """The messages as they are sent. Only with `include_content`."""
    parameters: Mapping[str, Any] | None = field(default=None, repr=False)
    """The body of the request without its messages. Only with `include_content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstChunk(TurnEvent):
    """The first chunk of a streamed reply arrived, before its reader gets it."""

    number: int
    duration_s: float
    """Seconds since the call started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded(CallEvent):
    """An API call ended, and its outcome is saved.

    `state` is one of:

    - ok: the reply is whole
    - error: `error` ended it
    - stopped: its caller left
    - late: another worker closed the turn meanwhile
    """

    state: Literal["ok", "error", "stopped", "late"]
    duration_s: float
    """Seconds from the request to the end of the answer. A slow reader of a stream makes it longer."""
    first_chunk_s: float | None
    """Seconds to the first chunk of a stream."""
    served_model: str | None
    """The model that the server named."""
    response_id: str | None
    request_id: str | None
    """The server's id of the request, which its support asks for."""
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    usage_source: str
    """"reported" by the server, "estimated", or "absent"."""
    error: str | None
    """The class of the error."""
    status: int | None
    """The HTTP status of the error, if it has one."""
    error_message: str | None = field(default=None, repr=False)
    """The text of the error, which may quote the question. Only with `include_content`."""
    replies: Sequence[Mapping[str, Any]] | None = field(default=None, repr=False)
    """The choices of the reply so far, as messages with a `finish_reason`. Only with `include_content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStarted(TurnEvent):
    """A tool call of the model is saved, and runs."""

    position: int
    """The position of the call in the reply, from 0."""
    call_id: str
    name: str | None
    """The name of the tool. None if the model named a tool that does not exist."""
    arguments: str | None = field(default=None, repr=False)
    """The arguments as the model wrote them. Only with `include_content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEnded(TurnEvent):
    """A tool call ended.

    `state` is "done", "failed", or "unknown" if the caller left while the tool was running.
    """

    position: int
    call_id: str
    name: str | None
    state: Literal["done", "failed", "unknown"]
    duration_s: float | None
    """Seconds that the function ran. None if it was not run: bad arguments, or an unknown tool."""
    error: str | None
    """The class of the exception."""
    result: str | None = field(default=None, repr=False)
    """The text that the model gets. Only with `include_content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded(TurnEvent):
    """A turn ended in this process.

    `state` is one of:

    - completed: the whole reply is saved
    - interrupted: the reply broke off or its reader left, and the text that came is saved
    - failed: an error ended the turn before any text came
    - taken_over: another worker closed the turn meanwhile (a lost lease, `cancel`, `on_busy="supersede"`)
    - unsaved: the end could not be saved. Another worker will close the turn
    """

    model: str
    provider: str
    stream: bool
    state: Literal["completed", "interrupted", "failed", "taken_over", "unsaved"]
    duration_s: float
    """Seconds since `turn_started`."""
    calls: int
    """The number of API calls in this run."""
    tool_calls: int
    """The number of tool calls in this run."""
    prompt_tokens: int | None
    """The sum over the calls of this run. None if no call has a count."""
    completion_tokens: int | None
    finish_reason: str | None
    """The finish reason of the last call."""
    error: str | None
    """The class of the error that ended the turn."""
    error_message: str | None = field(default=None, repr=False)
    """The text of the error. Only with `include_content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnClosed(TurnEvent):
    """This process closed the turn of another worker, or of another caller in this process.

    `state` is "abandoned" if its worker was gone, "cancelled", or "superseded" by a newer question.
    """

    state: Literal["abandoned", "cancelled", "superseded"]
    open_s: float
    """Seconds that the turn was open."""
    kept_chars: int
    """The characters of the partial reply that is kept."""


class Observer:
    """Receives the events of turns. Override the methods that you need.

    The methods are plain functions, also with `AsyncConvokit`. They are called in the thread or task of the turn, after the
    commit, so they must not block. An exception is logged once for each method, and changes nothing.

    Each `*_started` is followed by exactly one `*_ended` in the same process. A killed process reports nothing.
    """

    include_content: bool = False
    """Whether the events for this observer contain text, keys and parameters. Default: they contain none."""

    def turn_started(self, event: TurnStarted) -> None:
        """Receive the start of a turn."""

    def call_started(self, event: CallStarted) -> Mapping[str, str] | None:
        """Receive the start of an API call, before its first byte is sent.

        Returned headers are added to the request. They replace none.
        """

    def first_chunk(self, event: FirstChunk) -> None:
        """Receive the first chunk of a stream."""

    def call_ended(self, event: CallEnded) -> None:
        """Receive the end of an API call."""

    def tool_started(self, event: ToolStarted) -> None:
        """Receive the start of a tool call. Several may start before the first one ends."""

    def tool_ended(self, event: ToolEnded) -> None:
        """Receive the end of a tool call."""

    def turn_ended(self, event: TurnEnded) -> None:
        """Receive the end of a turn."""

    def turn_closed(self, event: TurnClosed) -> None:
        """Receive that this process closed another worker's turn."""
