"""Index and search messages on PostgreSQL with a GIN index.

Column `words` of `search` holds 32-bit hashes of a message's keys: a smaller index than with a tsvector, and it contains no
word. A match is therefore only likely, and the caller checks the text. The array also holds hashes of tenant, conversation
and periods of time. GIN returns matches in no order, so a search asks for the newest periods first.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Text,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    literal,
    select,
    table,
)
from sqlalchemy.dialects.postgresql import insert

from convokit.domain.search_periods import (
    LENGTHS,
    PeriodSpan,
    build_period_keys,
    build_span,
    estimate_spans,
    find_covering_span,
)
from convokit.domain.text import dump_json
from convokit.store.dialects.protocol import (
    INDEX_COLUMNS,
    IndexedText,
    IndexRow,
    SearchDialect,
    SearchFilter,
    SortRange,
    choose_owner_key,
)
from convokit.store.schema import conversation, search
from convokit.store.search_query import build_column_conditions

SORT_AT_ONCE = 16_384
"""Up to this number of messages, sorting all matches is faster than counting the matches of recent periods."""
_KEPT, _KEPT_S = "convokit_search_is_small", 60.0
# ON CONFLICT: two processes may run `index_missing` at the same time.
_INSERT_ROWS = insert(search).on_conflict_do_nothing()
_SELECT_NEWEST = select(func.max(conversation.c.updated_at)).where(conversation.c.tenant == bindparam("tenant"))
# A separate statement, because Citus refuses a sub-select in the columns of a statement on distributed rows.
_pg_class = table("pg_class", column("oid"), column("reltuples"))
_SELECT_ESTIMATE = select(_pg_class.c.reltuples, func.to_regclass("pg_dist_partition").is_not(None)).where(
    _pg_class.c.oid == func.to_regclass(search.name)
)
_SELECT_EXTENT = select(conversation.c.updated_at, conversation.c.last_seq).where(
    conversation.c.tenant == bindparam("tenant"), conversation.c.id == bindparam("id")
)


class PostgresqlSearch(SearchDialect):
    """The GIN index on column `words` of `search`."""

    rows = search
    sort_columns = (search.c.created_at, search.c.conversation_id, search.c.seq)
    match_sort_columns = sort_columns

    def build_row(self, row: IndexedText, keys: set[str], owner_keys: tuple[str, ...]) -> IndexRow:
        exact = (*owner_keys, *build_period_keys(row.created_at))
        return IndexRow(row.seq, row.role, row.created_at, sorted(hash_keys(keys) | set(map(hash_key, exact))))

    def insert_rows(self, connection: Connection, conversation_id: UUID, rows: Sequence[IndexRow]) -> None:
        values = [
            {"conversation_id": conversation_id, **{name: getattr(row, name) for name in INDEX_COLUMNS}} for row in rows
        ]
        connection.execute(_INSERT_ROWS, values)

    def remove_keys(self, connection: Connection, conversation_id: UUID, seqs: Sequence[int]) -> None:
        """Do nothing: the keys are in the rows themselves."""

    def optimize(self, connection: Connection) -> None:
        """Do nothing: the index contains no words."""

    def choose_spans(
        self, connection: Connection, tenant: str, wanted: SearchFilter, within: SortRange, limit: int
    ) -> Sequence[PeriodSpan]:
        if within.top is not None and within.bottom is not None:
            whole = find_covering_span(within.bottom[0], within.top[0])
            return [] if whole is None else [whole]
        if wanted.subject is not None or wanted.metadata:
            return []  # not in the index, so the matches of a period cannot be counted by it
        end = _find_end(connection, tenant, wanted.conversation_id)
        if end is None:
            return []
        if wanted.until is not None:
            end = min(end, wanted.until)
        if within.below is not None:
            end = min(end, within.below[0])
        spans = [build_span(end, length) for length in LENGTHS]
        counted: int | None = connection.execute(
            select(self._build_first_sufficient(spans, tenant, wanted, limit))
        ).scalar_one()
        if counted is None:
            return []
        which, shorter_count = divmod(counted, limit + 1)
        return estimate_spans(end, which, shorter_count, limit)

    def _build_first_sufficient(
        self, spans: Sequence[PeriodSpan], tenant: str, wanted: SearchFilter, limit: int
    ) -> ColumnElement[int]:
        """Return an expression for the first span that contains `limit` matches, and the matches in the span before it.

        The value is `which * (limit + 1) + count_before`, or null if no span contains enough. Later spans are not evaluated.
        """
        whens = []
        count_before: Any = 0
        for which, span in enumerate(spans):
            conditions = (*build_column_conditions(self, wanted), *self.match(tenant, wanted, span))
            matches = select(literal(1)).where(*conditions).limit(limit).subquery()
            # A CTE is evaluated once, although its count is used twice.
            counted = select(func.count().label("rows")).select_from(matches).cte(f"span_{which}")
            count = select(counted.c.rows).scalar_subquery()
            whens.append((count >= limit, which * (limit + 1) + count_before))
            count_before = count
        return case(*whens)

    def match(self, tenant: str, wanted: SearchFilter, span: PeriodSpan | None) -> list[ColumnElement[bool]]:
        owner_key = choose_owner_key(tenant, wanted)
        hashes = {hash_key(owner_key), *hash_keys(wanted.keys)}
        conditions: list[ColumnElement[bool]] = [search.c.words.op("@>")(sorted(hashes))]
        if span is not None:
            in_period = search.c.words.op("&&")(sorted(map(hash_key, span.keys)))
            conditions += [in_period, search.c.created_at >= span.since]
        return conditions

    def match_tenant(self, tenant: str, wanted: SearchFilter) -> ColumnElement[bool]:
        is_own = conversation.c.tenant == tenant
        if wanted.conversation_id or wanted.subject is not None:
            return is_own
        # Nearly all matches meet this condition, because the tenant's key is matched too. PostgreSQL does not know that: it
        # expects few rows and asks the index once for each conversation (218 ms instead of 19, in 100 among 10,000). It
        # estimates that half of all rows satisfy a function.
        return func.coalesce(is_own, False)

    def match_metadata(self, name: str, value: Any) -> ColumnElement[bool]:
        # Compared as the stored JSON text: no type is lost, and PostgreSQL extracts no value from JSON.
        item = func.json_each(cast(conversation.c.metadata, JSON)).table_valued("key", column("value", JSON))
        is_same = cast(item.c.value, Text) == dump_json(value)
        return exists(select(literal(1)).select_from(item).where(item.c.key == name, is_same))


def _find_end(connection: Connection, tenant: str, conversation_id: UUID | None) -> int | None:
    """Return the time of the last change; None if there are so few messages that all matches are sorted at once."""
    if conversation_id is not None:
        row: Any = connection.execute(_SELECT_EXTENT, {"tenant": tenant, "id": conversation_id}).one_or_none()
        return None if row is None or row.last_seq <= SORT_AT_ONCE else int(row.updated_at)
    if _is_small(connection):
        return None
    newest: int | None = connection.execute(_SELECT_NEWEST, {"tenant": tenant}).scalar_one()
    return newest


def _is_small(connection: Connection) -> bool:
    """Return whether the index has few messages. The answer is kept with the connection for a minute."""
    kept: tuple[float, bool] = connection.info.get(_KEPT, (0.0, False))
    until, is_small = kept
    if time.monotonic() >= until:
        # PostgreSQL's last estimate, for all tenants: -1 if it has never analysed the table. Citus has no rows, and so no
        # estimate, in the table that it distributed.
        estimate, has_citus = connection.execute(_SELECT_ESTIMATE).one()
        is_small = bool(estimate <= SORT_AT_ONCE and not (has_citus and estimate <= 0))
        connection.info[_KEPT] = time.monotonic() + _KEPT_S, is_small
    return is_small


def hash_key(key: str) -> int:
    """Return the 32-bit hash of a key."""
    return zlib.crc32(key.encode()) - 2**31


def hash_keys(keys: Iterable[str]) -> set[int]:
    """Return the hashes of keys."""
    return {hash_key(key) for key in keys}
