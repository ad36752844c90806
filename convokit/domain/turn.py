"""Turns and the API calls they are made of, as rows and as values."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain import hashchain
from convokit.domain.ids import format_message_id
from convokit.domain.message import Message, to_datetime
from convokit.domain.reply import Change, RateLimits, Usage

TurnState = Literal["open", "completed", "interrupted", "cancelled", "failed", "abandoned", "superseded"]
LATE_CALL_OFFSET = 1000
"""What is added to the number of a call whose reply came late: the call's own row is closed already."""
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
    """The number of the API call that is running; 0 between two calls."""
    after_seq: int | None = None
    """Behind which message its own begin, where its question was there already."""

    @property
    def from_seq(self) -> int:
        """What none of its messages lies before."""
        return self.question_seq if self.after_seq is None else self.after_seq


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """An idempotency key as it is stored: hashed, with the salted fingerprint of the request it came with."""

    hash: bytes
    salt: bytes
    fingerprint: bytes

    @classmethod
    def from_request(cls, key: str, request: str) -> IdempotencyKey:
        """Return the key for a request, given as canonical text."""
        salt = hashchain.new_salt()
        return cls(hashlib.sha256(key.encode()).digest(), salt, hashchain.compute_salted_digest(salt, request.encode()))


@dataclass(slots=True)
class TurnRow:
    """A row of the turn table, as far as finding a turn again needs it."""

    id: UUID
    branch: int
    question_seq: int
    after_seq: int | None
    after_entry: int | None
    reply_seq: int | None
    state: str
    epoch: int
    error: str | None
    fingerprint: bytes | None
    fingerprint_salt: bytes | None
    started_at: int
    first_token_at: int | None
    ended_at: int | None
    calls: int
    """The number of its last API call."""

    @property
    def from_seq(self) -> int:
        """What none of its messages but the question lies before."""
        return self.question_seq if self.after_seq is None else self.after_seq

    def is_same_request(self, request: str) -> bool:
        """Whether the turn was sent with this very request."""
        salt = bytes(self.fingerprint_salt or b"")
        return hashchain.compute_salted_digest(salt, request.encode()) == bytes(self.fingerprint or b"")


class Turn(BaseModel):
    """One user request and what came of it. `question` and `reply` are message ids; times are UTC.

    `state`: open, completed, interrupted (it broke off, or its reader left), cancelled, failed, abandoned (its worker is gone),
    superseded. `error` says, as plain facts, what ended it.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: UUID
    state: TurnState
    question: str
    reply: str | None = None
    error: dict[str, Any] | None = None
    started_at: datetime
    first_token_at: datetime | None = None
    ended_at: datetime | None = None

    @classmethod
    def from_row(cls, conversation_id: UUID, row: TurnRow) -> Turn:
        """Return a stored row as a value."""
        return cls.model_construct(
            id=row.id,
            state=row.state,
            question=format_message_id(conversation_id, row.question_seq),
            reply=None if row.reply_seq is None else format_message_id(conversation_id, row.reply_seq),
            error=None if row.error is None else json.loads(row.error),
            started_at=to_datetime(row.started_at),
            first_token_at=None if row.first_token_at is None else to_datetime(row.first_token_at),
            ended_at=None if row.ended_at is None else to_datetime(row.ended_at),
        )


class Recovered(BaseModel):
    """A turn whose worker was gone, and which `recover` closed: for how long it had been open, and how much of its reply is
    kept."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversation_id: UUID
    key: str | None = None
    turn_id: UUID
    open_s: float = 0.0
    kept_chars: int = 0


@dataclass(slots=True)
class CallRow:
    """A row of the completion table: one API call."""

    turn_id: UUID
    number: int
    state: str
    manifest: str
    body_salt: bytes | None
    body_digest: bytes
    requested_model: str
    started_at: int
    provider: str | None = None
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
    cost_nanousd: int | None = None
    details: str | None = None
    error: str | None = None
    first_byte_at: int | None = None
    ended_at: int | None = None
    salt: bytes | None = None

    def chained_values(self) -> list[object]:
        """Return the values the chain commits to: every column but the two salts."""
        return [getattr(self, name) for name in CHAINED_COLUMNS]

    @property
    def ref(self) -> str:
        """The row's name in the chain."""
        return f"{self.turn_id}:{self.number}"

    def hash_input(self) -> hashchain.HashInput:
        """Return this row's entry to be; its salt must be set."""
        assert self.salt is not None
        return hashchain.HashInput(
            "completion", self.ref, hashchain.compute_commitment(self.salt, self.chained_values())
        )


CHAINED_COLUMNS = tuple(name for name in CallRow.__slots__ if name not in ("salt", "body_salt"))


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

    model_config = ConfigDict(frozen=True, defer_build=True, arbitrary_types_allowed=True)

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
