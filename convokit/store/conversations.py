"""Conversations and their branches' heads."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from sqlalchemy import Connection, Integer, bindparam, func, insert, select, tuple_, update

from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import keyed_id
from convokit.store.schema import branch, conversation, schema_

_COLUMNS = tuple(getattr(conversation.c, name) for name in ConversationRow.__slots__)
_BY_ID = select(*_COLUMNS).where(conversation.c.id == bindparam("id"), conversation.c.tenant == bindparam("tenant"))
_BRANCH_HEAD = select(branch.c.head_seq).where(
    branch.c.conversation_id == bindparam("id"), branch.c.number == bindparam("number")
)
_LOCK = select(conversation.c.id).where(conversation.c.id == bindparam("id")).with_for_update()
_DATABASE_ID = select(schema_.c.database_id)
_INSERT = insert(conversation)
ADVANCE = (
    update(conversation)
    .where(
        conversation.c.id == bindparam("b_id"),
        conversation.c.tenant == bindparam("b_tenant"),
        conversation.c.last_entry == bindparam("b_last_entry"),
    )
    .values(
        last_seq=bindparam("last_seq"),
        last_entry=bindparam("new_last_entry"),
        chain_hash=bindparam("chain_hash"),
        head_seq=func.coalesce(bindparam("new_head_seq", type_=Integer), conversation.c.head_seq),
        updated_at=bindparam("updated_at"),
    )
)
"""The head stays where it is unless a new one is given: it may move without an entry (`checkout`), unseen by the comparison."""
SAME_HEAD = conversation.c.head_seq.is_not_distinct_from(bindparam("b_head_seq", type_=Integer))
"""What a turn that begins compares besides: it answers the path that was read."""
_BEGIN = ADVANCE.where(SAME_HEAD)
_MOVE_BRANCH = (
    update(branch)
    .where(branch.c.conversation_id == bindparam("b_id"), branch.c.number == bindparam("b_number"))
    .values(head_seq=bindparam("head_seq"))
)
_MOVE_BRANCH_FROM = _MOVE_BRANCH.where(branch.c.head_seq.is_not_distinct_from(bindparam("b_head_seq", type_=Integer)))
_SETTINGS = (
    update(conversation)
    .where(conversation.c.id == bindparam("b_id"), conversation.c.tenant == bindparam("b_tenant"))
    .values({name: bindparam(f"new_{name}") for name in ("settings", "subject", "title", "metadata")})
)

_POINT = (
    update(conversation)
    .where(conversation.c.id == bindparam("b_id"), conversation.c.tenant == bindparam("b_tenant"))
    .values(head_seq=bindparam("new_head_seq"))
)
_PINS = (
    update(conversation)
    .where(conversation.c.id == bindparam("b_id"), conversation.c.tenant == bindparam("b_tenant"))
    .values(pins=bindparam("new_pins"))
)


def find(connection: Connection, tenant: str, conversation_id: UUID) -> ConversationRow | None:
    """Return the tenant's conversation, or None; another tenant's looks exactly like one that is not there."""
    row = connection.execute(_BY_ID, {"id": conversation_id, "tenant": tenant}).one_or_none()
    return None if row is None else ConversationRow(*row)


def lock(connection: Connection, conversation_id: UUID) -> None:
    """Wait until no other transaction writes this conversation, and keep others from it. SQLite has one writer anyway."""
    connection.execute(_LOCK, {"id": conversation_id})


def by_key(connection: Connection, tenant: str, key: str) -> ConversationRow | None:
    """Return the conversation that the tenant keeps under `key`, or None."""
    database_id = cast("UUID", connection.execute(_DATABASE_ID).scalar_one())
    return find(connection, tenant, keyed_id(database_id, tenant, key))


def head(connection: Connection, row: ConversationRow, number: int) -> int | None:
    """Return the last message of a branch; 0 is the main branch."""
    if number == 0:
        return row.head_seq
    found: int | None = connection.execute(_BRANCH_HEAD, {"id": row.id, "number": number}).scalar_one_or_none()
    return found


def create(connection: Connection, row: ConversationRow) -> None:
    """Insert a new conversation."""
    connection.execute(_INSERT, {name: getattr(row, name) for name in ConversationRow.__slots__})


def advance(
    connection: Connection, row: ConversationRow, moved: ConversationRow, head: int | None, *, begins: bool = False
) -> bool:
    """Move the conversation on, if nobody moved it since `row` was read, and its head if one is given. Return whether it moved.

    A turn that `begins` wants the head where it was, too.
    """
    values = advancing(row, moved, head)
    if begins:
        values["b_head_seq"] = row.head_seq
    return connection.execute(_BEGIN if begins else ADVANCE, values).rowcount == 1


def advancing(row: ConversationRow, moved: ConversationRow, head: int | None) -> dict[str, Any]:
    """Return the values of `ADVANCE`."""
    return {
        "b_id": row.id,
        "b_tenant": row.tenant,
        "b_last_entry": row.last_entry,
        "last_seq": moved.last_seq,
        "new_last_entry": moved.last_entry,
        "chain_hash": moved.chain_hash,
        "new_head_seq": head,
        "updated_at": moved.updated_at,
    }


def move_branch(connection: Connection, conversation_id: UUID, number: int, head_seq: int) -> None:
    """Move the head of a branch that is not the main one."""
    connection.execute(_MOVE_BRANCH, {"b_id": conversation_id, "b_number": number, "head_seq": head_seq})


def move_branch_from(
    connection: Connection, conversation_id: UUID, number: int, was: int | None, head_seq: int
) -> bool:
    """Move the head of a branch that is not the main one, if it is where it was. Return whether it moved."""
    values = {"b_id": conversation_id, "b_number": number, "b_head_seq": was, "head_seq": head_seq}
    return connection.execute(_MOVE_BRANCH_FROM, values).rowcount == 1


def point(connection: Connection, row: ConversationRow, number: int, head_seq: int) -> None:
    """Have a branch end elsewhere; its conversation's row must be locked."""
    if number:
        move_branch(connection, row.id, number, head_seq)
    else:
        connection.execute(_POINT, {"b_id": row.id, "b_tenant": row.tenant, "new_head_seq": head_seq})


def describe(connection: Connection, row: ConversationRow) -> None:
    """Write a conversation's own settings, subject, title and metadata."""
    values = {f"new_{name}": getattr(row, name) for name in ("settings", "subject", "title", "metadata")}
    connection.execute(_SETTINGS, {"b_id": row.id, "b_tenant": row.tenant, **values})


def set_pins(connection: Connection, row: ConversationRow, pins: str | None) -> None:
    """Write which messages are pinned."""
    connection.execute(_PINS, {"b_id": row.id, "b_tenant": row.tenant, "new_pins": pins})


def recent(
    connection: Connection, tenant: str, *, subject: str | None, limit: int, before: tuple[int, UUID] | None
) -> list[ConversationRow]:
    """Return the tenant's conversations, the last used first; `before` is where the page before ended."""
    query = select(*_COLUMNS).where(conversation.c.tenant == tenant)
    if subject is not None:
        query = query.where(conversation.c.subject == subject)
    if before is not None:
        query = query.where(tuple_(conversation.c.updated_at, conversation.c.id) < before)
    query = query.order_by(conversation.c.updated_at.desc(), conversation.c.id.desc()).limit(limit)
    return [ConversationRow(*row) for row in connection.execute(query)]
