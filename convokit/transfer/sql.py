"""Whole conversations, row by row: read in pages by key, so that a million of them take no more memory than one, and put back.

The columns come from the schema, so that a column which is added later goes out and comes in as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Table, bindparam, func, insert, select, tuple_, update

from convokit.domain.conversation import ConversationRow
from convokit.domain.hashchain import Entry
from convokit.domain.message import MessageRow
from convokit.store import chain, conversations, messages
from convokit.store.schema import (
    blob,
    branch,
    completion,
    conversation,
    entry,
    message,
    removal,
    summary,
    tool_call,
    turn,
)

CHILDREN: dict[str, Table[Any]] = {
    "branch": branch,
    "message": message,
    "turn": turn,
    "completion": completion,
    "tool_call": tool_call,
    "summary": summary,
    "removal": removal,
    "entry": entry,
    "blob": blob,
}
"""The tables below a conversation, in the order in which they are written. Removals come before the entries that name them."""
PAGE = 100
_OF_MACHINE = {"turn": ("claim", "owner", "lease_until")}
"""What says which process holds a turn: nothing that another database could use."""
_IDS = (
    select(conversation.c.id)
    .where(conversation.c.tenant == bindparam("tenant"), conversation.c.id > bindparam("after"))
    .order_by(conversation.c.id)
    .limit(bindparam("limit"))
)
_FIRST = UUID(int=0)
_AT = select(entry.c.kind, entry.c.ref, entry.c.hash).where(
    entry.c.conversation_id == bindparam("id"), entry.c.number == bindparam("number")
)
_SETTLE = (
    update(conversation)
    .where(conversation.c.id == bindparam("b_id"))
    .values(last_entry=bindparam("new_entry"), chain_hash=bindparam("new_hash"))
)
_PATH = (
    select(*(getattr(message.c, name) for name in MessageRow.__slots__))
    .where(
        message.c.conversation_id == bindparam("id"),
        message.c.seq >= bindparam("first"),
        message.c.seq <= bindparam("last"),
    )
    .order_by(message.c.seq)
    .limit(bindparam("limit"))
)
_CALLS = (
    select(completion.c.manifest)
    .where(completion.c.conversation_id == bindparam("id"))
    .order_by(completion.c.started_at.desc(), completion.c.number.desc())
    .limit(1)
)


def columns(name: str) -> list[str]:
    """Return the columns of a child table that travel."""
    left = ("conversation_id", *_OF_MACHINE.get(name, ()))
    return [column.name for column in CHILDREN[name].columns if column.name not in left]


@lru_cache
def _page(name: str, *, further: bool) -> Any:
    table = CHILDREN[name]
    key = [column for column in table.primary_key.columns if column.name != "conversation_id"]
    query = select(*(table.c[each] for each in columns(name))).where(table.c.conversation_id == bindparam("id"))
    if further:
        behind = [bindparam(f"after_{column.name}", type_=column.type) for column in key]
        query = query.where(tuple_(*key) > tuple_(*behind) if len(key) > 1 else key[0] > behind[0])
    return query.order_by(*key).limit(bindparam("limit"))


@lru_cache
def _places(name: str) -> dict[str, int]:
    """Return the place of each column of a table's key among those that travel."""
    names = columns(name)
    return {each.name: names.index(each.name) for each in CHILDREN[name].primary_key.columns if each.name in names}


def pages(connection: Connection, conversation_id: UUID, name: str) -> Iterator[Sequence[Sequence[Any]]]:
    """Yield a conversation's rows of one table, by key, a page at a time; binaries one by one."""
    limit = 1 if name == "blob" else PAGE
    values: dict[str, Any] = {"id": conversation_id, "limit": limit}
    rows = connection.execute(_page(name, further=False), values).all()
    while rows:
        yield rows
        if len(rows) < limit:
            return
        values |= {f"after_{key}": rows[-1][place] for key, place in _places(name).items()}
        rows = connection.execute(_page(name, further=True), values).all()


def ids(connection: Connection, tenant: str, *, subject: str | None, after: UUID | None, limit: int) -> list[UUID]:
    """Return the ids of the tenant's conversations, or of one person's, in order, behind `after`."""
    query = _IDS if subject is None else _IDS.where(conversation.c.subject == subject)
    return list(connection.execute(query, {"tenant": tenant, "after": after or _FIRST, "limit": limit}).scalars())


def total(connection: Connection, tenant: str, *, subject: str | None) -> int:
    """Return how many messages the tenant's conversations have, or one person's."""
    query = select(func.coalesce(func.sum(conversation.c.last_seq), 0)).where(conversation.c.tenant == tenant)
    if subject is not None:
        query = query.where(conversation.c.subject == subject)
    return int(connection.execute(query).scalar_one())


def path(connection: Connection, conversation_id: UUID, head: int | None) -> Iterator[list[MessageRow]]:
    """Yield the path to `head` from its root on, a page at a time."""
    for first, last in [] if head is None else messages.list_runs(connection, conversation_id, head):
        after = first
        while after <= last:
            values = {"id": conversation_id, "first": after, "last": last, "limit": PAGE}
            rows = [MessageRow(*row) for row in connection.execute(_PATH, values)]
            if not rows:
                break
            yield rows
            after = rows[-1].seq + 1


def last_manifest(connection: Connection, conversation_id: UUID) -> str | None:
    """Return what the conversation's newest API call was made of."""
    found: str | None = connection.execute(_CALLS, {"id": conversation_id}).scalar_one_or_none()
    return found


def entry_at(connection: Connection, conversation_id: UUID, number: int) -> tuple[str, str, bytes] | None:
    """Return kind, ref and hash of one entry of the chain."""
    row = connection.execute(_AT, {"id": conversation_id, "number": number}).one_or_none()
    return None if row is None else (row[0], row[1], bytes(row[2]))


def create(connection: Connection, row: ConversationRow) -> None:
    """Insert a conversation. Raises: IntegrityError when its id is taken, by whomever."""
    conversations.create(connection, row)


def put(connection: Connection, conversation_id: UUID, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of a table below a conversation, each with all its columns."""
    if name == "message":
        add_messages(connection, conversation_id, [MessageRow(**row) for row in rows])
    elif name == "entry":
        add_entries(connection, conversation_id, [Entry(**row) for row in rows])
    elif rows:
        connection.execute(insert(CHILDREN[name]), [{"conversation_id": conversation_id, **row} for row in rows])


def add_messages(connection: Connection, conversation_id: UUID, rows: Sequence[MessageRow]) -> None:
    """Insert messages of an import: whatever keeps up with messages is told of them here."""
    messages.append(connection, conversation_id, rows)


def add_entries(connection: Connection, conversation_id: UUID, entries: Sequence[Entry]) -> None:
    """Insert entries of an import."""
    chain.append_entries(connection, conversation_id, entries)


def settle(connection: Connection, conversation_id: UUID, last_entry: int, chain_hash: bytes) -> None:
    """Write where the chain of a conversation that was just created ends."""
    connection.execute(_SETTLE, {"b_id": conversation_id, "new_entry": last_entry, "new_hash": chain_hash})
