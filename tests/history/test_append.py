"""Messages that other code appends: where they stand, who may write, repeats, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import Timer
from typing import Any

import pytest

from convokit import Convokit, Limits, NewMessage, Timeouts
from convokit.errors import ConversationBusy, HeadMoved, InvalidInput, NotFound, TooLarge
from tests.history.helpers import rows, seqs, texts
from tests.support.faces import Face
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


def test_an_append_describes_a_conversation_that_exists(face: Face, kit: Any) -> None:
    """Title, subject and metadata of the handle are stored with the next append, as with the next turn."""
    face.settle(kit.chat("k").append([ASK]))
    face.settle(kit.chat("k", title="天気", subject="s", metadata={"via": "line"}).append([ANSWER]))
    (listed,) = face.settle(kit.conversations(subject="s")).items
    assert (listed.title, listed.metadata) == ("天気", {"via": "line"})


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


def test_no_messages_create_an_empty_conversation(face: Face, kit: Any) -> None:
    """It has the chat's key, title and metadata. A repeat changes nothing, and the first turn goes into it."""
    chat = kit.chat("k", title="A title", metadata={"a": 1})
    assert face.settle(chat.append([])) == face.settle(chat.append([])) == []
    conversation = face.settle(kit.conversation("k"))
    assert (conversation.id, conversation.title, conversation.head) == (chat.id, "A title", None)
    assert (conversation.metadata, conversation.last_seq) == ({"a": 1}, 0)
    assert len(face.settle(kit.conversations()).items) == 1
    assert (face.settle(chat.messages()), face.settle(chat.verify()).entries) == ([], 0)
    assert face.settle(chat.send("one")).message.seq == 2
    assert face.settle(chat.verify()).messages == 2


def test_what_does_not_exist_is_not_found(face: Face, kit: Any) -> None:
    """An append creates a conversation under a key only, and follows only messages that exist."""
    chat = kit.chat("k")
    assert face.settle(chat.append([], after=0)) == face.settle(chat.append([], expect=0)) == []
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
