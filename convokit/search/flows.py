"""Search messages, and index messages that are not indexed.

Candidates come from the index in blocks of 256, newest first. Each candidate's text is checked and ranked. A page shows the
best hits of the newest block first, then those of the next block. A word that is in every message therefore costs as much as a
rare one. Pages neither repeat nor skip hits while messages are added or erased. The hits of a rare word fit in one block and
are ranked together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, read_flow, write_once_flow
from convokit.completion.state import KitState, check_schema_flow, require_search
from convokit.domain.message import SUMMARY, Message
from convokit.errors import InvalidInput, NotFound
from convokit.search.named_conversations import find_named
from convokit.search.parameters import INVALID_CURSOR, SearchCursor, SearchQuery, encode_cursor, parse_search
from convokit.search.query import Hit, SearchPage
from convokit.store import conversations, search_index, search_query
from convokit.store.dialects.protocol import MessageRef, SortKey, SortRange

_BLOCK = 256


def search_flow(
    kit: KitState,
    query: str,
    *,
    role: str | None = None,
    key: str | None = None,
    id: UUID | str | None = None,
    subject: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    metadata: Mapping[str, Any] | None = None,
    summaries: bool = False,
    limit: int = 20,
    before: str | None = None,
) -> Flow[SearchPage]:
    """Return a page of the tenant's messages that match, and the conversations that the query names.

    Raises: InvalidInput, NotFound, SettingsError for a kit with search=False.
    """
    parsed = parse_search(
        kit.limits,
        query,
        role=role,
        key=key,
        id=id,
        subject=subject,
        since=since,
        until=until,
        metadata=metadata,
        summaries=summaries,
        limit=limit,
        before=before,
    )
    require_search(kit)
    yield from check_schema_flow(kit)
    return (yield from read_flow(_read_page, kit.tenant, parsed))


def _read_page(connection: Connection, tenant: str, query: SearchQuery) -> SearchPage:
    page = run_search(connection, tenant, query)
    if not query.names_conversations:
        return page
    return page.model_copy(update={"conversations": find_named(connection, tenant, query)})


def reindex_flow(kit: KitState, progress: Callable[[int], object] | None) -> Flow[int]:
    """Index the tenant's messages and titles that are not indexed, some hundred in each transaction. Return their number.

    An interrupted call keeps what it has indexed. `progress` receives the number so far.
    """
    require_search(kit)
    yield from check_schema_flow(kit)
    after, total = None, 0
    while True:
        after, count = yield from write_once_flow(search_index.index_missing, kit.tenant, after)
        total += count
        if progress is not None:
            progress(total)
        if after is None:
            return total


@dataclass(frozen=True, slots=True)
class _RankedCandidate:
    """A candidate whose text matches, and the block of candidates that it was ranked in."""

    rank: float
    candidate: search_query.SearchCandidate
    block: list[search_query.SearchCandidate]

    @property
    def sort_key(self) -> tuple[float, SortKey]:
        """Orders the hits of a block: by rank, then by time."""
        return self.rank, self.candidate.sort_key


def run_search(connection: Connection, tenant: str, query: SearchQuery) -> SearchPage:
    """Return a page of the tenant's messages that match. Raises: NotFound, InvalidInput."""
    wanted = replace(query.filter, conversation_id=_find_conversation(connection, tenant, query))
    within = SortRange()
    after: tuple[float, SortKey] | None = None
    if (cursor := query.before) is not None:
        # The page continues in the block of its last hit, which is read again by its two ends.
        top, bottom, last = (
            _find_sort_key(connection, tenant, ref) for ref in (cursor.top, cursor.bottom, cursor.last)
        )
        within, after = SortRange(top=top, bottom=bottom), (cursor.rank, last)
    hits: list[_RankedCandidate] = []
    while True:
        block = search_query.find_candidates(connection, tenant, wanted, limit=_BLOCK, within=within)
        ranked = [
            _RankedCandidate(rank, each, block)
            for each in block
            if (query.summaries or each.status != SUMMARY) and (rank := query.text.rank(each.text)) is not None
        ]
        ranked.sort(key=lambda each: each.sort_key, reverse=True)
        hits += [each for each in ranked if after is None or each.sort_key < after]
        below = within.bottom or (block[-1].sort_key if len(block) == _BLOCK else None)
        if len(hits) > query.limit or below is None:
            return _build_page(connection, query, hits)
        within, after = SortRange(below=below), None


def _find_conversation(connection: Connection, tenant: str, query: SearchQuery) -> UUID | None:
    if query.key is not None:
        row = conversations.find_by_key(connection, tenant, query.key)
    elif query.id is not None:
        row = conversations.find(connection, tenant, query.id)
    else:
        return None
    if row is None:
        raise NotFound("conversation", query.key if query.key is not None else query.id)
    return row.id


def _find_sort_key(connection: Connection, tenant: str, ref: MessageRef) -> SortKey:
    sort_key = search_query.find_sort_key(connection, tenant, ref)
    if sort_key is None:
        raise InvalidInput("before", INVALID_CURSOR)
    return sort_key


def _build_page(connection: Connection, query: SearchQuery, hits: list[_RankedCandidate]) -> SearchPage:
    shown = hits[: query.limit]
    rows = search_query.read_messages_by_ref(connection, [each.candidate.message_ref for each in shown])
    items = []
    for each in shown:
        ref, text = each.candidate.message_ref, each.candidate.text
        snippet, marks = query.text.excerpt(text)
        hit = Hit.model_construct(
            conversation_id=ref[0],
            key=each.candidate.key,
            message=Message.from_row(ref[0], rows[ref]),
            snippet=snippet,
            marks=marks,
            rank=each.rank,
        )
        items.append(hit)
    following = None
    if len(hits) > query.limit:
        last = shown[-1]
        cursor = SearchCursor(
            last.block[0].message_ref, last.block[-1].message_ref, last.rank, last.candidate.message_ref
        )
        following = encode_cursor(query.digest, cursor)
    return SearchPage.model_construct(items=items, next=following)
