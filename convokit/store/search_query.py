"""Asking the search index: which messages are likely to match, newest first.

SQLite's FTS5 gives its rows out in that order, so that the first of very many cost no more than the first of a few.
PostgreSQL's index gives all, to be put in order: so it is asked first in which of a few lengths of time there are enough, and
then for those alone. Tenant, role, time and conversation are conditions of the same statement.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    case,
    cast,
    column,
    exists,
    func,
    literal,
    or_,
    select,
    table,
    tuple_,
)
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import UnaryExpression

from convokit.domain import search_words
from convokit.domain.message import MessageRow
from convokit.domain.search_words import PeriodSpan
from convokit.domain.text import dump_json
from convokit.store.schema import FTS, conversation, message, search
from convokit.store.search_index import NUMBERED, MessageRef, hash_key, hash_keys, build_owner_keys, read_indexed_text

SortKey: TypeAlias = tuple[Any, ...]
"""Where a row stands among all rows, newest last: SQLite counts them, PostgreSQL goes by their time."""
_FEW = 16_384
"""So many messages are put in order at once: asking how far back to look would take longer."""
_COLUMNS = tuple(getattr(message.c, name) for name in MessageRow.__slots__)
_pg_class = table("pg_class", column("oid"), column("reltuples"))
_fts = table(FTS, column("rowid", Integer), column(FTS))
_FTS_ROW: ColumnElement[int] = UnaryExpression(_fts.c.rowid, operator=operators.custom_op("+"))
"""The sign keeps SQLite's planner from asking FTS5 for one row after the other."""


@dataclass(slots=True, repr=False)
class SearchFilter:
    """What is looked for: rows that have every one of `keys`, and so of `characters`.

    Times are microseconds since 1970, `until` not included.
    """

    keys: Sequence[str]
    characters: Sequence[str] = ()
    conversation_id: UUID | None = None
    role: str | None = None
    subject: str | None = None
    since: int | None = None
    until: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, repr=False)
class SearchCandidate:
    """A message that is likely to hold the words, and as much of its text as is indexed."""

    order: SortKey
    place: MessageRef
    key: str | None
    text: str


def find_candidates(
    connection: Connection,
    tenant: str,
    wanted: SearchFilter,
    *,
    limit: int,
    top: SortKey | None = None,
    bottom: SortKey | None = None,
    below: SortKey | None = None,
) -> list[SearchCandidate]:
    """Return the tenant's messages that are likely to match, newest first: from `top` to `bottom`, or from before `below`."""
    found: list[SearchCandidate] = []
    spans: list[PeriodSpan] = []
    if connection.dialect.name == "postgresql":
        spans = _spans(connection, tenant, wanted, limit, top, bottom, below)
    bounds = ((top, operator.le), (bottom, operator.ge), (below, operator.lt))
    for span in (*spans, None):
        found = _found(connection, tenant, wanted, span, limit, bounds)
        if len(found) == limit or bottom is not None:
            break
    return found


def _found(
    connection: Connection,
    tenant: str,
    wanted: SearchFilter,
    span: PeriodSpan | None,
    limit: int,
    bounds: Iterable[tuple[SortKey | None, Callable[[Any, Any], Any]]],
) -> list[SearchCandidate]:
    sqlite = connection.dialect.name == "sqlite"
    rows = NUMBERED if sqlite else search
    # by FTS5's own number, not by the row's, which is the same: FTS5 then gives out the newest and is done
    order = [_fts.c.rowid] if sqlite else _order(rows)
    likely = (
        select(*dict.fromkeys([*order, rows.c.conversation_id, rows.c.seq]), conversation.c.key)
        .join_from(rows, conversation, conversation.c.id == rows.c.conversation_id)
        .where(_of_tenant(rows, tenant, wanted), *_conditions(rows, wanted), *_keyed(rows, tenant, wanted, span))
    )
    for bound, compare in bounds:
        if bound is not None:
            likely = likely.where(compare(tuple_(*order), tuple_(*bound)))
    found = likely.order_by(*(each.desc() for each in order)).limit(limit).subquery("likely")
    ordered = [found.c[each.name] for each in order]
    texts = func.substr(message.c.content, 1, search_words.MOST_CHARS), message.c.parts, message.c.refusal
    of_it = (message.c.conversation_id == found.c.conversation_id) & (message.c.seq == found.c.seq)
    statement = select(found, *texts).join_from(found, message, of_it).order_by(*(each.desc() for each in ordered))
    made = []
    for row in connection.execute(statement):
        shape = read_indexed_text(*row[-3:])
        made.append(SearchCandidate(tuple(row[: len(order)]), (row.conversation_id, row.seq), row.key, shape))
    return made


