"""The search index: written in the transaction that writes the message, and asked for places newest first.

Each message with words has a row in `search`. What it is found by are its keys (`domain.words`). SQLite keeps them in an FTS5
table that holds nothing else (no positions, no copy of the text), under the rowid of the message's row. PostgreSQL keeps 16
bits of each in an array under a GIN index: half the size of a tsvector, and no word in it. So what the index finds is only
likely: whoever asks looks at the text itself. Two more keys name tenant and conversation: what others wrote is passed over.
"""

from __future__ import annotations

import json
import operator
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Integer,
    Text,
    and_,
    bindparam,
    cast,
    column,
    exists,
    func,
    insert,
    literal,
    select,
    table,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import UnaryExpression

from convokit.domain import words
from convokit.domain.message import PASSAGE, MessageRow, text_of
from convokit.domain.text import compact_json
from convokit.store.engine import SEARCH
from convokit.store.schema import FTS, conversation, message, search

Place: TypeAlias = tuple[UUID, int]
Order: TypeAlias = tuple[Any, ...]
"""Where a row stands among all rows, newest last: SQLite counts them, PostgreSQL goes by their time."""
COLUMNS = ("seq", "role", "created_at", "words")
_BATCH = 200
_COLUMNS = tuple(getattr(message.c, name) for name in MessageRow.__slots__)
_TENANT = select(conversation.c.tenant).where(conversation.c.id == bindparam("id"))
_ADD = insert(search)
_ADD_NEW = postgresql.insert(search).on_conflict_do_nothing()
_numbered = table(search.name, column("id", Integer), *(column(each.name, each.type) for each in search.columns))
"""The same as SQLite has it."""
_fts = table(FTS, column("rowid", Integer), column(FTS))
_FTS_ROW = UnaryExpression(_fts.c.rowid, operator=operators.custom_op("+"))
"""The sign keeps SQLite's planner from asking FTS5 for one row after the other."""
_KEYS = """INSERT INTO convokit_search_words (rowid, words)
    SELECT id, ? FROM convokit_search WHERE conversation_id = ? AND seq = ?"""
_UNKEY = "INSERT INTO convokit_search_words (convokit_search_words, rowid, words) VALUES ('delete', ?, ?)"
_OPTIMIZE = "INSERT INTO convokit_search_words (convokit_search_words) VALUES ('optimize')"
_VOCABULARY = """CREATE VIRTUAL TABLE IF NOT EXISTS temp.convokit_vocabulary
    USING fts5vocab(main, convokit_search_words, instance)"""
_FORGET = (
    update(search)
    .where(search.c.conversation_id == bindparam("b_id"), search.c.seq.in_(bindparam("b_seqs", expanding=True)))
    .values(words=None)
)
_HELD = (
    select(_numbered.c.id, _numbered.c.words, message.c.content, message.c.parts, message.c.refusal)
    .join_from(
        _numbered,
        message,
        (message.c.conversation_id == _numbered.c.conversation_id) & (message.c.seq == _numbered.c.seq),
        isouter=True,
    )
    .where(
        _numbered.c.conversation_id == bindparam("id"),
        _numbered.c.seq.in_(bindparam("seqs", expanding=True)),
        _numbered.c.words.is_not(None),
    )
)
_WITH_WORDS = (
    select(search.c.seq)
    .where(search.c.conversation_id == bindparam("id"), search.c.seq > bindparam("after"), search.c.words.is_not(None))
    .order_by(search.c.seq)
    .limit(_BATCH)
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
    .limit(_BATCH)
)


@dataclass(slots=True)
class Entry:
    """A row to be of the index."""

    seq: int
    role: str
    created_at: int
    words: Any
    keys: str = ""


@dataclass(slots=True, repr=False)
class Wanted:
    """What is looked for: rows that have every one of `keys`. Times are microseconds since 1970, `until` not included."""

    keys: Sequence[str]
    conversation_id: UUID | None = None
    role: str | None = None
    subject: str | None = None
    since: int | None = None
    until: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, repr=False)
class Candidate:
    """A message that is likely to hold the words, and as much of its text as is indexed."""

    order: Order
    place: Place
    key: str | None
    text: str


def entries(dialect: str, tenant: str, conversation_id: UUID, rows: Iterable[MessageRow]) -> list[Entry]:
    """Return the index's rows for new messages: none for passages, and none for what has no words."""
    made = []
    for row in rows:
        found = words.keys(_text(row.content, row.parts, row.refusal)) if row.status != PASSAGE else None
        if found:
            kept, joined = _stored(dialect, tenant, conversation_id, found)
            made.append(Entry(row.seq, row.role, row.created_at, kept, joined))
    return made


def _text(content: str | None, parts: str | None, refusal: str | None) -> str:
    return text_of(json.loads(parts) if parts is not None else content) or refusal or ""


