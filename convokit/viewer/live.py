"""Stream changes, open replies and the progress of checks as events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response, StreamingResponse

from convokit import ReasoningDelta, TextDelta
from convokit.errors import ConvokitError
from convokit.viewer.page_request import PageRequest
from convokit.viewer.pages.conversation_page import read_conversation

_POLL_S = 1.0
_IDLE_AFTER_S = 60.0
_IDLE_POLL_S = 5.0
_LONGEST_S = 600.0
_ACCESS_S = 5.0
_MAX_STREAMS = 200
"""Of one process. Each stream reads from the database about once a second."""
_streams = 0


async def stream_changes(page: PageRequest) -> Response:
    """Answer with events: `changed` after each write to the conversation, and `text` of the branch's open turn."""
    await read_conversation(page)
    return _answer_events(_while_allowed(page, _follow_conversation(page)))


async def stream_check(page: PageRequest) -> Response:
    """Verify the conversation, and answer with events: `progress`, and `done` at the end."""
    await read_conversation(page)
    return _answer_events(_run_check(page))


def _answer_events(events: AsyncIterator[bytes]) -> Response:
    if _streams >= _MAX_STREAMS:
        return Response("too many streams are open: try again later", 503, {"retry-after": "30"})
    return StreamingResponse(_count(events), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _count(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    global _streams  # noqa: PLW0603  # one number for each process
    _streams += 1
    try:
        async for event in events:
            yield event
    finally:
        _streams -= 1


async def _while_allowed(page: PageRequest, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield events until the viewer's access ends. An open stream brings a comment every few seconds."""
    checked = time.monotonic()
    async for event in events:
        if time.monotonic() - checked > _ACCESS_S:
            if not await page.is_still_allowed():
                return
            checked = time.monotonic()
        yield event


def _dump_event(name: str, value: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode("utf-8", "replace")


async def _follow_conversation(page: PageRequest) -> AsyncIterator[bytes]:
    start = last_change = time.monotonic()
    known: tuple[int, int, bool] | None = None
    while time.monotonic() - start < _LONGEST_S:
        try:
            conversation = await read_conversation(page)
        except ConvokitError:
            return
        state = conversation.last_seq, conversation.last_entry, conversation.open
        if state != known:
            if known is not None:
                last_change = time.monotonic()
            known = state
            yield _dump_event("changed", {"last_seq": state[0], "last_entry": state[1], "open": state[2]})
        if conversation.open:
            async for event in _follow_turn(page):
                yield event
        is_idle = time.monotonic() - last_change > _IDLE_AFTER_S
        yield b": ping\n\n"
        await asyncio.sleep(_IDLE_POLL_S if is_idle else _POLL_S)
    yield _dump_event("end", {})


async def _follow_turn(page: PageRequest) -> AsyncIterator[bytes]:
    """Yield the text of the branch's open turn as it is stored. A turn whose worker is gone brings none."""
    chat = page.open_chat()
    try:
        turns = await chat.turns(limit=1)
        if not turns or turns[-1].state != "open" or turns[-1].worker == "gone":
            return
        turn = str(turns[-1].id)
        async with chat.follow(turn) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    yield _dump_event("text", {"turn": turn, "text": event.text})
                elif isinstance(event, ReasoningDelta):
                    yield _dump_event("reasoning", {"turn": turn, "text": event.reasoning})
    except ConvokitError:  # the turn ended without a whole reply, which the next `changed` shows
        return


async def _run_check(page: PageRequest) -> AsyncIterator[bytes]:
    progress: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def report(done: int, total: int) -> None:  # a thread of the database calls it
        loop.call_soon_threadsafe(progress.put_nowait, (done, total))

    check = asyncio.ensure_future(page.checks.run(page, report))
    try:
        while not check.done():
            waiting = asyncio.ensure_future(progress.get())
            await asyncio.wait([check, waiting], timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                done, total = waiting.result()
                yield _dump_event("progress", {"done": done, "total": total})
            else:
                waiting.cancel()
                yield b": ping\n\n"
        problem = None if check.exception() is None else "the check did not run to its end"
        yield _dump_event("done", {"problem": problem})
    finally:
        check.cancel()
