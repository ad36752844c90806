"""Define turns, their API calls and their tool calls."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain import hashchain
from convokit.domain.ids import format_message_id
from convokit.domain.message import to_datetime
from convokit.domain.reply import Usage, UsageSource
from convokit.domain.text import validate_json_value
from convokit.settings import Limits

TurnState = Literal["open", "completed", "interrupted", "cancelled", "failed", "abandoned", "superseded"]
LATE = "late"
"""The state of a second row for a call whose reply came after its turn was closed. The first row is final by then."""
CallState = Literal["sending", "streaming", "ok", "error", "ambiguous", "abandoned", "late"]


@dataclass(slots=True)
class OpenTurn:
    """An open turn of another worker."""

    id: UUID
    question_seq: int
    epoch: int
    owner: str | None
    expired: bool
    """Whether its lease has run out, by the clock of the database."""
    age_us: int
    calls: int
    """The number of the running API call; 0 between two calls."""
    after_seq: int | None = None
    """The newest message when the turn started, if its question is older (regenerate, resume). None: it wrote its question."""

    @property
    def from_seq(self) -> int:
        """A lower bound for the seqs of the turn's messages."""
        return self.question_seq if self.after_seq is None else self.after_seq


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A hashed idempotency key, with a salted fingerprint of the request that used it."""

    hash: bytes
    salt: bytes
    fingerprint: bytes

    @classmethod
    def from_request(cls, key: str, request: str) -> IdempotencyKey:
        """Hash a key. `request` is the canonical text of the request."""
        salt = hashchain.new_salt()
        return cls(hash_key(key), salt, hashchain.compute_salted_digest(salt, request.encode()))


def hash_key(idempotency_key: str) -> bytes:
    """Return the hash under which a turn is found by its idempotency key."""
    return hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass")).digest()


def validate_turn_metadata(field: str, value: object, limits: Limits) -> str:
    """Return the metadata of a turn as JSON. Raises: InvalidInput, TooLarge."""
    return validate_json_value(field, value, limit=limits.metadata_bytes, setting="Limits.metadata_bytes")


@dataclass(slots=True)
class TurnRow:
    """The columns of the turn table that are needed to find and resume a turn."""

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
    metadata: str | None
    calls: int
    """The number of its last API call."""

    @property
    def from_seq(self) -> int:
        """A lower bound for the seqs of the turn's messages, except its question."""
        return self.question_seq if self.after_seq is None else self.after_seq

    def is_same_request(self, request: str) -> bool:
        """Return whether `request` (canonical text) has the fingerprint of this turn."""
        salt = bytes(self.fingerprint_salt or b"")
        return hashchain.compute_salted_digest(salt, request.encode()) == bytes(self.fingerprint or b"")


class Turn(BaseModel):
    """One question and its reply.

    `state` is one of:

    - open: a worker is answering
    - completed
    - interrupted: the reply broke off, or the reader of the stream left
    - cancelled: `cancel` ended it
    - failed: an error ended it
    - abandoned: its worker is gone, and another one closed it
    - superseded: a newer turn replaced it (`on_busy="supersede"`)

    `question` and `reply` are message ids. Times are UTC.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: UUID
    conversation_id: UUID
    state: TurnState
    question: str
    reply: str | None = None
    error: dict[str, Any] | None = None
    """The attributes of the error that ended it. None if no error did."""
    started_at: datetime
    first_token_at: datetime | None = None
    ended_at: datetime | None = None
    metadata: Any = None
    """The JSON value that the turn was sent with (`turn_metadata`). None after a redaction of its messages."""
    worker: Literal["gone"] | None = None
    """"gone" if the turn is open and its worker is known to be gone: the lease has run out, or the process has ended."""

    @classmethod
    def from_row(cls, conversation_id: UUID, row: TurnRow, *, worker: Literal["gone"] | None = None) -> Turn:
        """Convert a stored row."""
        return cls.model_construct(
            id=row.id,
            conversation_id=conversation_id,
            state=row.state,
            question=format_message_id(conversation_id, row.question_seq),
            reply=None if row.reply_seq is None else format_message_id(conversation_id, row.reply_seq),
            error=None if row.error is None else json.loads(row.error),
            started_at=to_datetime(row.started_at),
            first_token_at=None if row.first_token_at is None else to_datetime(row.first_token_at),
            ended_at=None if row.ended_at is None else to_datetime(row.ended_at),
            metadata=None if row.metadata is None else json.loads(row.metadata),
            worker=worker,
        )


class Recovered(BaseModel):
    """A turn that `recover` closed because its worker was gone."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversation_id: UUID
    key: str | None = None
    turn_id: UUID
    open_s: float = 0.0
    """Seconds from the start of the turn to its recovery."""
    kept_chars: int = 0
    """Characters of the partial reply that were kept."""


@dataclass(slots=True)
class CallRow:
    """A row of the completion table: one API call, with its columns in their order."""

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
        """Return the values that the hash chain commits to: every column except the salts."""
        return [getattr(self, name) for name in CHAINED_COLUMNS]

    @property
    def usage(self) -> Usage:
        """The token counts of the call."""
        values: dict[str, Any] = {name: getattr(self, name, None) for name in Usage.model_fields if name != "source"}
        prompt, completion = self.prompt_tokens, self.completion_tokens
        values["total_tokens"] = None if prompt is None or completion is None else prompt + completion
        return Usage(**values, source=cast("UsageSource", self.usage_source or "absent"))

    @property
    def is_late(self) -> bool:
        """Whether this row holds a reply that came after its turn was closed."""
        return self.state == LATE

    @property
    def ref(self) -> str:
        """The `ref` of its chain entry."""
        return f"{self.turn_id}:{self.number}"

    def hash_input(self) -> hashchain.HashInput:
        assert self.salt is not None
        return hashchain.HashInput(
            "completion", self.ref, hashchain.compute_commitment(self.salt, self.chained_values())
        )


CHAINED_COLUMNS = tuple(name for name in CallRow.__slots__ if name not in ("salt", "body_salt"))


@dataclass(slots=True)
class ToolCallRow:
    """A row of the tool call table. It is written before the tool runs, so that a retry knows of possible side effects."""

    call_id: str
    name: str
    state: str
    started_at: int
    message_seq: int = 0
    position: int = 0
    result_seq: int | None = None
    error: str | None = None
    ended_at: int | None = None
