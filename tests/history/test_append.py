"""Messages that other code appends: where they stand, who may write, repeats, and what is refused."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Timer
from typing import Any

import pytest
from sqlalchemy import event

from convokit import AsyncConvokit, Convokit, Limits, NewMessage, Timeouts
from convokit.completion.effects import read_flow
from convokit.errors import ConversationBusy, HeadMoved, InvalidInput, NotFound, TooLarge
from convokit.history import append
from convokit.store import conversations
from convokit.store.write_batch import MANY
from tests.history.helpers import rows, seqs, texts
from tests.support.faces import Face
from tests.support.selection import Effort
from tests.support.server import LoopbackServer, stream

ASK, ANSWER = {"role": "user", "content": "明日の天気は?"}, {"role": "assistant", "content": "晴れです"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"京都"}'}}
ROUND = [
    ASK,
    {"role": "assistant", "content": None, "tool_calls": [{**CALL, "index": 0}]},
    {"role": "tool", "tool_call_id": "c1", "content": "晴れ"},
    NewMessage("assistant", "晴れです", name="weather_desk"),
]


def test_appended_messages_are_messages_like_any_other(face: Face, kit: Any, server: LoopbackServer) -> None:
    """They are in the chain, counted, found, sent with the next question, and belong to no turn."""
    chat = kit.chat("k", title="天気", subject="s", metadata={"via": "line"})
    first = face.settle(chat.append([NewMessage("assistant", "こんにちは")]))
    written = face.settle(chat.append(ROUND))
    assert [(each.seq, each.parent_seq, each.turn_id, each.role) for each in [*first, *written]] == [
        (1, None, None, "assistant"),
        (2, 1, None, "user"),
        (3, 2, None, "assistant"),
        (4, 3, None, "tool"),
        (5, 4, None, "assistant"),
    ]
    assert written[1].tool_calls == [CALL]
    assert face.settle(chat.messages()) == [*first, *written]
    assert {hit.message.seq for hit in face.settle(kit.search("晴れ")).items} == {4, 5}
    assert (face.settle(chat.verify()).messages, face.settle(chat.turns())) == (5, [])
    (listed,) = face.settle(kit.conversations(subject="s")).items
    assert (listed.title, listed.metadata) == ("天気", {"via": "line"})
    face.settle(chat.send("傘は?"))
    assert [each["role"] for each in server.requests[-1].body["messages"]] == [
        "assistant", "user", "assistant", "tool", "assistant", "user",
    ]  # fmt: skip
    assert [turn.question for turn in face.settle(chat.turns())] == [f"{chat.id}:6"]
    face.settle(chat.verify())


def test_tokens_of_the_path_are_counted(face: Face, kit: Any, database: str) -> None:
    """Each row has the counter of the chat's model, and the sum of the path up to it."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    face.settle(chat.append(ROUND))
    found = rows(database, "SELECT tokens, path_tokens, counter FROM convokit_message ORDER BY seq")
    assert [row[1] for row in found] == [sum(each[0] for each in found[: n + 1]) for n in range(len(found))]
    assert len({row[2] for row in found}) == 1


def test_the_counter_is_that_of_the_stored_model(face: Face, kit: Any, database: str) -> None:
    """A handle without a model counts as the conversation's own model does."""
    face.settle(kit.chat("k", model="gpt-3.5-turbo").append([ASK]))
    face.settle(kit.chat("k").append([ANSWER]))
    face.settle(kit.chat("other").append([ANSWER]))
    first, second, other = (
        row[0] for row in rows(database, "SELECT counter FROM convokit_message ORDER BY created_at")
    )
    assert first == second != other


def test_expect_refuses_a_branch_that_moved(face: Face, kit: Any) -> None:
    """Nothing is written behind messages that the caller has not read."""
    chat = kit.chat("k")
    with pytest.raises(HeadMoved) as caught:
        face.settle(chat.append([ASK], expect=3))
    assert (caught.value.conversation, caught.value.expected, caught.value.actual) == ("k", 3, 0)
    face.settle(chat.append([ASK, ANSWER], expect=0))
    face.settle(chat.append([ASK], expect=2))
    for messages in ([ANSWER], [ASK, ANSWER], []):
        with pytest.raises(HeadMoved) as caught:
            face.settle(chat.append(messages, expect=2))
        assert caught.value.actual == 3
    assert seqs(face.settle(chat.messages())) == [1, 2, 3]


