"""Searching a tenant's messages: candidates from the index, looked at one by one, ranked, and given out in pages.

The best of the newest 256 come first, then the best of the 256 before those, and so on: so a word that stands in every message
costs no more than one that stands in a few, and pages neither repeat nor miss a hit while messages are added or erased. Who
looks for something that is rare gets all of it in one order.

Filling the search index with what is not in it: messages that were written without one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, write_once_flow
from convokit.completion.state import KitState, check_schema_flow, require_search
from convokit.domain.conversation import Page
from convokit.domain.ids import MAX_SEQ, parse_id
from convokit.domain.message import ROLES, Message
from convokit.domain.text import MAX_NUMBER, dump_json, validate_text
from convokit.errors import InvalidInput, NotFound
from convokit.search.query import Hit, TextQuery
from convokit.settings import Limits
from convokit.store import conversations, search_index, search_query
from convokit.store.search_index import MessageRef

MAX_HITS = 100
_BLOCK = 256
_OTHER = "is not a cursor of this search: pass a page's `next`, with all else as that page was asked for"


@dataclass(frozen=True, slots=True, repr=False)
class SearchQuery:
    """A search whose every part has been checked."""

    query: TextQuery
    key: str | None
    id: UUID | None
    wanted: search_query.SearchFilter
    limit: int
    before: _Cursor | None
    digest: str
    """Of everything but the page: a cursor is good for no other search."""


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Where a page ended: the two ends of its last hit's block, and that hit."""

    top: MessageRef
    bottom: MessageRef
    rank: float
    last: MessageRef


def parse_search(
    limits: Limits,
    query: str,
    *,
    role: str | None,
    key: str | None,
    id: UUID | str | None,
    subject: str | None,
    since: datetime | None,
    until: datetime | None,
    metadata: Mapping[str, Any] | None,
    limit: int,
    before: str | None,
) -> SearchQuery:
    """Return what was asked for. Raises: InvalidInput."""
    found = TextQuery.parse(query)
    if role is not None and role not in ROLES:
        raise InvalidInput("role", f"must be one of {', '.join(ROLES)}, not {role!r}")
    if key is not None and id is not None:
        raise InvalidInput("key", "give a key or an id, not both")
    for name, value in (("key", key), ("subject", subject)):
        if value is not None:
            validate_text(name, value, limit=limits.key_chars * 4, setting="Limits.key_chars")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_HITS:
        raise InvalidInput("limit", f"must be a whole number from 1 to {MAX_HITS}, not {limit!r}")
    named = None if id is None else parse_id(id)
    wanted = search_query.SearchFilter(
        keys=found.keys,
        characters=found.characters,
        role=role,
        subject=subject,
        since=_microseconds("since", since),
        until=_microseconds("until", until),
        metadata=_exact(metadata, limits),
    )
    parts = [found.text, role, key, str(named), subject, wanted.since, wanted.until, sorted(wanted.metadata.items())]
    digest = hashlib.sha256(dump_json(parts).encode()).hexdigest()[:16]
    cursor = None if before is None else _cursor(before, digest)
    return SearchQuery(found, key, named, wanted, limit, cursor, digest)


def _microseconds(name: str, given: object) -> int | None:
    if given is None:
        return None
    if not isinstance(given, datetime):
        raise InvalidInput(name, f"must be a datetime, not {type(given).__name__}")
    if given.tzinfo is None:
        raise InvalidInput(name, "has no time zone: say which, for instance with tzinfo=UTC")
    elapsed = given.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


def _exact(given: object, limits: Limits) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidInput("metadata", f"must be a mapping, not {type(given).__name__}")
    made: dict[str, Any] = {}
    for name, value in given.items():
        validate_text("metadata", name, limit=limits.metadata_bytes, setting="Limits.metadata_bytes")
        place = f"metadata.{name}"
        if isinstance(value, str):
            validate_text(place, value, limit=limits.metadata_bytes, setting="Limits.metadata_bytes")
        elif isinstance(value, float):
            if value - value != 0:
                raise InvalidInput(place, f"{value} is not a JSON number")
        elif isinstance(value, int):
            if abs(value) > MAX_NUMBER:
                raise InvalidInput(place, "is a number beyond 2**53")
        elif value is not None:
            raise InvalidInput(place, f"must be text, a number, True, False or None, not {type(value).__name__}")
        made[name] = value
    return made