def _spans(
    connection: Connection,
    tenant: str,
    wanted: SearchFilter,
    limit: int,
    top: SortKey | None,
    bottom: SortKey | None,
    below: SortKey | None,
) -> list[PeriodSpan]:
    """Return the times to ask PostgreSQL's index for, one after the other, before it is asked for all there is."""
    if top is not None and bottom is not None:
        whole = search_words.span_covering(bottom[0], top[0])
        return [] if whole is None else [whole]
    if wanted.subject is not None or wanted.metadata:
        return []  # the index does not know what is of it, so that there is no telling how far back to look
    extent = connection.execute(_extent(tenant, wanted.conversation_id)).one_or_none()
    if extent is None or extent.newest is None or extent.most <= _FEW:
        return []
    end: int = extent.newest
    if wanted.until is not None:
        end = min(end, wanted.until)
    if below is not None:
        end = min(end, below[0])
    spans = [search_words.span_ending_at(end, length) for length in search_words.LENGTHS]
    told: int | None = connection.execute(select(_first_of(spans, tenant, wanted, limit))).scalar_one()
    if told is None:
        return []
    which, found = divmod(told, limit + 1)
    return search_words.spans_to_search(end, which, found, limit)


def _extent(tenant: str, conversation_id: UUID | None) -> Any:
    """Return the statement for when the last change was, no message being newer, and about how many messages there are.

    Of a conversation as many as it has; else what PostgreSQL last counted of all tenants', -1 where it never did.
    """
    if conversation_id is None:
        newest = func.max(conversation.c.updated_at).label("newest")
        known = select(_pg_class.c.reltuples).where(_pg_class.c.oid == func.to_regclass(search.name))
        return select(newest, known.scalar_subquery().label("most")).where(conversation.c.tenant == tenant)
    own = (conversation.c.tenant == tenant, conversation.c.id == conversation_id)
    return select(conversation.c.updated_at.label("newest"), conversation.c.last_seq.label("most")).where(*own)


def _first_of(spans: Sequence[PeriodSpan], tenant: str, wanted: SearchFilter, limit: int) -> ColumnElement[int]:
    """Return which span is the first that holds `limit` likely rows, and how many the one before it holds, as one number: that
    which x (limit + 1) + these. Null where none does. Spans behind it are not looked at."""
    whens = []
    before: Any = 0
    for which, span in enumerate(spans):
        there = select(literal(1)).where(*_conditions(search, wanted), *_keyed(search, tenant, wanted, span))
        # named, and so counted once, though it is asked for twice
        counted = select(func.count().label("rows")).select_from(there.limit(limit).subquery()).cte(f"span_{which}")
        count = select(counted.c.rows).scalar_subquery()
        whens.append((count >= limit, which * (limit + 1) + before))
        before = count
    return case(*whens)


def _order(rows: Any) -> list[Any]:
    """Return the columns that say where a row stands."""
    return [rows.c[name] for name in (("id",) if rows is NUMBERED else ("created_at", "conversation_id", "seq"))]


