"""Whatever the history, the settings and the strategy: the array is one that a server takes, within its budget."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convokit import Budget, Context, ContextBuilder, Profile
from convokit.context.strategy import Item, Strategy
from convokit.context.validity import find_problems
from convokit.errors import ContextOverflow, InvalidInput
from convokit.tokens.counter import REPLY_PRIMER, Counter, count_message, count_schema, count_tools
from tests.context.histories import (
    COUNTERS,
    PINS,
    PROFILES,
    SCHEMA,
    STRATEGIES,
    TOOL,
    WORDS,
    Message,
    Words,
    assemble,
    careless,
    conversations,
    histories,
    marks,
    turn_on_its_way,
)
from tests.context.oracle import alternation, refusals
from tests.support.selection import examples

PROMPT = "be brief"
BUDGETS = st.builds(
    lambda window, reply, step: Budget(
        context_tokens=window, reply_tokens=None if reply is None else min(reply, window - 1), step_tokens=step
    ),
    st.one_of(st.integers(2, 120), *[st.integers(200, 900)] * 2, *[st.integers(500, 20_000)] * 3),
    st.none() | st.integers(1, 200),
    st.none() | st.integers(1, 3000),
)


def _recounted(builder: ContextBuilder, context: Context, **fixed: Any) -> int:
    """Return what the finished array costs by the report's counter, counted anew."""
    counter = builder.counter
    assert counter.name == context.report.counter
    total = REPLY_PRIMER + sum(count_message(counter, message) for message in context.messages)
    return total + count_tools(counter, fixed["tools"]) + count_schema(counter, fixed["response_format"])


def _outcome(build: Callable[[], Context]) -> Context | ContextOverflow | InvalidInput:
    try:
        return build()
    except (ContextOverflow, InvalidInput) as error:
        return error


def _current(history: list[Message]) -> list[Message]:
    asked = [at for at, message in enumerate(history) if message.get("role") == "user"]
    return history[asked[-1] :] if asked else history


def _hold(builder: ContextBuilder, context: Context, prompt: str, **fixed: Any) -> None:
    """Assert what holds for every array."""
    assert refusals(context.messages) == []
    assert find_problems(context.messages) == []
    report, most = context.report, builder.profile.max_input_tokens
    limit = builder.window_tokens - report.reply_tokens
    limit = limit if most is None else min(limit, most)
    assert _recounted(builder, context, **fixed) <= limit
    assert report.tokens <= limit
    roles = [message["role"] for message in context.messages]
    profile = builder.profile
    if profile.instructions == "fold":
        assert not {"system", "developer"} & set(roles)
        first = next((each for each in context.messages if each["role"] == "user"), context.messages[0])
        assert prompt in str(first["content"])
    else:
        assert roles[0] == profile.instructions
        assert str(context.messages[0]["content"]).startswith(prompt)
        assert not {"system", "developer"} - {profile.instructions} & set(roles)
    if profile.alternate:
        assert alternation(context.messages) == []


@examples()
@given(
    history=histories(),
    budget=BUDGETS,
    profile=PROFILES,
    counter=COUNTERS,
    strategy=STRATEGIES,
    pinned=PINS,
    tools=st.sampled_from([[], [TOOL], [TOOL, TOOL]]),
    form=st.sampled_from([None, SCHEMA]),
)
def test_every_array_is_one_that_a_server_takes(
    history: list[Message],
    budget: Budget,
    profile: Profile,
    counter: Counter,
    strategy: Strategy,
    pinned: list[int],
    tools: list[Message],
    form: Message | None,
) -> None:
    """Rule 29. Any history, budget, profile, strategy and pins: a valid array with prompt and current turn, within the
    budget, or an error that says why not; the input is what it was."""
    builder = ContextBuilder(budget=budget, profile=profile, counter=counter, strategy=strategy)
    before = copy.deepcopy(history)
    fixed: dict[str, Any] = {"tools": tools, "response_format": form}
    context = _outcome(lambda: builder.build(developer_prompt=PROMPT, history=history, pinned=pinned, **fixed))
    assert history == before, "the input was changed"
    if isinstance(context, ContextOverflow):
        assert (context.needed or 0) > (context.available or 0) >= 0
        return
    if isinstance(context, InvalidInput):
        assert context.field == "history"
        return
    _hold(builder, context, PROMPT, **fixed)
    wide = ContextBuilder(budget=Budget(context_tokens=10**6), profile=profile, counter=counter)
    alone = _outcome(lambda: wide.build(developer_prompt=PROMPT, history=_current(history)))
    if isinstance(alone, Context):
        words = marks(alone.messages)
        assert marks(context.messages)[-len(words) or 10**6 :] == words


