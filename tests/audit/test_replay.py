"""Test that `replay` rebuilds every request from the stored rows, byte for byte."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Table

from convokit import Retry
from convokit.errors import InvalidInput, NotFound
from convokit.store.schema import blob, completion, message, prompt
from tests.audit.recordings import GIF, SCENES, Stage, changed, every_call, lookup, redacted
from tests.support.faces import Face
from tests.support.server import LoopbackServer, calls, failure


@pytest.fixture
def stage(face: Face, database: str, server: LoopbackServer) -> Stage:
    return Stage(face, database, server)


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.__name__))
def test_every_request_is_replayed_byte_for_byte(stage: Stage, scene: Callable[[Stage], None]) -> None:
    """A kit with other settings rebuilds the bytes that the server received."""
    scene(stage)
    kit: Any = stage.face.kit(stage.database, model="another", developer_prompt="Something else.", partial="mark")
    bodies: Counter[bytes] = Counter()
    for conversation_id, turn_id, number, state in every_call(stage.database):
        shown = stage.do(kit.chat(id=conversation_id).replay(turn_id, call=number))
        assert shown.status == "exact", (number, shown.problem)
        assert (shown.turn_id, shown.call) == (turn_id, number)
        if state != "late":  # a late call is a second row, of a request that has one already
            bodies[shown.body] += 1
    assert bodies == Counter(request.raw for request in stage.server.requests)


def _create_chat(stage: Stage) -> Any:
    """Return a chat with a developer prompt, tools and an image."""
    chat = stage.kit(developer_prompt="簡潔に", tools=[lookup]).chat("k")
    stage.do(chat.send([{"type": "text", "text": "図"}, {"type": "image_url", "image_url": {"url": GIF}}]))
    stage.server.script(calls(("c1", "lookup", '{"port": 80}')))
    stage.do(chat.send("who?"))
    stage.do(chat.send("秘密です", temperature=0.5))
    return chat


def test_replay_accepts_ids_turns_replies_and_replays(stage: Stage) -> None:
    """Without a turn, the newest turn of the chat's path is replayed."""
    chat = _create_chat(stage)
    turns = stage.do(chat.turns())
    reply = stage.do(chat.send("last"))
    assert stage.do(chat.replay()).turn_id == reply.turn_id == stage.do(chat.replay(reply)).turn_id
    for turn in turns:
        shown = stage.do(chat.replay(turn))
        assert shown == stage.do(chat.replay(turn.id)) == stage.do(chat.replay(str(turn.id)))
        assert shown == stage.do(chat.replay(shown))
    first = stage.do(chat.replay(turns[1], call=1))
    assert (first.call, stage.do(chat.replay(first)), stage.do(chat.replay(turns[1])).call) == (1, first, 2)


def test_replay_defaults_to_the_newest_turn_of_the_branch(stage: Stage) -> None:
    """A handle that was not used yet finds the branch as well."""
    chat = stage.kit().chat("k")
    stage.do(chat.send("one"))
    there = stage.do(stage.do(chat.fork(name="枝")).send("two"))
    main = stage.do(chat.send("three"))
    assert stage.do(stage.kit().chat("k", branch="枝").replay()).turn_id == there.turn_id
    assert stage.do(stage.kit().chat("k").replay()).turn_id == main.turn_id
    assert stage.do(chat.replay(there)).status == "exact"


def test_replay_has_messages_parameters_model_and_time(stage: Stage) -> None:
    chat = _create_chat(stage)
    shown = stage.do(chat.replay())
    body = stage.server.requests[-1].body
    assert json.loads(shown.body) == body
    assert shown.messages == body["messages"]
    assert {"model": shown.model, "messages": shown.messages, **shown.parameters} == body
    assert shown.parameters["temperature"] == 0.5
    assert shown.started_at.tzinfo is not None
    assert shown.problem is None
    assert "秘密" not in repr(shown)


def test_replay_defaults_to_the_last_answered_call(stage: Stage) -> None:
    """A turn whose calls all failed shows the last one."""
    chat = stage.kit(retry=Retry(attempts=2, initial_s=0.0)).chat("k")
    stage.server.script(failure(500))
    assert stage.do(chat.replay(stage.do(chat.send("hello")))).call == 2
    stage.server.script(failure(500), failure(500))
    stage.fails(chat.send, "again")
    assert stage.do(chat.replay()).call == 2
    stage.server.script(failure(400))
    stage.fails(chat.resume)
    shown = stage.do(chat.replay())
    assert (shown.call, shown.status, shown.body) == (3, "exact", stage.server.requests[-1].raw)
    stage.do(chat.resume())
    assert stage.do(chat.replay()).call == 4


