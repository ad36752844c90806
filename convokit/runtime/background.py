"""Finish replies in tasks after their readers have left.

Asynchronous only: a synchronous reader that leaves is itself the thread that goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from convokit.completion.effects import Flow
from convokit.domain.events import StreamEvent
from convokit.errors import ConvokitError

log = logging.getLogger("convokit.runtime")
_AHEAD = 64
"""The number of batches of events that a reply may be ahead of its reader."""
Batch = list[StreamEvent]


class Driver(Protocol):
    """Performs flows: `AsyncDriver`."""

    def steps(self, flow: Flow[Any]) -> AsyncGenerator[Batch]: ...


class _Mailbox:
    """The queue between the task that makes a reply and its reader."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Batch | None] = asyncio.Queue(_AHEAD)
        self.left = False
        self.error: Exception | None = None

    async def put(self, batch: Batch | None) -> None:
        if not self.left:
            await self.batches.put(batch)

    def leave(self) -> None:
        """Let the task go on without a reader: it must never wait for one again."""
        self.left = True
        while not self.batches.empty():
            self.batches.get_nowait()


class Background:
    """The replies of one kit that are being made in tasks of their own."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def steps(self, driver: Driver, flow: Flow[Any]) -> AsyncGenerator[Batch]:
        """Perform a flow in a task of its own, and yield its events while there is a reader."""
        mailbox = _Mailbox()
        task = asyncio.create_task(_fill_mailbox(driver, flow, mailbox))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while (batch := await mailbox.batches.get()) is not None:
                yield batch
            if mailbox.error is not None:
                raise mailbox.error
        finally:
            mailbox.leave()

    async def finished(self) -> None:
        """Wait for the end of every reply of this event loop."""
        loop = asyncio.get_running_loop()
        own = [task for task in self._tasks if task.get_loop() is loop]
        if own:
            await asyncio.wait(own)


async def _fill_mailbox(driver: Driver, flow: Flow[Any], mailbox: _Mailbox) -> None:
    try:
        async for batch in driver.steps(flow):
            await mailbox.put(batch)
    except Exception as error:
        mailbox.error = error
        if mailbox.left and isinstance(error, ConvokitError):
            kind, turn_id = type(error).__name__, getattr(error, "turn_id", None)
            log.warning("a reply whose reader had left ended in %s (turn %s)", kind, turn_id)
    await mailbox.put(None)
