"""Read and insert the removals of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

from sqlalchemy import Connection, insert, select

from convokit.domain.removal import EVERYTHING, RemovalRow
from convokit.store.schema import removal

PAGE = 1000
_INSERT = insert(removal)


def insert_removals(connection: Connection, conversation_id: UUID, rows: Sequence[RemovalRow]) -> None:
    """Insert removals."""
    values = [{name: getattr(row, name) for name in RemovalRow.__slots__} for row in rows]
    connection.execute(_INSERT, [{"conversation_id": conversation_id, **each} for each in values])


def read_removal_pages(connection: Connection, conversation_id: UUID) -> Iterator[list[RemovalRow]]:
    """Yield a conversation's removals in order, a page of rows at a time."""
    columns = [removal.c[name] for name in RemovalRow.__slots__]
    query = select(*columns).where(removal.c.conversation_id == conversation_id).order_by(removal.c.number)
    after = 0
    while rows := connection.execute(query.where(removal.c.number > after).limit(PAGE)).all():
        yield [RemovalRow(*row) for row in rows]
        after = rows[-1][0]


def has_removals_since(connection: Connection, conversation_id: UUID, number: int) -> bool:
    """Return whether anything was removed behind entry `number`."""
    query = select(removal.c.number).where(removal.c.conversation_id == conversation_id, removal.c.number > number)
    return connection.execute(query.limit(1)).first() is not None


def is_erased(connection: Connection, conversation_id: UUID, number: int) -> bool:
    """Return whether entry `number` is an erasure of everything."""
    query = select(removal.c.ref).where(removal.c.conversation_id == conversation_id, removal.c.number == number)
    return connection.execute(query).scalar_one_or_none() == EVERYTHING
