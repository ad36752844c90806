"""One way to write a test for the synchronous and the asynchronous face.

`settle(value)` waits for whatever a method returned; `collect(stream)` reads a stream to its end; so behaviour is written once.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from convokit import AsyncConvokit, Convokit


class Face:
    """Makes kits of one face and waits for what they return."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = asyncio.new_event_loop()
        self._kits: list[Any] = []

    def kit(self, database: str, **settings: Any) -> Any:
        """Return a kit; it is closed at the test's end."""
        made: Any = Convokit(database, **settings) if self.name == "sync" else AsyncConvokit(database, **settings)
        self._kits.append(made)
        return made

    def settle(self, value: Any) -> Any:
        """Return a value, waiting for it if it has to be awaited."""
        return self.loop.run_until_complete(_awaited(value)) if inspect.isawaitable(value) else value

    def collect(self, stream: Any) -> list[Any]:
        """Return all events of a stream, and close it."""
        return self.take(stream, None)

    def take(self, stream: Any, count: int | None) -> list[Any]:
        """Return the first `count` events of a stream, then leave it."""
        if self.name == "sync":
            return _take(stream, count)
        events: list[Any] = self.loop.run_until_complete(_atake(stream, count))
        return events

    def close_kits(self) -> None:
        """Close the kits that were made so far."""
        for kit in self._kits:
            self.settle(kit.close())
        self._kits.clear()

    def close(self) -> None:
        self.close_kits()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


async def _awaited(value: Any) -> Any:
    return await value


def _take(stream: Any, count: int | None) -> list[Any]:
    events: list[Any] = []
    with stream:
        for event in stream:
            events.append(event)
            if len(events) == count:
                break
    return events


async def _atake(stream: Any, count: int | None) -> list[Any]:
    events: list[Any] = []
    async with stream:
        async for event in stream:
            events.append(event)
            if len(events) == count:
                break
    return events
