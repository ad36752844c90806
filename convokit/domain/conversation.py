"""Define conversations, their branches and their summaries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain.ids import format_message_id
from convokit.domain.message import MessageRow, to_datetime
from convokit.domain.removal import RemovalRow

MAIN = "main"
"""The name of branch 0, which every conversation has."""


@dataclass(slots=True)
class ConversationRow:
    """A row of the conversation table, with its columns in their order."""

    id: UUID
    tenant: str
    key: str | None
    subject: str | None
    title: str | None
    metadata: str | None
    settings: str | None
    head_seq: int | None
    last_seq: int
    last_entry: int
    chain_hash: bytes
    created_at: int
    updated_at: int
    archived_at: int | None
    pins: str | None = None

    @property
    def pinned_seqs(self) -> list[int]:
        seqs: list[int] = json.loads(self.pins) if self.pins else []
        return seqs


class Conversation(BaseModel):
    """One conversation without its messages. Times are UTC."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: UUID
    key: str | None = None
    subject: str | None = None
    title: str | None = None
    metadata: dict[str, Any] = {}
    last_seq: int = 0
    """The seq of the newest message: the number of messages ever written, on all branches."""
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None
    erased_at: datetime | None = None
    """When all text was erased. None: the text was not erased, or the conversation went on since."""
    erased_by: str | None = None
    """The `author` that `erase` was given."""
    erase_reason: str | None = None
    """The `reason` that `erase` was given."""

    @classmethod
    def from_row(cls, row: ConversationRow, erasure: RemovalRow | None = None) -> Conversation:
        """Convert a stored row, and the erasure that is its last chain entry. The values are not validated again."""
        return cls.model_construct(
            id=row.id,
            key=row.key,
            subject=row.subject,
            title=row.title,
            metadata=json.loads(row.metadata) if row.metadata else {},
            last_seq=row.last_seq,
            created_at=to_datetime(row.created_at),
            updated_at=to_datetime(row.updated_at),
            archived_at=None if row.archived_at is None else to_datetime(row.archived_at),
            erased_at=None if erasure is None else to_datetime(erasure.created_at),
            erased_by=None if erasure is None else erasure.author,
            erase_reason=None if erasure is None else erasure.reason,
        )


@dataclass(slots=True)
class BranchRow:
    """A row of the branch table, with its columns in their order. The main branch's is made from the conversation."""

    number: int
    name: str | None
    head_seq: int | None
    created_at: int


class Branch(BaseModel):
    """One branch of a conversation. A chat uses branch 0, named "main", unless it selects another one."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    number: int
    name: str | None = None
    head: str | None = None
    """The id of the last message on the branch. None: the branch is empty."""
    created_at: datetime
    """UTC."""

    @classmethod
    def from_row(cls, conversation_id: UUID, row: BranchRow) -> Branch:
        """Convert a stored row."""
        return cls.model_construct(
            number=row.number,
            name=row.name,
            head=None if row.head_seq is None else format_message_id(conversation_id, row.head_seq),
            created_at=to_datetime(row.created_at),
        )


@dataclass(slots=True)
class SummaryRow:
    """A row of the summary table. The summary replaces the messages of a path from `from_seq` to `to_seq` (both included)."""

    from_seq: int
    to_seq: int
    created_at: int
    number: int = 0
    message_seq: int = 0


@dataclass(frozen=True, slots=True)
class StoredSummary:
    """A summary with its text, which is stored as a message."""

    row: SummaryRow
    message: MessageRow
