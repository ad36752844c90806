"""What came back from the API: the answer of each choice, and what it cost.

Absent, null and empty stay apart: an `Answer` that only calls tools has `content` None, a usage nobody reported has None
counts, never 0. Whatever a server adds beyond the API is kept in `extra`, verbatim.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

UsageSource = Literal["reported", "estimated", "absent"]


class Usage(BaseModel):
    """Token counts of one API call. A count is None when nobody reported it; `source` says who made the numbers."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    source: UsageSource = "absent"


class Change(BaseModel):
    """A request parameter that was not sent as it was given, and why."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    parameter: str
    action: Literal["dropped", "renamed", "changed"]
    reason: str


@dataclass(slots=True)
class ReplyChoice:
    """One choice of a completion, as the assistant message it becomes."""

    index: int = 0
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    """Verbatim: `{"id", "type", "function": {"name", "arguments"}}`; arguments may be invalid JSON."""
    audio: dict[str, Any] | None = None
    annotations: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Unknown keys of the message, kept for the provider that sent them."""


@dataclass(slots=True)
class ParsedReply:
    """One finished API call: every choice, and what the server said about the call."""

    choices: list[ReplyChoice]
    response_id: str | None = None
    model: str | None = None
    created: int | None = None
    usage: Usage = field(default_factory=Usage)
    usage_details: dict[str, Any] = field(default_factory=dict)
    """The usage object as it came, for what `Usage` has no field for."""
    service_tier: str | None = None
    system_fingerprint: str | None = None
    done: bool = False
    """Whether the server said it had finished: a finish reason on every choice."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Unknown top-level keys (`timings`, `provider`, `prompt_filter_results` …), verbatim."""


class Allowance(BaseModel):
    """One limit: how much there is, how much of it is left, and in how many seconds it is full again."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None


class RateLimits(BaseModel):
    """The rate limits as of one answer."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    requests: Allowance = Allowance()
    tokens: Allowance = Allowance()
