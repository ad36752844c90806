"""The asynchronous driver: the same flows, awaited.

SQL runs as one hop an effect. On PostgreSQL that is the async engine; SQLite has no asynchronous access, only slower detours,
so its transactions run in one writer thread and a few reader threads over the sync engine. A hop that writes is never
abandoned: a task cancelled during it learns of the cancellation right after, when it is known what was committed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine
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
from convokit.errors import ConvokitError, KitClosed
from convokit.runtime import process
from convokit.runtime.background import Background
from convokit.runtime.http_client import AsyncAnswer, AsyncClient
from convokit.runtime.sync import SyncStore
from convokit.runtime.tools import arun_functions
from convokit.store.dialects import dialect_of_url
from convokit.store.engine import (
    WRITE,
    Durability,
    open_async_engine,
    open_engine,
    translate_error,
    validate_durability,
)
from convokit.store.fast_execute import fast_connection

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Result = TypeVar("Result")
_READERS = 4


class AsyncStore(Protocol):
    """Runs a function over a connection in a transaction of its own."""

    async def run(self, call: Callable[[Connection], Result], *, write: bool) -> Result: ...
    async def close(self) -> None: ...


class ThreadedStore:
    """SQLite: one writer thread, a few readers."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._store = SyncStore(engine, name)
        self._writer = ThreadPoolExecutor(1, "convokit-writer")
        self._readers = ThreadPoolExecutor(_READERS, "convokit-reader")
        self._closed = False
        process.watch(self)

    def forked(self) -> None:
        """Start threads anew, in a child process: a fork copies none."""
        self._writer = ThreadPoolExecutor(1, "convokit-writer")
        self._readers = ThreadPoolExecutor(_READERS, "convokit-reader")

    async def run(self, call: Callable[[Connection], Result], *, write: bool) -> Result:
        """Run `call` in a thread. Raises: StoreError."""
        if self._closed:
            raise KitClosed(self._store.name)
        loop = asyncio.get_running_loop()
        pool = self._writer if write else self._readers
        return await loop.run_in_executor(pool, lambda: self._store.run(call, write=write))

    async def close(self) -> None:
        """End the threads and close the connections. Nothing runs any more."""
        self._closed = True
        for pool in (self._writer, self._readers):
            await asyncio.to_thread(pool.shutdown)
        self._store.close()


class AsyncEngineStore:
    """PostgreSQL: the async engine, each hop through `run_sync`."""

    def __init__(self, url: URL, name: str, durability: Durability = "full", *, search: bool = True) -> None:
        self._dialect = dialect_of_url(url)
        self._dialect.require_driver()
        self._durability: Durability = validate_durability(durability)
        self._search = search
        self._url = url
        self._name = name
        self._engines: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[AsyncEngine, AsyncEngine]]
        self._engines = WeakKeyDictionary()
        """A connection belongs to the event loop that made it: `asyncio.run` may be called again and again."""
        self._closed = False
        process.watch(self)

    def forked(self) -> None:
        """Leave the parent's connections alone, in a child process."""
        for engine, _ in self._engines.values():
            engine.sync_engine.dispose(close=False)
        self._engines = WeakKeyDictionary()

    async def run(self, call: Callable[[Connection], Result], *, write: bool) -> Result:
        """Run `call` in a transaction. Raises: StoreError."""
        if self._closed:
            raise KitClosed(self._name)
        try:
            async with self._engine(write=write).begin() as connection:
                return await connection.run_sync(lambda connection: call(fast_connection(connection)))
        except self._dialect.errors as error:
            raise translate_error(self._dialect, self._name, error) from None

    def _engine(self, *, write: bool) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        if loop not in self._engines:
            engine = open_async_engine(self._url, durability=self._durability, search=self._search)
            reader = engine.execution_options(**self._dialect.read_options)
            self._engines[loop] = (engine.execution_options(**{WRITE: True}), reader)
        return self._engines[loop][0 if write else 1]

    async def close(self) -> None:
        """Close the connections. Nothing runs any more."""
        self._closed = True
        engines = self._engines.pop(asyncio.get_running_loop(), None)
        if engines is not None:
            await engines[0].dispose()
        self._engines.clear()


