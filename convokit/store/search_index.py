"""Write the search index.

Each message with text has one row, which is written in the transaction of the message. `domain.search_words` defines the keys
of a message; the database's `SearchDialect` stores them. Two further keys name the tenant and the conversation, so that a
search does not read the rows of others.

The title of a conversation has a row with seq 0 and role "title", which is written in the transaction of the title. Its only
further key names the tenant's titles, so that a search for messages does not find it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, delete, exists, select, update

from convokit.domain.conversation import ConversationRow
from convokit.domain.message import PASSAGE, MessageRow, extract_row_text
from convokit.domain.search_words import build_keys, build_owner_keys, build_title_key
from convokit.store.dialects import dialect_of
from convokit.store.dialects.protocol import TITLE_ROLE, TITLE_SEQ, IndexRow, MessageRef, SearchDialect
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
_DELETE_TITLE = delete(search).where(search.c.conversation_id == bindparam("b_id"), search.c.seq == TITLE_SEQ)
_HAS_TITLE_ROW = select(search.c.seq).where(search.c.conversation_id == bindparam("id"), search.c.seq == TITLE_SEQ)
_TITLE_COLUMNS = (conversation.c.id, conversation.c.title, conversation.c.created_at)
_SELECT_TITLE = select(*_TITLE_COLUMNS).where(conversation.c.id == bindparam("id"))
_NEXT_CONVERSATION = (
    select(*_TITLE_COLUMNS)
    .where(conversation.c.tenant == bindparam("tenant"), conversation.c.id > bindparam("after"))
    .order_by(conversation.c.id)
    .limit(1)
)
_MESSAGES_WITHOUT_ROW = (
    select(*(getattr(message.c, name) for name in MessageRow.__slots__))
    .where(
        message.c.conversation_id == bindparam("id"),
        message.c.seq > bindparam("after"),
        ~exists().where(search.c.conversation_id == bindparam("id"), search.c.seq == message.c.seq),
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


@dataclass(slots=True)
class _Title:
    """The title of a conversation, as the index takes it."""

    created_at: int
    seq: int = TITLE_SEQ
    role: str = TITLE_ROLE


def build_title_row(index: SearchDialect, tenant: str, title: str | None, created_at: int) -> IndexRow | None:
    """Return the index row of a title; None if it has no word. `created_at` is the time of the conversation."""
    keys = build_keys(title) if title else set()
    return index.build_row(_Title(created_at), keys, (build_title_key(tenant),)) if keys else None


def add_title(connection: Connection, row: ConversationRow) -> None:
    """Index the title of a conversation that has no title in the index, unless this connection does not index."""
    if is_indexing(connection):
        index = dialect_of(connection).search
        if (made := build_title_row(index, row.tenant, row.title, row.created_at)) is not None:
            index.insert_rows(connection, row.id, [made])


def add_missing_title(connection: Connection, row: ConversationRow) -> None:
    """Index the stored title of a conversation if it is not indexed, unless this connection does not index."""
    if is_indexing(connection):
        stored: Any = connection.execute(_SELECT_TITLE, {"id": row.id}).one_or_none()
        if stored is not None:
            _index_missing_title(connection, row.tenant, stored)


def remove_title(connection: Connection, conversation_id: UUID) -> None:
    """Remove the title of a conversation from the index, before its row changes."""
    remove_messages(connection, conversation_id, [TITLE_SEQ])
    connection.execute(_DELETE_TITLE, {"b_id": conversation_id})


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
    """Remove the words of the title and of all messages from the index, before the conversation's rows change."""
    after = -1
    while True:
        seqs = list(connection.execute(_INDEXED_SEQS, {"id": conversation_id, "after": after}).scalars())
        if not seqs:
            break
        remove_messages(connection, conversation_id, seqs)
        after = seqs[-1]
    connection.execute(_DELETE_TITLE, {"b_id": conversation_id})  # a later title gets a new row


def optimize(connection: Connection) -> None:
    """Rewrite the index without the bytes of removed words. Reads and writes the whole index of a SQLite file."""
    dialect_of(connection).search.optimize(connection)


def index_missing(connection: Connection, tenant: str, after: MessageRef | None) -> tuple[MessageRef | None, int]:
    """Index up to 200 messages of the tenant, or a title, that have no row. Conversations are read in the order of their ids.

    `after` is None in the first call, then the message that the previous call returned. Return the message after which the
    next call continues, or None at the end, and the number of texts that were indexed.
    """
    conversation_id, seq = (UUID(int=0), 0) if after is None else after
    values = {"id": conversation_id, "after": seq}
    found = [MessageRow(*row) for row in connection.execute(_MESSAGES_WITHOUT_ROW, values)] if after is not None else []
    if not found:
        following: Any = connection.execute(
            _NEXT_CONVERSATION, {"tenant": tenant, "after": conversation_id}
        ).one_or_none()
        if following is None:
            return None, 0
        return (following.id, -1), int(_index_missing_title(connection, tenant, following))
    index = dialect_of(connection).search
    if rows := build_rows(index, tenant, conversation_id, found):
        index.insert_rows(connection, conversation_id, rows)
    return (conversation_id, found[-1].seq), len(rows)


def _index_missing_title(connection: Connection, tenant: str, found: Any) -> bool:
    """Index the title of a conversation, given as id, title and time. Return False if it is indexed or has no word."""
    index = dialect_of(connection).search
    made = build_title_row(index, tenant, found.title, found.created_at)
    if made is None or connection.execute(_HAS_TITLE_ROW, {"id": found.id}).first() is not None:
        return False
    index.insert_rows(connection, found.id, [made])
    return True
