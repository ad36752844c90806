"""The context builder: always valid, never over budget, and its start moves in steps."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit import Budget, Context, ContextBuilder, Profile
from convokit.context.validity import find_problems
from convokit.errors import ContextOverflow, InvalidInput
from convokit.tokens.counter import count_message


class Words:
    """Counts words: easy to reason about."""

    name = "words"
    is_scaled = False

    def count(self, text: str) -> int:
        return len(text.split())


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(*ids: str) -> dict[str, Any]:
    function = {"name": "f", "arguments": "{}"}
    return assistant(None, tool_calls=[{"id": each, "type": "function", "function": function} for each in ids])


def result(id: str, text: str = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": text}


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Any history: tools answered, unanswered, out of order; refusals, empty and failed turns, images."""
    messages: list[dict[str, Any]] = []
    for number in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["user", "assistant", "call", "result", "refusal", "image", "empty", "system"]))
        text = draw(st.text(alphabet="ab 日本", max_size=12))
        if kind == "user":
            messages.append(user(text))
        elif kind == "assistant":
            messages.append(assistant(text))
        elif kind == "call":
            messages.append(call(*[f"c{number}.{each}" for each in range(draw(st.integers(1, 3)))]))
        elif kind == "result":
            messages.append(result(f"c{draw(st.integers(0, 12))}.{draw(st.integers(0, 2))}"))
        elif kind == "refusal":
            messages.append(assistant(None, refusal="no"))
        elif kind == "image":
            messages.append({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]})
        elif kind == "empty":
            messages.append(assistant(None))
        else:
            messages.append({"role": "system", "content": "rule"})
    return [*messages, user("the question")]


@given(
    history=histories(),
    window=st.integers(60, 4000),
    step=st.integers(1, 2000),
    alternate=st.booleans(),
    instructions=st.sampled_from(["developer", "system", "fold"]),
)
def test_every_array_is_valid_and_within_budget(
    history: list[dict[str, Any]], window: int, step: int, alternate: bool, instructions: Any
) -> None:
    """Whatever the history: a valid array with prompt and question, within budget, or ContextOverflow with numbers."""
    builder = ContextBuilder(
        budget=Budget(context_tokens=window, reply_tokens=20, step_tokens=step),
        profile=Profile(alternate=alternate, instructions=instructions),
    )
    before = copy.deepcopy(history)
    context = _built(builder, history)
    assert history == before, "the input was changed"
    if isinstance(context, ContextOverflow):
        assert (context.needed or 0) > (context.available or 0)
        return
    assert find_problems(context.messages) == []
    assert "the question" in str(context.messages[-1]["content"])
    assert any("be brief" in str(message["content"]) for message in context.messages)
    assert context.report.tokens <= window - 20
    roles = [message["role"] for message in context.messages]
    if instructions != "fold":
        assert roles[0] == instructions
    if alternate:
        plain = [role for role in roles if role in ("user", "assistant")]
        tools = "tool" in roles
        assert tools or all(one != two for one, two in pairwise(plain))


def _built(builder: ContextBuilder, history: list[dict[str, Any]]) -> Context | ContextOverflow:
    try:
        return builder.build(developer_prompt="be brief", history=history)
    except ContextOverflow as error:
        return error


def test_instructions_come_first_and_only_once() -> None:
    """One instruction message at index 0, in the profile's role; none when there is no prompt."""
    builder = ContextBuilder(profile=Profile(instructions="developer"))
    built = builder.build(developer_prompt="a", history=[{"role": "system", "content": "b"}, user("q")])
    assert built.messages == [{"role": "developer", "content": "a\n\nb"}, user("q")]
    assert builder.build(history=[user("q")]).messages == [user("q")]


def test_fold_puts_the_prompt_into_the_first_user_message() -> None:
    """A template without a system role gets the instructions inside the first user message."""
    builder = ContextBuilder(profile=Profile(instructions="fold"))
    assert builder.build(developer_prompt="a", history=[user("q")]).messages == [user("a\n\nq")]


def test_tool_answers_stand_right_behind_their_call() -> None:
    """Answers are put in the calls' order behind the message that made them; what has no partner is left out."""
    history = [user("q"), call("a", "b"), result("b"), user("x"), result("a"), result("z"), call("lost"), user("r")]
    context = ContextBuilder().build(history=history)
    assert [message.get("tool_call_id") or message["role"] for message in context.messages] == [
        "user", "assistant", "a", "b", "user", "user",
    ]  # fmt: skip
    reasons = {part.key: part.rule for part in context.report.dropped}
    assert reasons == {5: "a tool result without its call", 6: "tool calls without results"}


def test_the_start_moves_in_steps() -> None:
    """While the history grows turn by turn, the start stays where it is for several turns, then moves a whole step."""
    builder = ContextBuilder(budget=Budget(context_tokens=200, reply_tokens=20, step_tokens=50), counter=Words())
    history: list[dict[str, Any]] = []
    starts = []
    for turn in range(60):
        history.append(user(f"question {turn}"))
        context = builder.build(history=history)
        starts.append(context.report.start or 0)
        history.append(assistant(f"answer {turn}"))
    assert starts == sorted(starts), "the start never moves back"
    moves = [turn for turn in range(1, 60) if starts[turn] != starts[turn - 1]]
    assert 5 < len(moves) < 15
    gaps = [later - earlier for earlier, later in pairwise(moves)]
    assert min(gaps) >= 3


def test_a_question_over_the_budget_says_by_how_much() -> None:
    """When the prompt and the current turn alone do not fit, ContextOverflow names both numbers."""
    builder = ContextBuilder(budget=Budget(context_tokens=40, reply_tokens=20), counter=Words())
    with pytest.raises(ContextOverflow) as caught:
        builder.build(developer_prompt="one two three", history=[user("word " * 50)])
    assert (caught.value.needed, caught.value.available) == (55, 7)


def test_nothing_to_answer_is_an_error() -> None:
    """An empty history, or one of which nothing can be sent, is refused."""
    for history in ([], [assistant(None)]):
        with pytest.raises(InvalidInput, match="history"):
            ContextBuilder().build(developer_prompt="x", history=history)


def test_a_message_costs_more_than_its_text() -> None:
    """Overhead, tool calls and names are counted."""
    counter = Words()
    assert count_message(counter, user("a b c")) == 8
    assert count_message(counter, call("x")) > 8
