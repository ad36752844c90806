"""The rolling summary in the builder: what room it is given, which one is sent, and what it never does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit import Budget, ContextBuilder, Profile
from convokit.context import summary
from convokit.context.report import Context
from convokit.context.strategy import Everything, Item, LastTurns, StepWindow, Strategy
from convokit.context.summary import HEADING, CountedSummary, add_heading, format_for_transcript, format_transcript
from convokit.domain.message import SUMMARY
from convokit.errors import ContextOverflow
from convokit.tokens.counter import count_message
from tests.context.histories import Words, assemble
from tests.context.oracle import refusals
from tests.support.selection import examples

COUNTER = Words()
STRATEGIES = st.sampled_from([StepWindow(), StepWindow(), Everything(), LastTurns(3)])


def _talk(words: list[int]) -> list[Item]:
    """Return a talk with messages of so many words, turn after turn, ending with a question."""
    items, before = [], 0
    for key, count in enumerate(words if len(words) % 2 else words[:-1], 1):
        shape = {"role": "user" if key % 2 else "assistant", "content": "w " * count + f"<{key}>"}
        tokens = count_message(COUNTER, shape)
        items.append(Item(key, shape, tokens, before))
        before += tokens
    return items


def _rolled(last: int, words: int = 5, key: int = 1000) -> CountedSummary:
    shape = {"role": "user", "content": add_heading("so " * words + f"to {last}")}
    return CountedSummary(Item(key + last, shape, count_message(COUNTER, shape), 0, SUMMARY), 1, last)


def _built(
    items: list[Item],
    strategy: Strategy | None = None,
    *,
    summaries: list[CountedSummary] | None = None,
    kept_free: int = 40,
    pinned: list[Item] | None = None,
    tokens: int = 300,
    floor: int | None = None,
    profile: Profile | None = None,
) -> Context:
    builder = ContextBuilder(
        budget=Budget(context_tokens=tokens, reply_tokens=20, step_tokens=50),
        counter=COUNTER,
        strategy=strategy,
        profile=profile,
    )
    return assemble(
        builder,
        items,
        developer_prompt="be brief",
        pins=pinned or [],
        summaries=summaries or [],
        summary_reserve=kept_free,
        held_start=floor,
    )


@examples(cost=2)
@given(
    words=st.lists(st.integers(0, 30), min_size=1, max_size=50),
    strategy=STRATEGIES,
    ends=st.lists(st.integers(1, 50), max_size=4, unique=True),
    size=st.integers(0, 60),
    kept_free=st.integers(0, 120),
    pins=st.sets(st.integers(0, 49), max_size=3),
    tokens=st.integers(40, 400),
    floor=st.integers(1, 50),
)
def test_it_is_valid_and_fits_whatever_is_summed_up(
    words: list[int],
    strategy: Strategy,
    ends: list[int],
    size: int,
    kept_free: int,
    pins: set[int],
    tokens: int,
    floor: int,
) -> None:
    """Any history, budget, strategy, pins and summaries: a valid array within the budget that holds the current turn; at most
    one summary, never one that costs a pin its place, and none where nothing stays out."""
    items = _talk(words)
    pinned = [item for item in items if item.key - 1 in pins]
    summaries = [_rolled(end, size) for end in sorted(ends, reverse=True)]
    given: dict[str, Any] = {
        "kept_free": kept_free,
        "pinned": pinned,
        "tokens": tokens,
        "floor": min(floor, len(items)),
    }
    try:
        plain = _built(items, strategy, **given)
        found = _built(items, strategy, summaries=summaries, **given)
    except ContextOverflow:
        with pytest.raises(ContextOverflow):
            _built(items[-1:], strategy, tokens=tokens, kept_free=0)
        return
    assert refusals(found.messages) == []
    assert found.messages[-1] == items[-1].shape
    assert found.report.tokens <= found.report.fixed_tokens + found.report.available
    sent = [part for part in found.report.parts if part.kind == "summary" and part.included]
    assert len(sent) == sum(str(each["content"]).startswith(HEADING) for each in found.messages) <= 1
    if not kept_free or found.report.start == 1:
        assert not sent
    kept = {part.key for part in plain.report.included if part.rule == "pinned"}
    assert kept <= {part.key for part in found.report.included}


@examples(cost=4)
@given(words=st.lists(st.integers(0, 25), min_size=11, max_size=61), strategy=STRATEGIES)
def test_the_start_is_the_same_with_a_summary_and_without(words: list[int], strategy: Strategy) -> None:
    """Grown turn by turn with a summary made at each move, or with every one failed, the window begins at the same places; it
    never moves back, and in between each array begins with the one before it."""
    items = _talk(words)
    floors: dict[bool, int | None] = {True: None, False: None}
    summaries: list[CountedSummary] = []
    before: list[Any] = []
    for end in range(1, len(items) + 1, 2):
        path = items[:end]
        made = _built(path, strategy, summaries=summaries, floor=floors[True])
        start = made.report.start
        assert start is not None
        moved = floors[True] is not None and start != floors[True]
        if start > 1 and (not summaries or summaries[0].last < start - 1):
            summaries.insert(0, _rolled(start - 1))
            made = _built(path, strategy, summaries=summaries, floor=floors[True])
        failed = _built(path, strategy, floor=floors[False])
        assert made.report.start == start == failed.report.start
        assert start >= (floors[True] or 1) or not isinstance(strategy, StepWindow)
        if before and not moved:
            assert made.messages[: len(before)] == before
        before, floors = made.messages, {True: start, False: start}


def test_room_is_kept_only_where_something_stays_out() -> None:
    """A talk that fits whole is sent whole, up to the last token; one token more, and the summary's room is taken off."""
    items = _talk([10] * 21)
    whole = sum(item.tokens for item in items) + 31
    assert _built(items, tokens=whole + 5).report.start == 1  # a hundredth is kept free
    smaller = _built(items, tokens=whole)
    assert smaller.report.start is not None
    assert smaller.report.start > 1
    assert smaller.report.tokens + 40 <= smaller.report.available + smaller.report.fixed_tokens


