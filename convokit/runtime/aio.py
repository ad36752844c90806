"""Perform the effects of a flow in an event loop.

A write is never abandoned. A task that is cancelled during a write learns of the cancellation right after it, when it
is known what was committed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy.engine import URL

from convokit.completion.effects import (
    CloseResponse,
    Effect,
    Emit,
    Flow,
    OpenRequest,
    ReadBody,
    RunTools,
    Sleep,
    Sql,
    Stopped,
)
from convokit.domain.events import Started, StreamEvent
from convokit.errors import ConvokitError
from convokit.runtime.async_store import AsyncStore, open_store
from convokit.runtime.background import Background
from convokit.runtime.config import OnDisconnect, finishes_without_reader
from convokit.runtime.http_answer import AsyncAnswer
from convokit.runtime.http_client import AsyncClient, AsyncHttpxClient, HttpxClient, validate_client
from convokit.runtime.sync_store import migrate
from convokit.runtime.tools import arun_functions
from convokit.store.engine import Durability

Result = TypeVar("Result")


class AsyncRuntime:
    """The connections of a kit: its database, its HTTP client, and the replies that finish without a reader."""

    def __init__(
        self,
        url: URL,
        name: str,
        durability: Durability,
        http_client: AsyncClient | None,
        *,
        search: bool,
        read_only: bool,
    ) -> None:
        self._url, self._name = url, name
        self._store = open_store(url, name, durability, search=search, read_only=read_only)
        self._client = validate_client(http_client, HttpxClient) or AsyncHttpxClient()
        self._background = Background()

    async def migrate(self) -> None:
        """Bring the tables up to date. Raises: StoreError."""
        await asyncio.to_thread(migrate, self._url, self._name)

    async def run(self, flow: Flow[Result]) -> Result:
        """Perform a flow and return its result."""
        return await AsyncDriver(self._store, self._client).run(flow)

    def open_stream(self, flow: Flow[Result], on_disconnect: OnDisconnect = "stop") -> AsyncStream[Result]:
        """Return a stream over the events of a flow. Raises: SettingsError."""
        background = self._background if finishes_without_reader(on_disconnect) else None
        return AsyncStream(AsyncDriver(self._store, self._client), flow, background=background)

    async def close(self) -> None:
        """Wait for replies in the background, then close all connections. A client that was passed in stays open."""
        await self._background.finished()
        await self._client.close()
        await self._store.close()


class _CancelledAfter(BaseException):
    """The task was cancelled during work that was finished all the same: the answer of the work, and the cancellation."""

    def __init__(self, answer: Any, cancelled: asyncio.CancelledError) -> None:
        self.answer = answer
        self.cancelled = cancelled


class AsyncDriver:
    """Performs the effects of one flow at a time."""

    def __init__(
        self, store: AsyncStore, client: AsyncClient, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._store = store
        self._client = client
        self._sleep = sleep
        self._answer: AsyncAnswer | None = None
        self.result: Any = None
        """The result of the last flow: an async generator has no return value."""

    async def run(self, flow: Flow[Result]) -> Result:
        """Perform a flow to its end and return its result. Its events are dropped."""
        async for _ in self.steps(flow):
            pass
        result: Result = self.result
        return result

    async def steps(self, flow: Flow[Any]) -> AsyncGenerator[list[StreamEvent]]:
        """Perform a flow and yield its events as they come. Its result is then in `result`."""
        answer: Any = None
        error: Exception | None = None
        try:
            while True:
                try:
                    effect = flow.send(answer) if error is None else flow.throw(error)
                except StopIteration as stop:
                    self.result = stop.value
                    return
                answer = error = None
                try:
                    if type(effect) is Emit:
                        yield list(effect.events)
                    else:
                        answer = await self._perform(effect)
                except Exception as raised:
                    error = raised
                except _CancelledAfter as finished:
                    await self._wait_for(self._stop(flow, finished.answer, None))
                    raise finished.cancelled from None
                except BaseException:
                    await self._wait_for(self._stop(flow, None, Stopped()))
                    raise
        finally:
            await self._close_response()

    async def _stop(self, flow: Flow[Any], answer: Any, error: Exception | None) -> None:
        """Let the flow save what it has, because its caller is leaving.

        After a write that was finished although its task was cancelled, the flow gets its answer first, and `Stopped` next.
        """
        await self._close_response()
        stop_sent = error is not None
        while True:
            try:
                effect = flow.send(answer) if error is None else flow.throw(error)
            except (StopIteration, Stopped, ConvokitError):
                return
            answer = error = None
            if not stop_sent:
                stop_sent, error = True, Stopped()
                continue
            try:
                if isinstance(effect, Sql):
                    answer = await self._store.run(effect.call, write=effect.write)
                elif isinstance(effect, Sleep):
                    await self._sleep(effect.seconds)
            except Exception as raised:
                error = raised

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case ReadBody(timeout_s):
                assert self._answer is not None
                return await self._answer.read(timeout_s)
            case Sql(call, write):
                return await self._shield(self._store.run(call, write=write))
            case OpenRequest():
                await self._close_response()
                self._answer = await self._client.open(effect)
                return self._answer.head
            case CloseResponse():
                await self._close_response()
            case Sleep(seconds):
                await self._sleep(seconds)
            case RunTools(calls):
                return await arun_functions(calls)
        return None

    async def _shield(self, work: Awaitable[Result]) -> Result:
        """Wait for the end of `work` even if this task is cancelled meanwhile. The cancellation is raised afterwards."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError as cancelled:
            while not task.done():
                try:
                    await asyncio.wait([task])
                except asyncio.CancelledError:
                    continue
            if task.cancelled() or task.exception() is not None:
                raise
            raise _CancelledAfter(task.result(), cancelled) from None

    async def _wait_for(self, saving: Awaitable[None]) -> None:
        """Wait for the last saves. The caller raises its own cancellation afterwards."""
        with contextlib.suppress(_CancelledAfter):
            await self._shield(saving)

    async def _close_response(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.close()


class AsyncStream(Generic[Result]):
    """A reply that is coming: `async for` over its events, then read `.reply`.

    Use it as an async context manager. Leaving early stops the reply and keeps the text that came; with
    `on_disconnect="finish"` the reply comes to its end in a task of its own.
    """

    def __init__(self, driver: AsyncDriver, flow: Flow[Result], *, background: Background | None = None) -> None:
        self._driver = driver
        self._steps = driver.steps(flow) if background is None else background.steps(driver, flow)
        self._events: deque[StreamEvent] = deque()
        self._turn_id: UUID | None = None
        self._closed = False

    async def __aenter__(self) -> AsyncStream[Result]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        while True:
            while self._events:  # a loop that was left continues where it stopped
                yield self._events.popleft()
            try:
                events = await anext(self._steps)
            except StopAsyncIteration:
                return
            if type(events[0]) is Started:
                self._turn_id = events[0].turn_id
            if self._closed:  # by another task meanwhile
                await self._steps.aclose()
                return
            self._events.extend(events)

    @property
    def turn_id(self) -> UUID | None:
        """The turn, to follow or cancel it from anywhere; None until its question is saved."""
        return self._turn_id

    @property
    def reply(self) -> Result:
        """The saved reply. Raises: ConvokitError before the stream's end."""
        if self._driver.result is None:
            raise ConvokitError("the reply is not complete: read the stream to its end first")
        result: Result = self._driver.result
        return result

    async def close(self) -> None:
        """Leave the reply if it is still coming. From another task, it is left at its reader's next event."""
        self._closed = True
        try:
            await self._steps.aclose()
        except RuntimeError:  # another task is reading the stream at this moment
            return
