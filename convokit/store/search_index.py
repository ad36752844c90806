"""The search index: written in the transaction that writes the message, and asked for places newest first.

Each message with words has a row in `search`. What it is found by are its keys (`domain.search_words`). SQLite keeps them in an
FTS5 table that holds nothing else (no positions, no copy of the text), under the rowid of the message's row. PostgreSQL keeps
numbers of 16 bits in an array under a GIN index: it is smaller than with a tsvector, and holds no word. So what the index finds
is only likely: whoever asks looks at the text itself. Two more keys name tenant and conversation: what others wrote is passed
over. On PostgreSQL three more say when it was (`domain.search_words`); SQLite's index gives the newest out first as it is.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import (
    Connection,
    Integer,
    Text,
    bindparam,
    column,
    exists,
    insert,
    select,
    table,
    update,
)

from convokit.domain import search_words
from convokit.domain.message import PASSAGE, MessageRow, extract_text
from convokit.store.dialects import insert_new
from convokit.store.engine import SEARCH
from convokit.store.schema import FTS, conversation, message, search

MessageRef: TypeAlias = tuple[UUID, int]
COLUMNS = ("seq", "role", "created_at", "words")
_FORGOTTEN = 1000
_FILLED = 200
_COLUMNS = tuple(getattr(message.c, name) for name in MessageRow.__slots__)
_TENANT = select(conversation.c.tenant).where(conversation.c.id == bindparam("id"))
_ADD = insert(search)
NUMBERED = table(search.name, column("id", Integer), *(column(each.name, each.type) for each in search.columns))
"""The same table as SQLite has it, where FTS5 knows a row by its number."""
_ADD_WORDS = insert(table(FTS, column("rowid", Integer), column("words", Text))).from_select(
    ["rowid", "words"],
    select(NUMBERED.c.id, bindparam("b_keys", type_=Text)).where(
        NUMBERED.c.conversation_id == bindparam("b_id"), NUMBERED.c.seq == bindparam("b_seq")
    ),
)
_FORGET = (
    update(search)
    .where(search.c.conversation_id == bindparam("b_id"), search.c.seq.in_(bindparam("b_seqs", expanding=True)))
    .values(words=None)
)
_HELD = (
    select(NUMBERED.c.id, NUMBERED.c.words, message.c.content, message.c.parts, message.c.refusal)
    .join_from(
        NUMBERED,
        message,
        (message.c.conversation_id == NUMBERED.c.conversation_id) & (message.c.seq == NUMBERED.c.seq),
        isouter=True,
    )
    .where(
        NUMBERED.c.conversation_id == bindparam("id"),
        NUMBERED.c.seq.in_(bindparam("seqs", expanding=True)),
        NUMBERED.c.words.is_not(None),
    )
)
_WITH_WORDS = (
    select(search.c.seq)
    .where(search.c.conversation_id == bindparam("id"), search.c.seq > bindparam("after"), search.c.words.is_not(None))
    .order_by(search.c.seq)
    .limit(_FORGOTTEN)
)
_NEXT = (
    select(conversation.c.id)
    .where(conversation.c.tenant == bindparam("tenant"), conversation.c.id > bindparam("after"))
    .order_by(conversation.c.id)
    .limit(1)
)
_MISSING = (
    select(*_COLUMNS)
    .where(
        message.c.conversation_id == bindparam("id"),
        message.c.seq > bindparam("after"),
        ~exists().where(search.c.conversation_id == message.c.conversation_id, search.c.seq == message.c.seq),
    )
    .order_by(message.c.seq)
    .limit(_FILLED)
)


@dataclass(slots=True)
class IndexRow:
    """A row to be of the index."""

    seq: int
    role: str
    created_at: int
    words: Any
    keys: str = ""


def build_rows(dialect: str, tenant: str, conversation_id: UUID, rows: Iterable[MessageRow]) -> list[IndexRow]:
    """Return the index's rows for new messages: none for passages, and none for what has no words."""
    made = []
    for row in rows:
        found = (
            search_words.build_keys(read_indexed_text(row.content, row.parts, row.refusal))
            if row.status != PASSAGE
            else None
        )
        if found and dialect == "postgresql":
            apart = (*build_owner_keys(tenant, conversation_id), *search_words.build_period_keys(row.created_at))
            made.append(
                IndexRow(row.seq, row.role, row.created_at, sorted(hash_keys(found) | set(map(hash_key, apart))))
            )
        elif found:
            joined = _joined(tenant, conversation_id, found)
            made.append(IndexRow(row.seq, row.role, row.created_at, _checksum(joined), joined))
    return made


def read_indexed_text(content: str | None, parts: str | None, refusal: str | None) -> str:
    """Return the words of a message's row: what is indexed of it, and looked at."""
    return extract_text(json.loads(parts) if parts is not None else content) or refusal or ""


def _joined(tenant: str, conversation_id: UUID, keys: set[str]) -> str:
    """Return what FTS5 is given."""
    return " ".join((*sorted(keys), *build_owner_keys(tenant, conversation_id)))


def _checksum(joined: str) -> int:
    """Return what the row's column `words` says on SQLite."""
    return zlib.crc32(joined.encode())


def build_owner_keys(tenant: str, conversation_id: UUID) -> tuple[str, str]:
    """Return the keys of a tenant and a conversation. No word holds the sign they begin with."""
    return f"_{tenant.encode().hex()[: search_words.WORD_CHARS]}", f"_{conversation_id.hex}"


