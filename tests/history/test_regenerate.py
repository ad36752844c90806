"""Another reply to a question that is there already: a turn like any other, without a second question."""

from __future__ import annotations

from typing import Any

import pytest

from convokit import Budget, Chat, Convokit, Retry
from convokit.completion import call as calls
from convokit.errors import (
    ConversationBusy,
    IdempotencyConflict,
    Interrupted,
    InvalidInput,
    NotFound,
    Redacted,
    ServerFailed,
)
from tests.history.helpers import change, counts, sent, seqs, texts
from tests.support.background_reader import Running
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, chunk, completion, failure, stream
from tests.support.server import calls as tool_calls

pytestmark = pytest.mark.usefixtures("numbered_replies")

ONCE = Retry(attempts=1)


def test_another_reply_lies_beside_the_first(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """The same request is sent; a turn, a call and a reply are added, no question; the chat goes on from the new reply."""
    chat = kit.chat("k")
    face.settle(chat.send("zero"))
    first = face.settle(chat.send("one"))
    before = counts(database)
    reply = face.settle(chat.regenerate())
    assert reply.text == "3: one"
    assert server.requests[-1].raw == server.requests[-2].raw
    assert texts(face, chat) == ["zero", "1: zero", "one", "3: one"]
    added = {name: count - before[name] for name, count in counts(database).items() if count != before[name]}
    assert added == {"message": 1, "turn": 1, "completion": 1, "entry": 2}
    assert reply.turn_id != first.turn_id
    assert seqs(face.settle(chat.siblings(reply.message))) == [first.message.seq, reply.message.seq]
    assert reply.message.parent_seq == first.message.parent_seq
    face.settle(chat.send("two"))
    assert sent(server) == ["zero", "1: zero", "one", "3: one", "two"]
    face.settle(chat.verify())


@pytest.mark.parametrize("named", [1, 2, 6])
def test_any_reply_or_question_can_be_named(face: Face, kit: Any, server: LoopbackServer, named: int) -> None:
    """A question, its reply, or another reply to it: the same question is answered, from wherever the chat is."""
    chat = kit.chat("k")
    for text in ("one", "two"):
        face.settle(chat.send(text))
    face.settle(chat.regenerate(4))
    face.settle(chat.regenerate(2))
    reply = face.settle(chat.regenerate(named))
    assert sent(server) == ["one"]
    assert reply.message.parent_seq == 1
    assert texts(face, chat) == ["one", "5: one"]
    face.settle(chat.verify())


def test_its_passages_are_sent_again(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Passages belong to the question: every reply to it sees them, also when its call is made again; later turns do not."""
    chat = kit.chat("k")
    face.settle(chat.send("one", passages=["passage"] * 40))
    face.settle(chat.regenerate())
    assert sent(server) == [*["passage"] * 40, "one"]
    server.script(failure(500))
    with pytest.raises(ServerFailed):
        face.settle(chat.regenerate(retry=ONCE))
    face.settle(chat.resume())
    assert sent(server) == [*["passage"] * 40, "one"]
    assert [each["content"] for each in face.settle(chat.context("two")).messages] == ["one", "3: one", "two"]


def test_its_passages_are_sent_when_it_broke_off(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Resumed behind a partial reply of the new turn, whose window began at the question, it has all of its passages."""
    chat = kit.chat("k", budget=Budget(context_tokens=450, reply_tokens=50, step_tokens=100))
    face.settle(chat.send("zero " * 100))
    face.settle(chat.send("one", passages=["passage"] * 40))
    assert sent(server) == [*["passage"] * 40, "one"]
    broken = Script([chunk({"content": "broken"}), None], headers={"content-type": "text/event-stream"})
    server.script(broken)
    with pytest.raises(Interrupted):
        face.collect(chat.stream_regenerate(retry=ONCE))
    assert face.settle(chat.messages())[-1].status == "partial"
    face.settle(chat.resume())
    assert sent(server) == [*["passage"] * 40, "one"]
    assert texts(face, chat)[2:] == ["one", "3: one"]


def test_tools_run_anew(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The new reply starts at the question: the old turn's tool results are not in its request, and the tool runs again."""
    asked: list[str] = []

    def look(what: str) -> str:
        """Look it up."""
        asked.append(what)
        return f"found {len(asked)}"

    server.script(tool_calls(("c1", "look", '{"what": "x"}')), completion("first"))
    chat = kit.chat("k", tools=[look])
    face.settle(chat.send("what?"))
    server.script(tool_calls(("c2", "look", '{"what": "x"}')), completion("second"))
    assert face.settle(chat.regenerate()).text == "second"
    assert len(asked) == 2
    assert sent(server, -2) == ["what?"]
    assert sent(server) == ["what?", None, "found 2"]
    assert texts(face, chat) == ["what?", "", "found 2", "second"]
    face.settle(chat.verify())


def test_a_regeneration_that_failed_is_resumed(face: Face, kit: Any, server: LoopbackServer) -> None:
    """After a failure the chat ends with the question; `resume` goes on in that turn, `checkout` goes back to the old reply."""
    chat = kit.chat("k")
    first = face.settle(chat.send("one"))
    for _ in range(2):
        server.script(failure(500))
        with pytest.raises(ServerFailed):
            face.settle(chat.regenerate(retry=ONCE))
        assert texts(face, chat) == ["one"]
    failed = face.settle(chat.turns())
    assert [turn.state for turn in failed] == ["failed"]
    reply = face.settle(chat.resume())
    assert (reply.text, reply.turn_id) == ("2: one", failed[0].id)
    assert texts(face, chat) == ["one", "2: one"]
    assert face.settle(chat.resume()).message == reply.message
    face.settle(chat.checkout(first.message))
    assert face.settle(chat.resume()).text == first.text
    assert [turn.id for turn in face.settle(chat.turns())] == [first.turn_id]
    face.settle(chat.verify())


def test_turns_name_the_turn_whose_reply_is_on_the_path(face: Face, kit: Any) -> None:
    """One turn for each question, page by page: the one that answered it here."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    again = face.settle(chat.regenerate())
    last = face.settle(chat.send("two"))
    assert [turn.id for turn in face.settle(chat.turns())] == [again.turn_id, last.turn_id]
    newest = face.settle(chat.turns(limit=1))
    assert [turn.id for turn in newest] == [last.turn_id]
    assert [turn.id for turn in face.settle(chat.turns(limit=1, before=last.turn_id))] == [again.turn_id]
    assert face.settle(chat.turns(before=again.turn_id)) == []
    assert "".join(each.text for each in face.collect(chat.follow(again.turn_id))) == again.text


def test_what_has_no_question_cannot_be_answered_again(
    face: Face, kit: Any, database: str, server: LoopbackServer
) -> None:
    """A passage, a redacted question, what is not there or elsewhere: a typed error, nothing written, no call."""
    elsewhere = face.settle(kit.chat("other").send("elsewhere"))
    chat = kit.chat("k")
    with pytest.raises(NotFound):
        face.settle(chat.regenerate())
    face.settle(chat.send("one", passages=["passage"]))
    face.settle(chat.send("two"))
    change(database, "UPDATE convokit_message SET status = 'redacted', content = NULL WHERE content = 'two'")
    before = counts(database)
    for wrong in (1, 4, 5, None, elsewhere.message, "nonsense"):
        with pytest.raises((InvalidInput, Redacted)):
            face.settle(chat.regenerate(wrong))
    with pytest.raises(NotFound):
        face.settle(chat.regenerate(99))
    assert counts(database) == before
    assert len(server.requests) == 3


@pytest.fixture
def running(kit: Any, face: Face, database: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A regeneration on its way in another kit: half a second of words."""
    monkeypatch.setattr(calls, "CHUNK_S", 0.05)
    face.settle(kit.chat("k").send("one"))
    server.script(stream([f"word{number} " for number in range(30)], pause_s=0.03))
    made = Running(database, server, ask=Chat.stream_regenerate)
    yield made
    made.end()


@pytest.mark.once
def test_a_regeneration_can_be_followed(face: Face, kit: Any, running: Running) -> None:
    """Whoever attaches to the chat reads the reply that is on its way, not the old one."""
    following = kit.chat("k").follow()
    found = "".join(each.text for each in face.collect(following))
    running.end()
    assert found == running.text == following.reply.text
    assert found.startswith("word0")
    assert [turn.state for turn in face.settle(kit.chat("k").turns())] == ["completed"]


def test_a_regeneration_can_be_cancelled(face: Face, kit: Any, running: Running) -> None:
    """What came of it is kept as the chat's last message, and what came behind that as a late one; resume makes a whole one."""
    assert face.settle(kit.chat("k").cancel())
    running.end()
    assert running.error is not None
    found = face.settle(kit.chat("k").messages())
    assert [each.status for each in found] == ["complete", "partial"]
    assert found[-1].text.startswith("word0")
    assert face.settle(kit.chat("k").resume()).text == "2: one"
    assert texts(face, kit.chat("k")) == ["one", "2: one"]
    face.settle(kit.chat("k").verify())


def test_a_regeneration_keeps_its_branch(face: Face, kit: Any, running: Running) -> None:
    """It holds the branch as any turn does: nothing else is asked there, nor is it moved, until it is over or superseded."""
    chat = kit.chat("k")
    for attempt in (lambda: chat.send("two"), chat.regenerate, lambda: chat.edit(1, "uno"), lambda: chat.checkout(1)):
        with pytest.raises(ConversationBusy):
            face.settle(attempt())
    reply = face.settle(chat.regenerate(on_busy="supersede"))
    running.end()
    assert running.error is not None
    assert texts(face, chat) == ["one", reply.text]
    statuses = [each.status for each in face.settle(chat.siblings(reply.message))]
    assert sorted(statuses) == ["complete", "complete", "late"]
    face.settle(chat.verify())


@pytest.mark.once
def test_a_waiting_regeneration_answers_the_last_question(face: Face, kit: Any, running: Running) -> None:
    """With `on_busy="wait"` the question is the last one when the branch is free."""
    assert face.settle(kit.chat("k").regenerate(on_busy="wait")).text == "2: one"
    running.end()
    assert running.error is None
    assert len(face.settle(kit.chat("k").siblings(2))) == 3


def test_a_regeneration_is_two_reads_and_two_commits(database: str, server: LoopbackServer) -> None:
    """It looks for the question, then is a turn like any other; an old question costs the same as a new one."""
    from tests.store.test_turn_cost import Traffic  # noqa: PLC0415  # a class of that test

    with Convokit(database, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        for number in range(30):
            chat.send(f"turn {number}")
        traffic = Traffic(kit)
        sizes = []
        for named in (1, 31, None):
            chat.regenerate(named)
            assert traffic.transactions == {"read": 2, "write": 2}
            sizes.append([size for _, size in traffic.sizes])
            traffic.reset()
            chat.edit(named or 59, "again")
            assert traffic.transactions == {"read": 2, "write": 2}
            traffic.reset()
        assert sizes[0] == sizes[1]


def test_an_idempotency_key_makes_one_reply(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A repeat with the key returns the same reply. Another request with the key is refused."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    first = face.settle(chat.regenerate(1, idempotency_key="again", turn_metadata={"from": "button"}))
    repeat = face.settle(chat.regenerate(1, idempotency_key="again", turn_metadata={"from": "button"}))
    assert (repeat.turn_id, repeat.text, len(server.requests)) == (first.turn_id, first.text, 2)
    with pytest.raises(IdempotencyConflict):
        face.settle(chat.regenerate(1, idempotency_key="again", turn_metadata={"from": "menu"}))
    [turn] = face.settle(chat.turns(idempotency_key="again"))
    assert (turn.id, turn.metadata) == (first.turn_id, {"from": "button"})
    assert face.settle(chat.turns(idempotency_key="other")) == []
    with pytest.raises(InvalidInput, match="pass it alone"):
        face.settle(chat.turns(idempotency_key="again", question=1))
    face.settle(chat.verify())


def test_a_key_of_the_last_question_is_found_after_the_branch_moved(face: Face, kit: Any) -> None:
    """The default message is the last question. A repeat with the key returns its reply although the chat went on."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    first = face.settle(chat.regenerate(idempotency_key="again"))
    assert face.settle(chat.regenerate(idempotency_key="again")).turn_id == first.turn_id
    face.settle(chat.send("two"))
    assert face.settle(chat.regenerate(idempotency_key="again")).turn_id == first.turn_id
