"""The synchronous driver: performs a flow's effects one after the other, in the caller's thread."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar
from uuid import UUID

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
from convokit.runtime.http_client import Answer, Client
from convokit.runtime.tools import run_functions
from convokit.store import migrations
from convokit.store.dialects import dialect_of
from convokit.store.engine import WRITE, open_engine, translate_error
from convokit.store.fast_execute import fast_connection

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class SyncStore:
    """Transactions on one engine. On SQLite one writer at a time per process: its own waiting is not fair."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self._dialect = dialect_of(engine)
        self._writer = engine.execution_options(**{WRITE: True})
        self._reader = engine.execution_options(**self._dialect.read_options)
        self._lock = threading.Lock() if self._dialect.has_single_writer else None
        self._closed = False
        process.watch(self)

    def forked(self) -> None:
        """Leave the parent's connections alone, in a child process."""
        self.engine.dispose(close=False)
        self._lock = threading.Lock() if self._lock is not None else None

    def run(self, call: Callable[[Connection], Result], *, write: bool) -> Result:
        """Run `call` in a transaction of its own. Raises: StoreError."""
        if self._closed:
            raise KitClosed(self.name)
        try:
            if not write:
                with self._reader.begin() as connection:
                    return call(fast_connection(connection))
            if self._lock is None:
                with self._writer.begin() as connection:
                    return call(fast_connection(connection))
            with self._lock, self._writer.begin() as connection:
                return call(fast_connection(connection))
        except self._dialect.errors as error:
            raise translate_error(self._dialect, self.name, error) from None

    def close(self) -> None:
        """Close the connections. Nothing runs any more."""
        self._closed = True
        self.engine.dispose()


def migrate_once(url: URL, name: str) -> None:
    """Bring the tables up to date over a connection of its own. Raises: StoreError."""
    engine = open_engine(url, create=True)
    store = SyncStore(engine, name)
    try:
        store.run(migrations.upgrade, write=True)
    finally:
        store.close()


class SyncDriver:
    """Performs the effects of one flow at a time."""

    def __init__(self, store: SyncStore, client: Client, sleep: Callable[[float], None] = time.sleep) -> None:
        self._store = store
        self._client = client
        self._sleep = sleep
        self._answer: Answer | None = None

    def run(self, flow: Flow[Result]) -> Result:
        """Run a flow to its end and return what it returns; its events go nowhere."""
        steps = self.steps(flow)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                result: Result = stop.value
                return result

    def steps(self, flow: Flow[Result], *, finish: bool = False) -> Generator[list[StreamEvent], None, Result]:
        """Run a flow, yielding its events as they come; the iterator's return value is the flow's.

        When its reader leaves, the flow saves what it has; with `finish` it runs to its end first, in the reader's thread.
        """
        answer: Any = None
        error: Exception | None = None
        try:
            while True:
                try:
                    effect = flow.send(answer) if error is None else flow.throw(error)
                except StopIteration as stop:
                    result: Result = stop.value
                    return result
                answer = error = None
                try:
                    if type(effect) is Emit:
                        yield list(effect.events)
                    else:
                        answer = self._perform(effect)
                except Exception as raised:
                    error = raised
                except GeneratorExit:
                    if finish:
                        self._finish(flow)
                    else:
                        self._stop(flow, effect)
                    raise
                except BaseException:
                    self._stop(flow, effect)
                    raise
        finally:
            self._let_go()

    def _finish(self, flow: Flow[Any]) -> None:
        """Run the flow to its end, though nobody reads its events any more."""
        try:
            self.run(flow)
        except ConvokitError as error:
            log.warning("a reply whose reader had left ended in %s", type(error).__name__)

    def _stop(self, flow: Flow[Any], effect: Effect) -> None:
        """Let the flow save what it has, now that its caller is leaving; nothing else is done for it any more.

        After a write that was done though we were interrupted, the flow hears of its answer first, then that it must stop.
        """
        self._let_go()
        answer: Any = None
        if isinstance(effect, Sql) and effect.find_committed is not None:
            with contextlib.suppress(ConvokitError):
                answer = self._store.run(effect.find_committed, write=False)
        error: Exception | None = Stopped() if answer is None else None
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
                answer = self._perform(effect) if isinstance(effect, Sql | Sleep) else None
            except Exception as raised:
                error = raised

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case ReadBody(timeout_s):
                assert self._answer is not None
                return self._answer.read(timeout_s)
            case Sql(call, write):
                return self._store.run(call, write=write)
            case OpenRequest():
                self._let_go()
                self._answer = self._client.open(effect)
                return self._answer.head
            case CloseResponse():
                self._let_go()
            case Sleep(seconds):
                self._sleep(seconds)
            case RunTools(calls):
                return run_functions(calls)
        return None

    def _let_go(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()


class Stream(Generic[Result]):
    """A reply on its way: iterate over its events, then read `.reply`.

    Use it as a context manager: leaving early stops the reply and keeps what came; with `finish` it comes to its end first.
    """

    def __init__(self, driver: SyncDriver, flow: Flow[Result], *, finish: bool = False) -> None:
        self._steps = driver.steps(flow, finish=finish)
        self._events: deque[StreamEvent] = deque()
        self._reply: Result | None = None
        self._turn_id: UUID | None = None
        self._left = False

    def __enter__(self) -> Stream[Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[StreamEvent]:
        while True:
            while self._events:  # a loop that was left takes up where it stopped
                yield self._events.popleft()
            try:
                events = next(self._steps)
            except StopIteration as stop:
                if stop.value is not None:
                    self._reply = stop.value
                return
            if type(events[0]) is Started:
                self._turn_id = events[0].turn_id
            if self._left:  # closed by another thread meanwhile
                self._steps.close()
                return
            self._events.extend(events)

    @property
    def turn_id(self) -> UUID | None:
        """The turn, to follow or cancel it from anywhere; None until its question is saved."""
        return self._turn_id

    @property
    def reply(self) -> Result:
        """The saved reply. Raises: ConvokitError before the stream's end."""
        if self._reply is None:
            raise ConvokitError("the reply is not complete: read the stream to its end first")
        return self._reply

    def close(self) -> None:
        """Leave the reply if it is still coming. From another thread, it is left at its reader's next event."""
        self._left = True
        try:
            self._steps.close()
        except ValueError:  # it is being read in another thread at this moment
            return
