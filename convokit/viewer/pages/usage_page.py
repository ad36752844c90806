"""Read tokens and costs."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from starlette.responses import Response

from convokit import UsageReport
from convokit.errors import InvalidInput
from convokit.viewer.page_request import PageRequest

UsageBy = Literal["day", "model", "conversation"]
_DAYS = 30
_MAX_ROWS = 200
_COLUMNS = (
    "calls",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "known_cost",
    "unpriced_calls",
    "uncounted_calls",
    "estimated_calls",
)


@dataclass(frozen=True, slots=True)
class UsagePage:
    """A report of tokens and costs."""

    by: UsageBy
    report: UsageReport | None
    """None: it is still being added up."""
    since: datetime
    until: datetime | None
    most_tokens: int
    """The largest number of tokens in a row, for the bars."""
    more_rows: int
    """The rows that the CSV file has besides."""


async def read_usage(page: PageRequest) -> UsagePage:
    """Read a report: by default of the last 30 days, by day."""
    by, since, until = _read_by(page), _read_since(page), page.read_time("until")
    report = await page.read_in_time(lambda: _read_report(page))
    if report is None:
        return UsagePage(by, None, since, until, 0, 0)
    most = max((row.prompt_tokens + row.completion_tokens for row in report.rows), default=0)
    shown = report.model_copy(update={"rows": report.rows[:_MAX_ROWS]})
    return UsagePage(by, shown, since, until, most, len(report.rows) - len(shown.rows))


async def _read_report(page: PageRequest) -> UsageReport:
    return await page.kit.usage(
        by=_read_by(page), since=_read_since(page), until=page.read_time("until"), subject=page.read_text("subject")
    )


def _read_since(page: PageRequest) -> datetime:
    return page.read_time("since") or datetime.now(UTC) - timedelta(days=_DAYS)


async def download_usage(page: PageRequest) -> Response:
    """Return a report as CSV."""
    report = await _read_report(page)
    by = report.by
    text = io.StringIO()
    writer = csv.writer(text)
    names = ("conversation_id", "key") if by == "conversation" else (by,)
    writer.writerow([*names, *_COLUMNS])
    for row in report.rows:
        values = [getattr(row, name) for name in (*names, *_COLUMNS)]
        writer.writerow(["" if value is None else _escape_formula(str(value)) for value in values])
    headers = {"content-disposition": f'attachment; filename="usage-by-{by}.csv"'}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _escape_formula(text: str) -> str:
    """Return a text that spreadsheets do not compute: keys of conversations and names of models come from others."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


def _read_by(page: PageRequest) -> UsageBy:
    text = page.read_text("by") or "day"
    for known in get_args(UsageBy):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise InvalidInput("by", f"must be one of {', '.join(get_args(UsageBy))}, not {text[:40]!r}")
