"""What takes room in the window: every message that is sent, once, as it is sent; nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit import Budget, Context, ContextBuilder, Profile
from convokit.context.strategy import Everything, Item, LastTurns, Selection, StepWindow, Strategy
from convokit.context.validity import PartialPolicy
from convokit.errors import InvalidInput
from convokit.tokens.counter import REPLY_PRIMER, count_message
from convokit.tokens.estimate import CharacterEstimate
from tests.context.histories import Anything, Message, Words, assemble, call_of, careless
from tests.context.oracle import refusals
from tests.support.selection import examples

STRATEGIES = pytest.mark.parametrize(
    "strategy", [StepWindow(), Everything(), LastTurns(50)], ids=lambda each: each.name
)


def _items(shapes: list[Message], statuses: dict[int, str] | None = None) -> list[Item]:
    items, before = [], 0
    for key, shape in enumerate(shapes):
        tokens = count_message(Words(), shape)
        items.append(Item(key, shape, tokens, before, (statuses or {}).get(key, "complete")))
        before += tokens
    return items


def _talk(turns: int, words: int = 10) -> list[Message]:
    """Return turns of two messages, and a question."""
    text = "w " * words
    pairs = [({"role": "user", "content": text}, {"role": "assistant", "content": text}) for _ in range(turns)]
    return [*(each for pair in pairs for each in pair), {"role": "user", "content": "so?"}]


def _built(
    items: list[Item],
    tokens: int,
    strategy: Strategy | None = None,
    *,
    pins: set[int] | None = None,
    partial: PartialPolicy = "include",
    floor: int | None = None,
    step: int = 50,
) -> Context:
    budget = Budget(context_tokens=tokens, reply_tokens=20, step_tokens=step)
    builder = ContextBuilder(budget=budget, counter=Words(), strategy=strategy, partial=partial)
    pinned = [item for item in items if item.key in (pins or ())]
    return assemble(builder, items, pins=pinned, held_start=floor)


def _smallest_window(strategy: Strategy, tokens: int) -> int:
    """Return the smallest window that takes messages of these tokens whole. The step window fills 99 % of its room."""
    room = tokens
    while isinstance(strategy, StepWindow) and room - room // 100 < tokens:
        room += 1
    return room + REPLY_PRIMER + 20


@STRATEGIES
def test_a_pin_in_the_window_takes_its_room_once(strategy: Strategy) -> None:
    """A path that fits whole to the last token is sent whole, whatever of it is pinned."""
    items = _items(_talk(10))
    whole = _smallest_window(strategy, sum(item.tokens for item in items))
    assert _built(items, whole, strategy, pins={0, 1, 18}).report.start == 0
    assert _built(items, whole - 1, strategy, pins={0, 1, 18}).report.start != 0


@STRATEGIES
@examples(cost=4)
@given(
    pins=st.sets(st.integers(0, 40), max_size=6),
    tokens=st.integers(60, 700),
    floor=st.none() | st.integers(0, 20).map(lambda turn: 2 * turn),
)
def test_the_start_is_the_first_that_fits_with_the_pins_before_it(
    strategy: Strategy, pins: set[int], tokens: int, floor: int | None
) -> None:
    """Only pins that stay out of the window cost more than it; so the start is the one that a reckoning by hand finds, and no
    earlier turn would fit beside those pins. A pin that does not fit beside the current turn and newer pins costs nothing."""
    items = _items(_talk(20))
    context = _built(items, tokens, strategy, pins=pins, floor=floor, step=1)
    start, room = context.report.start, context.report.available
    assert start is not None
    fit: set[int] = set()
    for key in sorted(pins, reverse=True):
        beside = {*fit, key, items[-1].key}
        if sum(item.tokens for item in items if item.key in beside) <= room:
            fit.add(key)

    least = floor if floor is not None and isinstance(strategy, StepWindow) else 0

    def fits(start: int) -> bool:
        left = room - sum(item.tokens for item in items if item.key < start and item.key in fit)
        if isinstance(strategy, StepWindow):
            left -= left // 100 if start == least else min(1, left // 2)
        return sum(item.tokens for item in items if item.key >= start) <= left

    starts = [item.key for item in items if item.starts_turn and item.key >= least]
    expected = next((at for at in starts if fits(at)), items[-1].key)
    assert start == expected


@STRATEGIES
def test_a_pin_that_cannot_fit_leaves_the_history_its_room(strategy: Strategy) -> None:
    """A pinned message larger than the budget is left out, and what fits without it is sent; smaller pins are kept."""
    shapes = _talk(20)
    shapes[2] = {"role": "user", "content": "w " * 1000}
    items = _items(shapes)
    without, beside = _built(items, 400, strategy), _built(items, 400, strategy, pins={2})
    assert beside.messages == without.messages
    assert (beside.report.start, beside.report.moves_in_tokens) == (
        without.report.start,
        without.report.moves_in_tokens,
    )
    assert [part.rule for part in beside.report.dropped if part.key == 2] == ["pinned, but does not fit"]
    assert _built(items, 400, strategy, pins={0, 2}).messages[0] == shapes[0]


def test_a_start_held_amid_a_turn_moves_to_the_next_turn() -> None:
    """A window held at a message that begins no turn moves on to the first turn that leaves a step free."""
    items = _items(_talk(20))
    held = _built(items[:16], 10_000, floor=3).report
    assert (held.start, held.rule) == (3, "held from the last turn")
    step = 50
    starts = [item.key for item in items if item.starts_turn and item.key > 3]
    room = sum(item.tokens for item in items[4:])
    left = {key: sum(item.tokens for item in items if item.key >= key) for key in starts}
    expected = next(key for key in starts if left[key] <= room - step)
    assert _built(items, room + REPLY_PRIMER + 20, floor=3, step=step).report.start == expected


@STRATEGIES
@pytest.mark.parametrize("status", ["redacted", "late", "partial"])
def test_what_cannot_be_sent_takes_no_room(strategy: Strategy, status: str) -> None:
    """A redacted, late or partial message of a thousand words that is left out costs the window nothing, and the report still
    says what it was."""
    shapes = _talk(6)
    shapes[3] = {"role": "assistant", "content": "w " * 1000}
    items = _items(shapes, {3: status})
    whole = _smallest_window(strategy, sum(item.tokens for item in items if item.key != 3))
    context = _built(items, whole, strategy, partial="leave_out")
    assert context.report.start == 0
    assert [part.tokens for part in context.report.dropped] == [1005]
    assert _built(items, whole - 1, strategy, partial="leave_out").report.start != 0


@STRATEGIES
def test_calls_and_answers_that_miss_each_other_take_no_room(strategy: Strategy) -> None:
    """A call nobody answered and an answer nobody asked for are left out, and the rest is sent whole."""
    calling = {"role": "assistant", "content": None, "tool_calls": [call_of("a")]}
    shapes = _talk(6)
    shapes[3:3] = [calling, {"role": "tool", "tool_call_id": "b", "content": "w " * 1000}]
    items = _items(shapes)
    whole = _smallest_window(strategy, sum(item.tokens for item in items if item.key not in (3, 4)))
    context = _built(items, whole, strategy)
    assert context.report.start == 0
    assert {part.key: part.rule for part in context.report.dropped} == {
        3: "tool calls without results",
        4: "a tool result without its call",
    }


class _Chosen:
    """A user's strategy: some single messages, and the last turn."""

    name, most_turns = "chosen", None

    def __init__(self, *also: int) -> None:
        self.also = also

    def select(self, view: Any) -> Selection:
        return Selection(len(view.items) - 1, self.name, self.also)


