"""Choose the messages of a conversation that a request sends.

A strategy only chooses. `window.py` then keeps the choice within the budget, and `arrange.py` makes it valid. So no
strategy, not even a user's own, can make an invalid or an overflowing request, or change what is stored.

The step window. T(i) is the sum of the tokens of the path before message i. While the whole path fits, all of it is
sent. Later, the window starts at the first turn whose T reaches k * step, for the smallest k that fits, and never
before the start that the previous reply had. So the start depends on the path alone and moves in big steps. The
beginning of the prompt stays the same for many turns, and a provider's prompt cache can serve it. A window that slides
with every turn changes it every time.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from convokit.domain.message import PASSAGE, SUMMARY, USER
from convokit.errors import ContextOverflow, SettingsError


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
    `available` tokens. `step` is the budget's step. `held_start` is the key of the message that the window of the last reply
    started with, if strategy, model, counter and step are still the same.
    """

    items: Sequence[Item]
    available: int
    step: int
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
        """Return the first turn past the next multiple of the step that fits. Raises: ContextOverflow."""
        first = _find_held(view)
        if view.complete and first == 0 and view.sums[0] <= view.available:
            return Selection(0, "everything fits")
        turns = [index for index in view.turns if index >= first]
        for index in _list_step_starts(view, turns, first):
            if view.sums[index] <= view.available:
                is_held = view.held_start is not None and index == first
                return Selection(index, "held from the last turn" if is_held else "step window")
        for index in turns:
            if view.sums[index] <= view.available:
                return Selection(index, "only this turn fits" if index == turns[-1] else "step window")
        needed = view.sums[turns[-1]] if turns else view.sums[0]
        if not turns and needed <= view.available:
            return Selection(0, "everything fits")
        raise ContextOverflow(needed, max(view.available, 0), counter=view.counter)


def _find_held(view: View) -> int:
    """Return the index of the start that the window is held at, 0 if it is not held."""
    if view.held_start is None:
        return 0
    keys = (index for index, item in enumerate(view.items) if item.key >= view.held_start)
    return next(keys, len(view.items) - 1)


def _list_step_starts(view: View, turns: Sequence[int], first: int) -> list[int]:
    """Return the indexes at which a window may start: the held one, and the first turn past each multiple of the step."""
    starts = [first] if view.held_start is not None else [0] if view.complete else []
    previous = view.items[starts[0]].tokens_before // view.step if starts else None
    for index in turns:
        multiple = view.items[index].tokens_before // view.step
        if previous is not None and multiple > previous:
            starts.append(index)
        previous = multiple
    return starts


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


def compute_window_rule(model: str, counter: str, step_tokens: int, strategy: str) -> int:
    """Return the checksum of everything that a window's start depends on besides the path."""
    return zlib.crc32(f"{model}\x00{counter}\x00{step_tokens}\x00{strategy}".encode())