def test_unknown_turns_and_calls_raise_not_found(stage: Stage) -> None:
    """An unknown conversation, turn or call raises NotFound. An invalid id or number raises InvalidInput."""
    with pytest.raises(NotFound, match="conversation"):
        stage.do(stage.kit().chat("nothing").replay())
    chat = stage.kit().chat("k")
    turn = stage.do(chat.send("hello")).turn_id
    for wrong, named in (((stage.do(stage.kit().chat("other").send("hello")).turn_id,), "turn"), ((turn, 2), "call 2")):
        with pytest.raises(NotFound, match=named):
            stage.do(chat.replay(wrong[0], call=wrong[1] if len(wrong) == 2 else None))
    for number in (0, -1, True, "1", 1.0):
        with pytest.raises(InvalidInput, match="call"):
            stage.do(chat.replay(turn, call=number))
    for other in ("", "x", 7):
        with pytest.raises(InvalidInput, match="turn"):
            stage.do(chat.replay(other))


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(("seq", "role"), [(1, "user"), (4, "assistant"), (5, "tool"), (7, "user")])
def test_redacted_message_has_a_placeholder(stage: Stage, seq: int, role: str) -> None:
    """All other messages are as they were sent. `body` is None: nobody can check the bytes."""
    chat = _create_chat(stage)
    before = stage.do(chat.replay())
    redacted(stage.database, seq)
    shown = stage.do(chat.replay())
    assert (shown.status, shown.body) == ("redacted", None)
    assert shown.problem == f"message {seq} was redacted"
    assert len(shown.messages) == len(before.messages)
    differing = [index for index, (a, b) in enumerate(zip(shown.messages, before.messages, strict=True)) if a != b]
    assert differing == [seq]  # behind the developer prompt
    assert shown.messages[seq]["role"] == role
    assert shown.messages[seq]["content"] == f"[redacted: message {seq}]"
    assert shown.parameters == before.parameters


def test_erased_prompt_tools_or_salt_make_the_replay_redacted(stage: Stage) -> None:
    """The problem names what was erased."""
    chat = _create_chat(stage)
    before = stage.do(chat.replay())
    changed(stage.database, completion, body_salt=None)
    shown = stage.do(chat.replay())
    assert (shown.status, shown.messages) == ("redacted", before.messages)
    assert "salt" in shown.problem
    changed(stage.database, prompt, prompt.c.body.like("[%"))
    shown = stage.do(chat.replay())
    assert "the set of tools of this request was erased" in shown.problem
    assert "tools" not in shown.parameters
    changed(stage.database, prompt)
    shown = stage.do(chat.replay())
    assert shown.messages[0]["content"] == "[redacted: developer prompt]"
    assert shown.messages[1:] == before.messages[1:]


ALTERED: dict[str, tuple[Table, Any, dict[str, Any], str]] = {
    "a message's words": (message, message.c.seq == 2, {"content": "echo: other"}, "message 2 is not what was written"),
    "a role": (message, message.c.seq == 7, {"role": "assistant"}, "message 7 is not what was written"),
    "a status": (message, message.c.seq == 7, {"status": "late"}, "message 7 is not what was written"),
    "a tool call": (message, message.c.seq == 4, {"tool_calls": None}, "message 4 is not what was written"),
    "words that were taken out": (
        message,
        message.c.seq == 3,
        {"content": None, "salt": None, "status": "redacted"},
        "message 3 is marked as redacted, but the chain has no redaction of it",
    ),
    "parts that are no JSON": (message, message.c.seq == 1, {"parts": "{"}, "no request that could be sent"),
    "a missing message": (message, message.c.seq == 3, {}, "message 3 is missing"),
    "the developer prompt": (prompt, prompt.c.body.not_like("[%"), {"body": "x"}, "the developer prompt of this"),
    "the tools": (prompt, prompt.c.body.like("[%"), {"body": "[]"}, "the set of tools of this request is not"),
    "an image": (blob, None, {"data": b"GIF89a"}, "an attachment of message 1 is not what was sent"),
    "a missing image": (blob, None, {}, "an attachment of message 1 is missing"),
    "the model": (completion, None, {"requested_model": "loop-2"}, "API call"),
    "the digest": (completion, None, {"body_digest": bytes(32)}, "API call"),
    "a manifest that is no JSON": (completion, None, {"manifest": "{"}, "manifest cannot be read"),
    "a manifest of something else": (completion, None, {"manifest": "[]"}, "manifest cannot be read"),
    "a manifest without a profile": (completion, None, {"manifest": '{"v":1,"window":[[1,1]]}'}, "manifest cannot"),
    "a window without end": (
        completion,
        None,
        {"manifest": '{"v":1,"window":[[1,2000000000]],"profile":{}}'},
        "manifest cannot be read: the window has messages that do not exist",
    ),
    "a later version": (completion, None, {"manifest": '{"v":99,"window":[],"profile":{}}'}, "version 99"),
    "an unknown profile": (
        completion,
        None,
        {"manifest": '{"v":1,"window":[[1,1]],"profile":{"x":1}}'},
        "manifest cannot be read",
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("what", ALTERED)
def test_altered_rows_make_the_replay_a_mismatch(stage: Stage, what: str) -> None:
    """Altered rows never raise and never pass as exact. The problem names the row."""
    chat = _create_chat(stage)
    table, condition, values, problem = ALTERED[what]
    changed(stage.database, table, condition, **values)
    shown = stage.do(chat.replay())
    assert (shown.status, shown.body) == ("mismatch", None)
    assert problem in shown.problem
