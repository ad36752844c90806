"""Turns and the API calls they are made of, as rows and as values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain import chain
from convokit.domain.message import Message
from convokit.domain.reply import Change, RateLimits, Usage

TurnState = Literal["open", "completed", "interrupted", "cancelled", "failed", "abandoned", "superseded"]
CallState = Literal["sending", "streaming", "ok", "error", "ambiguous", "abandoned"]


@dataclass(slots=True)
class OpenTurn:
    """A turn that another worker holds, or held. `expired` is judged by the database's clock."""

    id: UUID
    question_seq: int
    epoch: int
    owner: str | None
    expired: bool
    age_us: int
    calls: int


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key as it is stored: hashed, with the salted fingerprint of the request it came with."""

    hash: bytes
    salt: bytes
    fingerprint: bytes

    @classmethod
    def of(cls, key: str, request: str) -> Key:
        """Return the key for a request, given as canonical text."""
        salt = chain.new_salt()
        return cls(hashlib.sha256(key.encode()).digest(), salt, chain.salted_digest(salt, request.encode()))


@dataclass(slots=True)
class TurnRow:
    """A row of the turn table, as far as finding a turn again needs it."""

    id: UUID
    branch: int
    question_seq: int
    reply_seq: int | None
    state: str
    epoch: int
    error: str | None
    fingerprint: bytes | None
    fingerprint_salt: bytes | None
    calls: int
    """The number of its last API call."""

    def was_sent_with(self, request: str) -> bool:
        """Whether the turn was sent with this very request."""
        salt = bytes(self.fingerprint_salt or b"")
        return chain.salted_digest(salt, request.encode()) == bytes(self.fingerprint or b"")


class Recovered(BaseModel):
    """A turn whose worker was gone, and which `recover` closed."""

    model_config = ConfigDict(frozen=True)

    conversation_id: UUID
    key: str | None = None
    turn_id: UUID


@dataclass(slots=True)
class CompletionRow:
    """A row of the completion table: one API call."""

    turn_id: UUID
    number: int
    state: str
    manifest: str
    body_salt: bytes | None
    body_digest: bytes
    requested_model: str
    started_at: int
    served_model: str | None = None
    response_id: str | None = None
    request_id: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_source: str | None = None
    service_tier: str | None = None
    details: str | None = None
    error: str | None = None
    first_byte_at: int | None = None
    ended_at: int | None = None
    salt: bytes | None = None

    def covered(self) -> list[object]:
        """Return the values the chain commits to: every column but the two salts."""
        return [getattr(self, name) for name in COVERED]

    @property
    def ref(self) -> str:
        """The row's name in the chain."""
        return f"{self.turn_id}:{self.number}"

    def leaf(self) -> chain.Leaf:
        """Return this row's entry to be; its salt must be set."""
        assert self.salt is not None
        return chain.Leaf("completion", self.ref, chain.commitment(self.salt, self.covered()))


COVERED = tuple(name for name in CompletionRow.__slots__ if name not in ("salt", "body_salt"))


@dataclass(slots=True)
class ToolCallRow:
    """A row of the tool call table: written before the tool runs, so that no side effect is ever repeated unknowingly."""

    call_id: str
    name: str
    state: str
    started_at: int
    message_seq: int = 0
    position: int = 0
    result_seq: int | None = None
    error: str | None = None
    ended_at: int | None = None


class Reply(BaseModel):
    """A saved reply, and what the call that made it was like.

    `usage` says who counted (`source`); `changes` is what the profile renamed or dropped of the request; `finish_reason` is
    the server's own word (`stop`, `length`, `tool_calls`, `content_filter` …); `attempts` counts the calls it took.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    message: Message
    choices: list[Message]
    """With `n` > 1, every choice; the first is `message`."""
    usage: Usage
    turn_id: UUID
    model: str
    finish_reason: str | None = None
    reasoning: str | None = None
    logprobs: dict[str, Any] | None = None
    parsed: Any = None
    changes: tuple[Change, ...] = ()
    request_id: str | None = None
    attempts: int = 1
    rate_limits: RateLimits | None = None
    """What the server says is left, where it says so."""
    context: Any = None
    """The report of the context that was sent (`convokit.Report`)."""

    @property
    def text(self) -> str:
        """The words of the reply."""
        return self.message.text

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls the model asks for and nobody here ran, in the API's shape."""
        return self.message.tool_calls or []

    @property
    def refusal(self) -> str | None:
        """The model's refusal, if it refused."""
        return self.message.refusal