def _stored(dialect: str, tenant: str, conversation_id: UUID, keys: set[str]) -> tuple[Any, str]:
    """Return what the row's column `words` says, and what FTS5 is given."""
    if dialect == "postgresql":
        return sorted({_short(key) for key in (*keys, *_owners(tenant, conversation_id))}), ""
    joined = " ".join((*sorted(keys), *_owners(tenant, conversation_id)))
    return zlib.crc32(joined.encode()), joined


def _owners(tenant: str, conversation_id: UUID) -> tuple[str, str]:
    """Return the keys of a tenant and a conversation. No word holds the sign they begin with."""
    return f"_{tenant.encode().hex()[: words.WORD_CHARS]}", f"_{conversation_id.hex}"


def _short(key: str) -> int:
    return (zlib.crc32(key.encode()) & 0xFFFF) - 0x8000


def wanted_by(connection: Connection) -> bool:
    """Return whether this connection keeps the index."""
    return bool(connection.get_execution_options().get(SEARCH, True))


def add(connection: Connection, conversation_id: UUID, rows: Sequence[MessageRow]) -> None:
    """Index new messages, unless this connection keeps no index."""
    if rows and wanted_by(connection):
        tenant = connection.execute(_TENANT, {"id": conversation_id}).scalar_one()
        _add(connection, conversation_id, entries(connection.dialect.name, tenant, conversation_id, rows))


def _add(connection: Connection, conversation_id: UUID, made: Sequence[Entry]) -> None:
    if not made:
        return
    values = [{"conversation_id": conversation_id, **{name: getattr(each, name) for name in COLUMNS}} for each in made]
    if connection.dialect.name == "postgresql":
        connection.execute(_ADD_NEW, values)
        return
    connection.execute(_ADD, values)
    connection.exec_driver_sql(_KEYS, [(each.keys, conversation_id.hex, each.seq) for each in made])


def forget(connection: Connection, conversation_id: UUID, seqs: Iterable[int]) -> None:
    """Take the words of these messages out of the index; what it never had, or has no more, is passed over.

    Best before the messages' rows are changed: on SQLite, whose index can only be told which words to take out, they are
    looked for in the whole index otherwise. SQLite keeps the bytes of what was taken out until `optimize`; PostgreSQL those of
    the row until VACUUM.
    """
    left = sorted(set(seqs))
    while left:
        batch, left = left[:_BATCH], left[_BATCH:]
        if connection.dialect.name == "sqlite":
            _unkey(connection, conversation_id, batch)
        connection.execute(_FORGET, {"b_id": conversation_id, "b_seqs": batch})


def _unkey(connection: Connection, conversation_id: UUID, seqs: list[int]) -> None:
    tenant = connection.execute(_TENANT, {"id": conversation_id}).scalar_one_or_none()
    for id_, kept, *shape in connection.execute(_HELD, {"id": conversation_id, "seqs": seqs}).all():
        checksum, joined = _stored("sqlite", tenant or "", conversation_id, words.keys(_text(*shape)))
        if checksum != kept:  # the row was changed since: ask the index itself
            joined = _indexed(connection, id_)
        connection.exec_driver_sql(_UNKEY, (id_, joined))


def _indexed(connection: Connection, id_: int) -> str:
    """Return what a row is indexed by, by reading the whole index."""
    connection.exec_driver_sql(_VOCABULARY)
    found = connection.exec_driver_sql("SELECT DISTINCT term FROM temp.convokit_vocabulary WHERE doc = ?", (id_,))
    return " ".join(found.scalars())


def forget_conversation(connection: Connection, conversation_id: UUID) -> None:
    """Take the words of all messages of a conversation out of the index: before its rows are deleted."""
    after = -1
    while True:
        seqs = list(connection.execute(_WITH_WORDS, {"id": conversation_id, "after": after}).scalars())
        if not seqs:
            return
        forget(connection, conversation_id, seqs)
        after = seqs[-1]


def optimize(connection: Connection) -> None:
    """Write SQLite's index anew, without what was taken out of it: until then its bytes hold words that were forgotten.

    Reads and writes the whole index. On PostgreSQL there is nothing to do: its index never holds a word.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_OPTIMIZE)


def candidates(
    connection: Connection,
    tenant: str,
    wanted: Wanted,
    *,
    limit: int,
    top: Order | None = None,
    bottom: Order | None = None,
    below: Order | None = None,
) -> list[Candidate]:
    """Return the tenant's messages that are likely to match, newest first: from `top` to `bottom`, or from before `below`."""
    sqlite = connection.dialect.name == "sqlite"
    rows = _numbered if sqlite else search
    order = _order(rows)
    likely = (
        select(*dict.fromkeys([*order, rows.c.conversation_id, rows.c.seq]), conversation.c.key)
        .join_from(rows, conversation, conversation.c.id == rows.c.conversation_id)
        .where(conversation.c.tenant == tenant, *_conditions(rows, wanted), *_keyed(rows, tenant, wanted))
    )
    for bound, compare in ((top, operator.le), (bottom, operator.ge), (below, operator.lt)):
        if bound is not None:
            likely = likely.where(compare(tuple_(*order), tuple_(*bound)))
    found = likely.order_by(*(each.desc() for each in order)).limit(limit).subquery("likely")
    ordered = [found.c[each.name] for each in order]
    texts = func.substr(message.c.content, 1, words.MOST_CHARS), message.c.parts, message.c.refusal
    of_it = (message.c.conversation_id == found.c.conversation_id) & (message.c.seq == found.c.seq)
    statement = select(found, *texts).join_from(found, message, of_it).order_by(*(each.desc() for each in ordered))
    made = []
    for row in connection.execute(statement):
        shape = _text(*row[-3:])
        made.append(Candidate(tuple(row[: len(order)]), (row.conversation_id, row.seq), row.key, shape))
    return made


