"""Validate search parameters and encode page cursors."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from convokit.domain.ids import MAX_SEQ, parse_id
from convokit.domain.message import ROLES, to_microseconds
from convokit.domain.text import MAX_NUMBER, dump_json, validate_text
from convokit.errors import InvalidInput
from convokit.search.query import TextQuery
from convokit.settings import Limits
from convokit.store.dialects.protocol import MessageRef, SearchFilter

MAX_HITS = 100
INVALID_CURSOR = "is not a cursor of this search; pass a page's `next` and repeat all other parameters"


@dataclass(frozen=True, slots=True)
class SearchCursor:
    """The end of a page: the first and last candidate of its last hit's block, and that hit with its rank."""

    top: MessageRef
    bottom: MessageRef
    rank: float
    last: MessageRef


@dataclass(frozen=True, slots=True, repr=False)
class SearchQuery:
    """A search with validated parameters."""

    text: TextQuery
    key: str | None
    id: UUID | None
    filter: SearchFilter
    summaries: bool
    limit: int
    before: SearchCursor | None
    names_conversations: bool
    """Whether the search also lists conversations: on its first page, if no filter is for messages alone."""
    digest: str
    """A digest of all parameters except the page. A cursor contains it, so that it serves no other search."""


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
    summaries: bool,
    limit: int,
    before: str | None,
) -> SearchQuery:
    """Validate the parameters of a search. Raises: InvalidInput, TooLarge."""
    text = TextQuery.parse(query)
    if role is not None and role not in ROLES:
        raise InvalidInput("role", f"must be one of {', '.join(ROLES)}, not {role!r}")
    if key is not None and id is not None:
        raise InvalidInput("key", "give a key or an id, not both")
    for name, value in (("key", key), ("subject", subject)):
        if value is not None:
            validate_text(name, value, limit=limits.key_chars * 4, setting="Limits.key_chars")
    if not isinstance(summaries, bool):
        raise InvalidInput("summaries", f"must be True or False, not {summaries!r}")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_HITS:
        raise InvalidInput("limit", f"must be an integer from 1 to {MAX_HITS}, not {limit!r}")
    conversation_id = None if id is None else parse_id(id)
    filter_ = SearchFilter(
        keys=text.keys,
        role=role,
        subject=subject,
        since=None if since is None else to_microseconds("since", since),
        until=None if until is None else to_microseconds("until", until),
        metadata=_validate_metadata(metadata, limits),
    )
    times, values = (filter_.since, filter_.until), sorted(filter_.metadata.items())
    parts = [text.text, role, key, str(conversation_id), subject, *times, values, summaries]
    digest = hashlib.sha256(dump_json(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    cursor = None if before is None else _decode_cursor(before, digest)
    lists = before is None and (role, key, id) == (None, None, None)
    return SearchQuery(text, key, conversation_id, filter_, summaries, limit, cursor, lists, digest)


def _validate_metadata(given: object, limits: Limits) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidInput("metadata", f"must be a mapping, not {type(given).__name__}")
    values: dict[str, Any] = {}
    for name, value in given.items():
        validate_text("metadata", name, limit=limits.metadata_bytes, setting="Limits.metadata_bytes")
        field = f"metadata.{name}"
        if isinstance(value, str):
            validate_text(field, value, limit=limits.metadata_bytes, setting="Limits.metadata_bytes")
        elif isinstance(value, float):
            if value - value != 0:  # NaN and infinities
                raise InvalidInput(field, f"{value} is not a JSON number")
        elif isinstance(value, int):
            if abs(value) > MAX_NUMBER:
                raise InvalidInput(field, "is larger than 2**53")
        elif value is not None:
            raise InvalidInput(field, f"must be text, a number, True, False or None, not {type(value).__name__}")
        values[name] = value
    return values


def encode_cursor(digest: str, cursor: SearchCursor) -> str:
    """Return the cursor of the next page as text."""
    refs = (cursor.top, cursor.bottom, cursor.last)
    parts = [digest, cursor.rank, *(part for conversation_id, seq in refs for part in (str(conversation_id), seq))]
    return base64.urlsafe_b64encode(dump_json(parts).encode()).decode()


def _decode_cursor(given: object, digest: str) -> SearchCursor:
    try:
        found, rank, *parts = json.loads(base64.urlsafe_b64decode(given.encode()))  # type: ignore[attr-defined]
        top, bottom, last = ((UUID(parts[at]), parts[at + 1]) for at in (0, 2, 4))
        if found != digest or not isinstance(rank, float) or len(parts) != 6:
            raise ValueError(found)
        if not all(type(seq) is int and 0 <= seq <= MAX_SEQ for _, seq in (top, bottom, last)):
            raise ValueError(parts)
    except (ValueError, TypeError, AttributeError, IndexError, binascii.Error, RecursionError):
        raise InvalidInput("before", INVALID_CURSOR) from None
    return SearchCursor(top, bottom, rank, last)
