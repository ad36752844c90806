"""Define pages of a conversation, and the runs of its tree."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from convokit.domain.conversation import Branch, Conversation, PreviewRow
from convokit.domain.message import Message
from convokit.domain.stored_records import ChainEntry, TurnRecord


class History(BaseModel):
    """A page of a conversation, read in one snapshot: messages, and what a screen shows beside them."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversation: Conversation
    branch: Branch
    """The branch of the chat. With `around`, the messages may be on another path."""
    messages: list[Message]
    """Consecutive messages of a path, oldest first, passages included."""
    turns: list[TurnRecord] = []
    """The turns of these messages with their calls. Their tool runs and the windows of the calls are not read."""
    removals: list[ChainEntry] = []
    """The redactions and erasures that removed text of these messages, and the erasure of an erased conversation."""
    has_earlier: bool = False
    """Whether the path has messages before these."""
    has_later: bool = False
    """Whether the path has messages after these."""


class Run(BaseModel):
    """Messages that follow each other directly, by their seqs. The runs of a conversation do not overlap, and leave no gap.

    A run ends where another branch writes, or where messages are written after an earlier one.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    first: int
    last: int
    parent_seq: int | None
    """The message that the first one follows. None: it follows none."""
    role: str
    """The role of the first message. `status` and `text` are of it too."""
    status: str
    text: str
    """At most 200 characters, with `…` where it was cut."""

    @classmethod
    def from_row(cls, row: PreviewRow, parent_seq: int | None, last: int) -> Run:
        """Convert the columns of the first message."""
        return cls.model_construct(
            first=row.seq, last=last, parent_seq=parent_seq, role=row.role, status=row.status, text=row.text
        )
