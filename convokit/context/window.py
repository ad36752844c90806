"""Where the window begins.

T(i) is the cumulative tokens of the path before message i. While the whole path fits, all of it is sent. Past that, the start
is the first turn boundary whose T reaches k * step, for the smallest k that fits, and never before the start that the
previous reply had. So the start depends on the path alone, moves in big steps, and the prompt's beginning stays the same for
many turns: that is what a provider's prompt cache can serve. A window that slides with every turn changes it every time.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from convokit.domain.message import PASSAGE, SUMMARY
from convokit.errors import ContextOverflow

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
        return self.shape["role"] == "user" and self.status not in (PASSAGE, SUMMARY)

    @property
    def is_passage(self) -> bool:
        return self.status == PASSAGE


@dataclass(frozen=True, slots=True)
class Window:
    """The outcome: items from `start` on are sent, `tokens` in all."""

    start: int
    rule: Rule
    tokens: int


def window_rule(model: str, counter: str, step_tokens: int, strategy: str) -> int:
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
