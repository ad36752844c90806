"""The window is full: counted by a server that knows the model's tokens, in long conversations."""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks.corpora import make_conversation
from tests.benchmarks.counting_model import play, report_absurdly, report_noise
from tests.support.selection import keep

BUDGET = 4_000
TURNS, TOKENS = 70, 100
"""A request adds about 3.7 % of the input budget of 3,000 tokens. The bounds are for at most 5 %."""

CASES: dict[str, dict[str, Any]] = {
    "English": {},
    "Japanese": {},
    "code": {},
    "tools": {},
    "images": {},
    "mixed": {},
    "English, exact counter": {"counter": "exact"},
    "Japanese, qwen3": {"vocabulary": "qwen3"},
    "mixed, usage with noise": {"report": report_noise},
    "mixed, some absurd usage": {"report": report_absurdly},
}


@pytest.mark.once
@pytest.mark.parametrize("case", keep(CASES, "English", "Japanese", "code", sample=True))
def test_window_is_full_and_keeps_its_beginning(case: str) -> None:
    """On average 75 % of the input budget is used (images 72 %), 90 % before a move, and 83 % of a prompt is repeated."""
    corpus = case.partition(",")[0]
    played = play(make_conversation(corpus, TURNS, TOKENS), BUDGET, **CASES[case])
    assert 0.02 <= played.growth <= 0.05
    assert len(played.moves) >= 4
    assert (played.over, played.refused, played.failed) == (0, 0, 0)
    assert played.fill >= (0.72 if corpus == "images" else 0.75)
    assert played.before >= 0.9
    assert played.shared >= 0.83
