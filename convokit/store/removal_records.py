"""Read and insert the removals of a conversation.

A removal is a redaction or an erasure. The chain has an entry for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, bindparam, insert, select

from convokit.domain.removal import EVERYTHING, RemovalRow
from convokit.store.schema import removal

PAGE = 1000
_INSERT = insert(removal)
_SELECT_REFS = select(removal.c.ref).where(removal.c.conversation_id == bindparam("id"))


def insert_removals(connection: Connection, conversation_id: UUID, rows: Sequence[RemovalRow]) -> None:
    """Insert removals."""
    values = [{name: getattr(row, name) for name in RemovalRow.__slots__} for row in rows]
    connection.execute(_INSERT, [{"conversation_id": conversation_id, **each} for each in values])


def read_removed_refs(connection: Connection, conversation_id: UUID) -> set[str]:
    """Return the refs of everything that was removed from a conversation, such as `message:7`."""
    return set(connection.execute(_SELECT_REFS, {"id": conversation_id}).scalars())


def has_removals_since(connection: Connection, conversation_id: UUID, number: int) -> bool:
    """Return whether the chain has a removal after entry `number`."""
    query = select(removal.c.number).where(removal.c.conversation_id == conversation_id, removal.c.number > number)
    return connection.execute(query.limit(1)).first() is not None


def is_erased(connection: Connection, conversation_id: UUID, number: int) -> bool:
    """Return whether entry `number` erases the whole conversation."""
    query = select(removal.c.ref).where(removal.c.conversation_id == conversation_id, removal.c.number == number)
    return connection.execute(query).scalar_one_or_none() == EVERYTHING
