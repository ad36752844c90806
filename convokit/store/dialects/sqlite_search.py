"""Index and find messages with FTS5 on SQLite.

The keys of a message are in an FTS5 table that stores neither positions nor text. The rowid of an FTS5 row is the `id` of the
message's row in `search`. FTS5 returns rows in order of the rowid, so the newest matches come first without sorting.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Text,
    and_,
    bindparam,
    column,
    exists,
    func,
    insert,
    literal,
    select,
    table,
)
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import UnaryExpression

from convokit.domain.message import extract_row_text
from convokit.domain.search_periods import PeriodSpan
from convokit.domain.search_words import build_keys, build_owner_keys, build_title_key
from convokit.store.dialects.protocol import (
    INDEX_COLUMNS,
    TITLE_SEQ,
    IndexedText,
    IndexRow,
    SearchDialect,
    SearchFilter,
    SortRange,
    choose_owner_key,
)
from convokit.store.schema import FTS, conversation, message, search

_rows = table(search.name, column("id", Integer), *(column(each.name, each.type) for each in search.columns))
"""The table `search` with its rowid, which has the name `id` on SQLite only."""
_fts = table(FTS, column("rowid", Integer), column("words", Text), column(FTS))
# Unary plus: without it, SQLite's planner asks FTS5 for one row at a time.
_FTS_ROWID: ColumnElement[int] = UnaryExpression(_fts.c.rowid, operator=operators.custom_op("+"))
_INSERT_ROW = insert(search)
_INSERT_KEYS = insert(_fts).from_select(
    ["rowid", "words"],
    select(_rows.c.id, bindparam("b_keys", type_=Text)).where(
        _rows.c.conversation_id == bindparam("b_id"), _rows.c.seq == bindparam("b_seq")
    ),
)
_SELECT_OWNER = select(conversation.c.tenant, conversation.c.title).where(conversation.c.id == bindparam("id"))
_INDEXED_MESSAGES = (
    select(_rows.c.id, _rows.c.seq, _rows.c.words, message.c.content, message.c.parts, message.c.refusal)
    .join_from(
        _rows,
        message,
        (message.c.conversation_id == bindparam("id")) & (message.c.seq == _rows.c.seq),
        isouter=True,
    )
    .where(
        _rows.c.conversation_id == bindparam("id"),
        _rows.c.seq.in_(bindparam("seqs", expanding=True)),
        _rows.c.words.is_not(None),
    )
)


class SqliteSearch(SearchDialect):
    """The FTS5 table. Column `words` of `search` is a checksum of the keys."""

    rows = _rows
    sort_columns = (_rows.c.id,)
    # The same number as `id`, but FTS5 returns rows in this order: the newest are found without a sort.
    match_sort_columns = (_fts.c.rowid,)

    def build_row(self, row: IndexedText, keys: set[str], owner_keys: tuple[str, ...]) -> IndexRow:
        joined = _join_keys(keys, owner_keys)
        return IndexRow(row.seq, row.role, row.created_at, _compute_checksum(joined), joined)

    def insert_rows(self, connection: Connection, conversation_id: UUID, rows: Sequence[IndexRow]) -> None:
        values = [
            {"conversation_id": conversation_id, **{name: getattr(row, name) for name in INDEX_COLUMNS}} for row in rows
        ]
        keys = [{"b_id": conversation_id, "b_seq": row.seq, "b_keys": row.keys} for row in rows]
        connection.execute(_INSERT_ROW, values)
        connection.execute(_INSERT_KEYS, keys)

    def remove_keys(self, connection: Connection, conversation_id: UUID, seqs: Sequence[int]) -> None:
        tenant, title = connection.execute(_SELECT_OWNER, {"id": conversation_id}).one_or_none() or ("", None)
        owner_keys = build_owner_keys(tenant, conversation_id)
        found = connection.execute(_INDEXED_MESSAGES, {"id": conversation_id, "seqs": seqs}).all()
        removed = []
        for id_, seq, checksum, *columns in found:
            # FTS5 does not store the keys of a row: to delete them, the same keys must be given again.
            if seq == TITLE_SEQ:
                keys = _join_keys(build_keys(title or ""), (build_title_key(tenant),))
            else:
                keys = _join_keys(build_keys(extract_row_text(*columns)), owner_keys)
            if _compute_checksum(keys) != checksum:  # the message's text has changed since
                keys = _read_indexed_keys(connection, id_)
            removed.append((id_, keys))
        if removed:
            connection.exec_driver_sql(
                "INSERT INTO convokit_search_words (convokit_search_words, rowid, words) VALUES ('delete', ?, ?)",
                removed,
            )

    def optimize(self, connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO convokit_search_words (convokit_search_words) VALUES ('optimize')")

    def choose_spans(
        self, connection: Connection, tenant: str, wanted: SearchFilter, within: SortRange, limit: int
    ) -> Sequence[PeriodSpan]:
        return ()

    def match(self, tenant: str, wanted: SearchFilter, span: PeriodSpan | None) -> list[ColumnElement[bool]]:
        owner_key = choose_owner_key(tenant, wanted)
        quoted = " AND ".join(f'"{key}"' for key in (owner_key, *wanted.keys))
        return [_fts.c[FTS].op("MATCH")(quoted), _rows.c.id == _FTS_ROWID]

    def match_tenant(self, tenant: str, wanted: SearchFilter) -> ColumnElement[bool]:
        return conversation.c.tenant == tenant

    def match_metadata(self, name: str, value: Any) -> ColumnElement[bool]:
        item = func.json_each(conversation.c.metadata).table_valued("key", "value", "type")
        types = {bool: str(value).lower(), int: "integer", float: "real", str: "text", type(None): "null"}
        has_type = item.c.type == types[type(value)]
        is_same = has_type if value is None or isinstance(value, bool) else and_(has_type, item.c.value == value)
        return exists(select(literal(1)).select_from(item).where(item.c.key == name, is_same))


def _join_keys(keys: set[str], owner_keys: tuple[str, ...]) -> str:
    return " ".join((*sorted(keys), *owner_keys))


def _compute_checksum(joined: str) -> int:
    return zlib.crc32(joined.encode())


def _read_indexed_keys(connection: Connection, id_: int) -> str:
    """Return the keys of one row. Reads the whole index."""
    connection.exec_driver_sql(
        "CREATE VIRTUAL TABLE IF NOT EXISTS temp.convokit_vocabulary"
        " USING fts5vocab(main, convokit_search_words, instance)"
    )
    found = connection.exec_driver_sql("SELECT DISTINCT term FROM temp.convokit_vocabulary WHERE doc = ?", (id_,))
    return " ".join(found.scalars())