def _order(rows: Any) -> list[Any]:
    """Return the columns that say where a row stands."""
    return [rows.c[name] for name in (("id",) if rows is _numbered else ("created_at", "conversation_id", "seq"))]


def _keyed(rows: Any, tenant: str, wanted: Wanted) -> list[ColumnElement[bool]]:
    own, inside = _owners(tenant, wanted.conversation_id or UUID(int=0))
    keys = [own, *([inside] if wanted.conversation_id else ()), *wanted.keys]
    if rows is search:
        return [search.c.words.contains(sorted({_short(key) for key in keys}))]
    matching = _fts.c[FTS].op("MATCH")(" AND ".join(f'"{key}"' for key in keys))
    return [matching, rows.c.id == _FTS_ROW]


def _conditions(rows: Any, wanted: Wanted) -> list[ColumnElement[bool]]:
    given = (
        (wanted.conversation_id, operator.eq, rows.c.conversation_id),
        (wanted.role, operator.eq, rows.c.role),
        (wanted.subject, operator.eq, conversation.c.subject),
        (wanted.since, operator.ge, rows.c.created_at),
        (wanted.until, operator.lt, rows.c.created_at),
    )
    asked = [compare(column, value) for value, compare, column in given if value is not None]
    return [*asked, *(_has(rows is _numbered, name, value) for name, value in wanted.metadata.items())]


def _has(sqlite: bool, name: str, value: Any) -> ColumnElement[bool]:
    """Return whether a conversation's metadata say this, of this very type: 1 is not true, and no text."""
    if not sqlite:  # text as it was stored: PostgreSQL takes nothing out of JSON
        item = func.json_each(cast(conversation.c.metadata, JSON)).table_valued("key", column("value", JSON))
        same = cast(item.c.value, Text) == compact_json(value)
    else:
        item = func.json_each(conversation.c.metadata).table_valued("key", "value", "type")
        kinds = {bool: str(value).lower(), int: "integer", float: "real", str: "text", type(None): "null"}
        kind = item.c.type == kinds[type(value)]
        same = kind if value is None or isinstance(value, bool) else and_(kind, item.c.value == value)
    return exists(select(literal(1)).select_from(item).where(item.c.key == name, same))


def stands(connection: Connection, tenant: str, place: Place) -> Order | None:
    """Return where a message of the tenant stands, or None where it is not in the index."""
    rows = _numbered if connection.dialect.name == "sqlite" else search
    statement = select(*_order(rows)).join_from(rows, conversation, conversation.c.id == rows.c.conversation_id)
    of_it = (rows.c.conversation_id == place[0], rows.c.seq == place[1])
    row = connection.execute(statement.where(conversation.c.tenant == tenant, *of_it)).one_or_none()
    return None if row is None else tuple(row)


def at(connection: Connection, places: Sequence[Place]) -> dict[Place, MessageRow]:
    """Return these messages, as many of them as there are."""
    if not places:
        return {}
    key = tuple_(message.c.conversation_id, message.c.seq)
    statement = select(message.c.conversation_id, *_COLUMNS).where(key.in_(places))
    return {(row[0], row[1]): MessageRow(*row[1:]) for row in connection.execute(statement)}


def fill(connection: Connection, tenant: str, after: Place | None) -> tuple[Place | None, int]:
    """Index what is missing of the next few messages behind a place; return where to go on, None at the end, and how many.

    The conversations of the tenant are gone through in the order of their ids.
    """
    if after is None:
        following = connection.execute(_NEXT, {"tenant": tenant, "after": UUID(int=0)}).scalar_one_or_none()
        return (None, 0) if following is None else ((following, -1), 0)
    conversation_id, seq = after
    found = [MessageRow(*row) for row in connection.execute(_MISSING, {"id": conversation_id, "after": seq})]
    if not found:
        following = connection.execute(_NEXT, {"tenant": tenant, "after": conversation_id}).scalar_one_or_none()
        return None if following is None else (following, -1), 0
    made = entries(connection.dialect.name, tenant, conversation_id, found)
    _add(connection, conversation_id, made)
    return (conversation_id, found[-1].seq), len(made)
