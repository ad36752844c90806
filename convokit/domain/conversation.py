"""Conversations: the stored row, and the values that users see.

Branches: names for ends of paths through a conversation's tree of messages.

Summaries: what a model wrote of the messages that a window left behind.

The text is a message like any other, stored before it is ever sent; this row says which messages it stands for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain.ids import format_message_id
from convokit.domain.message import MessageRow, to_datetime

Value = TypeVar("Value")
MAIN = "main"
"""The name of branch 0, which every conversation has."""


@dataclass(slots=True)
class ConversationRow:
    """A row of the conversation table, column for column."""

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
    def pinned(self) -> list[int]:
        """The seqs of the pinned messages, in order."""
        seqs: list[int] = json.loads(self.pins) if self.pins else []
        return seqs


class Conversation(BaseModel):
    """One conversation, without its messages. Times are UTC."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: UUID
    key: str | None = None
    subject: str | None = None
    title: str | None = None
    metadata: dict[str, Any] = {}
    last_seq: int = 0
    """How many messages were ever written to it, on all branches."""
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None

    @classmethod
    def of(cls, row: ConversationRow) -> Conversation:
        """Return a stored row as a value, without validating what we wrote ourselves."""
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
        )


class Page(BaseModel, Generic[Value]):
    """Some of a listing. `next` is the cursor of the page after it, None on the last one."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    items: list[Value]
    next: str | None = None

    def __iter__(self) -> Any:
        """Iterate over the items, which is what a page is for."""
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class Verified(BaseModel):
    """What `verify` found whole: how many entries were recomputed, how many rows checked, and the head of the chain."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversation_id: UUID
    entries: int
    rows: int
    """Rows that an entry commits to: `messages`, ended API `calls` and `removals`."""
    messages: int = 0
    calls: int = 0
    removals: int = 0
    """How often something was lawfully redacted or erased."""
    tool_calls: int = 0
    blobs: int = 0
    head: str
    """The last hash, hexadecimal: kept elsewhere, it shows later that nothing before it was changed."""


class VerifiedAll(BaseModel):
    """What `kit.verify` found whole: how many conversations, with how many entries and rows; `broken` counts those that are
    not, where it was told to go on."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversations: int = 0
    entries: int = 0
    rows: int = 0
    broken: int = 0


@dataclass(frozen=True, slots=True)
class CheckpointHead:
    """What a checkpoint knows of one conversation: how many entries it had, and the hash (hexadecimal) of the last one."""

    conversation_id: UUID
    entries: int
    head: str
    checkpoint_created_at: str = ""
    """When the checkpoint was made, for people."""


class Checkpoint(BaseModel):
    """A signed list of the heads of a tenant's conversations, as it was at one moment.

    It lies in the file `path`, or in `text` where it was written nowhere: one JSON line about itself, one for each conversation
    in the order of their ids, and one with the HMAC-SHA256 of all lines before it.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    database_id: UUID
    tenant: str
    created_at: datetime
    conversations: int
    entries: int
    signature: str
    path: str | None = None
    text: str | None = None


@dataclass(slots=True)
class BranchRow:
    """A row of the branch table, column for column; the main branch's is made up from the conversation's own."""

    number: int
    name: str | None
    head_seq: int | None
    created_at: int


class Branch(BaseModel):
    """One branch of a conversation. `head` is the id of the message its path ends with; `created_at` is UTC.

    Number 0, named "main", is the branch that a chat is on unless it says otherwise.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    number: int
    name: str | None = None
    head: str | None = None
    created_at: datetime

    @classmethod
    def of(cls, conversation_id: UUID, row: BranchRow) -> Branch:
        """Return a stored row as a value."""
        return cls.model_construct(
            number=row.number,
            name=row.name,
            head=None if row.head_seq is None else format_message_id(conversation_id, row.head_seq),
            created_at=to_datetime(row.created_at),
        )


@dataclass(slots=True)
class SummaryRow:
    """A row of the summary table. It stands for all that lies on the path from `from_seq` to `to_seq`, both included."""

    from_seq: int
    to_seq: int
    created_at: int
    number: int = 0
    message_seq: int = 0


@dataclass(frozen=True, slots=True)
class StoredSummary:
    """A summary with the message that holds its text."""

    row: SummaryRow
    message: MessageRow
