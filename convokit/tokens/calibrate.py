"""Calibration: another counter's counts, multiplied by what the server's own usage showed.

The factor is fixed when the counter is made, rounded up to a coarse step and part of its name. So stored counts keep their
meaning, and a window only moves when a new calibration lands on another step; nothing drifts from turn to turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from convokit.errors import SettingsError
from convokit.tokens.counter import Counter

STEPS = 10
"""How many steps there are between one factor and the next whole one: factors are tenths."""
_SHARE = 0.95
_HIGHEST = 10.0


class Calibrated:
    """Counts as `counter` does, times `factor`, rounded up.

    `Calibrated.from_usage` finds the factor. A factor of 1 changes nothing, the name included.

    >>> from convokit.tokens.calibrate import Calibrated
    >>> from convokit.tokens.estimate import CharacterEstimate
    >>> Calibrated(CharacterEstimate(), 1.3).name
    'estimate*1.3'
    """

    def __init__(self, counter: Counter, factor: float) -> None:
        if not (isinstance(factor, int | float) and 0 < factor <= _HIGHEST):
            raise SettingsError("counter", f"cannot be calibrated by {factor!r}: a factor is above 0 and at most 10")
        self._counter = counter
        self._tenths = math.ceil(round(factor * STEPS, 6))
        self.name = counter.name if self._tenths == STEPS else f"{counter.name}*{self._tenths / STEPS:g}"

    @property
    def factor(self) -> float:
        """What counts are multiplied by: the factor given, rounded up to a tenth."""
        return self._tenths / STEPS

    @classmethod
    def from_usage(
        cls, counter: Counter, usage: Iterable[tuple[int, int | None]], *, lowest: float = 1.0
    ) -> Calibrated:
        """Return `counter` calibrated by pairs of prompt tokens: as it counted them, and as the server reported them.

        A pair is `(reply.context.tokens, reply.usage.prompt_tokens)` of a turn that `counter` counted, with usage that the
        server reported. The factor is the one that is enough for 95 of 100 pairs (all of them, when there are fewer than 20),
        never below `lowest`: pass less than 1 to let an estimate that is too careful come down. Without pairs it is 1.
        """
        shares = sorted(reported / counted for counted, reported in usage if counted > 0 and reported)
        if not shares:
            return cls(counter, 1.0)
        enough = shares[math.ceil(_SHARE * len(shares)) - 1]
        return cls(counter, min(max(enough, lowest), _HIGHEST))

    def count(self, text: str) -> int:
        """Return the calibrated count of `text`."""
        return -(-self._counter.count(text) * self._tenths // STEPS)
