"""The simulation that docs/explanation/cache-stable-window.md shows: its direction, and that the page shows what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import page, pricing
from tests.benchmarks.pricing import (
    DEFAULT,
    HALF,
    QUARTER,
    REPLAYED,
    SLIDING,
    Contender,
    Rule,
    alternating,
    bill,
    simulate,
)

PAGE = Path(__file__).resolve().parents[2] / "docs/explanation/cache-stable-window.md"


@pytest.mark.parametrize("contender", [DEFAULT, QUARTER, HALF], ids=lambda each: each.name)
@pytest.mark.parametrize("rule", [pricing.RULES[0], pricing.RULES[3]], ids=lambda each: each.name)
def test_steps_cost_less_than_half_of_sliding(contender: Contender, rule: Rule) -> None:
    """Where cached input costs a tenth, a window that moves in steps has at most half of a sliding window's input bill."""
    assert bill(simulate(contender), rule) * 2 <= bill(simulate(SLIDING), rule)


def test_the_default_step_keeps_most_of_the_history() -> None:
    """The saving is the cache's: the default step sends more than three quarters of what a sliding window sends."""
    assert pricing.kept(simulate(DEFAULT), simulate(SLIDING)) > 0.75
    assert pricing.share(simulate(DEFAULT), pricing.RULES[0]) > 0.8


def test_the_default_step_lies_between_a_quarter_and_a_half() -> None:
    """A larger step is served more from the cache, and keeps less history."""
    shares = [pricing.share(simulate(each), pricing.RULES[0]) for each in (QUARTER, DEFAULT, HALF)]
    kept = [pricing.kept(simulate(each), simulate(SLIDING)) for each in (HALF, DEFAULT, QUARTER)]
    assert shares == sorted(shares)
    assert kept == sorted(kept)


def test_a_list_of_messages_gets_the_starts_of_a_stored_conversation() -> None:
    """With one reserve for all replies, the start that is found from the whole history is the start that was stored."""
    assert simulate(REPLAYED) == simulate(DEFAULT)


def test_a_held_start_is_what_a_single_slot_serves() -> None:
    """With a reply reserve that changes from turn to turn, only a stored start keeps the last prompt usable: 81 % and 19 %."""
    held, replayed = (pricing.one_slot(simulate(each, alternating)) for each in (DEFAULT, REPLAYED))
    assert [held, replayed] == pytest.approx([0.81, 0.19], abs=0.005)


@pytest.mark.parametrize("contender", pricing.CONTENDERS, ids=lambda each: each.name)
def test_every_simulated_prompt_fits(contender: Contender) -> None:
    """No strategy is billed for less, or serves more, than it may: each prompt leaves room for its reply."""
    for turn, prompt in enumerate(simulate(contender, alternating, turns=100)):
        assert prompt.history <= prompt.tokens <= pricing.WINDOW - alternating(turn)
        assert prompt.common < prompt.tokens


def test_the_page_shows_what_the_simulation_says() -> None:
    """The table on the page is the one that the command prints."""
    assert page.between(PAGE.read_text("utf-8"), "simulated") == pricing.by_rule()
