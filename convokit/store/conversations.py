"""Read and write conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Boolean, Connection, Integer, bindparam, case, func, insert, null, select, tuple_, update

from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import derive_conversation_id
from convokit.store import search_index
from convokit.store.dialects import dialect_of
from convokit.store.schema import conversation, schema_, turn

_COLUMNS = tuple(getattr(conversation.c, name) for name in ConversationRow.__slots__)
_DESCRIPTION = ("settings", "subject", "title", "metadata", "archived_at")
_SELECT_BY_ID = select(*_COLUMNS).where(
    conversation.c.id == bindparam("id"), conversation.c.tenant == bindparam("tenant")
)
_SELECT_EXISTING = select(conversation.c.id).where(
    conversation.c.tenant == bindparam("tenant"), conversation.c.id.in_(bindparam("ids", expanding=True))
)
_LOCK = select(conversation.c.id).where(conversation.c.id == bindparam("id")).with_for_update(key_share=True)
_SELECT_LOCKED = _SELECT_BY_ID.with_for_update(key_share=True)
_SELECT_DATABASE_ID = select(schema_.c.database_id)
_INSERT = insert(conversation)
_UPDATE = update(conversation).where(
    conversation.c.id == bindparam("b_id"), conversation.c.tenant == bindparam("b_tenant")
)
ADVANCE = _UPDATE.where(conversation.c.last_entry == bindparam("b_last_entry")).values(
    last_seq=bindparam("last_seq"),
    last_entry=bindparam("new_last_entry"),
    chain_hash=bindparam("chain_hash"),
    # Without a new head the stored one stays: `checkout` may have moved it since, which makes no entry.
    head_seq=func.coalesce(bindparam("new_head_seq", type_=Integer), conversation.c.head_seq),
    updated_at=bindparam("updated_at"),
    # Only a new turn and an append take a conversation out of the archive: it may be archived while a turn runs.
    archived_at=case((bindparam("unarchives", type_=Boolean), null()), else_=conversation.c.archived_at),
)
"""Compare-and-swap on the number of the last chain entry. It locks the row."""
ADVANCE_FROM_HEAD = ADVANCE.where(conversation.c.head_seq.is_not_distinct_from(bindparam("b_head_seq", type_=Integer)))
"""`ADVANCE` for a turn that starts: its request was built from the path to that head."""
_SET_DESCRIPTION = _UPDATE.values({name: bindparam(f"new_{name}") for name in _DESCRIPTION})
_FILL_DESCRIPTION = _UPDATE.values(
    settings=bindparam("new_settings"),
    # A title that another process has written since the row was read stays, too.
    **{
        name: func.coalesce(conversation.c[name], bindparam(f"new_{name}")) for name in ("subject", "title", "metadata")
    },
)
_SET_PINS = _UPDATE.values(pins=bindparam("new_pins"))
_SELECT_ID_BY_TURN = (
    select(turn.c.conversation_id)
    .join(conversation, conversation.c.id == turn.c.conversation_id)
    .where(turn.c.id == bindparam("turn"), conversation.c.tenant == bindparam("tenant"))
)


def find(connection: Connection, tenant: str, conversation_id: UUID) -> ConversationRow | None:
    """Return the tenant's conversation. A conversation of another tenant gives None, as one that does not exist."""
    row = connection.execute(_SELECT_BY_ID, {"id": conversation_id, "tenant": tenant}).one_or_none()
    return None if row is None else ConversationRow(*row)


def find_by_key(connection: Connection, tenant: str, key: str) -> ConversationRow | None:
    """Return the tenant's conversation with this key, or None."""
    database_id = cast("UUID", connection.execute(_SELECT_DATABASE_ID).scalar_one())
    return find(connection, tenant, derive_conversation_id(database_id, tenant, key))


def find_id_by_turn(connection: Connection, tenant: str, turn_id: UUID) -> UUID | None:
    """Return the id of the tenant's conversation that has a turn, or None."""
    values = {"tenant": tenant, "turn": turn_id}
    found: UUID | None = connection.execute(_SELECT_ID_BY_TURN, values).scalar_one_or_none()
    return found


def derive_ids(connection: Connection, tenant: str, keys: Sequence[str]) -> dict[str, UUID]:
    """Return the ids that the tenant's conversations with these keys have, whether they exist or not."""
    if not keys:
        return {}
    database_id = cast("UUID", connection.execute(_SELECT_DATABASE_ID).scalar_one())
    return {key: derive_conversation_id(database_id, tenant, key) for key in keys}


