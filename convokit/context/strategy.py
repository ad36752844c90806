"""Strategies: which part of a path is sent.

A strategy only selects. What it selects is then made valid (`repair`) and held within the budget by the builder, and the
current turn is always in it; so no strategy, also none of a user's own, can make an invalid or an overflowing request, or
change what is stored.

Where the window begins.

T(i) is the cumulative tokens of the path before message i. While the whole path fits, all of it is sent. Past that, the start
is the first turn boundary whose T reaches k * step, for the smallest k that fits, and never before the start that the
previous reply had. So the start depends on the path alone, moves in big steps, and the prompt's beginning stays the same for
many turns: that is what a provider's prompt cache can serve. A window that slides with every turn changes it every time.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

from convokit.domain.message import PASSAGE, SUMMARY, USER
from convokit.errors import ContextOverflow, SettingsError

Rule = Literal["everything fits", "step window", "held from the last turn", "only this turn fits"]


@dataclass(slots=True)
class Item:
    """A message that may be sent: `key` is its seq (or index), `before` its T, `tokens` what it costs as rendered."""

    key: int
    shape: dict[str, Any]
    tokens: int
    before: int
    status: str = "complete"

    @property
    def starts_turn(self) -> bool:
        return self.shape["role"] == USER and self.status not in (PASSAGE, SUMMARY)

    @property
    def is_passage(self) -> bool:
        return self.status == PASSAGE


@dataclass(frozen=True, slots=True)
class Window:
    """The outcome: items from `start` on are sent, `tokens` in all."""

    start: int
    rule: Rule
    tokens: int


def compute_window_rule(model: str, counter: str, step_tokens: int, strategy: str) -> int:
    """Return the checksum of all that a window's start depends on besides the path."""
    return zlib.crc32(f"{model}\x00{counter}\x00{step_tokens}\x00{strategy}".encode())


def choose(
    items: Sequence[Item],
    turns: Sequence[int],
    suffix: Sequence[int],
    *,
    available: int,
    step: int,
    complete: bool,
    floor: int | None,
    counter: str = "",
) -> Window:
    """Return where the window begins. `turns` are the indexes at which turns begin, `suffix` is `suffix_sums(items)`.

    `complete` says that `items` begin at the path's root; `floor` is the key before which the window may not begin.
    Raises: ContextOverflow when the last turn alone is over `available` tokens.
    """
    first = _first_at(items, floor)
    if complete and first == 0 and suffix[0] <= available:
        return Window(0, "everything fits", suffix[0])
    boundaries = [index for index in turns if index >= first]
    for index in _step_starts(items, boundaries, step, complete=complete, held=first if floor is not None else None):
        if suffix[index] <= available:
            held = floor is not None and index == first
            return Window(index, "held from the last turn" if held else "step window", suffix[index])
    for index in boundaries:
        if suffix[index] <= available:
            return Window(index, "only this turn fits" if index == boundaries[-1] else "step window", suffix[index])
    needed = suffix[boundaries[-1]] if boundaries else suffix[0]
    if not boundaries and needed <= available:
        return Window(0, "everything fits", needed)
    raise ContextOverflow(needed, max(available, 0), counter=counter)


def suffix_sums(items: Sequence[Item]) -> list[int]:
    """Return what the items from each index on cost together, and 0 behind the last."""
    sums = [0] * (len(items) + 1)
    for index in range(len(items) - 1, -1, -1):
        sums[index] = sums[index + 1] + items[index].tokens
    return sums


def _first_at(items: Sequence[Item], floor: int | None) -> int:
    if floor is None:
        return 0
    return next((index for index, item in enumerate(items) if item.key >= floor), len(items) - 1)


def _step_starts(
    items: Sequence[Item], boundaries: list[int], step: int, *, complete: bool, held: int | None
) -> list[int]:
    """Return the places where a window may begin: where it began last, and the first boundary past each multiple."""
    starts = []
    if held is not None:
        starts.append(held)
    elif complete:
        starts.append(0)
    previous = items[starts[0]].before // step if starts else None
    for index in boundaries:
        multiple = items[index].before // step
        if previous is not None and multiple > previous:
            starts.append(index)
        previous = multiple
    return starts


@dataclass(frozen=True)  # without slots: what is asked again and again is kept beside the fields
class View:
    """What a strategy chooses from.

    `items` are the end of the path, oldest first; `complete` says that they begin at its root. `available` tokens may be taken
    by them. `step` is the budget's step; `floor` is the key of the message that the last reply's window began with, where
    strategy, model, counter and step are still the same.
    """

    items: Sequence[Item]
    available: int
    step: int
    complete: bool
    floor: int | None = None
    counter: str = ""

    @cached_property
    def turns(self) -> list[int]:
        """The indexes at which turns begin, the current one last."""
        return [index for index, item in enumerate(self.items) if item.starts_turn]

    @cached_property
    def sums(self) -> list[int]:
        """What the items from each index on cost together, and 0 behind the last."""
        return suffix_sums(self.items)

    def tokens_from(self, index: int) -> int:
        """Return what the items from `index` on cost together."""
        return self.sums[index]


@dataclass(frozen=True, slots=True)
class Selection:
    """What is sent: the items from index `start` on, and those at the indexes of `also` before it; `rule` is the reason."""

    start: int
    rule: str
    also: tuple[int, ...] = ()


