"""What the builder does, rule by rule: the numbers are those of `docs/reference/behaviours.md`."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy import update

from convokit import Budget, Chat, ContextBuilder, Convokit, Profile
from convokit.context.strategy import Item, LastTurns
from convokit.domain.profiles import resolve_profile
from convokit.errors import ContextOverflow, SettingsError
from convokit.store.engine import WRITE
from convokit.store.schema import message
from convokit.tokens.counter import REPLY_PRIMER
from tests.context.histories import Message, Words, assemble, call_of
from tests.support.faces import Face
from tests.support.server import LoopbackServer, failure

TURNS = Profile(alternate=True)


def user(text: Any) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str | None, **more: Any) -> Message:
    return {"role": "assistant", "content": text, **more}


def asks(*ids: str, text: str | None = None) -> Message:
    return assistant(text, tool_calls=[call_of(each) for each in ids])


def answers(call: str, text: str | None = "ok") -> Message:
    return {"role": "tool", "tool_call_id": call, "content": text}


def test_neighbours_of_one_role_are_merged_where_turns_alternate() -> None:
    """Rule 18. Such a profile gets one message a turn, beginning with the user's; the default leaves them as they are."""
    history = [
        assistant("hello"),
        user("a"),
        user([{"type": "text", "text": "b"}]),
        assistant("c"),
        assistant("d"),
        user("e"),
    ]
    assert ContextBuilder().build(history=history).messages == history
    context = ContextBuilder(profile=TURNS).build(history=history)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert context.messages == [user(parts), assistant("c\n\nd"), user("e")]
    assert [part.rule for part in context.report.dropped] == [
        "before the first user message (this model's turns start there)"
    ]


def test_what_was_said_before_a_call_is_merged_with_it() -> None:
    """Rule 18. A reply, then one that calls tools: one message that says it and calls; refusals and speech by their words."""
    history = [user("q"), assistant(None, refusal="no"), asks("a", text="but"), answers("a"), user("r")]
    built = ContextBuilder(profile=TURNS).build(history=history).messages
    assert built == [user("q"), asks("a", text="no\n\nbut"), answers("a"), user("r")]
    spoken = assistant(None, audio={"id": "x", "transcript": "said"})
    built = ContextBuilder(profile=TURNS).build(history=[user("q"), spoken, spoken, user("r")]).messages
    assert built[1] == assistant("said\n\nsaid")
    mute = assistant(None, audio={"id": "x"})
    built = ContextBuilder(profile=TURNS).build(history=[user("q"), mute, asks("a"), answers("a"), user("r")]).messages
    assert built == [user("q"), asks("a"), answers("a"), user("r")]


def test_instructions_in_mid_array_are_the_users_where_the_template_has_none() -> None:
    """Rules 16, 17. A template that knows instructions at the beginning only, or not at all, gets no others."""
    history = [user("q"), assistant("a"), {"role": "system", "content": "rule"}, user("r")]
    for profile in (Profile(instructions="fold"), TURNS):
        built = ContextBuilder(profile=profile).build(developer_prompt="p", history=history).messages
        assert "rule" in str(built)
        assert [each["role"] for each in built[1:] if each["role"] not in ("user", "assistant")] == []


def test_the_order_is_that_of_the_places_not_of_the_clock(face: Face, sqlite_file: str, server: LoopbackServer) -> None:
    """Rule 19. Whatever the rows' times say, all the same or backwards, the array is the same."""
    kit = face.kit(sqlite_file, model="m", base_url=server.url)
    for number in range(4):
        face.settle(kit.chat("k").send(f"turn {number}"))
    before = face.settle(kit.chat("k").context("next")).messages
    assert [each["content"] for each in before[:3]] == ["turn 0", "echo: turn 0", "turn 1"]
    with Convokit(sqlite_file, model="m") as other:
        for time in (1, 1000 - message.c.seq):
            with other._runtime._store.engine.execution_options(**{WRITE: True}).begin() as connection:
                connection.execute(update(message).values(created_at=time))
            assert face.settle(kit.chat("k").context("next")).messages == before


