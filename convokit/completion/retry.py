"""Whether a failed call is made again, and after how long.

Only what cannot have been answered is repeated unasked: no connection, 408, 409, 429, 5xx. Once a piece of the reply was
handed out nothing is, and a used-up quota never is. A server's own wish (`retry-after`, `x-should-retry`) comes first, unless
it is longer than the caller's patience.
"""

from __future__ import annotations

from collections.abc import Callable

from convokit.errors import ContentFiltered, Interrupted, ModelError, QuotaExhausted, TimedOut
from convokit.settings import Retry

_OVERLOADED = frozenset({503, 529})
_MAX_DOUBLINGS = 62


def delay_s(
    error: BaseException, *, attempt: int, retry: Retry, random: Callable[[], float], remaining_s: float
) -> float | None:
    """Return the seconds to wait before try `attempt + 1`, None to give up.

    `attempt` counts from 1. Without a wish of the server the delay is drawn from full jitter: `random()` (0 up to 1) of
    `min(initial_s * 2**(attempt-1), maximum_s)`, two doublings further when the server is overloaded or still loading. A delay
    that would outlast `remaining_s`, what is left of the turn's total time, gives up at once.
    """
    if attempt >= retry.attempts or not isinstance(error, ModelError) or not _repeatable(error, retry):
        return None
    wish = error.retry_after_s
    if wish:
        return wish if wish <= retry.honour_s and wish < remaining_s else None
    doublings = min(attempt - 1 + (2 if error.status in _OVERLOADED else 0), _MAX_DOUBLINGS)
    delay = min(retry.initial_s * 2**doublings, retry.maximum_s) * random()
    return delay if delay < remaining_s else None


def _repeatable(error: ModelError, retry: Retry) -> bool:
    if error.partial or isinstance(error, (QuotaExhausted, ContentFiltered)):
        return False
    if error.should_retry is not None:
        return error.should_retry
    return error.retryable or (retry.ambiguous and _ambiguous(error))


def _ambiguous(error: ModelError) -> bool:
    """Whether no byte of an answer came, so that nobody knows if the server has done, and billed, the work."""
    if isinstance(error, TimedOut):
        return error.phase == "first_byte"
    return isinstance(error, Interrupted) and error.status is None
