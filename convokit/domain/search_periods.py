"""Group times into periods for the search index.

PostgreSQL's index returns every message that contains the words, in no order. A search therefore also asks for the newest
periods of some length. A word that stands in half of a million messages then returns some hundred rows. Every message is
indexed by one period of each length; periods are counted from 1970.
"""

from __future__ import annotations

from dataclasses import dataclass

LENGTHS = (10, 16, 22)
"""Lengths of periods as powers of two of a second: 17 minutes, 18 hours, 49 days."""
MAX_PERIODS = 32
"""Periods of one span at most: half of the next length."""
_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class PeriodSpan:
    """Consecutive periods. `since` is their beginning, in microseconds since 1970.

    Each message between `since` and the end of the span has one of `keys`. Later messages have none of them.
    """

    since: int
    keys: tuple[str, ...]


def build_period_keys(at_us: int) -> list[str]:
    """Return the index keys of a message's time. No word contains their signs.

    >>> build_period_keys(1_700_000_000_000_000)
    ['_10.1660156', '_16.25939', '_22.405']
    """
    return [_format_key(length, at_us // _SECOND_US >> length) for length in LENGTHS]


def build_span(at_us: int, length: int, count: int = 2) -> PeriodSpan:
    """Return the span of `count` periods whose last period contains `at_us`."""
    last = at_us // _SECOND_US >> length
    first = last - count + 1
    return PeriodSpan(
        (first << length) * _SECOND_US, tuple(_format_key(length, number) for number in range(first, last + 1))
    )


def find_covering_span(first_us: int, last_us: int) -> PeriodSpan | None:
    """Return the shortest span that contains both times; None if they are too far apart for one span."""
    spans = (build_span(last_us, length, MAX_PERIODS) for length in LENGTHS)
    return next((span for span in spans if span.since <= first_us), None)


def estimate_spans(at_us: int, which: int, shorter_count: int, limit: int) -> list[PeriodSpan]:
    """Return the spans to search in turn until they hold `limit` messages.

    Two periods of `LENGTHS[which]` are known to hold `limit` messages. Two periods of the next shorter length hold
    `shorter_count`. If more of the shorter periods are likely to suffice, a span of them comes first. Its size assumes that
    messages are spread evenly, plus a quarter.
    """
    spans = [build_span(at_us, LENGTHS[which])]
    if which and shorter_count * 2 * MAX_PERIODS >= limit * 5:
        count = min(limit * 5 // (shorter_count * 2) + 1, MAX_PERIODS)
        spans.insert(0, build_span(at_us, LENGTHS[which - 1], count))
    return spans


def _format_key(length: int, number: int) -> str:
    return f"_{length}.{number}"
