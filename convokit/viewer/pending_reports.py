"""Add up reports that take longer than a page may.

The page says that it waits and loads itself again. No script is needed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from convokit import UsageReport

_WAIT_S = 0.03
_MAX_PENDING = 8
"""Of all viewers. The oldest is given up."""


class PendingReports:
    """The reports that are added up, or that no page has shown yet, by what was asked for."""

    def __init__(self) -> None:
        self._pending: OrderedDict[tuple[str, ...], asyncio.Future[UsageReport]] = OrderedDict()

    async def read(self, asked: tuple[str, ...], start: Callable[[], Awaitable[UsageReport]]) -> UsageReport | None:
        """Return a report, or None if it is not ready: the next request for it goes on. Raises what `start` raises."""
        report = self._pending.pop(asked, None) or asyncio.ensure_future(start())
        done, _ = await asyncio.wait([report], timeout=_WAIT_S)
        if done:
            return report.result()
        report.add_done_callback(_take_error)
        self._pending[asked] = report
        if len(self._pending) > _MAX_PENDING:
            self._pending.popitem(last=False)[1].cancel()
        return None


def _take_error(report: asyncio.Future[UsageReport]) -> None:
    """Keep asyncio from logging the error of a report that no page asks for again."""
    if not report.cancelled():
        report.exception()