def run_search(connection: Connection, tenant: str, given: SearchQuery) -> Page[Hit]:
    """Return a page of the tenant's messages that hold what was asked for. Raises: NotFound, InvalidInput."""
    given.wanted.conversation_id = _conversation(connection, tenant, given)
    found: list[_Found] = []
    span: dict[str, search_query.SortKey | None] = {}
    after: tuple[float, search_query.SortKey] | None = None
    if (cursor := given.before) is not None:
        top, bottom, last = (_stands(connection, tenant, place) for place in (cursor.top, cursor.bottom, cursor.last))
        span, after = {"top": top, "bottom": bottom}, (cursor.rank, last)
    while True:
        block = search_query.find_candidates(connection, tenant, given.wanted, limit=_BLOCK, **span)
        ranked = [_Found(rank, each, block) for each in block if (rank := given.query.rank(each.text)) is not None]
        ranked.sort(key=_Found.standing, reverse=True)
        found += [each for each in ranked if after is None or each.standing() < after]
        below = span.get("bottom") or (block[-1].order if len(block) == _BLOCK else None)
        if len(found) > given.limit or below is None:
            return _page(connection, given, found)
        span, after = {"below": below}, None


@dataclass(frozen=True, slots=True)
class _Found:
    """A candidate that holds the words, in its block."""

    rank: float
    candidate: search_query.SearchCandidate
    block: list[search_query.SearchCandidate]

    def standing(self) -> tuple[float, search_query.SortKey]:
        """Return what hits of a block are put in order by: of two as good as each other, the newer comes first."""
        return self.rank, self.candidate.order


def _conversation(connection: Connection, tenant: str, given: SearchQuery) -> UUID | None:
    if given.key is not None:
        row = conversations.find_by_key(connection, tenant, given.key)
    elif given.id is not None:
        row = conversations.find(connection, tenant, given.id)
    else:
        return None
    if row is None:
        raise NotFound("conversation", given.key if given.key is not None else given.id)
    return row.id


def _page(connection: Connection, given: SearchQuery, found: list[_Found]) -> Page[Hit]:
    shown = found[: given.limit]
    rows = search_query.read_messages(connection, [each.candidate.place for each in shown])
    items = []
    for each in shown:
        (conversation_id, _), text = each.candidate.place, each.candidate.text
        snippet, marks = given.query.excerpt(text)
        hit = Hit.model_construct(
            conversation_id=conversation_id,
            key=each.candidate.key,
            message=Message.of(conversation_id, rows[each.candidate.place]),
            snippet=snippet,
            marks=marks,
            rank=each.rank,
        )
        items.append(hit)
    following = _encoded(given.digest, shown[-1]) if len(found) > given.limit else None
    return Page[Hit].model_construct(items=items, next=following)


def _encoded(digest: str, last: _Found) -> str:
    places = (last.block[0].place, last.block[-1].place, last.candidate.place)
    shown = [digest, last.rank, *(part for conversation_id, seq in places for part in (str(conversation_id), seq))]
    return base64.urlsafe_b64encode(dump_json(shown).encode()).decode()


def _cursor(given: object, digest: str) -> _Cursor:
    try:
        made, rank, *parts = json.loads(base64.urlsafe_b64decode(given.encode()))  # type: ignore[attr-defined]
        top, bottom, last = ((UUID(parts[at]), parts[at + 1]) for at in (0, 2, 4))
        if made != digest or not isinstance(rank, float) or len(parts) != 6:
            raise ValueError(made)
        if not all(type(seq) is int and 0 <= seq <= MAX_SEQ for _, seq in (top, bottom, last)):
            raise ValueError(parts)
    except (ValueError, TypeError, AttributeError, IndexError, binascii.Error, RecursionError):
        raise InvalidInput("before", _OTHER) from None
    return _Cursor(top, bottom, rank, last)


def _stands(connection: Connection, tenant: str, place: MessageRef) -> search_query.SortKey:
    found = search_query.find_sort_key(connection, tenant, place)
    if found is None:
        raise InvalidInput("before", _OTHER)
    return found


def reindex_flow(scope: KitState, progress: Callable[[int], object] | None) -> Flow[int]:
    """Index what is missing of the tenant's messages, some at a time, each lot in a transaction; return how many there were.

    What is indexed stays so when it is interrupted: the next call goes on. `progress` is told the number so far.
    """
    require_search(scope)
    yield from check_schema_flow(scope)
    place, count = None, 0
    while True:
        place, found = yield from write_once_flow(search_index.index_missing, scope.tenant, place)
        count += found
        if progress is not None:
            progress(count)
        if place is None:
            return count
