"""Build usage reports that take longer than a page may.

The page shows a note instead of the report, and loads itself again. It needs no script for that.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from convokit import UsageReport

_WAIT_S = 0.03
"""A page waits this long for its report."""
_MAX_PENDING = 8
"""Reports of all viewers together. One more cancels the oldest."""
_KEPT_S = 60.0
"""A report that no page has shown is built again after this time."""


class _Pending(NamedTuple):
    started: float
    """Seconds of the monotonic clock."""
    report: asyncio.Future[UsageReport]


class PendingReports:
    """The reports that are being built or that no page has shown yet, by tenant and query."""

    def __init__(self) -> None:
        self._pending: OrderedDict[tuple[str, ...], _Pending] = OrderedDict()

    async def read(self, asked: tuple[str, ...], start: Callable[[], Awaitable[UsageReport]]) -> UsageReport | None:
        """Return a report, or None if it is not ready: the next call with the same `asked` waits for the same report.

        Raises: whatever `start` raises, also in a later call.
        """
        pending = self._pending.pop(asked, None)
        if pending is None or (pending.report.done() and pending.started + _KEPT_S < time.monotonic()):
            pending = _Pending(time.monotonic(), asyncio.ensure_future(start()))
            pending.report.add_done_callback(_take_error)
        done, _ = await asyncio.wait([pending.report], timeout=_WAIT_S)
        if done:
            return pending.report.result()
        self._pending[asked] = pending
        if len(self._pending) > _MAX_PENDING:
            self._pending.popitem(last=False)[1].report.cancel()
        return None


def _take_error(report: asyncio.Future[UsageReport]) -> None:
    """Retrieve the error of a report: asyncio logs an error that nobody retrieves."""
    if not report.cancelled():
        report.exception()
