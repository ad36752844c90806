"""Tool calls that the caller answers: results, the turns that they start, and repeats."""

from __future__ import annotations

import json
import threading
from datetime import date
from typing import Any

import pytest
from sqlalchemy import text as sql

from convokit import Budget, Convokit, Limits, tool
from convokit.completion.tool_results import ResultMatcher
from convokit.context.validity import find_problems
from convokit.domain.events import Started
from convokit.errors import (
    ContextOverflow,
    ConversationBusy,
    IdempotencyConflict,
    InvalidInput,
    ModelError,
    NotFound,
    Redacted,
    TooLarge,
)
from convokit.store.engine import open_engine, parse_database_url
from tests.support import abandoned_turns
from tests.support.faces import Face
from tests.support.selection import keep
from tests.support.server import LoopbackServer, Script, calls, completion, failure, stream

PIXEL = "data:image/png;base64,aVBORw=="
IMAGE: list[Any] = ["図です", {"type": "image_url", "image_url": {"url": PIXEL}}]


def schema(name: str = "pay") -> dict[str, Any]:
    """Return a tool that only the caller can run."""
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def open_chat(face: Face, kit: Any, server: LoopbackServer, *ids: str, key: str = "t", question: str = "pay") -> Any:
    """Return a chat whose last reply made these calls."""
    chat = kit.chat(key, tools=[schema()])
    server.script(calls(*((each, "pay", "{}") for each in ids or ("c1",))))
    reply = face.settle(chat.send(question))
    assert [call["id"] for call in reply.open_calls] == list(ids or ("c1",))
    return chat


def shapes(face: Face, chat: Any) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in face.settle(chat.messages())]


def list_turn_states(database: str) -> list[str]:
    engine = open_engine(parse_database_url(database))
    with engine.connect() as connection:
        states = list(connection.execute(sql("SELECT state FROM convokit_turn ORDER BY started_at")).scalars())
    engine.dispose()
    return states


