"""Run turns in tasks, and hand their events to readers.

A turn goes on when its client leaves. Readers in this process get the events as they come; readers elsewhere follow the turn
in the database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

from convokit import AsyncStream, Reply
from convokit.async_chat import AsyncChat
from convokit.domain.events import Finished, HistoryGap, Retrying, Started, StreamEvent

_NO_CONTENT = (Started, Retrying, HistoryGap, Finished)


class RunningTurn:
    """A turn that this process runs or follows: its events so far, and its end."""

    def __init__(self, chat: AsyncChat) -> None:
        self.chat = chat
        self.turn_id: UUID | None = None
        """None until the question is saved."""
        self._events: list[StreamEvent] = []
        self._has_content = False
        self._reply: Reply | None = None
        self._error: BaseException | None = None
        self._is_over = False
        self._changed = asyncio.Event()

    @property
    def conversation_id(self) -> UUID:
        """The id of the conversation, which is known when the turn has started."""
        assert self.chat.id is not None
        return self.chat.id

    @property
    def base_url(self) -> str | None:
        """The URL of the model's server, which no answer may contain."""
        return self.chat._state.base_url

    async def run_stream(self, stream: AsyncStream[Reply], on_start: Callable[[RunningTurn], None]) -> None:
        """Read a stream to its end."""

        async def read() -> Reply:
            async with stream:
                async for event in stream:
                    if type(event) is Started:
                        self.turn_id = event.turn_id
                        on_start(self)
                    self._has_content = self._has_content or type(event) not in _NO_CONTENT
                    self._events.append(event)
                    self._notify()
            return stream.reply

        await self.run(read())

    async def run(self, sending: Awaitable[Reply]) -> None:
        """Wait for a reply."""
        try:
            self._reply = await sending
            self.turn_id = self._reply.turn_id
        except Exception as error:
            self._error = error
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._is_over = True
            self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def read(self, ping_s: float) -> AsyncIterator[list[StreamEvent]]:
        """Yield the events from the first on, all that are there at once; an empty list after `ping_s` without any.

        Raises: the error that ended the turn.
        """
        position = 0
        while True:
            events = self._events[position:]
            if events:
                position += len(events)
                yield events
            elif self._is_over:
                if self._error is not None:
                    raise self._error
                return
            elif not await self._wait(ping_s):
                yield []

    async def _wait(self, seconds: float) -> bool:
        """Return whether something happened within some seconds."""
        changed = self._changed
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            return False
        return True

    async def wait_for_reply(self) -> Reply:
        """Return the saved reply. Raises: the error that ended the turn."""
        while not self._is_over:
            await self._wait(3600)
        if self._error is not None:
            raise self._error
        assert self._reply is not None
        return self._reply

    async def wait_for_start(self) -> UUID:
        """Return the id of the turn when its question is saved. Raises: the error that ended it before."""
        while self.turn_id is None:
            if self._is_over:
                await self.wait_for_reply()
            await self._wait(3600)
        return self.turn_id

    async def wait_for_content(self, seconds: float) -> None:
        """Wait for the first chunk, the end, or some seconds. Raises: the error of a turn that ended before its first chunk.

        So an error that comes at once is answered with its own status.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not self._has_content and not self._is_over and loop.time() < until:
            await self._wait(until - loop.time())
        if self._is_over and self._error is not None and not self._has_content:
            raise self._error


class TurnRegistry:
    """The turns that this process runs, by their ids."""

    def __init__(self) -> None:
        self._by_id: dict[UUID, RunningTurn] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start_stream(self, chat: AsyncChat, stream: AsyncStream[Reply]) -> RunningTurn:
        """Run a turn from its stream."""
        turn = RunningTurn(chat)
        self._start(turn, turn.run_stream(stream, self._register))
        return turn

    def start(self, chat: AsyncChat, sending: Awaitable[Reply]) -> RunningTurn:
        """Run a turn that is not streamed."""
        turn = RunningTurn(chat)
        self._start(turn, turn.run(sending))
        return turn

    def follow(self, chat: AsyncChat, turn_id: UUID) -> RunningTurn:
        """Return a turn of any process."""
        turn = self._by_id.get(turn_id)
        if turn is None:
            turn = RunningTurn(chat)
            self._start(turn, turn.run_stream(chat.follow(turn_id), self._register))
        return turn

    def _start(self, turn: RunningTurn, running: Awaitable[None]) -> None:
        task = asyncio.ensure_future(running)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._forget(task, turn))

    def _register(self, turn: RunningTurn) -> None:
        assert turn.turn_id is not None
        self._by_id.setdefault(turn.turn_id, turn)

    def _forget(self, task: asyncio.Future[None], turn: RunningTurn) -> None:
        self._tasks.discard(task)
        if turn.turn_id is not None and self._by_id.get(turn.turn_id) is turn:
            del self._by_id[turn.turn_id]

    async def finish(self, timeout_s: float) -> int:
        """Wait until all turns have ended, at most `timeout_s`, and return how many have not."""
        until = time.monotonic() + timeout_s
        while self._tasks and (left_s := until - time.monotonic()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left_s)  # requests that are being read may start further turns
        return len(self._tasks)

    async def stop(self, timeout_s: float) -> int:
        """Stop all turns, wait until their partial replies are saved, and return how many turns there were."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        return len(tasks)
