"""Fit messages, pins and a summary into the budget.

The current turn is always in the window. Tokens are kept free for a summary as soon as anything stays out, whether a summary
exists already or not. So making a summary does not move the window's start. A summary that is longer than these tokens takes
more of the window, but never more than half: then it stays out, and the history is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from convokit.context.strategy import Item, Selection, StepWindow, Strategy, View
from convokit.context.summary import CountedSummary, pick_summary
from convokit.errors import ContextOverflow

_LARGEST_SUMMARY = 0.5
"""The share of the available tokens that a summary may take. A longer one stays out, so that the history has room."""


@dataclass(frozen=True, slots=True)
class Window:
    """The messages that a request sends: single ones from before the window, then all items from index `start` on."""

    start: int
    rule: str
    singles: tuple[Item, ...]
    summary: CountedSummary | None = None
    unfit_summary: CountedSummary | None = None
    """The summary that would be sent, but is too long, or does not fit beside the current turn and the pins."""
    moves_in_tokens: int | None = None
    """How many more tokens fit before the start moves; None where the strategy does not say."""


def select_window(
    strategy: Strategy,
    view: View,
    pins: Sequence[Item],
    *,
    passage_tokens: int = 0,
    summaries: Sequence[CountedSummary] = (),
    summary_reserve: int = 0,
    overflow_share: float = 1.0,
) -> Window:
    """Return what is sent.

    `view.available` is what the items may take; the passages of the current turn are subtracted already. `summaries` are the
    path's, the newest first. `summary_reserve` tokens are kept free for one.

    Raises: ContextOverflow when `overflow_share` of the current turn does not fit: below 1 where its tokens are an estimate.
    """
    pins = _drop_unfit_pins(pins, view) if pins else []
    try:
        return _select_fitting(strategy, view, pins, passage_tokens, summaries, summary_reserve)
    except ContextOverflow:
        if view.tokens_from(view.current) * overflow_share > view.available:
            raise
        unfit = pick_summary(summaries, view.items[view.current].key) if summary_reserve else None
        return Window(view.current, "only this turn, which may be too long", (), None, unfit, moves_in_tokens=0)


def _select_fitting(
    strategy: Strategy,
    view: View,
    pins: Sequence[Item],
    passage_tokens: int,
    summaries: Sequence[CountedSummary],
    reserve: int,
) -> Window:
    selection = _ask(strategy, view, pins)
    if not reserve or (view.complete and selection.start == 0):
        window = _fit(selection, view, pins, passage_tokens)
        return replace(window, moves_in_tokens=_count_moves_in(strategy, view, window.start, pins))
    longest = max(reserve, int(view.available * _LARGEST_SUMMARY))
    while True:
        narrow = replace(view, available=view.available - reserve)
        selection = _ask(strategy, narrow, pins)
        window = _fit(selection, view, pins, passage_tokens)
        summary = pick_summary(summaries, view.items[window.start].key)
        if summary is None or summary.item.tokens <= reserve:
            break
        if summary.item.tokens > longest:
            window = replace(window, unfit_summary=summary)
            break
        reserve = summary.item.tokens  # longer than asked for: choose again beside it
    if summary is not None and window.unfit_summary is None:
        window = _add_summary(window, summary, selection, view, pins, passage_tokens)
    return replace(window, moves_in_tokens=_count_moves_in(strategy, narrow, window.start, pins))


def _add_summary(
    window: Window,
    summary: CountedSummary,
    selection: Selection,
    view: View,
    pins: Sequence[Item],
    passage_tokens: int,
) -> Window:
    """Return the window with the summary, which gives way to the current turn and to pins."""
    beside = replace(view, available=view.available - summary.item.tokens)
    try:
        smaller = _fit(selection, beside, pins, passage_tokens)
    except ContextOverflow:
        return replace(window, unfit_summary=summary)
    if {item.key for item in window.singles} - {item.key for item in smaller.singles}:
        return replace(window, unfit_summary=summary)
    return replace(smaller, summary=summary)


def _drop_unfit_pins(pins: Sequence[Item], view: View) -> list[Item]:
    """Return the pins that fit beside the current turn, newest first: the others take nothing from the input budget."""
    left = view.available - view.tokens_from(view.current)
    kept = []
    for item in sorted(pins, key=lambda item: item.key, reverse=True):
        cost = item.tokens if item.key < view.items[view.current].key else 0
        if cost <= left:
            kept.append(item)
            left -= cost
    return kept[::-1]


def _ask(strategy: Strategy, view: View, pins: Sequence[Item]) -> Selection:
    """Return what the strategy selects; the current turn alone where not even that fits.

    A pin takes tokens only where it lies before the window. So the strategy is asked again, with less, for as long as its
    window leaves out pins that it was not asked to leave tokens for.
    """
    beside = 0
    while True:
        try:
            selection = strategy.select(replace(view, available=view.available - beside) if beside else view)
        except ContextOverflow:
            return Selection(view.current, "only this turn fits")
        outside = _count_before(pins, view.items[min(max(selection.start, 0), view.current)])
        if outside <= beside:
            return selection
        beside = outside


def _fit(selection: Selection, view: View, pins: Sequence[Item], passage_tokens: int) -> Window:
    """Return the selection within the budget: the current turn whole, pins in it, the oldest turns cut first.

    Indexes that do not exist select nothing. Raises: ContextOverflow from the current turn alone.
    """
    items, sums = view.items, view.sums
    start, rule = min(max(selection.start, 0), view.current), selection.rule
    selected = [items[index] for index in selection.also if 0 <= index < len(items)]
    singles = {item.key: item for item in (*pins, *selected)}
    while True:
        before = [singles[key] for key in sorted(singles) if key < items[start].key]
        needed = sums[start] + sum(item.tokens for item in before)
        if needed <= view.available:
            return Window(start, rule, tuple(before))
        if start < view.current:
            start, rule = next(index for index in view.turns if index > start), f"{selection.rule}, cut to fit"
        elif before:
            del singles[before[0].key]
        else:
            available = max(view.available + passage_tokens, 0)
            raise ContextOverflow(needed + passage_tokens, available, counter=view.counter)


def _count_before(pins: Sequence[Item], first: Item) -> int:
    """Return the tokens of the pins that lie before the first item of the window."""
    return sum(item.tokens for item in pins if item.key < first.key)


def _count_moves_in(strategy: Strategy, view: View, start: int, pins: Sequence[Item]) -> int | None:
    if not isinstance(strategy, StepWindow):
        return None
    beside_pins = replace(view, available=view.available - _count_before(pins, view.items[start]))
    return max(beside_pins.full - view.tokens_from(start), 0)
