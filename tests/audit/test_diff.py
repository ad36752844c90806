"""Test that `diff` finds the first difference of two requests, and its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest

from convokit import Profile
from convokit.completion.effects import Clock
from convokit.context.strategy import LastTurns
from convokit.domain.stored_request import Diff, Reason
from convokit.errors import InvalidInput, NotFound
from convokit.store.schema import completion
from tests.audit.recordings import SMALL, SOUND, STREAMING, Stage, changed, lookup, redacted
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, chunk
from tests.support.server import completion as answered

Case = Callable[[Stage], Diff]


@pytest.fixture
def stage(face: Face, database: str, server: LoopbackServer) -> Stage:
    return Stage(face, database, server)


def _diff_last_turns(stage: Stage, *kits: Any, **options: Any) -> Diff:
    """Send a turn with each kit, and return the diff of the last two."""
    last: Any = None
    for kit in kits:
        last = stage.do(kit.chat("k").send("問い", **(options if kit is kits[-1] else {})))
    chat = kits[0].chat("k")
    found: Diff = stage.do(chat.diff(stage.do(chat.turns())[-2], last))
    return found


def _model(stage: Stage) -> Diff:
    return _diff_last_turns(stage, stage.kit(), stage.kit(model="loop-2"))


def _tools(stage: Stage) -> Diff:
    return _diff_last_turns(stage, stage.kit(), stage.kit(tools=[lookup]))


def _schema(stage: Stage) -> Diff:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    return _diff_last_turns(stage, stage.kit(), stage.kit(), response_format=form)


def _prompt(stage: Stage) -> Diff:
    return _diff_last_turns(stage, stage.kit(developer_prompt="短く"), stage.kit(developer_prompt="長く"))


def _profile(stage: Stage) -> Diff:
    prompt = {"developer_prompt": "短く"}
    return _diff_last_turns(stage, stage.kit(**prompt), stage.kit(profile=Profile(instructions="developer"), **prompt))


def _window(stage: Stage) -> Diff:
    kit = stage.kit(budget=SMALL)
    starts = [stage.do(kit.chat("k").send(f"turn {number}")).context.start for number in range(20)]
    moved = next(index for index in range(1, 20) if starts[index] != starts[index - 1])
    turns = stage.do(kit.chat("k").turns())
    found: Diff = stage.do(kit.chat("k").diff(turns[moved - 1], turns[moved]))
    assert f"from message {starts[moved - 1]} to message {starts[moved]}" in found.why
    assert found.common_messages == 0
    apart = stage.do(kit.chat("k").diff(turns[-1], turns[0]))
    assert (apart.reason, apart.why) == ("window", f"the window's start moved from message {starts[-1]} to message 1")
    return found


def _selection(stage: Stage) -> Diff:
    class Odd:
        name = "odd"
        most_turns = None

        def select(self, view: Any) -> Any:
            return replace(LastTurns(1).select(view), also=tuple(range(0, len(view.items) - 1, 2)))

    assert _diff_last_turns(stage, stage.kit(), stage.kit(), stage.kit(strategy=Odd())).reason == "selection"
    kit = stage.kit(budget=SMALL)
    for number in range(20):
        stage.do(kit.chat("k").send(f"turn {number}"))
    stage.do(kit.chat("k").pin(1))
    return _diff_last_turns(stage, kit)


def _redacted(stage: Stage) -> Diff:
    kit = stage.kit()
    first = stage.do(kit.chat("k").send("one"))
    stage.do(kit.chat("k").send("two"))
    redacted(stage.database, 2)
    third = stage.do(kit.chat("k").send("three"))
    found: Diff = stage.do(kit.chat("k").diff(stage.do(kit.chat("k").turns())[1], third))
    assert stage.do(kit.chat("k").diff(first, third)).reason == "continued"
    return found


def _partial(stage: Stage) -> Diff:
    chat = stage.kit().chat("k")
    stage.server.script(Script([chunk({"content": "半分"}), None], headers=STREAMING))
    stage.streamed(chat.stream("go"))
    left_out = _diff_last_turns(stage, stage.kit(), stage.kit(partial="leave_out"))
    assert left_out.reason == "partial"
    return _diff_last_turns(stage, stage.kit(), stage.kit(partial="mark"))


def _passages(stage: Stage) -> Diff:
    chat = stage.kit().chat("k")
    stage.do(chat.send("who?", passages=["一"]))
    return _diff_last_turns(stage, stage.kit())


def _audio(stage: Stage) -> Diff:
    now, kit = 1_800_000_000.0, stage.kit()
    kit._state = replace(kit._state, clock=Clock(time=lambda: now))
    audio = {"id": "audio-1", "data": SOUND, "transcript": "はい", "expires_at": now + 100}
    stage.server.script(answered(None, audio=audio))
    stage.do(kit.chat("k").send("speak"))
    stage.do(kit.chat("k").send("again"))
    now += 1000
    return _diff_last_turns(stage, kit)


def _branch(stage: Stage) -> Diff:
    kit = stage.kit()
    chat = kit.chat("k")
    for text in ("one", "two", "three"):
        reply = stage.do(chat.send(text))
    other = stage.do(chat.fork(2))
    there = stage.do(other.send("other"))
    found: Diff = stage.do(chat.diff(reply, there))
    assert stage.do(other.diff(there, reply)).reason == "branch"
    return found


def _altered(stage: Stage) -> Diff:
    chat = stage.kit().chat("k")
    one, two = (stage.do(chat.send(text)) for text in ("one", "two"))
    changed(stage.database, completion, completion.c.turn_id == two.turn_id, manifest="{")
    found: Diff = stage.do(chat.diff(one, two))
    return found


def _parameter(stage: Stage) -> Diff:
    return _diff_last_turns(stage, stage.kit(), stage.kit(), temperature=0.5)


def _continued(stage: Stage) -> Diff:
    return _diff_last_turns(stage, stage.kit(developer_prompt="短く"), stage.kit(developer_prompt="短く"))


def _identical(stage: Stage) -> Diff:
    chat = stage.kit().chat("k")
    reply = stage.do(chat.send("one"))
    found: Diff = stage.do(chat.diff(reply, reply))
    assert (found.place, found.a, found.b) == (None, None, None)
    return found


CASES: dict[str, tuple[Case, str | None, str]] = {
    "model": (_model, "model", "another model: loop-1, then loop-2"),
    "tools": (_tools, "tools", "the tools changed"),
    "response_format": (_schema, "response_format", "the response's schema changed"),
    "developer_prompt": (_prompt, "messages[0].content", "the developer prompt changed"),
    "profile": (_profile, "messages[0].role", "profile"),
    "window": (_window, "messages[0].content", "the window's start moved"),
    "selection": (_selection, "messages[0].content", "message 1 is sent from before the window"),
    "redacted": (_redacted, "messages[1]", "message 2 was redacted"),
    "partial": (_partial, "messages[1].content", "the policy about replies that broke off changed"),
    "passages": (_passages, "messages[0].content", "message 1 is a passage"),
    "audio": (_audio, "messages[1]", "a spoken reply"),
    "branch": (_branch, "messages[2].content", "another branch: the paths part before message"),
    "altered": (_altered, None, "can no longer be rebuilt"),
    "parameter": (_parameter, "temperature", "the parameter temperature differs"),
    "continued": (_continued, "messages[2]", "one request has all messages of the other"),
    "identical": (_identical, None, "both requests are the same"),
}


def test_every_reason_has_a_case() -> None:
    assert set(CASES) == set(get_args(Reason))


@pytest.mark.once
@pytest.mark.parametrize("reason", CASES)
def test_diff_names_reason_place_and_sentence(stage: Stage, reason: str) -> None:
    case, place, why = CASES[reason]
    found = case(stage)
    assert (found.reason, found.place) == (reason, place)
    assert why in found.why
    assert (found.index is not None) == (place is not None and place.startswith("messages"))


@pytest.mark.once
def test_values_are_cut_around_their_first_difference(stage: Stage) -> None:
    """Both values show the first different character. An absent value is None."""
    same = "同じ文。" * 100
    found = _diff_last_turns(
        stage, stage.kit(developer_prompt=f"{same}A{same}"), stage.kit(developer_prompt=f"{same}B{same}")
    )
    assert found.a is not None
    assert found.b is not None
    assert [text.strip("…")[40] for text in (found.a, found.b)] == ["A", "B"]
    assert all(text[0] == text[-1] == "…" and len(text) < 200 for text in (found.a, found.b))
    given = _diff_last_turns(stage, stage.kit(), stage.kit(), seed=7)
    assert (given.a, given.b) == (None, "7")


@pytest.mark.once
def test_common_messages_and_tokens_are_counted(stage: Stage) -> None:
    """Another set of tools leaves no common tokens."""
    kit = stage.kit(developer_prompt="短く", tools=[lookup])
    chat = kit.chat("k")
    first, second = (stage.do(chat.send(text)) for text in ("one", "two"))
    found = stage.do(chat.diff(first, second))
    assert found.common_messages == 2
    stable = second.context.stable_tokens / second.context.factor  # the report has the server's tokens
    assert stable - 12 < found.common_tokens <= stable + 2
    assert found.turns == (first.turn_id, second.turn_id)
    assert found.calls == (1, 1)
    third = stage.do(chat.send("three", tools=[]))
    assert stage.do(chat.diff(second, third)).common_tokens == 0


def test_two_calls_of_one_turn_can_be_compared(stage: Stage) -> None:
    """Replays name calls, in either order. An unknown turn raises NotFound, an invalid one InvalidInput."""
    chat = stage.kit().chat("k")
    stage.server.script(answered(None, tool_calls=[_call("lookup")]))
    reply = stage.do(chat.send("who?", tools=[lookup]))
    one, two = (stage.do(chat.replay(reply, call=number)) for number in (1, 2))
    assert stage.do(chat.diff(one, two)).b.startswith('{"role":"assistant","content":null,"tool_calls"')
    back = stage.do(chat.diff(two, one))
    assert (back.reason, back.b, back.calls) == ("continued", None, (2, 1))
    with pytest.raises(NotFound):
        stage.do(chat.diff(one, stage.do(stage.kit().chat("other").send("hello"))))
    for nothing in (None, 3):
        with pytest.raises(InvalidInput):
            stage.do(chat.diff(one, nothing))


def _call(name: str) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": '{"port": 80}'}}
