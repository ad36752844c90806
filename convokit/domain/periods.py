"""Lengths of time that a search looks at before it looks at all of it, and what a message of each of them is indexed by.

PostgreSQL's index gives out all messages that hold the words, in no order. With the words it is asked for the newest periods of
some length: of a word that stands in half of a million messages it then gives out some hundred. Periods are counted from 1970.
"""

from __future__ import annotations

from dataclasses import dataclass

LENGTHS = (10, 16, 22)
"""17 minutes, 18 hours and 49 days, as powers of two of a second."""
MOST = 32
"""Periods of a span: half of the next length."""
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """Messages from microsecond `since` on: each has one of `keys`, unless it is newer than what the span was made for."""

    since: int
    keys: tuple[str, ...]


def keys(at: int) -> list[str]:
    """Return what a message of microsecond `at` is indexed by. No word holds the signs that are in them.

    >>> keys(1_700_000_000_000_000)
    ['_10.1660156', '_16.25939', '_22.405']
    """
    return [_key(length, at // _SECOND >> length) for length in LENGTHS]


def before(at: int, length: int, count: int = 2) -> Span:
    """Return the span of `count` periods that ends with the one that microsecond `at` is in."""
    last = at // _SECOND >> length
    first = last - count + 1
    return Span((first << length) * _SECOND, tuple(_key(length, number) for number in range(first, last + 1)))


def between(first: int, last: int) -> Span | None:
    """Return the shortest span that holds both moments, None where none is as long."""
    spans = (before(last, length, MOST) for length in LENGTHS)
    return next((span for span in spans if span.since <= first), None)


def spans(at: int, which: int, found: int, wanted: int) -> list[Span]:
    """Return the spans to ask for: two periods of `LENGTHS[which]` hold `wanted` messages, two of the length before it `found`.

    Where that says how many more of the shorter periods would do if all was as it is now, these come first, a quarter more.
    """
    enough = [before(at, LENGTHS[which])]
    if which and found * 2 * MOST >= wanted * 5:
        enough.insert(0, before(at, LENGTHS[which - 1], min(wanted * 5 // (found * 2) + 1, MOST)))
    return enough


def _key(length: int, number: int) -> str:
    return f"_{length}.{number}"
