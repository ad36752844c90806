"""Decide whether a failed call is repeated, and after how long.

Only a call that cannot have been answered is repeated by default: no connection, 408, 409, 429, 5xx. A call is never
repeated after a chunk of its reply was handed out, or when a quota is used up. The server's own wish (`retry-after`,
`x-should-retry`) comes first, unless it is longer than `Retry.honour_s`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convokit.domain.text import repair_text
from convokit.errors import ContentFiltered, Interrupted, ModelError, QuotaExhausted, TimedOut
from convokit.settings import Retry

_OVERLOADED = frozenset({503, 529})
_MAX_DOUBLINGS = 62


def find_delay_s(
    error: BaseException, *, attempt: int, retry: Retry, random: Callable[[], float], remaining_s: float
) -> float | None:
    """Return the seconds to wait before attempt `attempt + 1`, None to give up.

    `attempt` counts from 1. Without a wish of the server the delay has full jitter: `random()` (0 to 1) times
    `min(initial_s * 2**(attempt-1), maximum_s)`, two doublings more when the server is overloaded or still loading
    (503, 529). A delay longer than `remaining_s`, the rest of the turn's total time, gives up at once.
    """
    if attempt >= retry.attempts or not isinstance(error, ModelError) or not _is_repeatable(error, retry):
        return None
    wanted_s = error.retry_after_s
    if wanted_s:
        return wanted_s if wanted_s <= retry.honour_s and wanted_s < remaining_s else None
    doublings = min(attempt - 1 + (2 if error.status in _OVERLOADED else 0), _MAX_DOUBLINGS)
    delay = min(retry.initial_s * 2**doublings, retry.maximum_s) * random()
    return delay if delay < remaining_s else None


def _is_repeatable(error: ModelError, retry: Retry) -> bool:
    if error.partial or isinstance(error, (QuotaExhausted, ContentFiltered)):
        return False
    if error.should_retry is not None:
        return error.should_retry
    return error.retryable or (retry.ambiguous and _is_ambiguous(error))


def _is_ambiguous(error: ModelError) -> bool:
    """Return whether no byte of an answer came: the server may have done, and billed, the work."""
    if isinstance(error, TimedOut):
        return error.phase == "first_byte"
    return isinstance(error, Interrupted) and error.status is None


def describe_error(error: Exception) -> dict[str, Any]:
    """Return an error's facts for the record: its own message, and no text of a user or model."""
    facts: dict[str, Any] = {"type": type(error).__name__, "message": repair_text(str(error))[:500]}
    for name in ("status", "code", "param", "phase", "request_id"):
        value = getattr(error, name, None)
        if value is not None:
            facts[name] = repair_text(value)[:200] if isinstance(value, str) else value
    return facts
