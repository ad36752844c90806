"""Add up reports that take longer than a page may.

The page says that it waits and loads itself again. No script is needed.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from convokit import UsageReport

_WAIT_S = 0.03
_MAX_PENDING = 8
"""Of all viewers. The oldest is given up."""
_KEPT_S = 60.0
"""A report that no page took up is out of date then."""


class _Pending(NamedTuple):
    started: float
    report: asyncio.Future[UsageReport]


class PendingReports:
    """The reports that are added up, or that no page has shown yet, by what was asked for."""

    def __init__(self) -> None:
        self._pending: OrderedDict[tuple[str, ...], _Pending] = OrderedDict()

    async def read(self, asked: tuple[str, ...], start: Callable[[], Awaitable[UsageReport]]) -> UsageReport | None:
        """Return a report, or None if it is not ready: the next request for it goes on. Raises what `start` raises."""
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
    """Keep asyncio from logging the error of a report that no page asks for again."""
    if not report.cancelled():
        report.exception()
