"""Define conversations, their branches and their summaries."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain.ids import format_message_id
from convokit.domain.message import MessageRow, to_datetime
from convokit.domain.removal import RemovalRow
from convokit.domain.text import repair_text

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


PREVIEW_CHARS = 200
MAX_PARTS_CHARS = 4096
"""For a preview, content parts, which may be long, are read to here."""
_PART_TEXT = re.compile(r'"text": ?("(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*)')
"""The text of a content part, also in JSON that was cut. A quotation mark inside of a text is escaped, so no text matches."""


class MessagePreview(BaseModel):
    """The beginning of the last message of a conversation's main branch."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: str
    role: str
    status: str
    text: str
    """At most 200 characters, with `…` where it was cut. Empty for a message without text, such as one that calls tools."""
    created_at: datetime
    """UTC."""


@dataclass(slots=True)
class PreviewRow:
    """The columns of a message that a preview needs. `content`, `parts` and `refusal` may be cut."""

    seq: int
    role: str
    status: str
    content: str | None
    parts: str | None
    refusal: str | None
    created_at: int
    run_start_seq: int = 0

    @property
    def text(self) -> str:
        """The beginning of the message's text."""
        found = self.content or ""
        if self.parts is not None:
            found = repair_text("".join(json.loads(f'{text}"') for text in _PART_TEXT.findall(self.parts)))
        found = found or self.refusal or ""
        return found if len(found) <= PREVIEW_CHARS else f"{found[:PREVIEW_CHARS]}…"


@dataclass(slots=True)
class ListedConversation:
    """A conversation as listings read it."""

    row: ConversationRow
    is_open: bool
    preview: PreviewRow | None


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
    head: str | None = None
    """The id of the last message of the main branch. None: the branch is empty."""
    last_entry: int = 0
    """The number of the last entry of the hash chain. Every new message or reply, and every removal of text, raises it."""
    pins: list[str] = []
    """The ids of the pinned messages."""
    settings: dict[str, Any] = {}
    """The settings that are stored with the conversation: `model`, `developer_prompt` and request parameters as `params`."""
    open: bool = False
    """Whether a turn is open on a branch. A turn whose worker is gone is open until it is closed."""
    preview: MessagePreview | None = None
    """The last message of the main branch. None: the branch is empty."""
    erased_at: datetime | None = None
    """When all text was erased. None: the text was not erased, or the conversation went on since.

    A title, subject or metadata beside this time was given after the erasure.
    """
    erased_by: str | None = None
    """The `author` that `erase` was given."""
    erase_reason: str | None = None
    """The `reason` that `erase` was given."""

    @classmethod
    def from_row(cls, listed: ListedConversation, erasure: RemovalRow | None = None) -> Conversation:
        """Convert stored rows, and the erasure that is the last chain entry. The values are not validated again."""
        row, last = listed.row, listed.preview
        preview = last and MessagePreview.model_construct(
            id=format_message_id(row.id, last.seq),
            role=last.role,
            status=last.status,
            text=last.text,
            created_at=to_datetime(last.created_at),
        )
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
            head=None if row.head_seq is None else format_message_id(row.id, row.head_seq),
            last_entry=row.last_entry,
            pins=[format_message_id(row.id, seq) for seq in row.pinned_seqs],
            settings=json.loads(row.settings) if row.settings else {},
            open=listed.is_open,
            preview=preview,
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
