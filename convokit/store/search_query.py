"""Find likely matches in the search index, newest first.

Tenant, role, time and conversation are conditions of the same statement. The keys of an index are not exact on PostgreSQL, so
the caller checks the text of each candidate.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, tuple_

from convokit.domain.conversation import Conversation
from convokit.domain.message import MessageRow, extract_row_text
from convokit.domain.search_periods import PeriodSpan
from convokit.domain.search_words import MAX_INDEXED_CHARS
from convokit.store import conversation_pages
from convokit.store.dialects import dialect_of
from convokit.store.dialects.protocol import TITLE_SEQ, MessageRef, SearchDialect, SearchFilter, SortKey, SortRange
from convokit.store.schema import conversation, message

EVERYTHING = SortRange()
_TITLES_FOR_ONE = 5
"""Titles that are read for each one that is wanted."""
_COLUMNS = tuple(getattr(message.c, name) for name in MessageRow.__slots__)


@dataclass(slots=True, repr=False)
class SearchCandidate:
    """A message that is likely to match, with its conversation's key and its indexed text."""

    sort_key: SortKey
    message_ref: MessageRef
    key: str | None
    status: str
    text: str


def find_candidates(
    connection: Connection, tenant: str, wanted: SearchFilter, *, limit: int, within: SortRange = EVERYTHING
) -> list[SearchCandidate]:
    """Return the tenant's messages that are likely to match, newest first."""
    index = dialect_of(connection).search
    found: list[SearchCandidate] = []
    spans = index.choose_spans(connection, tenant, wanted, within, limit)
    for span in (*spans, None):  # None: all times
        found = _read_candidates(connection, index, tenant, wanted, span, limit, within)
        if len(found) == limit or within.bottom is not None:
            break
    return found


def _read_candidates(
    connection: Connection,
    index: SearchDialect,
    tenant: str,
    wanted: SearchFilter,
    span: PeriodSpan | None,
    limit: int,
    within: SortRange,
) -> list[SearchCandidate]:
    rows, order = index.rows, index.match_sort_columns
    matches = (
        select(*dict.fromkeys([*order, rows.c.conversation_id, rows.c.seq]), conversation.c.key)
        .join_from(rows, conversation, conversation.c.id == rows.c.conversation_id)
        .where(
            index.match_tenant(tenant, wanted),
            *build_column_conditions(index, wanted),
            *(index.match_metadata(name, value) for name, value in wanted.metadata.items()),
            *index.match(tenant, wanted, span),
        )
    )
    if wanted.conversation_id is not None:
        # A distributed database asks one server if each level names the conversation.
        matches = matches.where(conversation.c.id == wanted.conversation_id)
    bounds = ((within.top, operator.le), (within.bottom, operator.ge), (within.below, operator.lt))
    for bound, compare in bounds:
        if bound is not None:
            matches = matches.where(compare(tuple_(*order), tuple_(*bound)))
    found = matches.order_by(*(each.desc() for each in order)).limit(limit).subquery("likely")
    ordered = [found.c[each.name] for each in order]
    # Only the indexed part of the text: a message may be many megabytes long.
    text = func.substr(message.c.content, 1, MAX_INDEXED_CHARS), message.c.parts, message.c.refusal
    is_same: Any = (message.c.conversation_id == found.c.conversation_id) & (message.c.seq == found.c.seq)
    if wanted.conversation_id is not None:
        is_same = and_(is_same, message.c.conversation_id == wanted.conversation_id)
    statement = (
        select(found, message.c.status, *text)
        .join_from(found, message, is_same)
        .order_by(*(each.desc() for each in ordered))
    )
    return [
        SearchCandidate(
            tuple(row[: len(order)]), (row.conversation_id, row.seq), row.key, row.status, extract_row_text(*row[-3:])
        )
        for row in connection.execute(statement)
    ]


def build_column_conditions(index: SearchDialect, wanted: SearchFilter) -> list[ColumnElement[bool]]:
    """Return the conditions on columns of the index rows and of the conversation, without the metadata."""
    rows = index.rows
    is_title = operator.eq if wanted.titles else operator.ne
    conditions = (
        (TITLE_SEQ, is_title, rows.c.seq),
        (wanted.conversation_id, operator.eq, rows.c.conversation_id),
        (wanted.role, operator.eq, rows.c.role),
        (wanted.subject, operator.eq, conversation.c.subject),
        (wanted.since, operator.ge, rows.c.created_at),
        (wanted.until, operator.lt, rows.c.created_at),
    )
    return [compare(column, value) for value, compare, column in conditions if value is not None]


def list_by_title(
    connection: Connection,
    tenant: str,
    wanted: SearchFilter,
    is_match: Callable[[str], bool],
    *,
    since: int | None,
    until: int | None,
    limit: int,
) -> list[Conversation]:
    """Return the tenant's conversations whose titles have the keys and satisfy `is_match`, the newest first.

    `since` and `until` are limits of the last use.
    """
    index, wanted = dialect_of(connection).search, replace(wanted, titles=True, since=None, until=None)
    order = index.match_sort_columns
    query = (
        select(*dict.fromkeys([*order, index.rows.c.conversation_id]))
        .join_from(index.rows, conversation, conversation.c.id == index.rows.c.conversation_id)
        .where(
            index.match_tenant(tenant, wanted),
            *build_column_conditions(index, wanted),
            *(index.match_metadata(name, value) for name, value in wanted.metadata.items()),
            *index.match(tenant, wanted, None),
        )
    )
    for bound, compare in ((since, operator.ge), (until, operator.lt)):
        if bound is not None:
            query = query.where(compare(conversation.c.updated_at, bound))
    # The keys of an index may be not exact, and a phrase is more than its keys.
    likely = query.order_by(*(each.desc() for each in order)).limit(limit * _TITLES_FOR_ONE).subquery("likely")
    found = conversation_pages.list_matches(connection, tenant, likely, [likely.c[each.name].desc() for each in order])
    return [each for each in found if each.title is not None and is_match(each.title)][:limit]


def find_sort_key(connection: Connection, tenant: str, ref: MessageRef) -> SortKey | None:
    """Return the position of a tenant's message in the index; None if it is not indexed."""
    index = dialect_of(connection).search
    rows = index.rows
    statement = (
        select(*index.sort_columns)
        .join_from(rows, conversation, conversation.c.id == rows.c.conversation_id)
        .where(
            conversation.c.tenant == tenant,
            conversation.c.id == ref[0],
            rows.c.conversation_id == ref[0],
            rows.c.seq == ref[1],
        )
    )
    row = connection.execute(statement).one_or_none()
    return None if row is None else tuple(row)


def read_messages_by_ref(connection: Connection, refs: Sequence[MessageRef]) -> dict[MessageRef, MessageRow]:
    """Return the messages of these that exist."""
    if not refs:
        return {}
    seqs: dict[UUID, list[int]] = {}
    for conversation_id, seq in refs:
        seqs.setdefault(conversation_id, []).append(seq)
    # OR instead of `IN` with a list of pairs: SQLite reads the whole table for that.
    wanted = [and_(message.c.conversation_id == each, message.c.seq.in_(of_one)) for each, of_one in seqs.items()]
    statement: Any = select(message.c.conversation_id, *_COLUMNS).where(or_(*wanted))
    rows: list[Any] = list(connection.execute(statement))
    return {(row[0], row[1]): MessageRow(*row[1:]) for row in rows}
