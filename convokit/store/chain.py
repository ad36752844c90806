"""Read and append the entries of the hash chain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast
from uuid import UUID

from sqlalchemy import Connection, bindparam, insert, select

from convokit.domain.hashchain import Entry, EntryKind
from convokit.store.schema import entry

PAGE = 500
_INSERT = insert(entry)
_SELECT_PAGE = (
    select(entry.c.number, entry.c.kind, entry.c.ref, entry.c.commitment, entry.c.hash)
    .where(entry.c.conversation_id == bindparam("id"), entry.c.number > bindparam("after"))
    .order_by(entry.c.number)
    .limit(bindparam("limit"))
)
_SELECT_NEWEST = (
    select(entry.c.number, entry.c.kind, entry.c.ref, entry.c.commitment, entry.c.hash)
    .where(entry.c.conversation_id == bindparam("id"), entry.c.number < bindparam("before"))
    .order_by(entry.c.number.desc())
    .limit(bindparam("limit"))
)


def append_entries(connection: Connection, conversation_id: UUID, entries: Sequence[Entry]) -> None:
    """Insert chain entries."""
    if entries:
        values = [{name: getattr(each, name) for name in Entry.__slots__} for each in entries]
        connection.execute(_INSERT, [{"conversation_id": conversation_id, **each} for each in values])


def read_entry_pages(connection: Connection, conversation_id: UUID) -> Iterator[list[Entry]]:
    """Yield all entries in order, a page of rows at a time."""
    # Entries are numbered from 1. A page from the lowest integer on also finds forged entries with lower numbers.
    after = -(2**31)
    while True:
        rows = connection.execute(_SELECT_PAGE, {"id": conversation_id, "after": after, "limit": PAGE}).all()
        if rows:
            yield [Entry(row[0], cast("EntryKind", row[1]), *row[2:]) for row in rows]
        if len(rows) < PAGE:
            return
        after = rows[-1][0]


def find_entry(connection: Connection, conversation_id: UUID, number: int) -> Entry | None:
    """Return one entry, or None."""
    values = {"id": conversation_id, "after": number - 1, "limit": 1}
    row = connection.execute(_SELECT_PAGE, values).first()
    return None if row is None or row[0] != number else Entry(row[0], cast("EntryKind", row[1]), *row[2:])


def list_newest(connection: Connection, conversation_id: UUID, before: int, limit: int) -> list[Entry]:
    """Return the newest `limit` entries below number `before`, in order."""
    values = {"id": conversation_id, "before": before, "limit": limit}
    rows = connection.execute(_SELECT_NEWEST, values).all()
    return [Entry(row[0], cast("EntryKind", row[1]), *row[2:]) for row in rows][::-1]
