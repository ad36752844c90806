"""Branches: names for ends of paths through a conversation's tree of messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain.ids import message_id
from convokit.domain.message import moment

MAIN = "main"
"""The name of branch 0, which every conversation has."""


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
            head=None if row.head_seq is None else message_id(conversation_id, row.head_seq),
            created_at=moment(row.created_at),
        )