def test_what_cannot_be_sent_of_the_path_is_not_sent_of_a_part_of_it() -> None:
    """An answer that came a second time stays out, also where the first one is not selected: it had no room."""
    calling = {"role": "assistant", "content": None, "tool_calls": [call_of("a")]}
    once = {"role": "tool", "tool_call_id": "a", "content": "ok"}
    again = {"role": "tool", "tool_call_id": "a", "content": "w " * 1000}
    items = _items([{"role": "user", "content": "do it"}, calling, once, again, {"role": "user", "content": "so?"}])
    context = _built(items, 200, _Chosen(1, 3))
    assert context.messages == [{"role": "user", "content": "so?"}]
    assert context.report.tokens <= 180


@examples(cost=2)
@given(
    history=st.lists(careless(), min_size=1, max_size=6),
    also=st.lists(st.integers(0, 30), max_size=6).map(tuple),
    pins=st.sets(st.integers(0, 30), max_size=5),
    tokens=st.integers(40, 400),
)
def test_single_messages_of_careless_rounds_stay_within_the_budget(
    history: list[list[Message]], also: tuple[int, ...], pins: set[int], tokens: int
) -> None:
    """Any single messages of rounds with ids twice and answers missing: a valid array that fits, counted anew."""
    shapes = [message for turn in history for message in ({"role": "user", "content": "do it now"}, *turn)]
    shapes = [{**each, "content": each["content"] or ""} if each["role"] == "tool" else each for each in shapes]
    items = _items([*shapes, {"role": "user", "content": "so?"}])
    context = _built(items, tokens, Anything(99, also), pins=pins)
    assert refusals(context.messages) == []
    assert REPLY_PRIMER + sum(count_message(Words(), each) for each in context.messages) <= tokens - 20


