"""Read and insert the removals of a conversation.

A removal is a redaction or an erasure. The chain has an entry for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, and_, bindparam, insert, select

from convokit.domain.hashchain import Entry
from convokit.domain.removal import EVERYTHING, RemovalRow
from convokit.store.schema import conversation, entry, removal

PAGE = 1000
_INSERT = insert(removal)
_SELECT_REFS = select(removal.c.ref).where(removal.c.conversation_id == bindparam("id"))
_COLUMNS = tuple(getattr(removal.c, name) for name in RemovalRow.__slots__)
_SELECT_NEWEST = (
    select(*_COLUMNS)
    .where(removal.c.conversation_id == bindparam("id"))
    .order_by(removal.c.number.desc())
    .limit(bindparam("limit"))
)
_ENTRY_COLUMNS = 5
_SELECT_WITH_ENTRIES = select(
    entry.c.number, entry.c.kind, entry.c.ref, entry.c.commitment, entry.c.hash, *_COLUMNS
).join_from(removal, entry, and_(entry.c.conversation_id == bindparam("id"), entry.c.number == removal.c.number))
_SELECT_PAGE = (
    _SELECT_WITH_ENTRIES.where(removal.c.conversation_id == bindparam("id"), removal.c.number < bindparam("before"))
    .order_by(removal.c.number.desc())
    .limit(bindparam("limit"))
)
_SELECT_OF_REFS = _SELECT_WITH_ENTRIES.where(
    removal.c.conversation_id == bindparam("id"), removal.c.ref.in_(bindparam("refs", expanding=True))
).order_by(removal.c.number)
_SELECT_BETWEEN = select(*_COLUMNS).where(
    removal.c.conversation_id == bindparam("id"),
    removal.c.number >= bindparam("first"),
    removal.c.number <= bindparam("last"),
)
_SELECT_NEWER = (
    select(removal.c.number)
    .where(removal.c.conversation_id == bindparam("id"), removal.c.number > bindparam("number"))
    .limit(1)
)
# A conversation is erased while an erasure is its last chain entry: a later turn makes it a living one again.
# An outer join: SQLite then reads one row of each conversation, instead of all its removals.
_IS_LAST_ERASURE = and_(
    removal.c.conversation_id == conversation.c.id,
    removal.c.number == conversation.c.last_entry,
    removal.c.ref == EVERYTHING,
)
_SELECT_ERASURES = (
    select(conversation.c.id, *_COLUMNS)
    .join_from(conversation, removal, _IS_LAST_ERASURE, isouter=True)
    .where(conversation.c.id.in_(bindparam("ids", expanding=True)))
)


_SELECT_ERASURE = select(*_COLUMNS).where(
    removal.c.conversation_id == bindparam("id"),
    removal.c.number == bindparam("number"),
    removal.c.ref == EVERYTHING,
)


def insert_removals(connection: Connection, conversation_id: UUID, rows: Sequence[RemovalRow]) -> None:
    """Insert removals."""
    values = [{name: getattr(row, name) for name in RemovalRow.__slots__} for row in rows]
    connection.execute(_INSERT, [{"conversation_id": conversation_id, **each} for each in values])


def list_newest(connection: Connection, conversation_id: UUID, limit: int = PAGE) -> list[RemovalRow]:
    """Return the newest removals of a conversation, the newest first."""
    values = {"id": conversation_id, "limit": limit}
    return [RemovalRow(*row) for row in connection.execute(_SELECT_NEWEST, values)]


def list_page(connection: Connection, conversation_id: UUID, before: int, limit: int) -> list[tuple[Entry, RemovalRow]]:
    """Return the newest `limit` removals below number `before` with their chain entries, in order."""
    values = {"id": conversation_id, "before": before, "limit": limit}
    return [_split(row) for row in connection.execute(_SELECT_PAGE, values)][::-1]


def list_of_refs(connection: Connection, conversation_id: UUID, refs: Sequence[str]) -> list[tuple[Entry, RemovalRow]]:
    """Return the removals of these refs, such as `message:7`, with their chain entries, in order."""
    values = {"id": conversation_id, "refs": list(refs)}
    return [_split(row) for row in connection.execute(_SELECT_OF_REFS, values)]


def find_last_erasure(found: Sequence[tuple[Entry, RemovalRow]], last_entry: int) -> RemovalRow | None:
    """Return the erasure among removals in order that is the last chain entry of its conversation, or None."""
    removal_row = found[-1][1] if found else None
    is_erasure = removal_row is not None and removal_row.ref == EVERYTHING and removal_row.number == last_entry
    return removal_row if is_erasure else None


def _split(row: Any) -> tuple[Entry, RemovalRow]:
    return Entry(*row[:_ENTRY_COLUMNS]), RemovalRow(*row[_ENTRY_COLUMNS:])


def list_between(connection: Connection, conversation_id: UUID, first: int, last: int) -> list[RemovalRow]:
    """Return the removals whose chain entries have the numbers from `first` to `last`."""
    values = {"id": conversation_id, "first": first, "last": last}
    return [RemovalRow(*row) for row in connection.execute(_SELECT_BETWEEN, values)]


def find_erasures(connection: Connection, conversation_ids: Sequence[UUID]) -> dict[UUID, RemovalRow]:
    """Return the erasure of each of these conversations that is erased now."""
    if not conversation_ids:
        return {}
    rows: Sequence[Any] = connection.execute(_SELECT_ERASURES, {"ids": list(conversation_ids)}).all()
    return {row[0]: RemovalRow(*row[1:]) for row in rows if row.number is not None}


def find_erasure(connection: Connection, conversation_id: UUID, last_entry: int) -> RemovalRow | None:
    """Return the erasure that is the last chain entry of a conversation, or None."""
    row = connection.execute(_SELECT_ERASURE, {"id": conversation_id, "number": last_entry}).one_or_none()
    return None if row is None else RemovalRow(*row)


def read_removed_refs(connection: Connection, conversation_id: UUID) -> set[str]:
    """Return the refs of everything that was removed from a conversation, such as `message:7`."""
    return set(connection.execute(_SELECT_REFS, {"id": conversation_id}).scalars())


def has_removals_since(connection: Connection, conversation_id: UUID, number: int) -> bool:
    """Return whether the chain has a removal after entry `number`."""
    return connection.execute(*build_newer_query(conversation_id, number)).first() is not None


def build_newer_query(conversation_id: UUID, number: int) -> tuple[Any, dict[str, Any]]:
    """Return the statement, with its values, that finds a row if the chain has a removal after entry `number`."""
    return _SELECT_NEWER, {"id": conversation_id, "number": number}


def is_erased(connection: Connection, conversation_id: UUID, number: int) -> bool:
    """Return whether entry `number` erases the whole conversation."""
    query = select(removal.c.ref).where(removal.c.conversation_id == conversation_id, removal.c.number == number)
    return connection.execute(query).scalar_one_or_none() == EVERYTHING
