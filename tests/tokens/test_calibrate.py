"""Calibration: what the server reported makes a factor, in coarse steps, that is part of the counter's name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine

from convokit import Budget, ContextBuilder, Convokit
from convokit.context.strategy import compute_window_rule
from convokit.errors import SettingsError
from convokit.store import api_calls
from convokit.tokens.calibrate import Calibrated
from convokit.tokens.counter import Counter
from convokit.tokens.estimate import CharacterEstimate
from convokit.usage.calibration import usage_pairs
from tests.support.server import LoopbackServer, Script, completion


class Words:
    """Counts words: easy to reason about."""

    name = "words"

    def count(self, text: str) -> int:
        return len(text.split())


@pytest.mark.parametrize(
    ("pairs", "lowest", "factor"),
    [
        ([], 1.0, 1.0),
        ([(100, 100)], 1.0, 1.0),
        ([(100, 131), (100, 120)], 1.0, 1.4),
        ([(100, 60)], 1.0, 1.0),
        ([(100, 60)], 0.5, 0.6),
        ([(100, 20)], 0.5, 0.5),
        ([(0, 9), (100, None), (100, 0)], 1.0, 1.0),
        ([(100, 110)] * 39 + [(1, 50)], 1.0, 1.1),
        ([(1, 500)], 1.0, 10.0),
    ],
)
def test_the_factor_is_enough_for_95_of_100(pairs: list[tuple[int, int | None]], lowest: float, factor: float) -> None:
    """It covers what was reported, in tenths, never below 1 unless asked; one strange pair among many does not set it."""
    counter = Calibrated.from_usage(Words(), pairs, lowest=lowest)
    assert counter.factor == factor
    assert counter.name == ("words" if factor == 1 else f"words*{factor:g}")
    assert counter.count("a b c d e f g h i j") == round(10 * factor)


@given(st.lists(st.tuples(st.integers(1, 9999), st.integers(1, 9999)), min_size=1, max_size=19), st.floats(0.1, 1.0))
def test_a_calibrated_count_covers_what_was_reported(pairs: list[tuple[int, int]], lowest: float) -> None:
    """Multiplied by the factor, every one of a few counts is at least what the server reported (up to ten times)."""
    factor = Calibrated.from_usage(Words(), pairs, lowest=lowest).factor
    for counted, reported in pairs:
        assert counted * factor >= min(reported, counted * 10) - 1e-6


def test_calibration_narrows_the_estimate() -> None:
    """Usage of turns that were overestimated brings the estimate down to the truth, not under it."""
    estimate = CharacterEstimate()
    told = [(estimate.count(text), len(text) // 5) for text in ("the conversation goes on " * n for n in range(1, 15))]
    counter = Calibrated.from_usage(estimate, told, lowest=0.1)
    for text in ("the conversation goes on " * n for n in range(20, 30)):
        assert len(text) // 5 <= counter.count(text) < estimate.count(text)


def test_small_changes_of_the_truth_change_nothing() -> None:
    """Usage a little different lands on the same step: same name, same window rule, same stored counts."""
    names = {Calibrated.from_usage(Words(), [(1000, reported)]).name for reported in range(1201, 1300, 7)}
    assert names == {"words*1.3"}
    rules = {compute_window_rule("m", name, 100, "step window") for name in [*names, "words*1.4"]}
    assert len(rules) == 2


def test_a_window_stays_where_it_began() -> None:
    """Windows by a calibrated counter move in steps like any other, and never back."""
    builder = ContextBuilder(budget=Budget(context_tokens=300, step_tokens=60), counter=Calibrated(Words(), 1.5))
    history, starts = [], []
    for turn in range(30):
        history.append({"role": "user", "content": f"question number {turn}"})
        starts.append(builder.build(history=history).report.start or 0)
        history.append({"role": "assistant", "content": "yes"})
    assert starts == sorted(starts)
    assert 1 < len(set(starts)) < 15


@pytest.mark.parametrize("factor", [0, -1, 11, float("nan"), "2"])
def test_a_factor_that_is_none_is_refused(factor: float) -> None:
    """A factor is above 0 and at most 10."""
    with pytest.raises(SettingsError, match="the factor must be above 0"):
        Calibrated(Words(), factor)


def test_a_database_knows_the_pairs(sqlite_file: str, server: LoopbackServer) -> None:
    """Of every reported call the pair is what the turn's own report said and what the server said; newest first, by model."""
    reported = iter((40, 90, 140))

    def answer(body: object) -> Script:
        return completion("yes", usage={"prompt_tokens": next(reported), "completion_tokens": 1, "total_tokens": 1})

    server.answer = answer
    kit = Convokit(sqlite_file, model="loop-1", base_url=server.url, developer_prompt="Be brief.", counter=Words())
    replies = [kit.chat("k").send(f"question {number}") for number in range(3)]
    kit.close()
    told = [(reply.context.tokens, reply.usage.prompt_tokens) for reply in replies]
    engine = create_engine(sqlite_file)
    with engine.connect() as connection:
        assert usage_pairs(connection, Words(), model="loop-1") == told[::-1]
        assert usage_pairs(connection, Words(), model="loop-1", limit=1) == told[:1:-1]
        assert usage_pairs(connection, Words(), model="other") == []
        assert usage_pairs(connection, Words(), model="loop-1", tenant="other") == []
        assert api_calls.list_reported_calls(connection, "other", "loop-1", 9) == []
        calibrated = Calibrated.from_usage(Words(), usage_pairs(connection, Words(), model="loop-1"))
    engine.dispose()
    assert calibrated.factor > 1


def test_a_deploy_may_change_the_counter(sqlite_file: str, server: LoopbackServer) -> None:
    """Rows that another counter counted are counted again by the new one, and the turn goes on within its budget."""
    counters: list[Counter] = [Words(), Calibrated(Words(), 2.0), CharacterEstimate()]
    budget = Budget(context_tokens=400, reply_tokens=20, step_tokens=100)
    for number, counter in enumerate(counters):
        kit = Convokit(sqlite_file, model="loop-1", base_url=server.url, counter=counter, budget=budget)
        for turn in range(6):
            reply = kit.chat("k").send(f"question {number} {turn} " + "word " * 10)
            assert reply.context is not None
            assert (reply.context.counter, reply.context.tokens <= 380) == (counter.name, True)
        kit.close()