def test_a_summary_larger_than_its_room_moves_the_start_by_a_step() -> None:
    """A text may cost more than was asked for: the window begins at a later step then, and stays there."""
    items = _talk([10] * 41)
    small, large = _built(items, summaries=[_rolled(20)]), _built(items, summaries=[_rolled(20, 90)])
    assert small.report.start is not None
    assert large.report.start is not None
    assert large.report.start > small.report.start
    assert [part.included for part in large.report.parts if part.kind == "summary"] == [True]
    assert large.report.rule == "step window"


@pytest.mark.parametrize(("ends", "expected"), [((20, 10), 20), ((90, 20), 20), ((95, 90), 90), ((), None)])
def test_the_newest_before_the_window_is_taken(ends: tuple[int, ...], expected: int | None) -> None:
    """Of a path's summaries the newest that ends before the window; where all reach into it, the one that ends first."""
    found = summary.pick_summary([_rolled(end) for end in ends], 30)
    assert (found.last if found else None) == expected


def test_where_turns_alternate_it_is_part_of_the_first_turn() -> None:
    """It is a user's message: a template that wants turns to alternate gets it merged with the next, pins stay behind it."""
    items = _talk([10] * 41)
    found = _built(items, summaries=[_rolled(20)], profile=Profile(alternate=True, instructions="fold"))
    assert found.messages[0]["role"] == "user"
    assert found.messages[0]["content"].startswith(f"be brief\n\n{HEADING}")
    assert [each["role"] for each in found.messages[:3]] == ["user", "assistant", "user"]


def test_a_transcript_says_who_said_what() -> None:
    """Roles, words, refusals, calls and results; what is no text by its kind; a summary as it is; nothing for what is empty."""
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "家"}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": add_heading("before")},
        {"role": "user", "content": [{"type": "text", "text": "これは"}, {"type": "image_url", "image_url": {}}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "x" * 9000},
        {"role": "assistant", "content": "", "refusal": "I will not."},
        {"role": "assistant", "content": None},
    ]
    blocks = format_transcript(messages).split("\n\n")
    assert blocks[:4] == [HEADING, "before", "user: これは [image]", 'assistant: [calls look({"at": "家"})]']
    assert blocks[4] == "tool: " + "x" * 8000 + " […]"
    assert blocks[5:] == ["assistant: I will not."]
    assert format_for_transcript(messages[-1]) == ""
