"""Define values of stored calls, tool runs, chain entries, binaries and summaries."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from convokit.domain.content import BLOB_SCHEME, Blob
from convokit.domain.conversation import SummaryRow
from convokit.domain.hashchain import Entry, EntryKind
from convokit.domain.ids import MAX_SEQ, format_message_id
from convokit.domain.message import Message, MessageRow, to_datetime
from convokit.domain.removal import RemovalRow
from convokit.domain.reply import Usage
from convokit.domain.stored_request import Manifest
from convokit.domain.turn import CallRow, CallState, ToolCallRow, Turn, TurnRow

_NANO = 1_000_000_000


def _to_optional_datetime(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else to_datetime(microseconds)


class RequestWindow(BaseModel):
    """The stored parts that the request of a call was built from.

    `messages` are the seqs in the order of the request. The others are some of them: `pinned` from before the start of the
    window, the `passages` of the question, and the `summary` of earlier messages.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    start: int | None = None
    """The seq at which the window starts. None: no message was sent, or the call made a summary."""
    messages: list[int] = []
    pinned: list[int] = []
    passages: list[int] = []
    summary: int | None = None
    prompt: str | None = None
    """The digest of the developer prompt: `chat.prompt(digest)` returns its text."""
    tools: str | None = None
    """The digest of the tools: `chat.prompt(digest)` returns them as JSON."""
    stable_tokens: int = 0
    """Tokens at the beginning of the request that the next request repeats, as they were counted."""
    is_summary_request: bool = False
    """Whether the call had the messages summarized. They were sent as one text."""

    @classmethod
    def from_manifest(cls, manifest: Manifest, passages: Collection[int], summaries: Collection[int]) -> RequestWindow:
        """Convert a manifest. `passages` and `summaries` are seqs of such messages, also of other requests."""
        seqs = manifest.list_seqs(MAX_SEQ)
        first = manifest.start if manifest.start is not None else next(iter(seqs), None)
        start = None if manifest.transcript else first
        apart = {*passages, *summaries}
        return cls.model_construct(
            start=start,
            messages=seqs,
            pinned=[seq for seq in seqs if start is not None and seq < start and seq not in apart],
            passages=[seq for seq in seqs if seq in passages],
            summary=next((seq for seq in seqs if seq in summaries), None),
            prompt=None if manifest.prompt is None else manifest.prompt.hex(),
            tools=None if manifest.tools is None else manifest.tools.hex(),
            stable_tokens=manifest.stable,
            is_summary_request=manifest.transcript,
        )


class Call(BaseModel):
    """One API call of a turn. Times are UTC.

    `state` is "sending", "streaming", "ok", "error", "ambiguous" (the answer was lost), "abandoned" (its worker is gone) or
    "late" (the reply came after its turn was closed).
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    number: int
    """From 1. A call whose reply came late has its number plus 1,000."""
    state: CallState
    model: str
    """The requested model."""
    served_model: str | None = None
    provider: str | None = None
    service_tier: str | None = None
    started_at: datetime
    first_byte_at: datetime | None = None
    ended_at: datetime | None = None
    finish_reason: str | None = None
    usage: Usage = Usage()
    cost: Decimal | None = None
    """The US dollars that the server reported. `kit.usage` computes the others from prices."""
    error: dict[str, Any] | None = None
    """The attributes of the error that ended the call."""
    request_id: str | None = None
    response_id: str | None = None
    details: dict[str, Any] | None = None
    """Values that the server reported beyond these. None after a redaction of the reply."""
    window: RequestWindow | None = None
    """None where it is not read (`history`, `turn_records`), and if the stored manifest cannot be read: the row was altered."""

    @classmethod
    def from_row(cls, row: CallRow, window: RequestWindow | None) -> Call:
        """Convert a stored row."""
        return cls.model_construct(
            number=row.number,
            state=row.state,
            model=row.requested_model,
            served_model=row.served_model,
            provider=row.provider,
            service_tier=row.service_tier,
            started_at=to_datetime(row.started_at),
            first_byte_at=_to_optional_datetime(row.first_byte_at),
            ended_at=_to_optional_datetime(row.ended_at),
            finish_reason=row.finish_reason,
            usage=row.usage,
            cost=None if row.cost_nanousd is None else Decimal(row.cost_nanousd) / _NANO,
            error=None if row.error is None else json.loads(row.error),
            request_id=row.request_id,
            response_id=row.response_id,
            details=None if row.details is None else json.loads(row.details),
            window=window,
        )


class ToolRun(BaseModel):
    """One run of a Python function that a reply called. Times are UTC.

    `state` is "running", "done", "failed", or "unknown": its worker died while it ran, and its effect is not known.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    call_id: str
    name: str
    state: str
    error: str | None = None
    """The class of the exception that the function raised."""
    message: str
    """The id of the message that asked for the call."""
    result: str | None = None
    """The id of the message with the result."""
    started_at: datetime
    ended_at: datetime | None = None

    @classmethod
    def from_row(cls, conversation_id: UUID, row: ToolCallRow) -> ToolRun:
        """Convert a stored row."""
        return cls.model_construct(
            call_id=row.call_id,
            name=row.name,
            state=row.state,
            error=row.error,
            message=format_message_id(conversation_id, row.message_seq),
            result=None if row.result_seq is None else format_message_id(conversation_id, row.result_seq),
            started_at=to_datetime(row.started_at),
            ended_at=_to_optional_datetime(row.ended_at),
        )


