"""The stored chain, and the small tables that are written only when something new appears."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast
from uuid import UUID

from sqlalchemy import Connection, bindparam, insert, select

from convokit.domain.hashchain import Entry, Kind
from convokit.store.dialects import insert_new
from convokit.store.schema import entry, prompt, removal

_INSERT = insert(entry)
_ENTRIES = (
    select(entry.c.number, entry.c.kind, entry.c.ref, entry.c.commitment, entry.c.hash)
    .where(entry.c.conversation_id == bindparam("id"), entry.c.number > bindparam("after"))
    .order_by(entry.c.number)
    .limit(bindparam("limit"))
)
_PROMPT = select(prompt.c.body).where(prompt.c.tenant == bindparam("tenant"), prompt.c.digest == bindparam("digest"))
_REMOVED = select(removal.c.ref).where(removal.c.conversation_id == bindparam("id"))
PAGE = 500


def append_entries(connection: Connection, conversation_id: UUID, entries: Sequence[Entry]) -> None:
    """Insert entries."""
    if entries:
        connection.execute(
            _INSERT,
            [
                {
                    "conversation_id": conversation_id,
                    "number": each.number,
                    "kind": each.kind,
                    "ref": each.ref,
                    "commitment": each.commitment,
                    "hash": each.hash,
                }
                for each in entries
            ],
        )


def read_entry_pages(connection: Connection, conversation_id: UUID) -> Iterator[list[Entry]]:
    """Yield every entry in order, a page of rows at a time."""
    after = -(2**31)  # numbers begin at 1: a lower one is found too
    while True:
        rows = connection.execute(_ENTRIES, {"id": conversation_id, "after": after, "limit": PAGE}).all()
        if rows:
            yield [Entry(row[0], cast("Kind", row[1]), *row[2:]) for row in rows]
        if len(rows) < PAGE:
            return
        after = rows[-1][0]


def insert_prompt(connection: Connection, tenant: str, digest: bytes, body: str) -> None:
    """Store a developer prompt or tool set under its digest, once."""
    if connection.execute(_PROMPT, {"tenant": tenant, "digest": digest}).one_or_none() is None:
        connection.execute(
            insert_new(connection.dialect.name, prompt), {"tenant": tenant, "digest": digest, "body": body}
        )


def find_prompt(connection: Connection, tenant: str, digest: bytes) -> str | None:
    """Return the text stored under a digest."""
    found: str | None = connection.execute(_PROMPT, {"tenant": tenant, "digest": digest}).scalar_one_or_none()
    return found


def read_removed_refs(connection: Connection, conversation_id: UUID) -> set[str]:
    """Return what was removed of a conversation, by the refs of its removals."""
    return set(connection.execute(_REMOVED, {"id": conversation_id}).scalars())