@pytest.mark.parametrize("streamed", [False, True])
def test_results_start_a_turn(face: Face, kit: Any, server: LoopbackServer, streamed: bool) -> None:
    """The results become tool messages in the order of the calls. The turn keeps the question of the first one."""
    chat = open_chat(face, kit, server, "c1", "c2")
    results = {"c2": {"yen": 300, "店": ["中央"]}, "c1": "払いました"}
    if streamed:
        streaming = chat.stream(tool_results=results)
        events = face.collect(streaming)
        reply = streaming.reply
        assert events[0] == Started(reply.turn_id)
    else:
        reply = face.settle(chat.send(tool_results=results))
    sent = server.requests[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool"]
    assert [(message["tool_call_id"], message["content"]) for message in sent[2:]] == [
        ("c1", "払いました"),
        ("c2", '{"yen":300,"店":["中央"]}'),
    ]
    assert reply.text == 'echo: {"yen":300,"店":["中央"]}'
    assert reply.open_calls == []
    assert face.settle(chat.open_calls()) == []
    messages = face.settle(chat.messages())
    assert [message.role for message in messages] == ["user", "assistant", "tool", "tool", "assistant"]
    first, second = face.settle(chat.turns())
    assert (first.question, first.reply) == (messages[0].id, messages[1].id)
    assert (second.id, second.question, second.reply) == (reply.turn_id, messages[0].id, messages[4].id)
    assert {message.turn_id for message in messages[2:]} == {second.id}
    assert face.settle(chat.turns(before=second.id)) == [first]
    assert face.settle(chat.verify()).tool_calls == 0
    for turn in (first, second):
        assert face.settle(chat.replay(turn)).status == "exact"
    assert face.settle(chat.replay(second)).body == server.requests[-1].raw
    assert len(face.settle(kit.usage()).rows) >= 1


def test_a_new_kit_answers_open_calls(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """Everything that an answer needs is stored."""
    reply_id = face.settle(open_chat(face, kit, server).messages())[-1].id
    other = face.kit(database, model="loop-1", base_url=server.url)
    chat = other.chat("t")
    (call,) = face.settle(chat.open_calls())
    assert call == {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
    reply = face.settle(chat.send(tool_results={call["id"]: None}))
    assert reply.text == "echo: null"
    assert face.settle(chat.messages())[2].parent_seq == 2
    assert reply_id.endswith(":2")
    face.settle(chat.verify())


@pytest.mark.once
def test_chats_without_open_calls_list_none(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A key that was never used has none; an id that does not exist is an error."""
    assert face.settle(kit.chat("new").open_calls()) == []
    face.settle(kit.chat("t").send("hello"))
    assert face.settle(kit.chat("t").open_calls()) == []
    with pytest.raises(NotFound):
        face.settle(kit.chat(id="00000000-0000-7000-8000-000000000001").open_calls())


def test_images_are_results(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Content parts are stored as parts, their binaries as blobs, and both are sent again."""
    chat = open_chat(face, kit, server)
    face.settle(chat.send(tool_results={"c1": IMAGE}))
    wanted = [{"type": "text", "text": "図です"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    assert server.requests[-1].body["messages"][-1] == {"role": "tool", "tool_call_id": "c1", "content": wanted}
    assert face.settle(chat.verify()).blobs == 1
    face.settle(chat.send("and?"))
    assert server.requests[-1].body["messages"][2]["content"] == wanted
    face.settle(chat.redact(3))
    assert face.settle(chat.verify()).blobs == 0


@pytest.mark.parametrize("streamed", [False, True])
def test_a_question_may_come_with_results(face: Face, kit: Any, server: LoopbackServer, streamed: bool) -> None:
    """The results stand before the passages and the question. A call without a result is left out of the request."""
    chat = open_chat(face, kit, server, "c1", "c2")
    arguments: dict[str, Any] = {"tool_results": {"c2": 5}, "passages": ["a passage"]}
    if streamed:
        streaming = chat.stream("and now?", **arguments)
        face.collect(streaming)
        reply = streaming.reply
    else:
        reply = face.settle(chat.send("and now?", **arguments))
    sent = server.requests[-1].body["messages"]
    assert [(message["role"], message["content"]) for message in sent] == [
        ("user", "pay"),
        ("assistant", None),
        ("tool", "5"),
        ("user", "a passage"),
        ("user", "and now?"),
    ]
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["c2"]
    turns = face.settle(chat.turns())
    assert [turn.id for turn in turns][1:] == [reply.turn_id]
    assert turns[1].question.endswith(":5")
    assert [turn.id for turn in face.settle(chat.turns(before=reply.turn_id))] == [turns[0].id]
    assert face.settle(chat.open_calls()) == []
    assert face.settle(chat.send("and now?", **arguments)).turn_id == reply.turn_id
    with pytest.raises(InvalidInput, match="not an open call"):
        face.settle(chat.send("other", **arguments))
    face.settle(chat.edit(5, "or rather"))
    assert [message["role"] for message in server.requests[-1].body["messages"]] == [
        "user",
        "assistant",
        "tool",
        "user",
    ]
    face.settle(chat.regenerate())
    assert len(face.settle(chat.turns())) == 3
    face.settle(chat.verify())


def test_passages_of_the_question_are_sent_again_with_results(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The results belong to the question, and so do its passages."""
    chat = kit.chat("t", tools=[schema()])
    server.script(calls(("c1", "pay", "{}")))
    face.settle(chat.send("pay", passages=["the price is 5"]))
    face.settle(chat.send(tool_results={"c1": "paid"}))
    assert [message["content"] for message in server.requests[-1].body["messages"]] == [
        "the price is 5",
        "pay",
        None,
        "paid",
    ]
    assert face.settle(chat.replay()).status == "exact"


def test_ids_may_start_again_in_each_round(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Four rounds of calls with the same id: each result answers the newest call."""
    chat = kit.chat("t", tools=[schema()])
    server.script(*[calls(("call_0", "pay", f'{{"n": {number}}}')) for number in range(4)])
    reply = face.settle(chat.send("go"))
    for number in range(4):
        (call,) = reply.open_calls
        assert call == face.settle(chat.open_calls())[0]
        reply = face.settle(chat.send(tool_results={call["id"]: f"result {number}"}))
        assert find_problems(server.requests[-1].body["messages"]) == []
    assert reply.text == "echo: result 3"
    assert [text for role, text in shapes(face, chat) if role == "tool"] == [f"result {n}" for n in range(4)]
    assert len(face.settle(chat.turns())) == 5
    assert len({turn.question for turn in face.settle(chat.turns())}) == 1
    face.settle(chat.verify())


def test_imported_ids_may_start_again(face: Face, kit: Any, server: LoopbackServer, tmp_path: Any) -> None:
    """Only calls at the end of the path are open, also where an earlier call has the same id."""
    call = {"id": "call_0", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
    asking = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "call_0", "content": "first"}
    file = tmp_path / "chat.json"
    file.write_text(json.dumps([{"role": "user", "content": "go"}, asking, result, asking]), "utf-8")
    face.settle(kit.import_(file, format="messages", key="t"))
    chat = kit.chat("t")
    assert face.settle(chat.open_calls()) == [call]
    reply = face.settle(chat.send(tool_results={"call_0": "second"}))
    assert [each["content"] for each in server.requests[-1].body["messages"]] == ["go", None, "first", None, "second"]
    assert face.settle(chat.turns())[-1].id == reply.turn_id
    face.settle(chat.verify())
    receipt = face.settle(chat.redact(4))  # the call; the request of the turn held it
    assert receipt.removed["salt"] == 1
    assert face.settle(chat.replay(reply)).status == "redacted"


@pytest.mark.once
@pytest.mark.parametrize(
    ("results", "problem"),
    [
        ({"c9": "x"}, r"'c9' is not an open call; the open calls are 'c1', 'c2'"),
        ({"c1": "x"}, "has no result for 'c2'"),
        ({"c1": "x", "c2": "y", "c3": "z"}, r"'c3' is not an open call"),
        ({"c1": object(), "c2": "y"}, r"tool_results\['c1'\]: a object is not JSON serializable"),
        ({"c1": {"at": object()}, "c2": "y"}, "is not JSON serializable"),
        ({"c1": float("nan"), "c2": "y"}, "nan is not a JSON number"),
        ({"c1": "\x00", "c2": "y"}, r"NUL"),
        ({"c1": ["\ud800"], "c2": "y"}, "lone surrogate|JSON serializable"),
        ({"c1": [{"type": "image_url", "image_url": {"url": "ftp://x"}}], "c2": "y"}, r"c1'\]\[0\].image_url.url"),
        ({1: "x"}, "must be text, not int"),
        (["c1"], "must be a mapping"),
        ("c1", "must be a mapping"),
        ({}, "pass content, tool_results or both"),
        (None, "pass content, tool_results or both"),
    ],
)
def test_wrong_results_write_nothing(face: Face, kit: Any, server: LoopbackServer, results: Any, problem: str) -> None:
    """The error comes before anything is written or called."""
    chat = open_chat(face, kit, server, "c1", "c2")
    before = face.settle(chat.verify())
    with pytest.raises(InvalidInput, match=problem):
        face.settle(chat.send(tool_results=results))
    assert face.settle(chat.verify()) == before
    assert len(server.requests) == 1
    assert len(face.settle(chat.open_calls())) == 2


@pytest.mark.once
def test_a_result_that_was_not_awaited_is_named(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A coroutine is the usual mistake."""

    async def work() -> str:
        return "done"

    chat = open_chat(face, kit, server)
    coroutine = work()
    with pytest.raises(InvalidInput, match="await it"):
        face.settle(chat.send(tool_results={"c1": coroutine}))
    coroutine.close()


@pytest.mark.once
@pytest.mark.parametrize(
    ("result", "sent"),
    [
        ("", ""),
        (None, "null"),
        (True, "true"),
        (2**60, str(2**60)),
        ([], "[]"),
        (["a", "b"], '["a","b"]'),
        ([{"type": "file", "name": "a.txt"}], '[{"type":"file","name":"a.txt"}]'),
        ([{"type": "text", "text": "a"}, {"x": 1}], '[{"type":"text","text":"a"},{"x":1}]'),
        ({"日": date(2026, 1, 2), "s": ("é", 1.5)}, '{"日":"2026-01-02","s":["é",1.5]}'),
        ([{"type": "text", "text": "a"}], [{"type": "text", "text": "a"}]),
    ],
)
def test_values_are_sent_as_json(face: Face, kit: Any, server: LoopbackServer, result: Any, sent: Any) -> None:
    """Text stays text, parts stay parts, and every other value becomes JSON."""
    chat = open_chat(face, kit, server)
    face.settle(chat.send(tool_results={"c1": result}))
    assert server.requests[-1].body["messages"][-1]["content"] == sent
    assert face.settle(chat.replay()).status == "exact"
    face.settle(chat.verify())


@pytest.mark.once
def test_limits_hold_for_results(face: Face, database: str, server: LoopbackServer) -> None:
    """A long text is cut like the result of a function; binaries over the limit are refused."""
    limits = Limits(tool_result_bytes=100, attachment_bytes=3)
    kit = face.kit(database, model="loop-1", base_url=server.url, limits=limits)
    chat = open_chat(face, kit, server)
    with pytest.raises(TooLarge):
        face.settle(chat.send(tool_results={"c1": IMAGE}))
    face.settle(chat.send(tool_results={"c1": "長" * 100}))
    stored = face.settle(chat.messages())[2].text
    assert len(stored.encode()) <= 100
    assert "[cut:" in stored
    assert face.settle(chat.send(tool_results={"c1": "長" * 100})).text == f"echo: {stored}"


def test_results_that_do_not_fit_write_nothing(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The request is built before anything is written."""
    chat = open_chat(face, kit, server)
    with pytest.raises(ContextOverflow):
        face.settle(chat.send(tool_results={"c1": "word " * 4000}, budget=Budget(context_tokens=800)))
    assert len(face.settle(chat.open_calls())) == 1
    assert len(face.settle(chat.messages())) == 2
    face.settle(chat.send(tool_results={"c1": "short"}))
    face.settle(chat.verify())


def test_a_repeat_returns_the_same_reply(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """Without a key, while the branch ends with the reply and ids and results are equal."""
    chat = open_chat(face, kit, server, "c1", "c2")
    results = {"c1": "x", "c2": IMAGE}
    server.script(calls(("c3", "pay", "{}")))
    first = face.settle(chat.send(tool_results=results))
    other = face.kit(database, model="loop-1", base_url=server.url).chat("t")
    again = face.settle(other.send(tool_results=dict(reversed(results.items()))))
    assert (again.turn_id, again.message, again.open_calls) == (first.turn_id, first.message, first.open_calls)
    streaming = other.stream(tool_results=results)
    face.collect(streaming)
    assert streaming.reply.turn_id == first.turn_id
    for wrong in ({"c1": "x", "c2": "y"}, {"c1": "x"}, {**results, "c3": "z"}):
        with pytest.raises(InvalidInput, match="the open calls are 'c3'"):
            face.settle(other.send(tool_results=wrong))
    assert len(server.requests) == 2
    face.settle(other.send(tool_results={"c3": "z"}))
    with pytest.raises(InvalidInput, match="no open call"):
        face.settle(other.send(tool_results=results))
    face.settle(other.verify())


def test_a_key_makes_results_repeatable_for_good(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A repeat returns the reply of that turn also after further turns; other results under the key are a conflict."""
    chat = open_chat(face, kit, server, "c1", "c2")
    results = {"c1": "x", "c2": 2}
    first = face.settle(chat.send(tool_results=results, idempotency_key="k"))
    face.settle(chat.send("go on"))
    again = face.settle(chat.send(tool_results=dict(reversed(results.items())), idempotency_key="k"))
    assert again.turn_id == first.turn_id
    with pytest.raises(IdempotencyConflict):
        face.settle(chat.send(tool_results={"c1": "x", "c2": 3}, idempotency_key="k"))
    with pytest.raises(IdempotencyConflict):
        face.settle(chat.send("go on", idempotency_key="k"))
    assert len(server.requests) == 3
    face.settle(chat.redact(3))  # a result: its fingerprint goes with it
    with pytest.raises(Redacted):
        face.settle(chat.send(tool_results=results, idempotency_key="k"))
    face.settle(chat.verify())


def test_a_failed_turn_is_resumed(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """`resume`, or the same results again, ask for the reply without a second copy of the results."""
    for number, key in enumerate(("resumed", "repeated")):
        chat = open_chat(face, kit, server, key=key)
        server.script(failure(400))
        with pytest.raises(ModelError):
            face.settle(chat.send(tool_results={"c1": "done"}))
        assert face.settle(chat.open_calls()) == []
        with pytest.raises(InvalidInput, match="resume"):
            face.settle(chat.send(tool_results={"c1": "other"}))
        assert [turn.state for turn in face.settle(chat.turns())] == ["completed", "failed"]
        reply = face.settle(chat.send(tool_results={"c1": "done"}) if number else chat.resume())
        assert reply.text == "echo: done"
        assert shapes(face, chat) == [("user", "pay"), ("assistant", ""), ("tool", "done"), ("assistant", "echo: done")]
        assert [turn.state for turn in face.settle(chat.turns())] == ["completed", "completed"]
        assert face.settle(chat.resume()).turn_id == reply.turn_id
        face.settle(chat.verify())
    assert list_turn_states(database) == ["completed"] * 4


def test_a_broken_stream_is_resumed(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The text that came is kept, and the next reply takes its position."""
    chat = open_chat(face, kit, server)
    server.script(stream(["half ", "a "], finish=None, done=False))
    with pytest.raises(ModelError):
        face.collect(chat.stream(tool_results={"c1": "done"}))
    assert shapes(face, chat)[2:] == [("tool", "done"), ("assistant", "half a ")]
    assert face.settle(chat.resume()).text == "echo: done"
    assert shapes(face, chat)[2:] == [("tool", "done"), ("assistant", "echo: done")]
    face.settle(chat.verify())


def test_resume_returns_a_reply_with_open_calls(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Such a reply is whole: its turn is completed."""
    chat = open_chat(face, kit, server)
    assert [call["id"] for call in face.settle(chat.resume()).open_calls] == ["c1"]
    assert len(server.requests) == 1


def test_regenerate_asks_the_question_again(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Tools run anew: the calls of the new reply are open."""
    chat = open_chat(face, kit, server)
    old = face.settle(chat.send(tool_results={"c1": "old"}))
    server.script(calls(("c1", "pay", "{}")))
    reply = face.settle(chat.regenerate(old.message))
    assert [message["role"] for message in server.requests[-1].body["messages"]] == ["user"]
    assert [turn.id for turn in face.settle(chat.turns())] == [reply.turn_id]
    new = face.settle(chat.send(tool_results={"c1": "new"}))
    assert [text for _, text in shapes(face, chat)] == ["pay", "", "new", "echo: new"]
    assert [turn.id for turn in face.settle(chat.turns())] == [reply.turn_id, new.turn_id]
    face.settle(chat.checkout(old.message))
    assert [text for _, text in shapes(face, chat)] == ["pay", "", "old", "echo: old"]
    face.settle(chat.verify())


def test_a_failed_regeneration_is_resumed_from_the_question(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A turn with results is no regeneration of its question: at the question, `resume` must not reopen it."""
    chat = open_chat(face, kit, server)
    server.script(failure(400))
    with pytest.raises(ModelError):
        face.settle(chat.send(tool_results={"c1": "done"}))
    failed = face.settle(chat.turns())[-1]
    face.settle(chat.checkout(1))
    reply = face.settle(chat.resume())
    assert (reply.text, reply.turn_id == failed.id) == ("echo: pay", False)
    assert shapes(face, chat) == [("user", "pay"), ("assistant", "echo: pay")]
    assert [turn.id for turn in face.settle(chat.turns())] == [reply.turn_id]
    face.settle(chat.verify())


def test_each_branch_answers_by_itself(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The calls of a reply may be answered on several branches."""
    chat = open_chat(face, kit, server)
    other = face.settle(chat.fork())
    assert len(face.settle(other.open_calls())) == 1
    one = face.settle(chat.send(tool_results={"c1": "main"}))
    two = face.settle(other.send(tool_results={"c1": "branch"}))
    assert (one.text, two.text) == ("echo: main", "echo: branch")
    assert [text for _, text in shapes(face, other)] == ["pay", "", "branch", "echo: branch"]
    assert [text for _, text in shapes(face, chat)] == ["pay", "", "main", "echo: main"]
    assert len(face.settle(other.turns())) == 2
    face.settle(chat.verify())


def test_results_without_a_reply_are_answered_on_another_branch(face: Face, kit: Any, server: LoopbackServer) -> None:
    """`resume` hands them in again there, in a turn of that branch, with their images."""
    chat = open_chat(face, kit, server, "c1", "c2")
    server.script(failure(400))
    with pytest.raises(ModelError):
        face.settle(chat.send(tool_results={"c1": "done", "c2": IMAGE}))
    other = face.settle(chat.fork())
    with pytest.raises(InvalidInput, match="another branch"):
        face.settle(other.send(tool_results={"c1": "done", "c2": IMAGE}))
    reply = face.settle(other.resume())
    assert server.requests[-1].body["messages"] == server.requests[-2].body["messages"]
    assert [message.turn_id for message in face.settle(other.messages())[2:]] == [reply.turn_id] * 3
    assert face.settle(chat.resume()).turn_id != reply.turn_id
    assert face.settle(chat.resume()).message.parent_seq == 4
    face.settle(chat.verify())


def test_four_threads_make_one_turn(database: str, server: LoopbackServer) -> None:
    """Equal results at once: one turn, one call, one reply for all of them. Other results find a busy chat."""
    server.answer = lambda body: Script([0.3, *completion("whole").pieces])
    server.script(calls(("c1", "pay", "{}")))
    kits = [Convokit(database, model="loop-1", base_url=server.url) for _ in range(4)]
    kits[0].chat("t", tools=[schema()]).send("pay")
    outcomes: list[Any] = [None] * 5
    ready = threading.Barrier(4)

    def answer(number: int) -> None:
        if number < 4:
            ready.wait()
        try:
            outcomes[number] = kits[number % 4].chat("t").send(tool_results={"c1": "x" if number < 4 else "other"})
        except Exception as error:
            outcomes[number] = error

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while len(server.requests) < 2:
        threads[0].join(0.01)
    answer(4)
    for thread in threads:
        thread.join()
    assert isinstance(outcomes[4], ConversationBusy)
    assert len({reply.turn_id for reply in outcomes[:4]}) == 1
    assert {reply.text for reply in outcomes[:4]} == {"whole"}
    assert len(server.requests) == 2
    assert [message.role for message in kits[0].chat("t").messages()] == ["user", "assistant", "tool", "assistant"]
    kits[0].chat("t").verify()
    for kit in kits:
        kit.close()


def test_branches_answer_at_the_same_time(database: str, server: LoopbackServer) -> None:
    """Turns with results start behind messages that other branches wrote meanwhile."""
    server.answer = lambda body: (
        calls(("c1", "pay", "{}")) if body["messages"][-1]["role"] == "user" else completion("done")
    )
    with Convokit(database, model="loop-1", base_url=server.url) as kit:
        chat = kit.chat("t", tools=[schema()])
        chat.send("go")
        branches = [chat, chat.fork(), chat.fork()]
        errors: list[Exception] = []

        def answer(branch: Any) -> None:
            try:
                for number in range(4):
                    branch.send(tool_results={branch.open_calls()[0]["id"]: f"result {number}"})
                    branch.send("more")
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=answer, args=(branch,)) for branch in branches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        for branch in branches:
            turns = branch.turns()
            assert len(turns) == 9
            assert {branch.replay(turn).status for turn in turns} == {"exact"}
            assert [turn.id for turn in branch.turns(before=turns[-1].id, limit=1)] == [turns[-2].id]
        chat.verify()


@pytest.mark.parametrize("on_busy", ["wait", "supersede"])
def test_other_results_during_a_turn_are_refused(database: str, server: LoopbackServer, on_busy: Any) -> None:
    """A sender that waits finds the calls answered. One that would supersede finds out before it ends the turn."""
    server.answer = lambda body: Script([0.2, *calls(("c1", "pay", "{}")).pieces])
    server.script(calls(("c1", "pay", "{}")))
    with Convokit(database, model="loop-1", base_url=server.url) as kit:
        chat = kit.chat("t", tools=[schema()])
        chat.send("pay")
        first: list[Any] = []
        thread = threading.Thread(target=lambda: first.append(chat.send(tool_results={"c1": "x"})))
        thread.start()
        while len(server.requests) < 2:
            thread.join(0.01)
        with pytest.raises(InvalidInput, match="not an open call"):
            chat.send(tool_results={"c1": "other"}, on_busy=on_busy)
        thread.join()
        assert len(first[0].open_calls) == 1
        assert [turn.state for turn in chat.turns()] == ["completed", "completed"]
        chat.verify()


@pytest.mark.once
def test_a_new_question_supersedes_a_turn_with_results(database: str, server: LoopbackServer) -> None:
    """The question follows the results."""
    server.script(calls(("c1", "pay", "{}")), Script([2.0, *completion("late").pieces]))
    with Convokit(database, model="loop-1", base_url=server.url) as kit:
        chat = kit.chat("t", tools=[schema()])
        chat.send("pay")
        errors: list[Any] = []

        def answer() -> None:
            try:
                chat.send(tool_results={"c1": "x"})
            except ModelError as error:
                errors.append(error)

        thread = threading.Thread(target=answer)
        thread.start()
        while len(server.requests) < 2:
            thread.join(0.01)
        chat.send("something else", on_busy="supersede")
        assert [each["content"] for each in server.requests[-1].body["messages"]] == [
            "pay",
            None,
            "x",
            "something else",
        ]
        thread.join()
        assert errors[0].code == "superseded"
        assert [turn.state for turn in chat.turns()] == ["completed", "superseded", "completed"]
        chat.verify()


@pytest.mark.once
def test_waiting_results_do_not_answer_later_calls_of_the_same_id() -> None:
    """A server may number calls from the start in each reply. Then a sender that waited holds a result of an earlier call."""
    from convokit.domain.content import Content, ToolResult  # noqa: PLC0415
    from convokit.domain.message import MessageRow  # noqa: PLC0415
    from convokit.domain.turn import OpenTurn  # noqa: PLC0415
    from convokit.store.messages import MessagePath  # noqa: PLC0415
    from convokit.store.snapshot import Snapshot  # noqa: PLC0415

    call = {"id": "call_0", "type": "function", "function": {"name": "pay", "arguments": "{}"}}

    def row(seq: int, role: str, **values: Any) -> MessageRow:
        return MessageRow(seq, seq - 1, 1, None, role, "complete", 1, "c", 1, 1, **values)

    asking = [row(seq, "assistant", tool_calls=json.dumps([call])) for seq in (2, 4)]
    path = [row(1, "user", content="go"), asking[0], row(3, "tool", content="a", tool_call_id="call_0")]
    turn = OpenTurn(None, 1, 1, None, False, 1, 1)  # type: ignore[arg-type]
    matcher = ResultMatcher(Content(None, results=(ToolResult("call_0", "b"),), has_question=False), "wait")
    matcher.match(Snapshot(None, 3, MessagePath(path, complete=True), turn))
    later = Snapshot(None, 4, MessagePath([*path, asking[1]], complete=True), None, [call])
    with pytest.raises(InvalidInput, match="answered by another sender"):
        matcher.match(later)
    assert ResultMatcher(Content(None, results=(ToolResult("call_0", "b"),), has_question=False), "wait").match(later)


def test_mixed_calls_are_all_handed_out(face: Face, kit: Any, server: LoopbackServer) -> None:
    """If one call of a reply is for the caller, nothing runs, and the caller answers every call."""
    ran: list[str] = []

    @tool
    def look(at: str) -> str:
        """Look."""
        ran.append(at)
        return f"seen {at}"

    @tool(approval=True)
    def pay(yen: int) -> dict[str, int]:
        """Pay."""
        ran.append(str(yen))
        return {"paid": yen}

    chat = kit.chat("t", tools=[look, pay, schema("ask")])
    for names in (["look", "pay"], ["look", "ask"], ["pay"]):
        ran.clear()
        arguments = {"look": '{"at": "空"}', "pay": '{"yen": 5}', "ask": "{}"}
        server.script(calls(*((name, name, arguments[name]) for name in names)))
        reply = face.settle(chat.send("go"))
        assert [call["function"]["name"] for call in reply.open_calls] == names
        assert ran == []
        runnable = {"look": look, "pay": pay}
        results = {
            call["id"]: runnable[name].run(call) if (name := call["function"]["name"]) in runnable else "a person said"
            for call in reply.open_calls
        }
        server.script(calls(("l2", "look", '{"at": "海"}')))  # in the turn of the results, functions run as in any turn
        face.settle(chat.send(tool_results=results))
        assert ran[-1] == "海"
        assert find_problems(server.requests[-1].body["messages"]) == []
    assert [text for role, text in shapes(face, chat) if role == "tool"][:3] == ["seen 空", '{"paid":5}', "seen 海"]
    assert face.settle(chat.verify()).tool_calls == 3
    assert len(face.settle(chat.turns())) == 6


def test_calls_of_a_dead_round_are_not_open(database: str, server: LoopbackServer) -> None:
    """Functions that were running when their worker died may have had effects. A program may run open calls."""

    def work() -> str:
        """Work."""
        raise SystemExit

    server.script(calls(("c1", "work", "{}")))
    with Convokit(database, model="loop-1", base_url=server.url) as kit:
        chat = kit.chat("t")
        with pytest.raises(SystemExit):
            chat.send("go", tools=[work])
        assert [message.role for message in chat.messages()] == ["user", "assistant"]
        assert chat.open_calls() == []
        for on_busy in ("raise", "supersede"):
            with pytest.raises(InvalidInput, match="no open call"):
                chat.send(tool_results={"c1": "x"}, on_busy=on_busy)
        chat.verify()


def test_copies_and_followers_know_results(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A copy has the open calls of its source, without its turns. A reader follows the turn of the results."""
    chat = open_chat(face, kit, server)
    other = face.settle(chat.copy("copy"))
    assert [call["id"] for call in face.settle(other.open_calls())] == ["c1"]
    reply = face.settle(other.send(tool_results={"c1": "in the copy"}))
    following = other.follow()
    face.collect(following)
    assert (following.reply.turn_id, following.reply.text) == (reply.turn_id, "echo: in the copy")
    assert [turn.id for turn in face.settle(other.turns())] == [reply.turn_id]
    face.settle(other.verify())
    assert len(face.settle(chat.open_calls())) == 1


@pytest.mark.parametrize("after", keep([0, 1, 2], 1, sample=True))
@pytest.mark.parametrize("then", ["repeat", "resume", "question", "recover"])
def test_a_dead_worker_loses_and_doubles_nothing(
    face: Face, kit: Any, database: str, server: LoopbackServer, after: int, then: str
) -> None:
    """Before its first write nothing was answered. After it, the results are there once, and the turn is taken over."""
    chat = open_chat(face, kit, server)
    if after:
        server.script(stream(["x" * 5000, " and more"]))
    abandoned_turns.leave(face, kit, "t", after=after, tool_results={"c1": "done"})
    chat = face.kit(database, model="loop-1", base_url=server.url).chat("t")
    assert len(face.settle(chat.open_calls())) == (0 if after else 1)
    results = [text for role, text in shapes(face, chat) if role == "tool"]
    assert results == (["done"] if after else [])
    if then == "recover":
        face.settle(kit.recover())
        assert [turn.state for turn in face.settle(chat.turns())] == ["completed", "abandoned"][: 2 if after else 1]
    elif then == "question":
        face.settle(chat.send("go on"))
        sent = server.requests[-1].body["messages"]
        assert ("tool" in [each["role"] for each in sent], find_problems(sent)) == (bool(after), [])
    elif then == "resume" and after:
        assert face.settle(chat.resume()).text == "echo: done"
    else:
        assert face.settle(chat.send(tool_results={"c1": "done"})).text == "echo: done"
    if after or then in ("repeat", "resume"):
        assert [text for role, text in shapes(face, chat) if role == "tool"] == ["done"]
    face.settle(chat.verify())


def test_a_cancelled_turn_keeps_its_results(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The reader of a stream leaves; the results stay, and the turn can be resumed."""
    chat = open_chat(face, kit, server)
    server.script(stream(["one ", "two ", "three"], pause_s=0.05))
    face.take(chat.stream(tool_results={"c1": "done"}), 2)
    assert [turn.state for turn in face.settle(chat.turns())] == ["completed", "interrupted"]
    assert face.settle(chat.resume()).text == "echo: done"
    face.settle(chat.verify())


def test_a_window_is_never_cut_between_calls_and_results(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Whatever falls out of the window, the request is valid."""
    chat = kit.chat("t", tools=[schema()], budget=Budget(context_tokens=330, reply_tokens=40))
    for number in range(8):
        server.script(calls((f"c{number}", "pay", "{}")))
        face.settle(chat.send(f"question {number} " + "w " * 20))
        if number % 2:
            face.settle(chat.send(tool_results={f"c{number}": "r " * 20}))
        else:
            face.settle(chat.send("next " + "n " * 15, tool_results={f"c{number}": "r " * 20}))
        assert find_problems(server.requests[-1].body["messages"]) == []
        assert face.settle(chat.replay()).status == "exact"
    assert len(server.requests[-1].body["messages"]) < 16
    face.settle(chat.verify())


def test_search_finds_results(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Results are indexed like other tool messages, and a redaction removes them."""
    chat = open_chat(face, kit, server)
    face.settle(chat.send(tool_results={"c1": {"title": "こころ 夏目漱石"}}))
    assert 3 in {hit.message.seq for hit in face.settle(kit.search("夏目漱石", role="tool")).items}
    face.settle(chat.redact(3))
    assert face.settle(kit.search("夏目漱石", role="tool")).items == []
    face.settle(chat.send("and?"))
    sent = server.requests[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert "tool_calls" not in sent[1]
    face.settle(chat.verify())