def test_a_repeat_finds_its_own_messages(face: Face, kit: Any) -> None:
    """A repeat with `expect` or `after` writes nothing. Without them, and with other messages, it writes or is refused."""
    chat = kit.chat("k")
    first = face.settle(chat.append(ROUND, expect=0))
    assert face.settle(chat.append(ROUND, expect=0)) == first
    assert face.settle(chat.append(ROUND, after=0, expect=0)) == first
    replaced = face.settle(chat.append([ANSWER], after=1, expect=4))
    assert face.settle(chat.append([ANSWER], after=1, expect=4)) == replaced
    assert face.settle(chat.append([], after=1, expect=5)) == []
    assert face.settle(chat.append([], after=1, expect=5)) == []
    assert seqs(face.settle(chat.messages())) == [1]
    for different in ([{**ANSWER, "name": "x"}], [NewMessage("assistant", "晴れです", kind="k", item=1)]):
        with pytest.raises(HeadMoved):
            face.settle(chat.append(different, expect=0))
    assert seqs(face.settle(chat.append([ASK]))) == [6]
    assert seqs(face.settle(chat.append([ASK]))) == [7]
    face.settle(chat.verify())


def test_a_question_of_a_turn_is_no_repeat(face: Face, kit: Any) -> None:
    """The same text that somebody else sent to the model was not appended."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    same = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "echo: one"}]
    with pytest.raises(HeadMoved):
        face.settle(chat.append(same, expect=0))


@pytest.mark.parametrize("branch", [0, 1])
def test_after_moves_the_head_of_its_branch_alone(face: Face, kit: Any, branch: int) -> None:
    """Any message, and the place before the first, can be gone back to; the other branch stays where it is."""
    face.settle(kit.chat("k").append([ASK, ANSWER, ASK]))
    face.settle(kit.chat("k").fork())
    chat, other = kit.chat("k", branch=branch), kit.chat("k", branch=1 - branch)
    assert seqs(face.settle(chat.append([ANSWER], after=1))) == [4]
    assert seqs(face.settle(chat.messages())) == [1, 4]
    assert face.settle(chat.append([], after=0)) == face.settle(chat.messages()) == []
    assert seqs(face.settle(chat.append([ASK, ANSWER]))) == [5, 6]
    face.settle(chat.append([], after=face.settle(other.messages())[1]))
    assert seqs(face.settle(chat.append([ASK]))) == [7]
    assert seqs(face.settle(chat.messages())) == [1, 2, 7]
    face.settle(chat.checkout(0))
    assert face.settle(chat.messages()) == []
    assert face.settle(chat.send("one")).message.seq == 9
    assert (seqs(face.settle(chat.messages())), seqs(face.settle(other.messages()))) == ([8, 9], [1, 2, 3])
    assert face.settle(chat.verify()).messages == 9


def test_what_does_not_exist_is_not_found(face: Face, kit: Any) -> None:
    """An append creates a conversation under a key only, and follows only messages that exist."""
    chat = kit.chat("k")
    assert face.settle(chat.append([])) == face.settle(chat.append([], after=0, expect=0)) == []
    for messages, after in (([ASK], 1), ([], 7)):
        with pytest.raises(NotFound):
            face.settle(chat.append(messages, after=after))
    with pytest.raises(NotFound):
        face.settle(kit.chat(id="01a22d3b-0000-8000-8000-000000000000").append([ASK]))
    with pytest.raises(NotFound):
        face.settle(chat.resume())
    assert face.settle(kit.conversations()).items == []
    face.settle(chat.append([ASK]))
    face.settle(chat.checkout(0))
    with pytest.raises(NotFound, match="no question"):
        face.settle(chat.resume())


def test_resume_answers_an_appended_question(face: Face, kit: Any) -> None:
    """So does `send(tool_results=)` for an appended call."""
    chat = kit.chat("k")
    face.settle(chat.append([ASK]))
    assert face.settle(chat.resume()).text == "echo: 明日の天気は?"
    face.settle(chat.append(ROUND[:2]))
    assert [call["id"] for call in face.settle(chat.open_calls())] == ["c1"]
    assert face.settle(chat.send(tool_results={"c1": "雨"})).message.seq == 6
    assert [turn.state for turn in face.settle(chat.turns())] == ["completed", "completed"]
    face.settle(chat.verify())


@pytest.mark.once
@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("text", "messages[1]"),
        ({"content": "x"}, "messages[1].role"),
        ({"role": "system", "content": "x"}, "messages[1].role"),
        ({"role": "developer", "content": "x"}, "messages[1].role"),
        ({"role": "function", "content": "x", "name": "f", "kind": "k"}, "messages[1].role"),
        ({"role": ["user"], "content": "x"}, "messages[1].role"),
        ({"role": "user"}, "messages[1].content"),
        ({"role": "assistant", "content": ""}, "messages[1].content"),
        ({"role": "user", "content": 5}, "messages[1].content"),
        ({"role": "user", "content": "a\0"}, "messages[1].content"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[1].content[0].image_url.url",
        ),
        ({"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[1].content"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [{"id": "c"}]}, "messages[1].tool_calls"),
        ({"role": "tool", "content": "x"}, "messages[1].tool_call_id"),
        ({"role": "user", "content": "x", "tool_call_id": "c"}, "messages[1].tool_call_id"),
        ({"role": "user", "content": "x", "name": "山田"}, "messages[1].name"),
        ({"role": "user", "content": "x", "item": 1}, "messages[1].item"),
        ({"role": "user", "content": "x", "kind": ""}, "messages[1].kind"),
        ({"role": "user", "content": "x", "kind": "k" * 513}, "messages[1].kind"),
        ({"role": "user", "content": "x", "kind": "k", "item": {"a": {1, 2}}}, "messages[1].item.a"),
        ({"role": "user", "content": "x", "kind": "k", "item": float("nan")}, "messages[1].item"),
        ({"role": "user", "content": "x", "created_at": "2026-01-01"}, "messages[1].created_at"),
        (NewMessage("user", "x", created_at=datetime(2026, 1, 1)), "messages[1].created_at"),
        (NewMessage("user", "x", created_at=datetime(1969, 1, 1, tzinfo=UTC)), "messages[1].created_at"),
        (NewMessage("user", "京" * 20), "messages[1].content"),
        (NewMessage("user", "京" * 10, kind="k", item="都" * 10), "messages[1].item"),
    ],
)
def test_bad_messages_are_refused(face: Face, sqlite_file: str, message: Any, field: str) -> None:
    """The error names index and field, and nothing is written, not even the good message before."""
    chat = face.kit(sqlite_file, limits=Limits(message_bytes=50)).chat("k")
    with pytest.raises(InvalidInput) as caught:
        face.settle(chat.append([{"role": "user", "content": "ok"}, message]))
    assert caught.value.field == field
    assert isinstance(caught.value, TooLarge) == ("kkk" in str(message) or "京京" in str(message))
    assert rows(sqlite_file, "SELECT 1 FROM convokit_conversation") == []


@pytest.mark.once
@pytest.mark.parametrize("given", ["text", b"x", ASK, None, 5])
def test_messages_must_be_a_list(face: Face, kit: Any, given: Any) -> None:
    with pytest.raises(InvalidInput, match="messages: must be a list of messages"):
        face.settle(kit.chat("k").append(given))


@pytest.mark.once
def test_times_order_nothing_and_are_not_in_the_future(face: Face, kit: Any) -> None:
    """A time is stored with its microseconds, at most now."""
    then, later = datetime(2020, 2, 3, 4, 5, 6, 789, tzinfo=UTC), datetime.now(UTC) + timedelta(days=9)
    messages = [{**ASK, "created_at": later}, {**ANSWER, "created_at": then}]
    first, second = face.settle(kit.chat("k").append(messages))
    assert first.created_at < later - timedelta(days=8)
    assert second.created_at == then
    assert seqs(face.settle(kit.chat("k").messages())) == [1, 2]


def test_an_open_turn_is_in_the_way(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """`raise`, `wait` until it ends or the patience does, and `supersede`, as in `send`. `expect` is checked afterwards."""
    server.answer = lambda body: stream(["one", " two"], pause_s=0.05)
    other = Convokit(database, model="loop-1", base_url=server.url)
    chat = kit.chat("k")
    with other.chat("k").stream("q") as reply:
        next(iter(reply))
        with pytest.raises(ConversationBusy):
            face.settle(chat.append([ASK]))
        impatient = face.kit(database, base_url=server.url, timeouts=Timeouts(busy_s=0.02)).chat("k")
        with pytest.raises(ConversationBusy):
            face.settle(impatient.append([ASK], on_busy="wait"))
        timer = Timer(0.1, lambda: list(reply))
        timer.start()
        with pytest.raises(HeadMoved) as caught:
            face.settle(chat.append([ASK], expect=1, on_busy="wait"))
        assert caught.value.actual == 2
        timer.join()
    with other.chat("k").stream("q") as reply:
        next(iter(reply))
        assert seqs(face.settle(chat.append([ANSWER], on_busy="supersede"))) == [4]
    assert [turn.state for turn in face.settle(chat.turns())] == ["completed", "superseded"]
    assert texts(face, chat) == ["q", "one two", "q", "晴れです"]
    face.settle(chat.verify())
    other.close()


def test_turns_before_many_appended_messages_are_listed(face: Face, kit: Any) -> None:
    """More appended messages than a page of the path has do not hide the turns before them."""
    chat = kit.chat("k")
    face.settle(chat.append([ASK]))
    face.settle(chat.send("one"))
    face.settle(chat.append([ASK, ANSWER] * 50))
    face.settle(chat.send("two"))
    assert [turn.question for turn in face.settle(chat.turns())] == [f"{chat.id}:2", f"{chat.id}:104"]


def test_a_conversation_that_somebody_creates_meanwhile(face: Face, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write that finds no conversation, and then one, is tried again behind its messages."""
    face.settle(kit.chat("k").append([ASK]))
    find, answers = conversations.find, [None]
    monkeypatch.setattr(conversations, "find", lambda *given: answers.pop() if answers else find(*given))
    assert seqs(face.settle(kit.chat("k").append([ANSWER]))) == [2]
    assert answers == []
    face.settle(kit.chat("k").verify())


