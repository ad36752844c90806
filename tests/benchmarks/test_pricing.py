"""The simulation that docs/explanation/cache-stable-window.md shows: its direction, and that the page shows what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import page, pricing
from tests.benchmarks.pricing import HALF, LOOSE, QUARTER, SLIDING, Contender, Rule, alternating, bill, simulate

PAGE = Path(__file__).resolve().parents[2] / "docs/explanation/cache-stable-window.md"


@pytest.mark.parametrize("contender", [QUARTER, HALF], ids=lambda each: each.name)
@pytest.mark.parametrize("rule", [pricing.RULES[0], pricing.RULES[3]], ids=lambda each: each.name)
def test_steps_cost_less_than_half_of_sliding(contender: Contender, rule: Rule) -> None:
    """Where cached input costs a tenth, a window that moves in steps has at most half of a sliding window's input bill."""
    assert bill(simulate(contender), rule) * 2 <= bill(simulate(SLIDING), rule)


def test_steps_keep_most_of_the_history() -> None:
    """The saving is the cache's: the default step still sends more than seven tenths of what a sliding window sends."""
    assert pricing.kept(simulate(HALF), simulate(SLIDING)) > 0.7


def test_a_held_start_is_what_a_single_slot_serves() -> None:
    """With a reply reserve that changes from turn to turn, only a start that never moves back keeps the last prompt usable."""
    assert pricing.one_slot(simulate(QUARTER, alternating)) > 3 * pricing.one_slot(simulate(LOOSE, alternating))


@pytest.mark.parametrize("contender", pricing.CONTENDERS, ids=lambda each: each.name)
def test_every_simulated_prompt_fits(contender: Contender) -> None:
    """No strategy is billed for less, or serves more, than it may: each prompt leaves room for its reply."""
    for turn, prompt in enumerate(simulate(contender, alternating, turns=100)):
        assert prompt.history <= prompt.tokens <= pricing.WINDOW - alternating(turn)
        assert prompt.common < prompt.tokens


@pytest.mark.parametrize("mark", ["simulated", "alternating"])
def test_the_page_shows_what_the_simulation_says(mark: str) -> None:
    """The tables on the page are those the command prints."""
    assert page.between(PAGE.read_text("utf-8"), mark) == pricing.tables()[mark]