@pytest.mark.parametrize("window", range(40, 140, 5))
def test_calls_and_their_results_go_together(window: int) -> None:
    """Rules 20, 21. Wherever the cut falls: all of a call and its results, or nothing of them."""
    history = [user("one two"), asks("a", "b"), answers("a"), answers("b"), assistant("three"), user("q")]
    builder = ContextBuilder(budget=Budget(context_tokens=window, reply_tokens=5, step_tokens=10), counter=Words())
    sent = [str(each.get("tool_call_id") or each["role"]) for each in builder.build(history=history).messages]
    assert sent in (["user", "assistant", "a", "b", "assistant", "user"], ["user"])


def test_results_belong_to_the_nearest_call_of_their_id() -> None:
    """Rule 22. Some servers begin at call_0 again in every reply: each call is followed by its own result."""
    history = [
        user("q"),
        asks("call_0"),
        answers("call_0", "first"),
        asks("call_0"),
        answers("call_0", "second"),
        user("r"),
    ]
    assert ContextBuilder().build(history=history).messages == history
    unanswered = [user("p"), asks("call_0"), user("q"), asks("call_0"), answers("call_0"), user("r")]
    assert ContextBuilder().build(history=unanswered).messages == [user("p"), *unanswered[2:]]


def test_one_call_of_each_id_in_a_message() -> None:
    """Rules 20, 21. A second call of the same id in one reply cannot be answered: it is left out with its result."""
    history = [user("q"), asks("a", "a"), answers("a", "first"), answers("a", "second"), user("r")]
    built = ContextBuilder().build(history=history).messages
    assert built == [user("q"), asks("a"), answers("a", "first"), user("r")]


def test_a_tool_that_returned_nothing_has_answered() -> None:
    """Rule 21. The API takes no null from a tool: such a result is the empty text."""
    history = [user("q"), asks("a"), answers("a", None), user("r")]
    assert ContextBuilder().build(history=history).messages == [user("q"), asks("a"), answers("a", ""), user("r")]


def test_what_no_server_takes_is_cleared_away() -> None:
    """Rules 10, 40. Empty lists of calls, calls of others than the assistant, names in other characters."""
    history = [
        assistant("a", tool_calls=[]),
        {**user("b"), "name": "田中", "tool_calls": [call_of("x")]},
        {**user("c"), "name": "Anna B."},
        assistant(None, tool_calls=[call_of("y", "functions.f")]),
        answers("y"),
        user("d"),
    ]
    assert ContextBuilder().build(history=history).messages == [
        assistant("a"),
        user("b"),
        {**user("c"), "name": "Anna_B"},
        assistant(None, tool_calls=[call_of("y", "functions_f")]),
        answers("y"),
        user("d"),
    ]


def test_what_did_not_become_a_reply_is_left_out() -> None:
    """Rule 23. Empty and late replies never go; one that broke off goes, goes marked, or not, as the policy says."""
    said = [("q", "complete"), ("half a", "partial"), ("", "complete"), ("too late", "late"), ("r", "complete")]
    shapes = [user(text) if text in ("q", "r") else assistant(text) for text, _ in said]
    items = [Item(at, shape, 6, 6 * at, said[at][1]) for at, shape in enumerate(shapes)]
    for policy, sent in (("include", ["q", "half a", "r"]), ("leave_out", ["q", "r"])):
        context = assemble(ContextBuilder(partial=policy), items)  # type: ignore[arg-type]
        assert [each["content"] for each in context.messages] == sent
        reasons = {part.key: part.rule for part in context.report.dropped}
        assert (reasons[2], reasons[3]) == ("empty", "came after its turn was over")


def test_a_failed_turn_leaves_its_question_only(face: Face, sqlite_file: str, server: LoopbackServer) -> None:
    """Rule 23. What the server said instead of a reply is no message; the question stays, and the next is sent behind it."""
    kit = face.kit(sqlite_file, model="m", base_url=server.url)
    server.script(failure(400, "no such thing"))
    with pytest.raises(Exception, match="no such thing"):
        face.settle(kit.chat("k").send("one"))
    face.settle(kit.chat("k").send("two"))
    assert server.requests[-1].body["messages"] == [user("one"), user("two")]


