"""Read what takes longer than a page may.

The page shows a note instead, and loads itself again. It needs no script for that.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

Result = TypeVar("Result")
_WAIT_S = 0.03
"""A page waits this long."""
_MAX_PENDING = 8
"""Reads of all viewers together. One more cancels the oldest."""
_KEPT_S = 60.0
"""A result that no page has shown is read again after this time."""


class _Pending(NamedTuple):
    started: float
    """Seconds of the monotonic clock."""
    result: asyncio.Future[Any]


class PendingReads:
    """The reads that are going on or whose results no page has shown yet, by tenant, path and query."""

    def __init__(self) -> None:
        self._pending: OrderedDict[tuple[str, ...], _Pending] = OrderedDict()

    async def read(self, asked: tuple[str, ...], start: Callable[[], Awaitable[Result]]) -> Result | None:
        """Return what `start` reads, or None if it is not ready: the next call with the same `asked` waits for the same read.

        Raises: whatever `start` raises, also in a later call.
        """
        pending = self._pending.pop(asked, None)
        if pending is None or (pending.result.done() and pending.started + _KEPT_S < time.monotonic()):
            pending = _Pending(time.monotonic(), asyncio.ensure_future(start()))
            pending.result.add_done_callback(_take_error)
        done, _ = await asyncio.wait([pending.result], timeout=_WAIT_S)
        if done:
            result: Result = pending.result.result()
            return result
        self._pending[asked] = pending
        if len(self._pending) > _MAX_PENDING:
            self._pending.popitem(last=False)[1].result.cancel()
        return None


def _take_error(result: asyncio.Future[Any]) -> None:
    """Retrieve the error of a read: asyncio logs an error that nobody retrieves."""
    if not result.cancelled():
        result.exception()