def hash_key(key: str) -> int:
    """Return the 16 bits that PostgreSQL's index holds of any key."""
    return (zlib.crc32(key.encode()) & 0xFFFF) - 0x8000


def hash_keys(keys: Iterable[str]) -> set[int]:
    """Return all that PostgreSQL's index holds of words: of one with more than two characters, 16 bits more.

    One message in a few hundred has the number of a word that it does not hold; both of them, one in some ten thousand. Two
    characters of Japanese have one number, and each of them has its own besides.
    """
    found = set()
    for key in keys:
        checksum = zlib.crc32(key.encode())
        found.add((checksum & 0xFFFF) - 0x8000)
        if len(key) > 2:
            found.add((checksum >> 16) - 0x8000)
    return found


def is_indexing(connection: Connection) -> bool:
    """Return whether this connection keeps the index."""
    return bool(connection.get_execution_options().get(SEARCH, True))


def add_messages(
    connection: Connection, conversation_id: UUID, rows: Sequence[MessageRow], found_by: str | None = None
) -> None:
    """Index new messages, unless this connection keeps no index. `found_by` is their tenant, read where it is not given."""
    if rows and is_indexing(connection):
        found_by = found_by or connection.execute(_TENANT, {"id": conversation_id}).scalar_one()
        _add(connection, conversation_id, build_rows(connection.dialect.name, found_by, conversation_id, rows))


def _add(connection: Connection, conversation_id: UUID, made: Sequence[IndexRow]) -> None:
    if not made:
        return
    values = [{"conversation_id": conversation_id, **{name: getattr(each, name) for name in COLUMNS}} for each in made]
    if connection.dialect.name == "postgresql":
        connection.execute(insert_new("postgresql", search), values)
        return
    connection.execute(_ADD, values)
    connection.execute(_ADD_WORDS, [{"b_id": conversation_id, "b_seq": each.seq, "b_keys": each.keys} for each in made])


def remove_messages(connection: Connection, conversation_id: UUID, seqs: Iterable[int]) -> None:
    """Take the words of these messages out of the index; what it never had, or has no more, is passed over.

    Best before the messages' rows are changed: on SQLite, whose index can only be told which words to take out, they are
    looked for in the whole index otherwise. SQLite keeps the bytes of what was taken out until `optimize`; PostgreSQL those of
    the row until VACUUM.
    """
    left = sorted(set(seqs))
    while left:
        batch, left = left[:_FORGOTTEN], left[_FORGOTTEN:]
        if connection.dialect.name == "sqlite":
            _unkey(connection, conversation_id, batch)
        connection.execute(_FORGET, {"b_id": conversation_id, "b_seqs": batch})


def _unkey(connection: Connection, conversation_id: UUID, seqs: list[int]) -> None:
    tenant = connection.execute(_TENANT, {"id": conversation_id}).scalar_one_or_none()
    gone = []
    for id_, kept, *shape in connection.execute(_HELD, {"id": conversation_id, "seqs": seqs}).all():
        joined = _joined(tenant or "", conversation_id, search_words.build_keys(read_indexed_text(*shape)))
        if _checksum(joined) != kept:  # the row was changed since: ask the index itself
            joined = _indexed(connection, id_)
        gone.append((id_, joined))
    if gone:
        connection.exec_driver_sql(
            "INSERT INTO convokit_search_words (convokit_search_words, rowid, words) VALUES ('delete', ?, ?)", gone
        )


def _indexed(connection: Connection, id_: int) -> str:
    """Return what a row is indexed by, by reading the whole index."""
    connection.exec_driver_sql(
        "CREATE VIRTUAL TABLE IF NOT EXISTS temp.convokit_vocabulary"
        " USING fts5vocab(main, convokit_search_words, instance)"
    )
    found = connection.exec_driver_sql("SELECT DISTINCT term FROM temp.convokit_vocabulary WHERE doc = ?", (id_,))
    return " ".join(found.scalars())


def remove_conversation(connection: Connection, conversation_id: UUID) -> None:
    """Take the words of all messages of a conversation out of the index: before its rows are deleted."""
    after = -1
    while True:
        seqs = list(connection.execute(_WITH_WORDS, {"id": conversation_id, "after": after}).scalars())
        if not seqs:
            return
        remove_messages(connection, conversation_id, seqs)
        after = seqs[-1]


def optimize(connection: Connection) -> None:
    """Write SQLite's index anew, without what was taken out of it: until then its bytes hold words that were forgotten.

    Reads and writes the whole index. On PostgreSQL there is nothing to do: its index never holds a word.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("INSERT INTO convokit_search_words (convokit_search_words) VALUES ('optimize')")


def index_missing(connection: Connection, tenant: str, after: MessageRef | None) -> tuple[MessageRef | None, int]:
    """Index what is missing of the next few messages behind a place; return where to go on, None at the end, and how many.

    The conversations of the tenant are gone through in the order of their ids.
    """
    if after is None:
        following: Any = connection.execute(_NEXT, {"tenant": tenant, "after": UUID(int=0)}).scalar_one_or_none()
        return (None, 0) if following is None else ((following, -1), 0)
    conversation_id, seq = after
    found = [MessageRow(*row) for row in connection.execute(_MISSING, {"id": conversation_id, "after": seq})]
    if not found:
        following = connection.execute(_NEXT, {"tenant": tenant, "after": conversation_id}).scalar_one_or_none()
        return None if following is None else (following, -1), 0
    made = build_rows(connection.dialect.name, tenant, conversation_id, found)
    _add(connection, conversation_id, made)
    return (conversation_id, found[-1].seq), len(made)
