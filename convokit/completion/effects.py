"""What a turn may ask of the outside world.

A flow is a generator: it yields effects, a driver performs them and sends the answers back, or throws the error they ended in.
So the turn is written once, for sync and async, and can be tested as a list of effects without a database or a network.
A flow catches `Exception`, never `BaseException`. When its caller leaves (closes the stream, cancels the task, presses
Ctrl-C) the driver throws `Stopped` into it, performs what it still wants to save, and then raises the original again.
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
    """Run a function over a connection in one transaction of its own. `write` says which kind of transaction."""

    call: Callable[[Connection], Any]
    write: bool
    find_committed: Callable[[Connection], Any] | None = None
    """Returns what the call has written, None where nothing: asked when its caller was interrupted in the middle of it."""


@dataclass(slots=True)
class OpenRequest:
    """Send a request, wait for the head of the answer. Answered with a `Head`."""

    url: str
    headers: dict[str, str] = field(repr=False)
    """Holds the key: kept out of every repr."""
    data: bytes = field(repr=False)
    connect_s: float
    first_byte_s: float


@dataclass(slots=True)
class ResponseHead:
    """The head of an answer; header names are lower case."""

    status: int
    headers: dict[str, str]


@dataclass(slots=True)
class ReadBody:
    """Wait for more of the answer's body, at most `timeout_s`. Answered with bytes, empty at its end."""

    timeout_s: float


@dataclass(slots=True)
class CloseResponse:
    """Let go of the answer, finished or not."""


@dataclass(slots=True)
class Sleep:
    """Do nothing for a while."""

    seconds: float


@dataclass(slots=True)
class Emit:
    """Hand events to whoever reads the stream."""

    events: Sequence[StreamEvent]


@dataclass(slots=True)
class RunTools:
    """Run functions, at once where there are several. Answered with what each returned or raised, in their order."""

    calls: Sequence[tuple[Callable[..., Any], dict[str, Any]]]


READ_WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""How long a reading transaction waits before it is tried again."""
Effect = Sql | OpenRequest | ReadBody | CloseResponse | Sleep | Emit | RunTools
Flow = Generator[Effect, Any, Result]


class Stopped(Exception):  # not an error: the caller left
    """Thrown into a flow when its caller leaves. The flow saves what it has and ends."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance, in one place so that tests may set both."""

    monotonic: Callable[[], float] = time.monotonic
    time: Callable[[], float] = time.time
    random: Callable[[], float] = random.random

    def now_us(self) -> int:
        """Return microseconds since 1970, for people to read; never for ordering."""
        return int(self.time() * 1_000_000)


def read_flow(
    function: Callable[Concatenate[Connection, Arguments], Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Flow[Result]:
    """Run a store function in a reading transaction; again, for a while, when the connection was lost."""
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
    """Run a store function in a reading transaction, and not again."""
    answer: Result = yield Sql(lambda connection: function(connection, *args, **kwargs), write=False)
    return answer


def write_once_flow(
    function: Callable[Concatenate[Connection, Arguments], Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Flow[Result]:
    """Run a store function in a writing transaction, and not again."""
    answer: Result = yield Sql(lambda connection: function(connection, *args, **kwargs), write=True)
    return answer


def thread_flow(function: Callable[..., Result], **arguments: Any) -> Flow[Result]:
    """Run a function that waits for files, in a thread where there is an event loop to keep free."""
    (outcome,) = yield RunTools([(function, arguments)])
    if isinstance(outcome, Exception):
        raise outcome
    result: Result = outcome
    return result
