"""Read the times of foreign files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

MAX_TIME_US = 253_402_300_799_000_000
"""The end of the year 9999, the last time that a datetime can hold."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A number below the limit counts this unit, given as its microseconds. 1e11 seconds are the year 5138.
_UNITS = ((1e11, 1_000_000), (1e14, 1_000), (1e17, 1))


def read_time(value: Any) -> int | None:
    """Return a time as microseconds since 1970; None if it cannot be read.

    `value` is a number of seconds, milliseconds or microseconds since 1970, or a date of ISO 8601. A date without a time zone
    is UTC.
    """
    if isinstance(value, str):
        return _read_date(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return None
    time = next((int(value * factor) for limit, factor in _UNITS if value < limit), None)
    return time if time is None or time <= MAX_TIME_US else None


def _read_date(text: str) -> int | None:
    try:
        return read_time(float(text))
    except ValueError:
        pass
    try:
        date = datetime.fromisoformat(text)
        time = ((date if date.tzinfo is not None else date.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return None
    return time if 0 <= time <= MAX_TIME_US else None
