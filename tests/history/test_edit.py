"""Asking again in place of a question: a sibling of it, and nothing of the old is lost."""

from __future__ import annotations

from typing import Any

import pytest

from convokit import Retry
from convokit.errors import ConversationBusy, IdempotencyConflict, InvalidInput, NotFound, Redacted, ServerFailed
from tests.history.helpers import change, rows, sent, seqs, texts
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion, failure

pytestmark = pytest.mark.usefixtures("numbered_replies")

ONCE = Retry(attempts=1)


def test_an_edited_question_lies_beside_the_old_one(face: Face, kit: Any, server: LoopbackServer) -> None:
    """It follows what the old one follows, the chat goes on from it, and the old question and its replies stay."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    face.settle(chat.send("two"))
    reply = face.settle(chat.edit(3, "two, better"))
    assert reply.text == "3: two, better"
    assert sent(server) == ["one", "1: one", "two, better"]
    assert texts(face, chat) == ["one", "1: one", "two, better", "3: two, better"]
    face.settle(chat.send("three"))
    assert sent(server) == ["one", "1: one", "two, better", "3: two, better", "three"]
    assert seqs(face.settle(chat.siblings(3))) == [3, 5]
    assert seqs(face.settle(chat.leaves())) == [8, 4]
    face.settle(chat.verify())


def test_the_first_question_can_be_edited(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The first message has no parent, and neither has the one beside it: the conversation begins anew."""
    chat = kit.chat("k")
    first = face.settle(chat.send("one"))
    face.settle(chat.send("two"))
    face.settle(chat.edit(face.settle(chat.messages())[0], "uno"))
    assert sent(server) == ["uno"]
    assert texts(face, chat) == ["uno", "3: uno"]
    assert [each.parent_seq for each in face.settle(chat.siblings(1))] == [None, None]
    face.settle(chat.checkout(first.message))
    assert texts(face, chat) == ["one", "1: one"]
    face.settle(chat.verify())


def test_passages_come_with_a_version_of_a_question_and_go_with_it(
    face: Face, kit: Any, server: LoopbackServer
) -> None:
    """An edited question follows what came before the old one's passages; its own passages are sent with it."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    face.settle(chat.send("two", passages=["old passage", "old, too"]))
    face.settle(chat.edit(5, "two, better", passages=["new passage"]))
    assert sent(server) == ["one", "1: one", "new passage", "two, better"]
    face.settle(chat.edit(8, "two, best"))
    assert sent(server) == ["one", "1: one", "two, best"]
    for version in (5, 8, 10):
        assert seqs(face.settle(chat.siblings(version))) == [5, 8, 10]
    face.settle(chat.verify())


def test_an_edit_is_streamed_like_any_reply(face: Face, kit: Any) -> None:
    """`stream_edit` hands out the reply as it comes, and saves the same."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    streaming = chat.stream_edit(1, "uno")
    assert "".join(each.text for each in face.collect(streaming)) == "2: uno"
    assert streaming.reply.text == "2: uno"
    assert texts(face, chat) == ["uno", "2: uno"]


def test_an_edit_can_be_repeated_under_its_key(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The same edit under the same key is one question and one call; in another place, or as a send, it is another request."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    face.settle(chat.send("two"))
    first = face.settle(chat.edit(3, "better", idempotency_key="e"))
    assert face.settle(chat.edit(3, "better", idempotency_key="e")).message.id == first.message.id
    assert len(server.requests) == 3
    for place, text in ((1, "better"), (3, "worse")):
        with pytest.raises(IdempotencyConflict):
            face.settle(chat.edit(place, text, idempotency_key="e"))
    with pytest.raises(IdempotencyConflict):
        face.settle(chat.send("better", idempotency_key="e"))
    assert len(server.requests) == 3


def test_an_edit_that_failed_is_resumed(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The new question is stored before the call: after a failure the chat ends with it, and `resume` asks again."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    server.script(failure(500))
    with pytest.raises(ServerFailed):
        face.settle(chat.edit(1, "uno", retry=ONCE))
    assert texts(face, chat) == ["uno"]
    assert face.settle(chat.resume()).text == "2: uno"
    assert texts(face, chat) == ["uno", "2: uno"]
    assert [turn.state for turn in face.settle(chat.turns())] == ["completed"]


def test_what_is_no_question_cannot_be_edited(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """A reply, a passage, what was redacted, what is not there or elsewhere: a typed error, nothing written, no call."""
    other = kit.chat("other")
    elsewhere = face.settle(other.send("elsewhere"))
    chat = kit.chat("k")
    face.settle(chat.send("one", passages=["passage"]))
    face.settle(chat.send("two"))
    change(
        database,
        "UPDATE convokit_message SET status = 'redacted', content = NULL, salt = NULL WHERE content = 'two'",
    )
    before = rows(database, "SELECT last_entry, last_seq, head_seq, updated_at FROM convokit_conversation ORDER BY id")
    for wrong in (3, 1, 4, elsewhere.message, elsewhere.message.id, "nonsense", -1, True, 2**40):
        with pytest.raises((InvalidInput, Redacted)):
            face.settle(chat.edit(wrong, "better"))
    for absent in (99, 0):
        with pytest.raises(NotFound):
            face.settle(chat.edit(absent, "better"))
    with pytest.raises(NotFound):
        face.settle(kit.chat("never").edit(1, "better"))
    nothing: list[Any] = ["", [], 5]
    for content in nothing:
        with pytest.raises(InvalidInput):
            face.settle(chat.edit(2, content))
    after = rows(database, "SELECT last_entry, last_seq, head_seq, updated_at FROM convokit_conversation ORDER BY id")
    assert after == before
    assert len(server.requests) == 3


def test_an_edit_waits_its_turn(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """While a turn is open on the branch, an edit is refused like a send; superseding it, the edit takes its place."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    change(
        database,
        "UPDATE convokit_turn SET state = 'open', claim = 0, ended_at = NULL, lease_until = :until, owner = :owner",
        until=9 * 10**15,
        owner='["elsewhere","b",1,"2"]',
    )
    with pytest.raises(ConversationBusy):
        face.settle(chat.edit(1, "uno"))
    server.script(completion("done"))
    assert face.settle(chat.edit(1, "uno", on_busy="supersede")).text == "done"
    assert texts(face, chat) == ["uno", "done"]