def _of_tenant(rows: Any, tenant: str, wanted: SearchFilter) -> ColumnElement[bool]:
    """Return the condition on the tenant, which all but very few of the index's rows meet: its key is asked for too.

    PostgreSQL does not know that. Told plainly, it expects next to nothing, and asks the index once for each conversation of
    the tenant (218 ms instead of 19, in 100 among 10,000). Of a function it supposes that every other row meets it.
    """
    own = conversation.c.tenant == tenant
    return (
        own if rows is NUMBERED or wanted.conversation_id or wanted.subject is not None else func.coalesce(own, False)
    )


def _keyed(rows: Any, tenant: str, wanted: SearchFilter, span: PeriodSpan | None = None) -> list[ColumnElement[bool]]:
    own, inside = build_owner_keys(tenant, wanted.conversation_id or UUID(int=0))
    # not both: the conversation's few rows need not be looked for among all of its tenant's
    owner = inside if wanted.conversation_id else own
    if rows is search:
        asked = hash_keys(wanted.keys)
        if len(asked) == 1:  # more than one are enough, and what is common costs time
            asked |= hash_keys(wanted.characters)
        held: list[ColumnElement[bool]] = [search.c.words.op("@>")(sorted({hash_key(owner), *asked}))]
        if span is not None:
            held += [search.c.words.op("&&")(sorted(map(hash_key, span.keys))), search.c.created_at >= span.since]
        return held
    keys = (owner, *wanted.keys)
    matching = _fts.c[FTS].op("MATCH")(" AND ".join(f'"{key}"' for key in keys))
    return [matching, rows.c.id == _FTS_ROW]


def _conditions(rows: Any, wanted: SearchFilter) -> list[ColumnElement[bool]]:
    given = (
        (wanted.conversation_id, operator.eq, rows.c.conversation_id),
        (wanted.role, operator.eq, rows.c.role),
        (wanted.subject, operator.eq, conversation.c.subject),
        (wanted.since, operator.ge, rows.c.created_at),
        (wanted.until, operator.lt, rows.c.created_at),
    )
    asked = [compare(column, value) for value, compare, column in given if value is not None]
    return [*asked, *(_has(rows is NUMBERED, name, value) for name, value in wanted.metadata.items())]


def _has(sqlite: bool, name: str, value: Any) -> ColumnElement[bool]:
    """Return whether a conversation's metadata say this, of this very type: 1 is not true, and no text."""
    if not sqlite:  # text as it was stored: PostgreSQL takes nothing out of JSON
        item = func.json_each(cast(conversation.c.metadata, JSON)).table_valued("key", column("value", JSON))
        same = cast(item.c.value, Text) == dump_json(value)
    else:
        item = func.json_each(conversation.c.metadata).table_valued("key", "value", "type")
        kinds = {bool: str(value).lower(), int: "integer", float: "real", str: "text", type(None): "null"}
        kind = item.c.type == kinds[type(value)]
        same = kind if value is None or isinstance(value, bool) else and_(kind, item.c.value == value)
    return exists(select(literal(1)).select_from(item).where(item.c.key == name, same))


def find_sort_key(connection: Connection, tenant: str, place: MessageRef) -> SortKey | None:
    """Return where a message of the tenant stands, or None where it is not in the index."""
    rows = NUMBERED if connection.dialect.name == "sqlite" else search
    statement = select(*_order(rows)).join_from(rows, conversation, conversation.c.id == rows.c.conversation_id)
    of_it = (rows.c.conversation_id == place[0], rows.c.seq == place[1])
    row = connection.execute(statement.where(conversation.c.tenant == tenant, *of_it)).one_or_none()
    return None if row is None else tuple(row)


def read_messages(connection: Connection, places: Sequence[MessageRef]) -> dict[MessageRef, MessageRow]:
    """Return these messages, as many of them as there are."""
    if not places:
        return {}
    # not as a list of pairs: SQLite reads the whole table for one
    asked = [
        and_(message.c.conversation_id == conversation_id, message.c.seq == seq) for conversation_id, seq in places
    ]
    statement: Any = select(message.c.conversation_id, *_COLUMNS).where(or_(*asked))
    rows: list[Any] = list(connection.execute(statement))
    return {(row[0], row[1]): MessageRow(*row[1:]) for row in rows}
