"""Read the list of conversations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from convokit import Conversation
from convokit.viewer.page_request import PAGE_SIZE, PageRequest


@dataclass(frozen=True, slots=True)
class ListFilter:
    """The filters of the list, as the reader set them. None is no filter."""

    subject: str | None
    prefix: str | None
    archived: bool | None
    open: bool | None
    since: datetime | None
    until: datetime | None

    @property
    def is_set(self) -> bool:
        """Whether any filter is set."""
        return any(
            value is not None for value in (self.subject, self.prefix, self.archived, self.open, self.since, self.until)
        )


@dataclass(frozen=True, slots=True)
class ConversationList:
    """One page of the tenant's conversations."""

    filter: ListFilter
    conversations: list[Conversation]
    next: str | None
    """The cursor of the next page."""


async def read_conversations(page: PageRequest) -> ConversationList:
    """Read a page of conversations: the last used first, or by key with `prefix`."""
    wanted = ListFilter(
        page.read_text("subject"),
        page.read_text("prefix"),
        page.read_flag("archived"),
        page.read_flag("open"),
        page.read_time("since"),
        page.read_time("until"),
    )
    found = await page.kit.conversations(
        subject=wanted.subject,
        prefix=wanted.prefix,
        archived=wanted.archived,
        open=wanted.open,
        since=wanted.since,
        until=wanted.until,
        limit=PAGE_SIZE,
        before=page.read_text("before"),
    )
    return ConversationList(wanted, found.items, found.next)
