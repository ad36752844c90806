"""Effects that a flow yields: SQL, HTTP, sleep, emit, run tools.

A flow is a generator. It yields effects. A driver performs them and sends the answers back, or throws the errors. So a turn is
written once for sync and async, and can be tested as a list of effects, without a database or a network (ADR 0002).

A flow catches `Exception`, never `BaseException`. When its caller leaves (closes the stream, cancels the task, presses
Ctrl-C), the driver throws `Stopped` into the flow, performs the SQL that it still yields, and then raises the original
exception again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from convokit.domain.events import StreamEvent
from convokit.errors import StoreUnavailable

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


@dataclass(slots=True)
class Sql:
    """Run a function over a connection in a transaction of its own; `write` is for transactions that write."""

    call: Callable[[Connection], Any]
    write: bool
    find_committed: Callable[[Connection], Any] | None = None
    """Returns what `call` has committed, None for nothing. It is asked when the caller was interrupted during the call."""


@dataclass(slots=True)
class OpenRequest:
    """Send a request and wait for the head of the answer. Answered with a `ResponseHead`."""

    url: str
    headers: dict[str, str] = field(repr=False)
    """Contains the API key, so no repr shows it."""
    data: bytes = field(repr=False)
    connect_s: float
    first_byte_s: float
    has_key: bool = False
    """Whether the headers contain an API key. Without one, the HTTP client may add credentials of its own."""


@dataclass(slots=True)
class ResponseHead:
    """The head of an answer; header names are lower case."""

    status: int
    headers: dict[str, str]


@dataclass(slots=True)
class ReadBody:
    """Wait for more of the answer's body, at most `timeout_s`. Answered with bytes; empty at its end."""

    timeout_s: float


@dataclass(slots=True)
class CloseResponse:
    """Release the connection, whether the answer was read to its end or not."""


@dataclass(slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(slots=True)
class Emit:
    """Hand events to the reader of the stream."""

    events: Sequence[StreamEvent]


@dataclass(slots=True)
class RunTools:
    """Run functions, several at once. Answered with what each returned or raised, in order."""

    calls: Sequence[tuple[Callable[..., Any], dict[str, Any]]]


READ_WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.9)
"""How long a reading transaction waits before each new try: 10 s in all, as long as the start of a turn is tried."""
Effect = Sql | OpenRequest | ReadBody | CloseResponse | Sleep | Emit | RunTools
Flow = Generator[Effect, Any, Result]


class Stopped(Exception):  # not an error of the flow: its caller left
    """Thrown into a flow when its caller leaves. The flow saves what it has and ends."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and randomness, in one place so that tests can set both."""

    monotonic: Callable[[], float] = time.monotonic
    time: Callable[[], float] = time.time
    random: Callable[[], float] = random.random

    def now_us(self) -> int:
        """Return microseconds since 1970, for people to read. They order nothing: clocks jump."""
        return int(self.time() * 1_000_000)


def read_flow(
    function: Callable[Concatenate[Connection, Arguments], Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Flow[Result]:
    """Run a store function in a reading transaction. Try again for a while if the connection was lost."""
    effect = Sql(lambda connection: function(connection, *args, **kwargs), write=False)
    for wait in READ_WAITS_S:
        try:
            answer: Result = yield effect
        except StoreUnavailable as error:
            if not error.transient:
                raise
            yield Sleep(wait)
        else:
            return answer
    last: Result = yield effect
    return last


def read_once_flow(
    function: Callable[Concatenate[Connection, Arguments], Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Flow[Result]:
    """Run a store function in a reading transaction, once."""
    answer: Result = yield Sql(lambda connection: function(connection, *args, **kwargs), write=False)
    return answer


def write_once_flow(
    function: Callable[Concatenate[Connection, Arguments], Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Flow[Result]:
    """Run a store function in a writing transaction, once."""
    answer: Result = yield Sql(lambda connection: function(connection, *args, **kwargs), write=True)
    return answer


def thread_flow(function: Callable[..., Result], **arguments: Any) -> Flow[Result]:
    """Run a function that waits for files; in the async API in a thread, so that the event loop stays free."""
    (outcome,) = yield RunTools([(function, arguments)])
    if isinstance(outcome, Exception):
        raise outcome
    result: Result = outcome
    return result