class Strategy(Protocol):
    """Selects what is sent.

    `name` is stored, as a checksum, beside each reply: a window keeps its start only under the strategy that chose it.
    `most_turns` is how many turns it ever selects, None where only the budget bounds it: it says how much is read.
    """

    @property
    def name(self) -> str: ...
    @property
    def most_turns(self) -> int | None: ...

    def select(self, view: View) -> Selection: ...


@dataclass(frozen=True, slots=True)
class StepWindow:
    """Everything while it fits; past that a window whose start moves in big steps and never back.

    The prompt's beginning stays the same for many turns, which is what a provider's prompt cache can serve.
    """

    @property
    def name(self) -> str:
        return "step window"

    @property
    def most_turns(self) -> int | None:
        return None

    def select(self, view: View) -> Selection:
        """Return the first turn boundary past the next multiple of the step that fits. Raises: ContextOverflow."""
        window = choose(
            view.items,
            view.turns,
            view.sums,
            available=view.available,
            step=view.step,
            complete=view.complete,
            floor=view.floor,
            counter=view.counter,
        )
        return Selection(window.start, window.rule)


@dataclass(frozen=True, slots=True)
class Everything:
    """As many of the newest turns as fit. Keeps the most history, and moves its start with every turn once it is full."""

    @property
    def name(self) -> str:
        return "everything that fits"

    @property
    def most_turns(self) -> int | None:
        return None

    def select(self, view: View) -> Selection:
        """Return the earliest turn boundary from which all fits."""
        sums = view.sums
        if view.complete and sums[0] <= view.available:
            return Selection(0, "everything fits")
        start = next((index for index in view.turns if sums[index] <= view.available), len(view.items) - 1)
        return Selection(start, self.name)


@dataclass(frozen=True, slots=True)
class LastTurns:
    """The last `turns` turns, the current one included; fewer where they do not fit."""

    turns: int

    def __post_init__(self) -> None:
        if isinstance(self.turns, bool) or not isinstance(self.turns, int) or self.turns < 1:
            raise SettingsError("LastTurns.turns", f"must be a whole number from 1 up, not {self.turns!r}")

    @property
    def name(self) -> str:
        return f"last {self.turns} turns"

    @property
    def most_turns(self) -> int | None:
        return self.turns

    def select(self, view: View) -> Selection:
        """Return where the last turns begin."""
        newest = view.turns[-self.turns :]
        if len(newest) < self.turns and view.complete:
            newest = [0, *newest]
        sums = view.sums
        start = next((index for index in newest if sums[index] <= view.available), len(view.items) - 1)
        return Selection(start, self.name)


def fitting(pinned: Sequence[Item], view: View) -> list[Item]:
    """Return the pins that fit beside the current turn, the newest first to be kept: another takes no room from history."""
    turns = view.turns
    current = turns[-1] if turns else 0
    room = view.available - view.tokens_from(current)
    kept = []
    for item in sorted(pinned, key=lambda item: item.key, reverse=True):
        cost = item.tokens if item.key < view.items[current].key else 0
        if cost <= room:
            kept.append(item)
            room -= cost
    return kept[::-1]


def selected(strategy: Strategy, view: View, pinned: Sequence[Item]) -> Selection:
    """Return what the strategy selects; where not even the current turn fits, that turn alone.

    `view.available` is for pins too. A pin costs more than the window only where it lies before it: so the strategy is asked
    again for as long as its window leaves out pins that it was given room for.
    """
    turns = view.turns
    current = turns[-1] if turns else 0
    beside = 0
    while True:
        try:
            selection = strategy.select(replace(view, available=view.available - beside) if beside else view)
        except ContextOverflow:
            return Selection(current, "only this turn fits")
        left = pins_before(pinned, view.items[min(max(selection.start, 0), current)])
        if left <= beside:
            return selection
        beside = left


def pins_before(pinned: Sequence[Item], first: Item) -> int:
    """Return what the pins before the window's first item cost."""
    return sum(item.tokens for item in pinned if item.key < first.key)


@dataclass(frozen=True, slots=True)
class Sent:
    """What is sent of a path: single messages from before the window, then the window from index `start` on."""

    start: int
    rule: str
    also: tuple[Item, ...]


def within(selection: Selection, view: View, pinned: Sequence[Item], available: int, passages: int = 0) -> Sent:
    """Return the selection as it may be sent: the current turn whole, pinned messages in it, nothing over the budget.

    `passages` is what the current turn's passages cost, which come on top of its items.
    The oldest turns make room first, then single messages, the oldest first; indexes that are not there select nothing.
    Raises: ContextOverflow, from the last turn alone.
    """
    items, turns, sums = view.items, view.turns, view.sums
    current = turns[-1] if turns else 0
    start = min(max(selection.start, 0), current)
    also_there = [items[index] for index in selection.also if 0 <= index < len(items)]
    singles = {item.key: item for item in (*pinned, *also_there)}
    rule = selection.rule
    while True:
        also = [singles[key] for key in sorted(singles) if key < items[start].key]
        needed = sums[start] + sum(item.tokens for item in also) + passages
        if needed <= available:
            return Sent(start, rule, tuple(also))
        if start < current:
            start, rule = next(index for index in turns if index > start), f"{selection.rule}, cut to fit"
        elif also:
            del singles[also[0].key]
        else:
            raise ContextOverflow(needed, max(available, 0), counter=view.counter)