@st.composite
def _rows(draw: st.DrawFn) -> list[Item]:
    """Return what a conversation stores, as the builder is handed it: with the end of a path only, and any status."""
    items, before = [], draw(st.integers(0, 500))
    first = draw(st.integers(1, 5))
    for at, whole in enumerate([*draw(conversations(most=4)), *draw(st.sampled_from([[], turn_on_its_way()]))]):
        shape = whole
        kinds = ["complete"] * 4 + (["partial", "late", "redacted"] if shape["role"] == "assistant" else ["redacted"])
        status = draw(st.sampled_from(kinds))
        if status == "redacted":
            shape = {"role": shape["role"], "content": None, **_without_words(shape)}
        tokens = count_message(Words(), shape)
        items.append(Item(first + at, shape, tokens, before, status))
        before += tokens
    asked = [at for at, item in enumerate(items) if item.starts_turn]
    items[asked[-1]] = Item(items[asked[-1]].key, {"role": "user", "content": "so?"}, 6, items[asked[-1]].tokens_before)
    return items[draw(st.integers(0, asked[-1])) :]


def _without_words(shape: Message) -> Message:
    return {key: value for key, value in shape.items() if key in ("tool_calls", "tool_call_id")}


@examples()
@given(
    items=_rows(),
    budget=BUDGETS,
    profile=PROFILES,
    strategy=STRATEGIES,
    partial=st.sampled_from(["include", "mark", "leave_out"]),
    complete=st.booleans(),
    floor=st.none() | st.integers(0, 40),
    pins=st.sets(st.integers(0, 40), max_size=4),
    earlier=st.lists(WORDS.filter(bool), max_size=2),
    reply=st.none() | st.integers(1, 400),
)
def test_every_stored_state_gives_a_valid_array(
    items: list[Item],
    budget: Budget,
    profile: Profile,
    strategy: Strategy,
    partial: Any,
    complete: bool,
    floor: int | None,
    pins: set[int],
    earlier: list[str],
    reply: int | None,
) -> None:
    """Partial, late and redacted rows, the end of a path, a floor, pins from before it: the same holds."""
    builder = ContextBuilder(budget=budget, profile=profile, counter=Words(), partial=partial, strategy=strategy)
    behind = [
        Item(-at - 1, {"role": "user", "content": text}, 5 + len(text.split()), 0) for at, text in enumerate(earlier)
    ]
    pinned = [*behind, *(item for item in items if item.key in pins)]
    before = copy.deepcopy(items)
    context = _outcome(
        lambda: assemble(
            builder,
            items,
            developer_prompt=PROMPT,
            complete=complete,
            held_start=floor,
            pins=pinned,
            reply_tokens=reply,
        )
    )
    assert items == before
    assert not isinstance(context, InvalidInput)
    current = items[max(at for at, item in enumerate(items) if item.starts_turn) :]
    if isinstance(context, ContextOverflow):
        available = max(builder.available(_fixed(builder), reply), 0)
        assert (context.needed, context.available) == (sum(item.tokens for item in current), available)
        return
    _hold(builder, context, PROMPT, tools=(), response_format=None)
    sent = {part.key for part in context.report.included if part.kind == "message"}
    assert current[0].key in sent
    hidden = ("redacted", "late", *(["partial"] if partial == "leave_out" else []))
    assert not {item.key for item in items if item.status in hidden} & sent


def _fixed(builder: ContextBuilder) -> int:
    prompt = {"role": "developer", "content": PROMPT}
    return count_message(builder.counter, prompt) + REPLY_PRIMER


@examples()
@given(st.one_of(histories(), conversations(), careless()), st.integers(0, 60), st.booleans())
def test_the_validator_sees_what_the_servers_see(history: list[Message], at: int, cut: bool) -> None:
    """The public check and the one written from the servers' error texts agree on any array, good or bad."""
    array = history[at % (len(history) + 1) :] if cut else history
    assert bool(find_problems(array)) == bool(refusals(array)), (find_problems(array), refusals(array))


@examples(cost=2)
@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.binary(max_size=2),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["role", "content", "tool_calls", "tool_call_id", "id", "type", "function", "name", "text"]
                    ),
                    inner | st.sampled_from(["user", "assistant", "tool", "text", "system"]),
                    max_size=4,
                )
            ),
            max_leaves=12,
        ),
        max_size=4,
    )
)
def test_what_is_no_message_is_named(history: list[Any]) -> None:
    """Whatever is handed in as a history, the error says which place of it is wrong; the validator never breaks."""
    find_problems(history)
    context = _outcome(lambda: ContextBuilder(counter=Words()).build(developer_prompt=PROMPT, history=history))
    assert not isinstance(context, ContextOverflow)
    if isinstance(context, InvalidInput):
        assert context.field.startswith("history")
    else:
        assert refusals(context.messages) == []


@pytest.mark.parametrize(
    ("cases", "least"), [(conversations(3, 8, st.integers(1, 3)), 0.5), (histories(), 0.5)], ids=["agents", "anything"]
)
def test_a_naive_trimmer_fails_here(cases: st.SearchStrategy[list[Message]], least: float) -> None:
    """The control: the prompt and the last n messages, as many trim, is refused in a large share of the same cases."""
    outcomes: list[bool] = []

    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @given(cases, st.integers(3, 12))
    def trim(history: list[Message], last: int) -> None:
        outcomes.append(bool(refusals([{"role": "system", "content": PROMPT}, *history[-last:]])))

    trim()
    assert sum(outcomes) / len(outcomes) >= least, f"{sum(outcomes)} of {len(outcomes)}"
