"""Describe verified conversations and signed checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.errors import CheckpointError


class MovedHead(BaseModel):
    """A branch whose path no longer has the message that was its head in the checkpoint.

    `checkout`, `edit` and `regenerate` move heads lawfully. A head that was moved in SQL hides messages.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversation_id: UUID
    branch: str | int
    """The name of the branch, or its number as in `Verified.heads`."""
    checkpoint_seq: int
    """The seq of the head in the checkpoint."""
    seq: int | None
    """The seq of the head now. None: the branch is empty, or its row is missing."""


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
    heads: dict[str | int, int | None] = {}
    """The branch heads: the seq of the last message of each branch, None for an empty branch. The key is the branch's name. A
    branch without a name, or with a number as its name, has its number as the key."""
    unreachable_messages: int = 0
    """Messages on no branch: no branch head has them on its path. `edit`, `regenerate`, `checkout` and `n=2` leave such
    messages. Late replies, summaries, passages and redacted messages do not count."""
    moved_heads: tuple[MovedHead, ...] = ()
    """Branches that no longer have the head of the checkpoint on their path. Empty without a checkpoint, and when all messages
    were erased since."""


class VerifiedAll(BaseModel):
    """The result of `kit.verify`: sums over the conversations of a tenant."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversations: int = 0
    """Conversations that were checked, the broken ones included."""
    entries: int = 0
    rows: int = 0
    broken: int = 0
    """Conversations that disagree with their hash chain or with the checkpoint. Always 0 without a `broken` callback."""
    unreachable_messages: int = 0
    """Messages on no branch, as in `Verified`. Broken conversations do not count."""
    moved_heads: tuple[MovedHead, ...] = ()
    """Branches that no longer have the head of the checkpoint on their path. They do not count as broken."""


@dataclass(frozen=True, slots=True)
class CheckpointHead:
    """The state of one conversation in a checkpoint."""

    conversation_id: UUID
    entries: int
    head: str
    """The hash of the last entry (hexadecimal)."""
    checkpoint_created_at: str = ""
    """The time of the checkpoint, for messages to people."""
    branch_heads: Mapping[int, int | None] | None = None
    """The seq of the head of each branch, by the number of the branch: a name may change. None: the checkpoint has no heads of
    branches, because an earlier version wrote it."""


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

    @classmethod
    def from_text(cls, text: str) -> Checkpoint:
        """Return the checkpoint that a text is. Its signature is checked where it is used.

        Raises: CheckpointError for another text.
        """
        first, _, rest = text.strip().partition("\n")
        try:
            head, end = json.loads(first), json.loads(rest.rpartition("\n")[2])
            return cls(
                database_id=head["database"],
                tenant=head["tenant"],
                created_at=head["created_at"],
                conversations=end["conversations"],
                entries=0,
                signature=end["hmac_sha256"],
                text=text.strip() + "\n",
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CheckpointError("the checkpoint", "is not a checkpoint, or cut off", "format") from None
