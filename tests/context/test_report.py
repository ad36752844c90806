"""The report looks ahead: when the window's start moves, and how much of the prompt a cache can serve."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit import Budget, Convokit, Report
from convokit.context.builder import ContextBuilder
from convokit.context.strategy import Everything, Item, LastTurns, Strategy
from convokit.tokens.counter import count_message
from tests.context.histories import Words, assemble
from tests.support.reports import report_of
from tests.support.server import LoopbackServer, completion

_COUNTER = Words()


def _report(builder: ContextBuilder, items: list[Item], floor: int | None, pins: list[Item]) -> Report:
    return assemble(builder, items, developer_prompt="Be brief.", held_start=floor, pins=pins).report


@given(
    sizes=st.lists(st.integers(1, 60), min_size=3, max_size=60),
    step=st.integers(1, 200),
    pinned=st.sets(st.integers(0, 5), max_size=2),
)
def test_the_start_moves_when_the_report_says_so(sizes: list[int], step: int, pinned: set[int]) -> None:
    """A path that grows by `moves_in_tokens` keeps its start; one that grows by more does not."""
    builder = ContextBuilder(budget=Budget(context_tokens=400, reply_tokens=50, step_tokens=step), counter=_COUNTER)
    items: list[Item] = []
    last: Report | None = None
    for index, tokens in enumerate(sizes):
        before = items[-1].tokens_before + items[-1].tokens if items else 0
        items.append(Item(index, {"role": "user", "content": "x"}, tokens, before))
        if index not in (0, *range(6)):
            report = _report(builder, items, last.start if last else None, [items[each] for each in sorted(pinned)])
            if last is not None:
                assert last.moves_in_tokens is not None
                assert (report.start == last.start) is (tokens <= last.moves_in_tokens)
            last = report


@pytest.mark.parametrize("strategy", [Everything(), LastTurns(3)])
def test_a_start_that_moves_with_every_turn_is_not_foretold(strategy: Strategy) -> None:
    """Only the step window says when its start moves."""
    context = ContextBuilder(strategy=strategy).build(history=[{"role": "user", "content": "hello"}])
    assert context.report.moves_in_tokens is None


def _common(before: Any, after: Any) -> int:
    """Return what the equal beginning of two requests' messages costs."""
    tokens = 0
    for one, two in zip(before["messages"], after["messages"], strict=False):
        if one != two:
            break
        tokens += count_message(_COUNTER, one)
    return tokens


@pytest.mark.once
def test_the_stable_prefix_is_what_two_requests_have_in_common(database: str, server: LoopbackServer) -> None:
    """`stable_tokens` is, turn by turn, the cost of the beginning that this body shares with the one before; also when the
    window's start moves."""
    budget = Budget(context_tokens=400, reply_tokens=50, step_tokens=60)
    reports = []
    with Convokit(
        database, counter=_COUNTER, model="loop-1", base_url=server.url, budget=budget, developer_prompt="Be brief."
    ) as kit:
        chat = kit.chat("k")
        for number in range(25):
            text = f"turn {number} " + "more words " * (number % 5)
            foreseen = chat.context(text).report
            reports.append(report_of(chat.send(text)))
            assert foreseen.model_copy(update={"last_call": None}) == reports[-1]
    bodies = [request.body for request in server.requests]
    shorter = [{"messages": body["messages"][1:]} for body in bodies]
    assert all(body["messages"][0] == bodies[0]["messages"][0] for body in bodies)
    prompt = reports[0].parts[0].tokens
    assert [report.stable_tokens for report in reports] == [0, *(prompt + _common(*pair) for pair in pairwise(shorter))]
    assert len({report.start for report in reports}) > 2, "the start never moved"


@pytest.mark.once
def test_a_round_of_tools_builds_on_the_request_before_it(database: str, server: LoopbackServer) -> None:
    """The second request of a turn shares the whole first one: tools, prompt and question."""

    def lookup(city: str) -> str:
        """Look a city up."""
        return city

    function = {"name": "lookup", "arguments": '{"city": "京都"}'}
    server.script(completion(None, tool_calls=[{"id": "c1", "type": "function", "function": function}]))
    with Convokit(database, model="loop-1", base_url=server.url, tools=[lookup], counter=_COUNTER) as kit:
        report = report_of(kit.chat("k").send("where?"))
    first, second = (request.body for request in server.requests)
    tools = sum(part.tokens for part in report.parts if part.kind == "tools")
    assert report.stable_tokens == tools + _common(first, second)
    assert len(first["messages"]) == 1


class Guess(Words):
    """A counter that guesses."""

    name = "guess"
    is_estimate = True


class NearGuess(Guess):
    """A counter with a vocabulary that is near the model's."""

    name = "~guess"


@pytest.mark.parametrize(
    ("counter", "turns", "advice"),
    [
        (Guess(), 60, "install convokit-sql[tokens], pass a counter, or use a server that reports usage"),
        (NearGuess(), 60, "unused: pass a counter, or use a server that reports usage"),
        (Guess(), 3, None),
        (Words(), 60, None),
    ],
    ids=["estimate", "near", "everything fits", "exact"],
)
def test_the_report_says_what_to_do_about_an_estimate(counter: Words, turns: int, advice: str | None) -> None:
    """Only where messages stay out, and the room may be larger than the estimate says."""
    builder = ContextBuilder(budget=Budget(context_tokens=300, reply_tokens=50), counter=counter)
    history = [{"role": "user", "content": f"question {number}"} for number in range(turns)]
    report = builder.build(developer_prompt="Be brief.", history=history).report
    assert report.hint is None if advice is None else str(report.hint).endswith(advice)
    assert report.fill == round(100 * report.tokens / 250)


@pytest.mark.once
def test_another_model_has_nothing_cached(database: str, server: LoopbackServer) -> None:
    """The report names the model; what one model was sent is in no other's cache."""
    with Convokit(database, model="loop-1", base_url=server.url) as kit:
        chat = kit.chat("k")
        chat.send("hello")
        same, other = chat.context("again").report, chat.context("again", model="other").report
    assert (same.model, other.model) == ("loop-1", "other")
    assert same.stable_tokens > 0
    assert other.stable_tokens == 0


def test_the_last_call_is_set_beside_what_was_expected(database: str, server: LoopbackServer) -> None:
    """`context()` says what the server took from its cache, and what the report before that call had expected."""
    usage = {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42}
    with Convokit(database, model="loop-1", base_url=server.url) as kit:
        chat = kit.chat("k")
        assert chat.context("hello").report.last_call is None
        chat.send("hello")
        server.script(completion("yes", usage={**usage, "prompt_tokens_details": {"cached_tokens": 32}}))
        reply = chat.send("again")
        last = chat.context().report.last_call
    assert last is not None
    assert (last.prompt_tokens, last.cached_tokens) == (40, 32)
    assert last.expected_tokens == report_of(reply).stable_tokens > 0
    assert report_of(reply).last_call is None
