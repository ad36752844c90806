"""Describe verified conversations and signed checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class Verified(BaseModel):
    """The result of `chat.verify`: the conversation agrees with its hash chain."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversation_id: UUID
    entries: int
    """Chain entries whose hash was recomputed."""
    rows: int
    """Rows that an entry commits to: `messages`, ended API `calls` and `removals`."""
    messages: int = 0
    calls: int = 0
    removals: int = 0
    """Recorded redactions and erasures."""
    tool_calls: int = 0
    blobs: int = 0
    head: str
    """The last hash (hexadecimal). A copy of it, kept outside the database, shows later whether earlier rows changed."""


class VerifiedAll(BaseModel):
    """The result of `kit.verify`: sums over the conversations of a tenant."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversations: int = 0
    """Conversations that were checked, the broken ones included."""
    entries: int = 0
    rows: int = 0
    broken: int = 0
    """Conversations that disagree with their hash chain or with the checkpoint. Always 0 without a `broken` callback."""


@dataclass(frozen=True, slots=True)
class CheckpointHead:
    """The state of one conversation in a checkpoint."""

    conversation_id: UUID
    entries: int
    head: str
    """The hash of the last entry (hexadecimal)."""
    checkpoint_created_at: str = ""
    """The time of the checkpoint, for messages to people."""


class Checkpoint(BaseModel):
    """A signed list of the last hashes of a tenant's conversations, as of one moment.

    The list is in the file `path`, or in `text` if it was written to no file. It has a JSON line about itself, one for each
    conversation in the order of their ids, and one with the HMAC-SHA256 of all lines before.
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