def filter_existing(connection: Connection, tenant: str, ids: Sequence[UUID]) -> set[UUID]:
    """Return those of the ids that are conversations of the tenant."""
    return set(connection.execute(_SELECT_EXISTING, {"tenant": tenant, "ids": list(ids)}).scalars())


def list_recent(
    connection: Connection, tenant: str, *, subject: str | None, limit: int, before: tuple[int, UUID] | None
) -> list[ConversationRow]:
    """Return a page of the tenant's conversations, the last used first.

    `before` is `updated_at` and id of the previous page's last conversation.
    """
    query = select(*_COLUMNS).where(conversation.c.tenant == tenant)
    if subject is not None:
        query = query.where(conversation.c.subject == subject)
    if before is not None:
        query = query.where(tuple_(conversation.c.updated_at, conversation.c.id) < before)
    query = query.order_by(conversation.c.updated_at.desc(), conversation.c.id.desc()).limit(limit)
    return [ConversationRow(*row) for row in connection.execute(query)]


def lock(connection: Connection, conversation_id: UUID) -> None:
    """Lock the conversation's row until the transaction ends.

    Every transaction that writes a conversation and its turns does this first, by a statement of its own: two transactions
    that lock the same rows in different orders would wait for each other. FOR NO KEY UPDATE lets chunks be inserted meanwhile.
    """
    if not dialect_of(connection).has_single_writer:  # SQLite has no row locks: a writing transaction is the only one
        connection.execute(_LOCK, {"id": conversation_id})


def lock_and_find(connection: Connection, tenant: str, conversation_id: UUID) -> ConversationRow | None:
    """Lock the tenant's conversation as `lock` does, and return its row as it is now; None if there is none."""
    row = connection.execute(_SELECT_LOCKED, {"id": conversation_id, "tenant": tenant}).one_or_none()
    return None if row is None else ConversationRow(*row)


def create(connection: Connection, row: ConversationRow) -> None:
    """Insert a new conversation, and index its title. Raises: IntegrityError if its id exists."""
    connection.execute(_INSERT, {name: getattr(row, name) for name in ConversationRow.__slots__})
    if row.title is not None:
        search_index.add_title(connection, row)


def advance(connection: Connection, row: ConversationRow, moved: ConversationRow, head: int | None) -> bool:
    """Replace `row` by `moved` unless another writer advanced the conversation since. Return whether it was replaced.

    `head` is the new head of the main branch; None keeps the stored one.
    """
    return connection.execute(ADVANCE, build_advance_values(row, moved, head, unarchives=False)).rowcount == 1


def build_advance_values(
    row: ConversationRow, moved: ConversationRow, head: int | None, *, unarchives: bool
) -> dict[str, Any]:
    """Return the parameters of `ADVANCE`. `unarchives` takes the conversation out of the archive."""
    return {
        "b_id": row.id,
        "b_tenant": row.tenant,
        "b_last_entry": row.last_entry,
        "b_head_seq": row.head_seq,
        "last_seq": moved.last_seq,
        "new_last_entry": moved.last_entry,
        "chain_hash": moved.chain_hash,
        "new_head_seq": head,
        "updated_at": moved.updated_at,
        "unarchives": unarchives,
    }


def update_description(connection: Connection, row: ConversationRow) -> None:
    """Write settings, subject, title, metadata and the time of archiving of `row`. The caller indexes a new title."""
    values = {f"new_{name}": getattr(row, name) for name in _DESCRIPTION}
    connection.execute(_SET_DESCRIPTION, {"b_id": row.id, "b_tenant": row.tenant, **values})


def fill_description(connection: Connection, row: ConversationRow) -> None:
    """Write the settings of `row`, and those of its subject, title and metadata that the stored row lacks."""
    values = {f"new_{name}": getattr(row, name) for name in ("settings", "subject", "title", "metadata")}
    connection.execute(_FILL_DESCRIPTION, {"b_id": row.id, "b_tenant": row.tenant, **values})
    if row.title is not None:
        search_index.add_missing_title(connection, row)


def set_pins(connection: Connection, row: ConversationRow, pins: str | None) -> None:
    """Write the pinned messages, a JSON array of seqs."""
    connection.execute(_SET_PINS, {"b_id": row.id, "b_tenant": row.tenant, "new_pins": pins})