CREATE = """
import json, sys, time
from convokit import Convokit
kit = Convokit(sys.argv[1], model="m", base_url="http://127.0.0.1:9/v1")
kit.conversations()
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    kit.chat(f"k{number}").append([{"role": "user", "content": f"{sys.argv[2]}.{each}"} for each in range(3)])
"""


@pytest.mark.soak(sample=True)
def test_two_processes_create_the_same_conversations(face: Face, kit: Any, database: str) -> None:
    """Both batches are there whole, one behind the other."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, database, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("a", "b")
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    assert [child.wait(60) for child in children] == [0, 0]
    for number in range(20):
        found = texts(face, kit.chat(f"k{number}"))
        assert found in (["a.0", "a.1", "a.2", "b.0", "b.1", "b.2"], ["b.0", "b.1", "b.2", "a.0", "a.1", "a.2"])
        face.settle(kit.chat(f"k{number}").verify())


CANCELS: dict[Effort, int] = {"quick": 12, "sample": 60, "soak": 200}


def test_a_cancelled_append_leaves_no_half_batch(database: str, effort: Effort) -> None:
    """Cancelled at any moment, all messages of a batch are stored or none. What was acknowledged is stored."""

    async def run() -> tuple[list[str], list[str]]:
        kit = AsyncConvokit(database, model="m", base_url="http://127.0.0.1:9/v1")
        acknowledged = []
        chance = random.Random(5)
        for number in range(CANCELS[effort]):
            batch = [{"role": "user", "content": f"{number}.{each}"} for each in range(3)]
            task = asyncio.create_task(kit.chat("k").append(batch))
            await asyncio.sleep(chance.uniform(0, 0.008))
            task.cancel()
            with suppress(asyncio.CancelledError):
                acknowledged += [each.text for each in await task]
        await kit.chat("k").append([ASK])
        stored = [each.text for each in await kit.chat("k").messages(limit=1000)][:-1]
        await kit.chat("k").verify()
        await kit.close()
        return acknowledged, stored

    acknowledged, stored = asyncio.run(run())
    assert stored == [f"{text.partition('.')[0]}.{each % 3}" for each, text in enumerate(stored)]
    assert set(acknowledged) <= set(stored)
    assert len(set(stored)) == len(stored)


def test_a_commit_whose_answer_is_lost_is_not_repeated(face: Face, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt finds what the first one committed, by the salt of its last row."""
    chat = kit.chat("k")
    face.settle(chat.append([ASK]))
    steps: list[append.MessageAppend] = []
    make = append.MessageAppend

    def record(*given: Any) -> append.MessageAppend:
        steps.append(make(*given))
        return steps[-1]

    monkeypatch.setattr(append, "MessageAppend", record)
    written = face.settle(chat.append([ANSWER]))
    found = face.settle(kit._runtime.run(read_flow(steps[0].find_written)))
    assert seqs(found.rows) == seqs(written) == [2]
    steps[0].placed[-1].salt = bytes(16)
    assert face.settle(kit._runtime.run(read_flow(steps[0].find_written))) is None


@pytest.mark.parametrize("count", [1, 7, 60])
def test_an_append_is_one_transaction(database: str, count: int) -> None:
    """It has one commit, and the number of its statements does not depend on the messages."""
    kit = Convokit(database, model="m", base_url="http://127.0.0.1:9/v1")
    chat = kit.chat("k")
    chat.append([ASK])
    chat.append([ANSWER])
    statements: list[str] = []
    commits: list[Any] = []
    engine = kit._runtime._store.engine
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    event.listen(engine, "commit", commits.append)
    chat.append([ASK] * count, expect=2)
    assert len(commits) == 1
    writing = [each for each in statements if not each.startswith(("BEGIN", "PRAGMA"))]
    at_once = database.startswith("postgresql") and count <= MANY
    assert len(writing) == (5 if at_once else 8)
    kit.close()
