"""Answer the requests of a kit inside its process.

The errors are those of the HTTP client of `convokit.runtime`: a wait that is too long raises TimedOut, and a connection that
breaks raises Interrupted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from convokit.completion.effects import OpenRequest, ResponseHead
from convokit.errors import Interrupted, ModelError, TimedOut
from convokit.testing.script import RenderedAnswer

Respond = Callable[[OpenRequest], RenderedAnswer]


@dataclass(frozen=True, slots=True)
class _Step:
    """The next thing that a client sees: some seconds later, bytes or an error."""

    wait_s: float
    outcome: bytes | ModelError

    def get_data(self) -> bytes:
        if isinstance(self.outcome, ModelError):
            raise self.outcome
        return self.outcome


class _Body:
    """The parts of one answer, in steps."""

    def __init__(self, request: OpenRequest, answer: RenderedAnswer) -> None:
        self.head = ResponseHead(answer.status, {name.lower(): value for name, value in answer.headers.items()})
        self._parts: Iterator[bytes | float | None] = iter(answer.parts)
        if answer.delay_s > request.first_byte_s:
            error = TimedOut("no answer within Timeouts.first_byte_s", phase="first_byte")
            self.first = _Step(request.first_byte_s, error)
        else:
            self.first = _Step(answer.delay_s, b"")

    def take(self, timeout_s: float) -> _Step:
        """Return the next step of the body; empty data at its end."""
        wait_s = 0.0
        for part in self._parts:
            if part is None:
                return _Step(wait_s, Interrupted("the connection broke off in the middle of the answer (scripted)"))
            if isinstance(part, bytes):
                return _Step(wait_s, part)
            wait_s += part
            if wait_s > timeout_s:
                return _Step(timeout_s, TimedOut("no data for Timeouts.stall_s", phase="stall"))
        return _Step(wait_s, b"")

    def drop_rest(self) -> None:
        self._parts = iter(())


class ScriptedAnswer:
    """An answer that a kit reads."""

    def __init__(self, body: _Body) -> None:
        self.head = body.head
        self._body = body

    def read(self, timeout_s: float) -> bytes:
        """Return the next part of the body; empty at its end. Raises: Interrupted, TimedOut."""
        step = self._body.take(timeout_s)
        time.sleep(step.wait_s)
        return step.get_data()

    def close(self) -> None:
        """Drop the rest of the body."""
        self._body.drop_rest()


class AsyncScriptedAnswer:
    """As `ScriptedAnswer`, awaited."""

    def __init__(self, body: _Body) -> None:
        self.head = body.head
        self._body = body

    async def read(self, timeout_s: float) -> bytes:
        """Return the next part of the body; empty at its end. Raises: Interrupted, TimedOut."""
        step = self._body.take(timeout_s)
        await asyncio.sleep(step.wait_s)  # with 0 s too: other tasks run between two chunks, as with a real server
        return step.get_data()

    async def close(self) -> None:
        """Drop the rest of the body."""
        self._body.drop_rest()


class ScriptedClient:
    """The `http_client` of a `Convokit`."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    def open(self, request: OpenRequest) -> ScriptedAnswer:
        """Return the head of the next answer. Raises: TimedOut."""
        body = _Body(request, self._respond(request))
        time.sleep(body.first.wait_s)
        body.first.get_data()
        return ScriptedAnswer(body)

    def close(self) -> None:
        """Do nothing: there is no connection."""


class AsyncScriptedClient:
    """The `http_client` of an `AsyncConvokit`."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    async def open(self, request: OpenRequest) -> AsyncScriptedAnswer:
        """Return the head of the next answer. Raises: TimedOut."""
        body = _Body(request, self._respond(request))
        await asyncio.sleep(body.first.wait_s)
        body.first.get_data()
        return AsyncScriptedAnswer(body)

    async def close(self) -> None:
        """Do nothing: there is no connection."""
