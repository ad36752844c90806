"""Scale the counter's tokens to the tokens that the server reports.

Each reply stores what the server reported of its request, and what the counter said of the same request. The newest ratio is
that of everything that was sent before. The growth from one reply to the next gives the ratio of the text that was added, and
new text is scaled with that. The factors scale sums while a context is built. They change neither stored counts nor the
window's key, so noise in the reports moves nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from convokit.context.strategy import Item
from convokit.domain.message import ASSISTANT, MessageRow
from convokit.tokens.counter import Counter, find_first_factor, is_estimate, is_scaled

ScaleSource = Literal["exact", "reported", "refusal", "estimate"]
_LOWEST, _HIGHEST = 0.3, 3.0
"""The range of believable ratios. A server that reports a constant, or three times the tokens, is not believed."""
_MOST_FROM_MEDIAN = 1.5
"""A ratio that is further from the median of the last five replies is an outlier."""
_REPLIES = 12
_GROWTHS = 6
_LOWEST_GROWTH, _HIGHEST_GROWTH = 0.1, 4.0
_MARGIN = 1.05
"""What new text is scaled with beyond the highest of the last ratios: the next text may be denser."""
LARGE_SHARE = 0.08
"""A new text that takes more of the room than this may be of another kind than the conversation, such as a pasted document."""
_LARGE_ESTIMATE = 1.15
"""The lowest factor of a large new text that was estimated: an estimate may be a seventh below the truth (ADR 16)."""


@dataclass(frozen=True, slots=True)
class TokenScale:
    """Factors from the counter's tokens to the server's.

    `sent` is for everything up to the message `last`, the end of the newest request that was reported. `text` and `media` are
    for messages that came later, and `large` is the lowest factor of a large text among them.
    """

    source: ScaleSource
    sent: float = 1.0
    text: float = 1.0
    media: float = 1.0
    large: float = 0.0
    last: int = -1

    @property
    def is_identity(self) -> bool:
        return self.sent == self.text == self.media == 1.0 and self.large <= 1.0

    def scale_fixed(self, tokens: int) -> int:
        """Return the tokens of the parts that do not depend on the history."""
        return math.ceil(tokens * self.sent)

    def scale_items(self, items: Sequence[Item], room: int) -> list[Item]:
        """Return copies of the items in the server's tokens. Their sum is rounded, not each of them."""
        scaled, total, rounded = [], 0.0, 0
        for item in items:
            total += item.tokens * self._find_factor(item, room)
            tokens = round(total) - rounded
            rounded += tokens
            before = round(item.tokens_before * self.sent)
            scaled.append(Item(item.key, item.shape, tokens, before, item.status))
        return scaled

    def _find_factor(self, item: Item, room: int) -> float:
        if item.key <= self.last:
            return self.sent
        if _has_media(item.shape.get("content")):
            return self.media
        return max(self.text, self.large) if item.tokens > room * LARGE_SHARE else self.text


def compute_scale(path: Sequence[MessageRow], window_rule: int, counter: Counter) -> TokenScale:
    """Return the scale for the end of a path, oldest message first. Only replies with this window rule are looked at."""
    reports = _select_reports(path, window_rule) if is_scaled(counter) else []
    if not reports:
        first = find_first_factor(counter)
        return TokenScale("estimate" if is_estimate(counter) else "exact", first, first, first)
    newest = reports[-1]
    sent = _ratio(newest)
    growths: dict[bool, list[float]] = {False: [], True: []}
    for before, after in pairwise(reports):
        growth = _compute_growth(before, after)
        if growth is not None:
            growths[_adds_media(path, before, after)].append(growth)
    text = max(growths[False][-_GROWTHS:], default=max(sent, 1.0))
    media = max(growths[True][-_GROWTHS:], default=1.0)
    assert newest.parent_seq is not None
    large = _LARGE_ESTIMATE if is_estimate(counter) else 1.0
    return TokenScale("reported", sent, text * _MARGIN, media * _MARGIN, large, newest.parent_seq)


def compute_refusal_scale(needed: int | None, counted: int, counter: Counter) -> TokenScale | None:
    """Return the scale of a request that the server refused; None if the server named no believable number."""
    ratio = (needed or 0) / max(counted, 1)
    if not is_scaled(counter) or not _LOWEST <= ratio <= _HIGHEST:
        return None
    return TokenScale("refusal", ratio, ratio, ratio)


def _select_reports(path: Sequence[MessageRow], window_rule: int) -> list[MessageRow]:
    """Return the last replies whose report can be believed."""
    said = [
        row
        for row in path
        if row.role == ASSISTANT and row.window_rule == window_rule and row.window_tokens and row.window_counted
    ]
    said = [row for row in said[-_REPLIES:] if row.parent_seq is not None and _LOWEST <= _ratio(row) <= _HIGHEST]
    if len(said) > 2:
        ratios = sorted(map(_ratio, said[-5:]))
        middle = ratios[len(ratios) // 2]
        said = [row for row in said if 1 / _MOST_FROM_MEDIAN <= _ratio(row) / middle <= _MOST_FROM_MEDIAN]
    return said


def _ratio(row: MessageRow) -> float:
    return (row.window_tokens or 0) / (row.window_counted or 1)


def _compute_growth(before: MessageRow, after: MessageRow) -> float | None:
    """Return the ratio of the text that came between two replies; None if the window's start moved between them."""
    counted = (after.window_counted or 0) - (before.window_counted or 0)
    if before.window_from_seq != after.window_from_seq or counted <= 0:
        return None
    ratio = ((after.window_tokens or 0) - (before.window_tokens or 0)) / counted
    return ratio if _LOWEST_GROWTH <= ratio <= _HIGHEST_GROWTH else None


def _adds_media(path: Iterable[MessageRow], before: MessageRow, after: MessageRow) -> bool:
    first, last = before.parent_seq or 0, after.parent_seq or 0
    between = (row for row in path if first < row.seq <= last and row.parts is not None)
    return any(_has_media(json.loads(row.parts or "[]")) for row in between)


def _has_media(content: Any) -> bool:
    return isinstance(content, list) and any(part.get("type") not in ("text", "refusal") for part in content)