class TurnRecord(Turn):
    """A turn with its API calls and the Python functions that it ran, in order."""

    branch: int = 0
    """The number of the branch that it wrote to."""
    calls: list[Call] = Field(default_factory=list)
    tool_runs: list[ToolRun] = Field(default_factory=list)

    @classmethod
    def from_rows(
        cls,
        conversation_id: UUID,
        row: TurnRow,
        calls: Sequence[Call],
        tool_runs: Sequence[ToolCallRow],
        *,
        worker: Literal["gone"] | None = None,
    ) -> TurnRecord:
        """Convert stored rows."""
        return cls.model_construct(
            **dict(Turn.from_row(conversation_id, row, worker=worker)),
            branch=row.branch,
            calls=list(calls),
            tool_runs=[ToolRun.from_row(conversation_id, each) for each in tool_runs],
        )


class Removal(BaseModel):
    """Who removed text, when and why, as the caller of `redact` or `erase` stated."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    author: str | None = None
    reason: str | None = None
    at: datetime


class ChainEntry(BaseModel):
    """One entry of the conversation's hash chain.

    `kind` is "message", "completion" (an API call), "redaction", "erasure", or "import" (the chain that was copied or
    restored). `hash` commits to the row and to all entries before.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    number: int
    kind: EntryKind
    ref: str
    """The row: a message's id, or turn and number of a call as `<turn>:<number>`. "*": everything before the entry."""
    hash: str
    """SHA-256, hexadecimal."""
    removal: Removal | None = None
    """The removal that a redaction or erasure records. None for other entries."""

    @classmethod
    def from_entry(cls, conversation_id: UUID, entry: Entry, removal: RemovalRow | None) -> ChainEntry:
        """Convert a stored entry, and the removal with its number."""
        ref = entry.ref.removeprefix("completion:")
        if entry.kind == "message" or ref.startswith("message:"):
            ref = f"{conversation_id}:{ref.removeprefix('message:')}"
        removed = removal and Removal(author=removal.author, reason=removal.reason, at=to_datetime(removal.created_at))
        return cls.model_construct(
            number=entry.number, kind=entry.kind, ref=ref, hash=bytes(entry.hash).hex(), removal=removed
        )


class StoredBlob(BaseModel):
    """A binary of a message: an image, audio or file."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    digest: str
    """SHA-256 of the media type, a zero byte and the data, hexadecimal. Parts of messages refer to it as `blob:<digest>`."""
    media_type: str
    """As the sender stated it. It may be wrong: check the data before you show it."""
    data: bytes = Field(repr=False)

    @classmethod
    def from_blob(cls, blob: Blob) -> StoredBlob:
        """Convert a stored binary."""
        return cls.model_construct(
            digest=blob.url.removeprefix(BLOB_SCHEME), media_type=blob.media_type, data=blob.data
        )


class SummaryRecord(BaseModel):
    """A rolling summary of the messages of a path from `from_seq` to `to_seq`, both included.

    A redaction of one of these messages removes the summary.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    number: int
    from_seq: int
    to_seq: int
    message: Message
    """The message with its text."""
    created_at: datetime
    """UTC."""

    @classmethod
    def from_row(cls, conversation_id: UUID, row: SummaryRow, message: MessageRow) -> SummaryRecord:
        """Convert stored rows."""
        return cls.model_construct(
            number=row.number,
            from_seq=row.from_seq,
            to_seq=row.to_seq,
            message=Message.from_row(conversation_id, message),
            created_at=to_datetime(row.created_at),
        )
