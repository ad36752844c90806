"""Search messages, and go straight to an id or a key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from starlette.responses import RedirectResponse, Response

from convokit import SearchPage
from convokit.domain.message import ASSISTANT, TOOL, USER
from convokit.errors import InvalidInput, NotFound
from convokit.viewer.page_request import PageRequest

_HITS = 20
ROLES = (USER, ASSISTANT, TOOL)
_MESSAGE_ID = re.compile(r"([0-9a-fA-F-]{36}):([0-9]{1,9})", re.ASCII)
_GATEWAY_ID = re.compile(
    r"(?:conv_|chatcmpl-|resp_|msg_|fc_|fco_)([0-9a-f]{32})(?:([0-9a-f]{32})|_([0-9]{1,9}))?(?:_[0-9]{1,6})?", re.ASCII
)
"""An id of the gateway: of a conversation, and in it of a turn or of a message by its seq."""


@dataclass(frozen=True, slots=True)
class SearchResults:
    """One page of hits, and the filters."""

    query: str
    role: str | None
    subject: str | None
    since: datetime | None
    until: datetime | None
    page: SearchPage | None
    """None without a query."""

    @property
    def is_filtered(self) -> bool:
        """Whether any filter narrows the search."""
        return any(value is not None for value in (self.role, self.subject, self.since, self.until))


async def read_search(page: PageRequest) -> SearchResults | Response:
    """Search for the query, or redirect to the message or the conversation that it names exactly."""
    query = page.read_text("q") or ""
    role = page.read_text("role")
    if role not in (None, *ROLES):
        raise InvalidInput("role", f"must be one of {', '.join(ROLES)}, not {role[:40]!r}")
    subject, since, until = page.read_text("subject"), page.read_time("since"), page.read_time("until")
    if not query:
        return SearchResults(query, role, subject, since, until, None)
    place = await _find_place(page, query)
    if place is not None:
        return RedirectResponse(place, 303)
    found = await page.kit.search(
        query,
        role=role,
        subject=subject,
        since=since,
        until=until,
        limit=_HITS,
        before=page.read_text("before"),
    )
    for conversation in found.conversations:
        if query in (conversation.key, str(conversation.id)):
            return RedirectResponse(page.links.conversation(conversation.id), 303)
    return SearchResults(query, role, subject, since, until, found)


async def _find_place(page: PageRequest, query: str) -> str | None:
    """Return the path of the message, turn or conversation whose id the query is, or None."""
    named = _MESSAGE_ID.fullmatch(query)
    if named is not None:
        return page.links.message(UUID(named[1]), int(named[2]))
    named = _GATEWAY_ID.fullmatch(query)
    if named is not None:
        conversation_id = UUID(named[1])
        if named[2] is not None:
            return page.links.turn(conversation_id, UUID(named[2]))
        seq = named[3]
        return (
            page.links.conversation(conversation_id) if seq is None else page.links.message(conversation_id, int(seq))
        )
    try:
        turn = await page.kit.turn(UUID(query))
    except (ValueError, NotFound):
        return None
    return page.links.turn(turn.conversation_id, turn.id)
