"""Perform the effects of a flow in the caller's thread."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
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
from convokit.runtime.config import OnDisconnect, finishes_without_reader
from convokit.runtime.http_answer import Answer
from convokit.runtime.http_client import AsyncHttpxClient, Client, HttpxClient, validate_client
from convokit.runtime.sync_store import SyncStore, migrate, open_store
from convokit.runtime.tools import run_functions
from convokit.store.engine import Durability

log = logging.getLogger("convokit.runtime")
Result = TypeVar("Result")


class Runtime:
    """The connections of a kit: its database and its HTTP client. `run` performs a flow."""

    def __init__(
        self,
        url: URL,
        name: str,
        durability: Durability,
        http_client: Client | None,
        *,
        search: bool,
        read_only: bool,
    ) -> None:
        self._url, self._name = url, name
        self._store = open_store(url, name, durability, search=search, read_only=read_only)
        self._client = validate_client(http_client, AsyncHttpxClient) or HttpxClient()

    def migrate(self) -> None:
        """Bring the tables up to date. Raises: StoreError."""
        migrate(self._url, self._name)

    def run(self, flow: Flow[Result]) -> Result:
        """Perform a flow and return its result."""
        return SyncDriver(self._store, self._client).run(flow)

    def open_stream(self, flow: Flow[Result], on_disconnect: OnDisconnect = "stop") -> Stream[Result]:
        """Return a stream over the events of a flow. Raises: SettingsError."""
        return Stream(SyncDriver(self._store, self._client), flow, finish=finishes_without_reader(on_disconnect))

    def close(self) -> None:
        """Close all connections. A client that was passed in stays open."""
        self._client.close()
        self._store.close()


class SyncDriver:
    """Performs the effects of one flow at a time."""

    def __init__(self, store: SyncStore, client: Client, sleep: Callable[[float], None] = time.sleep) -> None:
        self._store = store
        self._client = client
        self._sleep = sleep
        self._answer: Answer | None = None

    def run(self, flow: Flow[Result]) -> Result:
        """Perform a flow to its end and return its result. Its events are dropped."""
        steps = self.steps(flow)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                result: Result = stop.value
                return result

    def steps(self, flow: Flow[Result], *, finish: bool = False) -> Generator[list[StreamEvent], None, Result]:
        """Perform a flow and yield its events as they come. The iterator's return value is the flow's.

        When its reader leaves, the flow saves what it has. With `finish` it runs to its end first, in the reader's thread.
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
            self._close_response()

    def _finish(self, flow: Flow[Any]) -> None:
        """Perform the flow to its end, without a reader of its events."""
        try:
            self.run(flow)
        except ConvokitError as error:
            kind, turn_id = type(error).__name__, getattr(error, "turn_id", None)
            log.warning("a reply whose reader had left ended in %s (turn %s)", kind, turn_id)

    def _stop(self, flow: Flow[Any], effect: Effect) -> None:
        """Let the flow save what it has, because its caller is leaving. Other effects are not performed any more.

        A write may have been committed although it was interrupted. Then the flow gets its answer first, and `Stopped` next.
        """
        self._close_response()
        answer: Any = None
        if isinstance(effect, Sql) and effect.find_committed is not None:
            with contextlib.suppress(ConvokitError):
                answer = self._store.run(effect.find_committed, write=False)
        error: Exception | None = Stopped() if answer is None else None
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
                self._close_response()
                self._answer = self._client.open(effect)
                return self._answer.head
            case CloseResponse():
                self._close_response()
            case Sleep(seconds):
                self._sleep(seconds)
            case RunTools(calls):
                return run_functions(calls)
        return None

    def _close_response(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()


class Stream(Generic[Result]):
    """A reply that is coming: iterate over its events, then read `.reply`.

    Use it as a context manager. Leaving early stops the reply and keeps the text that came; with
    `on_disconnect="finish"` the reply comes to its end first.
    """

    def __init__(self, driver: SyncDriver, flow: Flow[Result], *, finish: bool = False) -> None:
        self._steps = driver.steps(flow, finish=finish)
        self._events: deque[StreamEvent] = deque()
        self._reply: Result | None = None
        self._turn_id: UUID | None = None
        self._closed = False

    def __enter__(self) -> Stream[Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[StreamEvent]:
        while True:
            while self._events:  # a loop that was left continues where it stopped
                yield self._events.popleft()
            try:
                events = next(self._steps)
            except StopIteration as stop:
                if stop.value is not None:
                    self._reply = stop.value
                return
            if type(events[0]) is Started:
                self._turn_id = events[0].turn_id
            if self._closed:  # by another thread meanwhile
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
        self._closed = True
        try:
            self._steps.close()
        except ValueError:  # another thread is reading the stream at this moment
            return