def test_an_older_function_call_counts() -> None:
    """The `function_call` of an assistant message is sent, with words beside it or without, and costs what it says."""
    calling = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "x " * 40}}
    assert count_message(Words(), calling) > count_message(Words(), {"role": "assistant", "content": None}) + 40
    answered = {"role": "function", "name": "f", "content": "ok"}
    history: list[Message] = [{"role": "user", "content": "go"}, calling, answered, {"role": "user", "content": "so?"}]
    builder = ContextBuilder(budget=Budget(context_tokens=200, reply_tokens=20), counter=Words())
    context = builder.build(history=history)
    assert context.messages == history
    assert context.report.tokens > 40
    assert [part.key for part in context.report.dropped] == []


@pytest.mark.parametrize(
    "given", ["f", [], {"name": 5}, {"name": "f", "arguments": b"x"}, {"name": "f", "arguments": {1}}]
)
def test_an_older_function_call_that_is_none_is_named(given: Any) -> None:
    """What JSON does not have, or what has no name, is refused where it stands; a name is put in the API's characters."""
    message = {"role": "assistant", "content": "so", "function_call": given}
    if not given:
        assert ContextBuilder().build(history=[{"role": "user", "content": "q"}, message]).report.tokens > 0
        return
    with pytest.raises(InvalidInput, match=r"history\[0\]\.function_call"):
        ContextBuilder().build(history=[message])


def test_a_spoken_reply_counts_as_its_words() -> None:
    """Once the server has forgotten the sound, the transcript is sent in its place."""
    spoken = {"role": "assistant", "content": None, "audio": {"id": "audio_1", "transcript": "w " * 40}}
    assert count_message(Words(), spoken) == count_message(Words(), {"role": "assistant", "content": "w " * 40})


@pytest.mark.parametrize("role", ["developer", "system"])
@pytest.mark.parametrize("instructions", ["developer", "system", "fold"])
def test_instructions_count_under_the_role_they_are_sent_in(instructions: Any, role: str) -> None:
    """The developer prompt, and instructions in mid-array, cost what they cost as they are sent."""
    counter = CharacterEstimate()
    builder = ContextBuilder(profile=Profile(instructions=instructions), counter=counter)
    history = [
        {"role": "user", "content": "one"},
        {"role": role, "content": "a rule"},
        {"role": "user", "content": "q"},
    ]
    context = builder.build(developer_prompt="be brief", history=history)
    again = REPLY_PRIMER + sum(count_message(counter, each) for each in context.messages)
    if instructions == "fold":
        assert again <= context.report.tokens
    else:
        assert again == context.report.tokens
