"""Write the search index.

Each message with text has one row, which is written in the transaction of the message. `domain.search_words` defines the keys
of a message; the database's `SearchDialect` stores them. Two further keys name the tenant and the conversation, so that a
search does not read the rows of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, exists, select, update

from convokit.domain.message import PASSAGE, MessageRow, extract_row_text
from convokit.domain.search_words import build_keys, build_owner_keys
from convokit.store.dialects import dialect_of
from convokit.store.dialects.protocol import IndexRow, MessageRef, SearchDialect
from convokit.store.engine import SEARCH
from convokit.store.schema import conversation, message, search

_REMOVED_AT_ONCE = 1000
_INDEXED_AT_ONCE = 200
_TENANT_OF_CONVERSATION = select(conversation.c.tenant).where(conversation.c.id == bindparam("id"))
_CLEAR_WORDS = (
    update(search)
    .where(search.c.conversation_id == bindparam("b_id"), search.c.seq.in_(bindparam("b_seqs", expanding=True)))
    .values(words=None)
)
_INDEXED_SEQS = (
    select(search.c.seq)
    .where(search.c.conversation_id == bindparam("id"), search.c.seq > bindparam("after"), search.c.words.is_not(None))
    .order_by(search.c.seq)
    .limit(_REMOVED_AT_ONCE)
)
_NEXT_CONVERSATION = (
    select(conversation.c.id)
    .where(conversation.c.tenant == bindparam("tenant"), conversation.c.id > bindparam("after"))
    .order_by(conversation.c.id)
    .limit(1)
)
_MESSAGES_WITHOUT_ROW = (
    select(*(getattr(message.c, name) for name in MessageRow.__slots__))
    .where(
        message.c.conversation_id == bindparam("id"),
        message.c.seq > bindparam("after"),
        ~exists().where(search.c.conversation_id == message.c.conversation_id, search.c.seq == message.c.seq),
    )
    .order_by(message.c.seq)
    .limit(_INDEXED_AT_ONCE)
)


def is_indexing(connection: Connection) -> bool:
    """Return whether messages written over this connection are indexed."""
    return bool(connection.get_execution_options().get(SEARCH, True))


def build_search_keys(messages: Iterable[MessageRow]) -> list[set[str]]:
    """Return the keys of each message's words. Passages have none, because no search finds them."""
    return [
        set() if row.status == PASSAGE else build_keys(extract_row_text(row.content, row.parts, row.refusal))
        for row in messages
    ]


def build_rows(
    index: SearchDialect,
    tenant: str,
    conversation_id: UUID,
    messages: Sequence[MessageRow],
    search_keys: Sequence[set[str]] | None = None,
) -> list[IndexRow]:
    """Return the index rows of new messages. Messages without words have none. `search_keys` are theirs, if known."""
    owner_keys = build_owner_keys(tenant, conversation_id)
    known = build_search_keys(messages) if search_keys is None else search_keys
    return [index.build_row(row, keys, owner_keys) for row, keys in zip(messages, known, strict=True) if keys]


def add_messages(
    connection: Connection,
    conversation_id: UUID,
    messages: Sequence[MessageRow],
    owner: str | None = None,
    search_keys: Sequence[set[str]] | None = None,
) -> None:
    """Index new messages, unless this connection does not index.

    `owner` is their tenant; None reads it. `search_keys` are the keys of their words; None computes them.
    """
    if not messages or not is_indexing(connection):
        return
    index = dialect_of(connection).search
    owner = owner or connection.execute(_TENANT_OF_CONVERSATION, {"id": conversation_id}).scalar_one()
    if rows := build_rows(index, owner, conversation_id, messages, search_keys):
        index.insert_rows(connection, conversation_id, rows)


def remove_messages(connection: Connection, conversation_id: UUID, seqs: Iterable[int]) -> None:
    """Remove the words of these messages from the index. Messages that are not indexed are skipped.

    Call it before the messages' rows change: SQLite otherwise has to read the whole index for their words. The removed bytes
    stay in SQLite's file until `optimize`, and in PostgreSQL's files until VACUUM FULL.
    """
    index = dialect_of(connection).search
    remaining = sorted(set(seqs))
    while remaining:
        batch, remaining = remaining[:_REMOVED_AT_ONCE], remaining[_REMOVED_AT_ONCE:]
        index.remove_keys(connection, conversation_id, batch)
        connection.execute(_CLEAR_WORDS, {"b_id": conversation_id, "b_seqs": batch})


def remove_conversation(connection: Connection, conversation_id: UUID) -> None:
    """Remove the words of all messages of a conversation from the index, before its rows are deleted."""
    after = -1
    while True:
        seqs = list(connection.execute(_INDEXED_SEQS, {"id": conversation_id, "after": after}).scalars())
        if not seqs:
            return
        remove_messages(connection, conversation_id, seqs)
        after = seqs[-1]


def optimize(connection: Connection) -> None:
    """Rewrite the index without the bytes of removed words. Reads and writes the whole index of a SQLite file."""
    dialect_of(connection).search.optimize(connection)


def index_missing(connection: Connection, tenant: str, after: MessageRef | None) -> tuple[MessageRef | None, int]:
    """Index up to 200 messages of the tenant that have no row. Conversations are read in the order of their ids.

    `after` is None in the first call, then the message that the previous call returned. Return the message after which the
    next call continues, or None at the end, and the number of messages that were indexed.
    """
    conversation_id, seq = (UUID(int=0), 0) if after is None else after
    values = {"id": conversation_id, "after": seq}
    found = [MessageRow(*row) for row in connection.execute(_MESSAGES_WITHOUT_ROW, values)] if after is not None else []
    if not found:
        following: Any = connection.execute(
            _NEXT_CONVERSATION, {"tenant": tenant, "after": conversation_id}
        ).scalar_one_or_none()
        return None if following is None else (following, -1), 0
    index = dialect_of(connection).search
    if rows := build_rows(index, tenant, conversation_id, found):
        index.insert_rows(connection, conversation_id, rows)
    return (conversation_id, found[-1].seq), len(rows)
