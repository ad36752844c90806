"""Find the conversations that a search query names."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from sqlalchemy import Connection

from convokit.domain.conversation import Conversation
from convokit.domain.text import repair_text
from convokit.search.parameters import SearchQuery
from convokit.store import conversation_pages, search_query
from convokit.store.conversation_pages import ListingFilter

MAX_NAMED = 20


def find_named(connection: Connection, tenant: str, query: SearchQuery) -> list[Conversation]:
    """Return at most 20 conversations: by id, then by the beginning of the key in order, then by the words of the title.

    The filters of the search hold for them. Its times are limits of their last use.
    """
    wanted, given = query.filter, repair_text(query.text.given.strip())
    since, until = wanted.since, wanted.until
    filters = ListingFilter(subject=wanted.subject, since=since, until=until, metadata=wanted.metadata)
    id_ = _parse_owner(given)
    found = [] if id_ is None else _list(connection, tenant, replace(filters, ids=[id_]))
    found += _list(connection, tenant, replace(filters, prefix=given))
    found += search_query.list_by_title(
        connection, tenant, wanted, query.text.is_in, since=since, until=until, limit=MAX_NAMED
    )
    return list({each.id: each for each in found}.values())[:MAX_NAMED]


def _list(connection: Connection, tenant: str, wanted: ListingFilter) -> list[Conversation]:
    return conversation_pages.list_with_previews(connection, tenant, wanted, limit=MAX_NAMED)


def _parse_owner(text: str) -> UUID | None:
    """Return the conversation of an id, or of a message's id; None for other text."""
    try:
        return UUID(text.partition(":")[0])
    except ValueError:
        return None
