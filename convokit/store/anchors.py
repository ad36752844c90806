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
from convokit.store.schema import anchor, conversation

_MAX_ROWS = 256
"""A short history may begin many conversations. The newest of them are enough."""
_OF_ITS_CONVERSATION = anchor.c.conversation_id == conversation.c.id
_IS_ONE_OF = anchor.c.digest.in_(bindparam("digests", expanding=True))
_COLUMNS = (
    conversation.c.id,
    conversation.c.head_seq,
    conversation.c.last_seq,
    conversation.c.archived_at.is_not(None).label("is_archived"),
)
_ANCHOR_COLUMNS = (anchor.c.digest, anchor.c.seq, anchor.c.created_at)
_SELECT = (
    select(*_COLUMNS, *_ANCHOR_COLUMNS)
    .join_from(anchor, conversation, _OF_ITS_CONVERSATION)
    .where(anchor.c.tenant == bindparam("tenant"), _IS_ONE_OF, conversation.c.archived_at.is_(None))
    .order_by(anchor.c.created_at.desc(), anchor.c.conversation_id, anchor.c.seq)
    .limit(_MAX_ROWS)
)
_SELECT_OF_CONVERSATION = (
    select(*_COLUMNS, *_ANCHOR_COLUMNS)
    .join_from(conversation, anchor, _OF_ITS_CONVERSATION & _IS_ONE_OF, isouter=True)
    .where(conversation.c.id == bindparam("id"), conversation.c.tenant == bindparam("tenant"))
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
    seq: int
    created_at: int


@dataclass(frozen=True, slots=True)
class AnchoredConversation:
    """A conversation, with the anchors that were found in it."""

    id: UUID
    head_seq: int | None
    """The last message of the main branch."""
    last_seq: int
    is_archived: bool
    anchors: tuple[AnchorRow, ...]


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


def find_conversations(connection: Connection, tenant: str, digests: Sequence[bytes]) -> list[AnchoredConversation]:
    """Return the tenant's conversations with these anchors, each with one of them, the newest first.

    Archived conversations are left out.
    """
    rows: Any = connection.execute(_SELECT, {"tenant": tenant, "digests": list(digests)})
    return [AnchoredConversation(row[0], row[1], row[2], bool(row[3]), (_read(row),)) for row in rows]


def find_conversation(
    connection: Connection, tenant: str, conversation_id: UUID, digests: Sequence[bytes]
) -> AnchoredConversation | None:
    """Return a conversation with its anchors of these digests, or None."""
    values = {"id": conversation_id, "tenant": tenant, "digests": list(digests)}
    rows: Any = connection.execute(_SELECT_OF_CONVERSATION, values).all()
    if not rows:
        return None
    found = [row for row in rows if row[4] is not None]
    id_, head_seq, last_seq, is_archived = rows[0][:4]
    return AnchoredConversation(id_, head_seq, last_seq, bool(is_archived), tuple(map(_read, found)))


def _read(row: Any) -> AnchorRow:
    return AnchorRow(bytes(row[4]), row[5], row[6])


def delete_anchors(connection: Connection, conversation_id: UUID, from_seq: int = 0) -> None:
    """Delete the anchors of a conversation from a message on: the text of that message is part of their digests."""
    connection.execute(_DELETE_FROM, {"b_id": conversation_id, "b_seq": from_seq})


def count_anchors(connection: Connection, conversation_id: UUID, from_seq: int = 0) -> int:
    """Return how many anchors `delete_anchors` deletes."""
    return int(connection.execute(_COUNT_FROM, {"id": conversation_id, "seq": from_seq}).scalar_one())
