"""Store the digests by which a conversation is found from its messages.

An anchor says that a history with this digest ends with a message of a conversation. `convokit.server` computes the digests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, delete, func, select

from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow
from convokit.store.dialects import dialect_of
from convokit.store.schema import anchor

_MAX_ROWS = 256
"""A short history may begin many conversations. The newest of them are enough."""
_COLUMNS = (anchor.c.digest, anchor.c.conversation_id, anchor.c.seq, anchor.c.created_at)
_SELECT = (
    select(*_COLUMNS)
    .where(anchor.c.tenant == bindparam("tenant"), anchor.c.digest.in_(bindparam("digests", expanding=True)))
    .order_by(anchor.c.created_at.desc(), anchor.c.conversation_id, anchor.c.seq)
    .limit(_MAX_ROWS)
)
_SELECT_OF_CONVERSATION = select(*_COLUMNS).where(
    anchor.c.conversation_id == bindparam("id"), anchor.c.digest.in_(bindparam("digests", expanding=True))
)
_DELETE = delete(anchor).where(anchor.c.conversation_id == bindparam("b_id"))
_DELETE_FROM = _DELETE.where(anchor.c.seq >= bindparam("b_seq"))
_COUNT_FROM = (
    select(func.count())
    .select_from(anchor)
    .where(anchor.c.conversation_id == bindparam("id"), anchor.c.seq >= bindparam("seq"))
)


@dataclass(frozen=True, slots=True)
class AnchorRow:
    """An anchor as it is found. `created_at` is in microseconds since 1970."""

    digest: bytes
    conversation_id: UUID
    seq: int
    created_at: int


def insert_anchor(connection: Connection, row: ConversationRow, message: MessageRow, digest: bytes) -> None:
    """Store the anchor of a message, unless the message has one."""
    values = {
        "conversation_id": row.id,
        "seq": message.seq,
        "digest": digest,
        "tenant": row.tenant,
        "created_at": message.created_at,
    }
    connection.execute(dialect_of(connection).insert_or_ignore(anchor), values)


def find_anchors(connection: Connection, tenant: str, digests: Sequence[bytes]) -> list[AnchorRow]:
    """Return the newest anchors with these digests in all conversations of a tenant, the newest first."""
    return _read(connection.execute(_SELECT, {"tenant": tenant, "digests": list(digests)}))


def find_conversation_anchors(
    connection: Connection, conversation_id: UUID, digests: Sequence[bytes]
) -> list[AnchorRow]:
    """Return the anchors with these digests in one conversation, in no particular order."""
    values = {"id": conversation_id, "digests": list(digests)}
    return _read(connection.execute(_SELECT_OF_CONVERSATION, values))


def _read(rows: Any) -> list[AnchorRow]:
    return [AnchorRow(bytes(digest), conversation_id, seq, at) for digest, conversation_id, seq, at in rows]


def delete_anchors(connection: Connection, conversation_id: UUID, from_seq: int = 0) -> None:
    """Delete the anchors of a conversation from a message on: the text of that message is part of their digests."""
    connection.execute(_DELETE_FROM, {"b_id": conversation_id, "b_seq": from_seq})


def count_anchors(connection: Connection, conversation_id: UUID, from_seq: int = 0) -> int:
    """Return how many anchors `delete_anchors` deletes."""
    return int(connection.execute(_COUNT_FROM, {"id": conversation_id, "seq": from_seq}).scalar_one())
