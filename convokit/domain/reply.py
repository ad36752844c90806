"""Define a parsed reply: its choices, token counts and rate limits.

None means that the server reported nothing: a reply that only calls tools has `content` None, and an unreported count is None,
not 0. Keys that the API does not define are kept in `extra`, unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from convokit.domain.finish_reason import FinishKind, classify_finish_reason

UsageSource = Literal["reported", "estimated", "absent"]


class Usage(BaseModel):
    """Token counts of one API call. A count is None if it was not reported.

    `source`: "reported" by the server, "estimated" by convokit, or "absent".
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    source: UsageSource = "absent"


class Change(BaseModel):
    """A request parameter that was not sent as the caller passed it, and the reason."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    parameter: str
    action: Literal["dropped", "renamed", "changed"]
    reason: str


@dataclass(slots=True)
class ReplyChoice:
    """One choice of a reply. It becomes an assistant message."""

    index: int = 0
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    """As received: `{"id", "type", "function": {"name", "arguments"}}`. `arguments` may be invalid JSON."""
    audio: dict[str, Any] | None = None
    annotations: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of the message that the API does not define. Some providers want them back."""

    @property
    def finish_kind(self) -> FinishKind:
        """How the choice ended."""
        return classify_finish_reason(self.finish_reason)


@dataclass(slots=True)
class ParsedReply:
    """The parsed body of one API call."""

    choices: list[ReplyChoice]
    response_id: str | None = None
    model: str | None = None
    created: int | None = None
    usage: Usage = field(default_factory=Usage)
    usage_details: dict[str, Any] = field(default_factory=dict)
    """The `usage` object as received."""
    service_tier: str | None = None
    system_fingerprint: str | None = None
    done: bool = False
    """Whether every choice has a finish reason, and no filter stopped the first one."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Top-level keys that the API does not define (`timings`, `provider`, `prompt_filter_results` …)."""


class Allowance(BaseModel):
    """One rate limit: its size, what is left of it, and the seconds until it is full again."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None


class RateLimits(BaseModel):
    """The rate limits that one response reported."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    requests: Allowance = Allowance()
    tokens: Allowance = Allowance()
