"""Choose the messages of a conversation that a request sends.

A strategy only chooses. `window.py` then keeps the choice within the budget, and `arrange.py` makes it valid. So no
strategy, not even a user's own, can make an invalid or an overflowing request, or change what is stored.

The step window. While the whole path fits, all of it is sent. Later, the window keeps the start of the previous request for
as long as everything from there fits. Then the start moves to the first turn that leaves a step free, which is what about eight
more requests add. It never moves back. The beginning of the prompt stays the same for many turns, and a provider's prompt cache
can serve it. A window that slides with every turn changes it every time.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from convokit.domain.message import ASSISTANT, PASSAGE, SUMMARY, USER
from convokit.errors import ContextOverflow, SettingsError

_REQUESTS_PER_STEP = 8
_SMALLEST_STEP, _LARGEST_STEP = 0.2, 0.38
"""The bounds of a step, as shares of the available tokens. A larger step leaves more of the window empty, a smaller one moves
the start more often."""


@dataclass(slots=True)
class Item:
    """A message that may be sent.

    `key` is its seq (its index for plain dicts), `tokens` its cost as sent, `tokens_before` the cost of the path before it.
    """

    key: int
    shape: dict[str, Any]
    tokens: int
    tokens_before: int
    status: str = "complete"

    @property
    def starts_turn(self) -> bool:
        return self.shape["role"] == USER and self.status not in (PASSAGE, SUMMARY)

    @property
    def is_passage(self) -> bool:
        return self.status == PASSAGE


@dataclass(frozen=True)  # without slots: cached_property needs a __dict__
class View:
    """The messages that a strategy chooses from.

    `items` are the end of the path, oldest first. `complete` says that they start at its first message. They may take
    `available` tokens. `step` is the budget's step; None leaves it to the strategy. `held_start` is the key of the message that
    the window of the last request started with, if strategy, model, counter and step are still the same.
    """

    items: Sequence[Item]
    available: int
    step: int | None
    complete: bool
    held_start: int | None = None
    counter: str = ""

    @cached_property
    def turns(self) -> list[int]:
        """The indexes at which turns start, the current one last."""
        return [index for index, item in enumerate(self.items) if item.starts_turn]

    @cached_property
    def current(self) -> int:
        """The index at which the current turn starts."""
        return self.turns[-1] if self.turns else 0

    @cached_property
    def sums(self) -> list[int]:
        """The tokens of the items from each index on, and 0 for the end."""
        sums = [0] * (len(self.items) + 1)
        for index in range(len(self.items) - 1, -1, -1):
            sums[index] = sums[index + 1] + self.items[index].tokens
        return sums

    @property
    def full(self) -> int:
        """The tokens up to which a window is filled. A hundredth is for the rounding of token counts."""
        return self.available - max(self.available, 0) // 100

    def tokens_from(self, index: int) -> int:
        """Return the tokens of the items from `index` on."""
        return self.sums[index]


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice: the items from index `start` on, and those at the indexes of `also` before it. `rule` is the reason."""

    start: int
    rule: str
    also: tuple[int, ...] = ()


class Strategy(Protocol):
    """Chooses what is sent.

    `name` is stored, as a checksum, beside each reply: a window keeps its start only under the strategy that chose it.
    `most_turns` is the largest number of turns that it ever chooses, None where only the budget limits it. It bounds how much
    is read.
    """

    @property
    def name(self) -> str: ...
    @property
    def most_turns(self) -> int | None: ...

    def select(self, view: View) -> Selection: ...


@dataclass(frozen=True, slots=True)
class StepWindow:
    """Everything while it fits; later a window whose start moves in big steps and never back.

    The beginning of the prompt stays the same for many turns, so a provider's prompt cache can serve it.
    """

    @property
    def name(self) -> str:
        return "step window"

    @property
    def most_turns(self) -> int | None:
        return None

    def select(self, view: View) -> Selection:
        """Return the held start while everything from there fits, else the first turn that leaves a step free.

        Raises: ContextOverflow when not even the current turn fits.
        """
        first = _find_held(view)
        if view.complete and first == 0 and view.sums[0] <= view.full:
            return Selection(0, "everything fits")
        if view.held_start is not None and view.sums[first] <= view.full:
            return Selection(first, "held from the last turn")
        step = _compute_step(view, view.sums[first], view.items[first:])
        is_first_choice = view.held_start is None and not view.complete
        turns = (index for index in view.turns if index > first or is_first_choice)
        start = next((index for index in turns if view.sums[index] <= view.available - step), None)
        if start is not None:
            return Selection(start, "step window")
        if view.sums[view.current] <= view.available:
            return Selection(view.current, "only this turn fits")
        raise ContextOverflow(view.sums[view.current], max(view.available, 0), counter=view.counter)


def _find_held(view: View) -> int:
    """Return the index of the start that the window is held at, 0 if it is not held."""
    if view.held_start is None:
        return 0
    keys = (index for index, item in enumerate(view.items) if item.key >= view.held_start)
    return next(keys, len(view.items) - 1)


def find_replayed_start(view: View) -> int | None:
    """Return the key at which the window of the previous turn would have started, for histories that store no starts.

    It is found by choosing turn by turn. So a program that builds each request from a list gets the same starts as a chat.
    """
    start, ends = 0, view.sums[0]
    for turn in view.turns[:-1]:
        behind = view.sums[turn + 1]
        if ends - behind <= view.full:
            continue
        step = _compute_step(view, ends - behind, view.items[start:turn])
        later = (index for index in view.turns if start < index <= turn)
        start = next((index for index in later if view.sums[index] - behind <= view.available - step), turn)
        ends = view.sums[start]
    return view.items[start].key if start else None


def _compute_step(view: View, tokens: int, items: Sequence[Item]) -> int:
    """Return the tokens that a move of the start leaves free: the budget's step, else what about eight requests add.

    `items` are those of the window that is full, with `tokens` in all.
    """
    if view.step is not None:
        return min(view.step, view.available // 2)
    replies = sum(item.shape["role"] == ASSISTANT for item in items)
    growth = tokens / max(replies, 1)
    smallest, largest = _SMALLEST_STEP * view.available, _LARGEST_STEP * view.available
    return int(min(max(_REQUESTS_PER_STEP * growth, smallest), largest))


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
        """Return the earliest turn from which everything fits."""
        if view.complete and view.sums[0] <= view.available:
            return Selection(0, "everything fits")
        start = next((index for index in view.turns if view.sums[index] <= view.available), len(view.items) - 1)
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
        """Return the start of the last turns."""
        newest = view.turns[-self.turns :]
        if len(newest) < self.turns and view.complete:
            newest = [0, *newest]
        start = next((index for index in newest if view.sums[index] <= view.available), len(view.items) - 1)
        return Selection(start, self.name)


def compute_window_rule(model: str, counter: str, step_tokens: int | None, strategy: str) -> int:
    """Return the checksum of everything that a window's start depends on besides the path."""
    return zlib.crc32(f"{model}\x00{counter}\x00{step_tokens or 0}\x00{strategy}".encode())
