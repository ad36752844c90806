"""What response headers say: who answered, what is left of the limits, when to come back.

Every header is optional and compatible servers send almost none: what is absent or makes no sense is None. Names come in
lower case.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from convokit.domain.reply import Allowance, RateLimits

__all__ = ["Allowance", "RateLimits", "rate_limits", "request_id", "retry_after_s", "should_retry"]

_REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id", "x-generation-id", "x-litellm-call-id")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|us|µs|μs|ns|h|m|s)")
_SECONDS = re.compile(r"\d{1,12}(?:\.\d{1,9})?")


def rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """Return what `x-ratelimit-*` says; None when it says nothing."""
    found = RateLimits(requests=_allowance(headers, "requests"), tokens=_allowance(headers, "tokens"))
    return None if found == RateLimits() else found


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the id under which the server knows this request."""
    return next((headers[name][:200] for name in _REQUEST_IDS if headers.get(name)), None)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Return in how many seconds the server wants to be asked again: `retry-after-ms`, or `retry-after` in seconds or as a
    date, which is seen from `now` (Unix time)."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    said = headers.get("retry-after", "")
    seconds = _number(said)
    if seconds is not None or not said:
        return seconds
    try:
        date = parsedate_to_datetime(said)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """Return what the server says of trying again, if it does."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def _allowance(headers: Mapping[str, str], what: str) -> Allowance:
    return Allowance(
        limit=_count(headers.get(f"x-ratelimit-limit-{what}")),
        remaining=_count(headers.get(f"x-ratelimit-remaining-{what}")),
        reset_s=_duration(headers.get(f"x-ratelimit-reset-{what}")),
    )


def _duration(text: str | None) -> float | None:
    """Read a duration as Go writes it (`6m0s`, `20ms`); a bare number is seconds (Azure)."""
    said = (text or "").strip()[:40]
    bare = _number(said)
    if bare is not None:
        return bare
    parts = _PART.findall(said)
    if not parts or "".join(number + unit for number, unit in parts) != said:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _count(text: str | None) -> int | None:
    number = _number(text)
    return int(number) if number is not None and number.is_integer() else None


def _number(text: str | None) -> float | None:
    said = (text or "").strip()
    if not said.isascii() or not _SECONDS.fullmatch(said):
        return None
    value = float(said)
    return value if math.isfinite(value) else None