@pytest.mark.parametrize(
    ("most", "window", "reply", "available"), [(None, 1000, 200, 800), (500, 1000, 200, 500), (900, 1000, 200, 800)]
)
def test_the_budget_is_the_smaller_of_two_limits(most: int | None, window: int, reply: int, available: int) -> None:
    """Rule 25. min(input limit, window - reply), less the fixed parts."""
    builder = ContextBuilder(
        budget=Budget(context_tokens=window, reply_tokens=reply),
        profile=Profile(max_input_tokens=most),
        counter=Words(),
    )
    report = builder.build(developer_prompt="be brief", history=[user("q")]).report
    assert report.available == available - (4 + 1 + 2) - REPLY_PRIMER
    assert (report.context_tokens, report.reply_tokens) == (window, reply)


@pytest.mark.parametrize(("turns", "window", "sent"), [(1, 900, 1), (2, 900, 3), (9, 900, 9), (9, 45, 5), (1, 14, 1)])
def test_limits_on_turns_and_on_tokens_hold_together(turns: int, window: int, sent: int) -> None:
    """Rule 28. The tighter of the two decides; one turn is the current one."""
    history = [user("q") if number % 2 == 0 else assistant("a") for number in range(9)]
    budget = Budget(context_tokens=window, reply_tokens=3)
    builder = ContextBuilder(budget=budget, counter=Words(), strategy=LastTurns(turns))
    assert len(builder.build(history=history).messages) == sent


def test_limits_of_nothing_are_refused() -> None:
    """Rule 28. 0 and less is no limit; 1 is one, if too small for any message."""
    for name in ("context_tokens", "reply_tokens", "step_tokens"):
        for value in (0, -1, 1.5, True, "8k"):
            with pytest.raises(SettingsError, match=rf"Budget\.{name}"):
                Budget(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"Budget\.reply_tokens"):
        Budget(context_tokens=100, reply_tokens=100)
    for value in (0, -1, True):
        with pytest.raises(SettingsError, match="LastTurns"):
            LastTurns(value)
    with pytest.raises(ContextOverflow):
        ContextBuilder(budget=Budget(context_tokens=1)).build(history=[user("q")])
    assert ContextBuilder(budget=Budget(step_tokens=1)).build(history=[user("q")]).messages == [user("q")]


@pytest.mark.parametrize("model", ["no-such-model-9", "vendor/x:free", "モデル", ""])
def test_a_model_nobody_knows_is_counted_all_the_same(model: str) -> None:
    """Rule 31. Counting needs no entry for the model, and no network."""
    builder = ContextBuilder(profile=resolve_profile(model, "http://127.0.0.1:9/v1"))
    assert builder.build(history=[user("日本語 and English")]).report.tokens > 10


def test_the_report_accounts_for_every_message() -> None:
    """Rule 41. Each message is in the report once, sent or with the reason why not, and the sum is that of what is sent.
    The input may be read only: nothing of it is changed."""
    plain = [user("old"), assistant("word " * 30), user("x"), assistant(None), answers("z"), user("q")]
    history = tuple(MappingProxyType(each) for each in plain)
    builder = ContextBuilder(budget=Budget(context_tokens=60, reply_tokens=5, step_tokens=10), counter=Words())
    context = builder.build(developer_prompt="be brief", history=history, tools=({"type": "function"},))
    report = context.report
    assert [part.key for part in report.parts if part.kind == "message"] == list(range(6))
    assert sum(part.tokens for part in report.included) + REPLY_PRIMER == report.tokens
    assert {part.key: part.rule for part in report.dropped} == {
        0: "before the window (held from the last turn)",
        1: "before the window (held from the last turn)",
        3: "empty",
        4: "a tool result without its call",
    }
    assert (report.start, report.dropped_tokens) == (2, 41)
    assert [part.kind for part in report.included] == ["developer_prompt", "tools", "message", "message"]
    assert len(context.messages) == 3


def test_a_handle_shows_what_would_be_sent(sqlite_file: str, server: LoopbackServer) -> None:
    """Rule 41. `context` builds the same array that `send` sends, and calls nobody."""
    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:
        chat: Chat = kit.chat("k")
        chat.send("one")
        shown = chat.context("two").messages
        assert len(server.requests) == 1
        chat.send("two")
        assert server.requests[-1].body["messages"] == shown
