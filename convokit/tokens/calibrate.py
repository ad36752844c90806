"""Calibrate a token counter with the usage that a server reported."""

from __future__ import annotations

import math
from collections.abc import Iterable

from convokit.errors import SettingsError
from convokit.tokens.counter import Counter

STEPS = 10
"""Factors are rounded up to tenths."""
_COVERED_SHARE = 0.95
_MAX_FACTOR = 10.0


class Calibrated:
    """Multiplies the counts of another counter by `factor`, rounded up.

    `Calibrated.from_usage` computes the factor. It is rounded up to a tenth. It is part of the name, so that stored counts keep
    their meaning. A factor of 1 changes neither counts nor name.

    >>> from convokit.tokens import Calibrated, CharacterEstimate
    >>> Calibrated(CharacterEstimate(), 1.3).name
    'estimate*1.3'
    """

    def __init__(self, counter: Counter, factor: float) -> None:
        if not (isinstance(factor, int | float) and 0 < factor <= _MAX_FACTOR):
            raise SettingsError("counter", f"the factor must be above 0 and at most 10, not {factor!r}")
        self._counter = counter
        self._tenths = math.ceil(round(factor * STEPS, 6))
        self.name = counter.name if self._tenths == STEPS else f"{counter.name}*{self._tenths / STEPS:g}"

    @property
    def factor(self) -> float:
        """The factor, rounded up to a tenth."""
        return self._tenths / STEPS

    @classmethod
    def from_usage(
        cls, counter: Counter, usage: Iterable[tuple[int, int | None]], *, lowest: float = 1.0
    ) -> Calibrated:
        """Calibrate `counter` with pairs of prompt tokens: counted by `counter`, and reported by the server.

        A pair is `(reply.context.tokens, reply.usage.prompt_tokens)`. The factor covers 95 % of the pairs, and all of them if
        there are fewer than 20. It is at least `lowest`: pass a value below 1 if the counter counts too much. Without pairs it
        is 1.
        """
        shares = sorted(reported / counted for counted, reported in usage if counted > 0 and reported)
        if not shares:
            return cls(counter, 1.0)
        covering = shares[math.ceil(_COVERED_SHARE * len(shares)) - 1]
        return cls(counter, min(max(covering, lowest), _MAX_FACTOR))

    def count(self, text: str) -> int:
        """Return the tokens of `text`."""
        return -(-self._counter.count(text) * self._tenths // STEPS)
