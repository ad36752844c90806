"""Read a turn, the requests of its calls, and the next request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from starlette.responses import Response

from convokit import Context, Diff, PastWindow, Replay, TurnRecord
from convokit.errors import ContextOverflow, InvalidInput, NotFound, SettingsError
from convokit.viewer.message_view import measure_sent_message
from convokit.viewer.page_request import PageRequest
from convokit.viewer.page_size import find_page


@dataclass(frozen=True, slots=True)
class TurnPage:
    """A turn with its calls and tool runs."""

    conversation_id: UUID
    turn: TurnRecord


@dataclass(frozen=True, slots=True)
class RequestPage:
    """What was sent with a call."""

    conversation_id: UUID
    replay: Replay
    view: str
    """"messages", "json" or "bytes"."""
    first: int
    """The index of the first message on the page."""
    end: int
    """The index behind the last message on the page."""

    @property
    def has_prompt(self) -> bool:
        """Whether the first message of the request is the developer prompt."""
        messages = self.replay.messages
        return self.replay.prompt is not None and bool(messages) and messages[0]["role"] in ("system", "developer")


@dataclass(frozen=True, slots=True)
class WindowPage:
    """What the model saw in a call, and why the rest stayed out."""

    conversation_id: UUID
    turn_id: UUID
    call: int
    window: PastWindow


@dataclass(frozen=True, slots=True)
class DiffPage:
    """The first difference of two requests."""

    conversation_id: UUID
    diff: Diff


@dataclass(frozen=True, slots=True)
class NextPage:
    """What would be sent with a next question."""

    conversation_id: UUID
    context: Context | None
    """None: it is being built, or there is a problem."""
    problem: str | None = None
    """Why no request can be built."""


_VIEWS = ("messages", "json", "bytes")
_MAX_MESSAGES = 100
_MAX_PARTS = 300
"""Of a window on one page: each takes 250 bytes."""


async def read_turn(page: PageRequest) -> TurnPage:
    """Read a turn."""
    turn = await page.open_chat().turn(page.request.path_params["turn"])
    return TurnPage(page.conversation_id, turn)


async def read_request(page: PageRequest) -> RequestPage:
    """Build the request of a call again."""
    view = page.read_text("view") or _VIEWS[0]
    if view not in _VIEWS:
        raise InvalidInput("view", f"must be one of {', '.join(_VIEWS)}, not {view[:40]!r}")
    replay = await page.open_chat().replay(page.request.path_params["turn"], call=page.read_path_number("call"))
    end = min(page.read_number("before") or len(replay.messages), len(replay.messages))
    return RequestPage(page.conversation_id, replay, view, _find_first(replay.messages, end), end)


def _find_first(messages: Sequence[Mapping[str, Any]], end: int) -> int:
    """Return the index of the first message of the page that ends before `end`."""
    start = max(0, end - _MAX_MESSAGES)
    sizes = [measure_sent_message(message) for message in messages[start:end]]
    return start + find_page(sizes, len(sizes) - 1)[0] if sizes else 0


async def download_request(page: PageRequest) -> Response:
    """Return the bytes of a request as they were sent. Raises: NotFound if they are not known any more."""
    replay = (await read_request(page)).replay
    if replay.body is None:
        raise NotFound("request", "as it was sent")
    name = f"request-{str(replay.turn_id)[:8]}-{replay.call}.json"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(replay.body, media_type="application/json", headers=headers)


async def read_window(page: PageRequest) -> WindowPage:
    """Read what the model saw in a call."""
    turn_id, call = page.request.path_params["turn"], page.read_path_number("call")
    window = await page.open_chat().window(turn_id, call=call, limit=_MAX_PARTS)
    return WindowPage(page.conversation_id, turn_id, call, window)


async def read_diff(page: PageRequest) -> DiffPage:
    """Compare the requests of two turns."""
    turns = []
    for name in ("a", "b"):
        text = page.read_text(name) or ""
        try:
            turns.append(UUID(text))
        except ValueError:
            raise InvalidInput(name, f"must be the id of a turn, not {text[:40]!r}") from None
    return DiffPage(page.conversation_id, await page.open_chat().diff(*turns))


async def read_next(page: PageRequest) -> NextPage:
    """Build the request that a next question would send."""
    try:
        return NextPage(page.conversation_id, await page.read_in_time(page.open_chat().context))
    except (SettingsError, ContextOverflow) as error:  # such as no model: the program that sends may name one
        return NextPage(page.conversation_id, None, str(error))