def open_store(url: URL, name: str, durability: Durability = "full", *, search: bool = True) -> AsyncStore:
    """Return the store for a database; nothing is connected yet."""
    if dialect_of_url(url).has_async_driver:
        return AsyncEngineStore(url, name, durability, search=search)
    return ThreadedStore(open_engine(url, durability=durability, search=search), name)


class _LeftAfter(BaseException):
    """The task was cancelled during work that was finished all the same: its answer, and the cancellation."""

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
        """What the last flow returned: an async generator has no return value."""

    async def run(self, flow: Flow[Result]) -> Result:
        """Run a flow to its end and return what it returns; its events go nowhere."""
        async for _ in self.steps(flow):
            pass
        result: Result = self.result
        return result

    async def steps(self, flow: Flow[Any]) -> AsyncGenerator[list[StreamEvent]]:
        """Run a flow, yielding its events as they come; its result is then in `result`."""
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
                except _LeftAfter as left:
                    await self._finished(self._stop(flow, left.answer, None))
                    raise left.cancelled from None
                except BaseException:
                    await self._finished(self._stop(flow, None, Stopped()))
                    raise
        finally:
            await self._let_go()

    async def _stop(self, flow: Flow[Any], answer: Any, error: Exception | None) -> None:
        """Let the flow save what it has, now that its caller is leaving.

        After a hop that was finished though its task was cancelled, the flow hears of its answer first, then that it must stop.
        """
        await self._let_go()
        told = error is not None
        while True:
            try:
                effect = flow.send(answer) if error is None else flow.throw(error)
            except (StopIteration, Stopped, ConvokitError):
                return
            answer = error = None
            if not told:
                told, error = True, Stopped()
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
                return await self._shielded(self._store.run(call, write=write))
            case OpenRequest():
                await self._let_go()
                self._answer = await self._client.open(effect)
                return self._answer.head
            case CloseResponse():
                await self._let_go()
            case Sleep(seconds):
                await self._sleep(seconds)
            case RunTools(calls):
                return await arun_functions(calls)
        return None

    async def _shielded(self, work: Awaitable[Result]) -> Result:
        """Wait for `work` to its end even if this task is cancelled meanwhile; then let the cancellation through."""
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
            raise _LeftAfter(task.result(), cancelled) from None

    async def _finished(self, saving: Awaitable[None]) -> None:
        """Wait for the last saves; the cancellation that brought us here is raised anyway."""
        with contextlib.suppress(_LeftAfter):
            await self._shielded(saving)

    async def _let_go(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.close()


class AsyncStream(Generic[Result]):
    """A reply on its way: `async for` over its events, then read `.reply`. Leaving early keeps what came.

    With `background` the flow runs in a task of its own there, and comes to its end whether anybody reads it or not.
    """

    def __init__(self, driver: AsyncDriver, flow: Flow[Result], *, background: Background | None = None) -> None:
        self._driver = driver
        self._steps = driver.steps(flow) if background is None else background.steps(driver, flow)
        self._events: deque[StreamEvent] = deque()
        self._turn_id: UUID | None = None
        self._left = False

    async def __aenter__(self) -> AsyncStream[Result]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        while True:
            while self._events:  # a loop that was left takes up where it stopped
                yield self._events.popleft()
            try:
                events = await anext(self._steps)
            except StopAsyncIteration:
                return
            if type(events[0]) is Started:
                self._turn_id = events[0].turn_id
            if self._left:  # closed by another task meanwhile
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
        self._left = True
        try:
            await self._steps.aclose()
        except RuntimeError:  # it is being read in another task at this moment
            return
