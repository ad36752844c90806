"""Strategies: which part of a path is sent.

A strategy only selects. What it selects is then made valid (`repair`) and held within the budget by the builder, and the
current turn is always in it; so no strategy, also none of a user's own, can make an invalid or an overflowing request, or
change what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from convokit.context.window import Item, choose, suffix_sums
from convokit.errors import ContextOverflow, SettingsError


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
