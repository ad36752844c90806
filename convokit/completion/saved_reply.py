"""Define the reply that the methods of a chat return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic
from uuid import UUID

from pydantic import BaseModel, ConfigDict, TypeAdapter
from typing_extensions import TypeVar  # with a default, before Python 3.13

from convokit.context.report import Report
from convokit.domain.finish_reason import FinishKind, classify_finish_reason
from convokit.domain.message import Message
from convokit.domain.reply import Change, RateLimits, Usage
from convokit.domain.stored_request import Replay
from convokit.domain.turn import Turn
from convokit.settings import Unset

Parsed = TypeVar("Parsed", default=Any)
"""The type that a reply is parsed into."""
ResponseFormat = type[Parsed] | TypeAdapter[Parsed] | Mapping[str, Any] | Unset | None
"""The `response_format` of a call."""


class Reply(BaseModel, Generic[Parsed]):
    """A saved reply, with the facts of its API call.

    `Reply[T]` is the reply to a call with `response_format=T`: `parsed` is then a `T`.

    `finish_reason` is the server's own value (`stop`, `length`, `tool_calls`, `content_filter` …). `changes` are the request
    parameters that the profile renamed or dropped. `attempts` counts the API calls, retries included.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, arbitrary_types_allowed=True)

    message: Message
    choices: list[Message]
    """All choices. The first is `message`; there are others with `n` > 1 only."""
    usage: Usage
    turn_id: UUID
    model: str
    finish_reason: str | None = None
    reasoning: str | None = None
    logprobs: dict[str, Any] | None = None
    parsed: Parsed | None = None
    """The value of the type that was passed as `response_format`. None without one, and in a reply that calls tools."""
    changes: tuple[Change, ...] = ()
    request_id: str | None = None
    attempts: int = 1
    rate_limits: RateLimits | None = None
    """The rate limits that the server reported, if it did."""
    context: Report | None = None
    """What was sent and what was left out. None if the reply was read back from the database."""

    @property
    def finish(self) -> FinishKind:
        """How the reply ended: "complete", "cut" at a length limit, or "unknown".

        A reply with an unknown finish reason counts as complete.
        """
        return classify_finish_reason(self.finish_reason)

    @property
    def text(self) -> str:
        """The text of the reply."""
        return self.message.text

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tool calls that the caller has to run, in the shape of the API."""
        return self.message.tool_calls or []

    @property
    def open_calls(self) -> list[dict[str, Any]]:
        """The calls that wait for `send(tool_results=...)`, in the shape of the API: all calls of this reply."""
        return self.tool_calls

    @property
    def refusal(self) -> str | None:
        """The text of the model's refusal, None if it did not refuse."""
        return self.message.refusal


TurnLike = Turn | Reply[Any] | Replay | UUID | str
"""A turn, its reply or replay, or its id."""
