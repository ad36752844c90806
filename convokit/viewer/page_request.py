"""Read the parameters of a page's request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request

from convokit import AsyncChat, AsyncConvokit
from convokit.errors import InvalidInput, NotFound
from convokit.viewer.access import Authenticate, Viewer
from convokit.viewer.language import Language

if TYPE_CHECKING:
    from convokit.viewer.pages.proof_page import ChainChecks
    from convokit.viewer.pending_reads import PendingReads

Result = TypeVar("Result")
PAGE_SIZE = 50
MAX_NUMBER = 2**31 - 1


class Links:
    """The paths of the pages. They begin with the path that the application is mounted at."""

    def __init__(self, root: str) -> None:
        self.root = root

    def __call__(self, path: str, **query: Any) -> str:
        """Return a path of the viewer. A query value of None is left out."""
        given = {name: value for name, value in query.items() if value is not None and value != ""}
        return self.root + path + (f"?{urlencode(given)}" if given else "")

    def conversation(self, id: UUID | str, branch: int = 0, **query: Any) -> str:
        """Return the path of a conversation, or of one of its branches."""
        return self(f"/c/{id}/b/{branch}" if branch else f"/c/{id}", **query)

    def message(self, id: UUID | str, seq: int) -> str:
        """Return the permalink of a message, with the fragment that scrolls to it."""
        return f"{self.message_page(id, seq)}#m{seq}"

    def message_page(self, id: UUID | str, seq: int) -> str:
        """Return the permalink of a message without its fragment."""
        return self(f"/c/{id}/m/{seq}")

    def turn(self, id: UUID | str, turn: UUID | str) -> str:
        """Return the path of a turn."""
        return self(f"/c/{id}/t/{turn}")

    def message_id(self, message_id: str) -> str:
        """Return the permalink of a message's id."""
        conversation_id, _, seq = message_id.rpartition(":")
        return self.message(conversation_id, int(seq))


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One request of a viewer for a page."""

    request: Request
    viewer: Viewer
    kit: AsyncConvokit
    """The kit of the viewer's tenant. Everything that the page shows is read through it."""
    language: Language
    links: Links
    path: str
    """The path below the mount point."""
    checks: ChainChecks
    """The verifications that this process ran."""
    pending: PendingReads
    auth: Authenticate
    can_sign_out: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    """Headers that the HTML of the page is sent with."""

    @property
    def conversation_id(self) -> UUID:
        """The conversation in the path."""
        found: UUID = self.request.path_params["id"]
        return found

    @property
    def is_json(self) -> bool:
        """Whether a program asks for the values of the page."""
        return self.path.endswith(".json")

    @property
    def show_source(self) -> bool:
        """Whether the page shows texts as they are stored, without Markdown."""
        return self.read_text("source") == "yes"

    async def is_still_allowed(self) -> bool:
        """Return whether the viewer may still look: a key may be revoked while a stream is open."""
        return await self.auth(self.request) == self.viewer

    async def read_in_time(self, start: Callable[[], Awaitable[Result]]) -> Result | None:
        """Return what `start` reads. A page returns None, and loads itself again, if that takes longer than a page may."""
        if self.is_json:
            return await start()
        asked = self.viewer.tenant, self.path, str(self.request.query_params)
        result = await self.pending.read(asked, start)
        if result is None:
            self.headers["refresh"] = "1"
        return result

    def open_chat(self) -> AsyncChat:
        """Return the chat on the conversation and the branch in the path."""
        return self.kit.chat(id=self.conversation_id, branch=self.read_path_number("branch"))

    def read_path_number(self, name: str) -> int:
        """Return a number of the path; 0 if the path has none. Raises: NotFound."""
        number: int = self.request.path_params.get(name, 0)
        if number > MAX_NUMBER:
            raise NotFound(name, number)
        return number

    def read_text(self, name: str) -> str | None:
        """Return a parameter of the query without spaces at its ends; None if it is missing or empty."""
        return (self.request.query_params.get(name) or "").strip() or None

    def read_number(self, name: str) -> int | None:
        """Return a parameter that is a number. Raises: InvalidInput."""
        text = self.read_text(name)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > MAX_NUMBER:
            raise InvalidInput(name, f"must be a number, not {text[:40]!r}")
        return int(text)

    def read_flag(self, name: str) -> bool | None:
        """Return a parameter that is "yes" or "no"; None if it is missing. Raises: InvalidInput."""
        text = self.read_text(name)
        if text not in (None, "yes", "no"):
            raise InvalidInput(name, f"must be yes or no, not {text[:40]!r}")
        return None if text is None else text == "yes"

    def read_time(self, name: str) -> datetime | None:
        """Return a parameter that is a date or a time, in UTC unless it has a zone. Raises: InvalidInput."""
        text = self.read_text(name)
        if text is None:
            return None
        try:
            found = datetime.fromisoformat(text)
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found
        except ValueError:
            raise InvalidInput(name, f"must be a date such as 2026-03-10, not {text[:40]!r}") from None

    def with_query(self, **changed: Any) -> str:
        """Return the path of this page with other parameters. None removes one."""
        return self.links(self.path, **{**dict(self.request.query_params), **changed})

    def query_with(self, **changed: Any) -> str:
        """Return the query of this page with other parameters."""
        return urlencode({**dict(self.request.query_params), **changed})
