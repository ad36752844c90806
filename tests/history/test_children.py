"""The messages that follow one, and the turns that answered one, page by page on all branches."""

from __future__ import annotations

from typing import Any

import pytest

from convokit.errors import InvalidInput, NotFound
from tests.history.helpers import rows, sent, seqs, texts
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion
from tests.transfer.test_export_import import into, out

CALL = {"id": "c1", "type": "function", "function": {"name": "ask", "arguments": "{}"}}
ASK = {"type": "function", "function": {"name": "ask", "parameters": {"type": "object", "properties": {}}}}


def test_children_are_what_follows_a_message_on_any_branch(face: Face, kit: Any) -> None:
    """In the order of writing: questions behind a reply, replies behind a question, first messages behind 0."""
    chat = kit.chat("k")
    for text in ("one", "two"):
        face.settle(chat.send(text))
    face.settle(chat.edit(3, "zwei"))
    face.settle(chat.regenerate())
    face.settle(chat.edit(1, "uno"))
    found = {seq: seqs(face.settle(chat.children(seq))) for seq in range(10)}
    assert found == {0: [1, 8], 1: [2], 2: [3, 5], 3: [4], 4: [], 5: [6, 7], 6: [], 7: [], 8: [9], 9: []}
    assert seqs(face.settle(chat.children())) == [1, 8]
    first = face.settle(chat.children())[0]
    assert seqs(face.settle(chat.children(first))) == seqs(face.settle(chat.children(first.id))) == [2]


def test_children_come_in_pages_whatever_passages_and_summaries_lie_between(face: Face, kit: Any) -> None:
    """The newest first page; `before` goes on behind its first message; passages lead to their question."""
    chat = kit.chat("k")
    face.settle(chat.send("一つ目", passages=["資料", "別の資料"]))
    for number in range(4):
        face.settle(chat.edit(3, f"第{number}版", passages=["資料"] * (number % 3)))
    expected = [message.seq for message in face.settle(chat.log(limit=100)) if message.role == "user"][2:]
    questions = seqs(face.settle(chat.siblings(3)))
    assert set(questions) < set(expected)
    assert seqs(face.settle(chat.children(0))) == questions
    page = face.settle(chat.children(limit=2))
    assert seqs(page) == questions[-2:]
    assert seqs(face.settle(chat.children(limit=2, before=page[0].id))) == questions[-4:-2]
    assert seqs(face.settle(chat.children(before=questions[1]))) == questions[:1]
    assert face.settle(chat.children(before=questions[0])) == []


@pytest.mark.once
def test_children_of_what_cannot_be_a_parent(face: Face, kit: Any) -> None:
    """A passage is named with the question it belongs to; a message that does not exist, and a bad page, are refused."""
    chat = kit.chat("k")
    face.settle(chat.send("one", passages=["a"]))
    with pytest.raises(InvalidInput, match="passage"):
        face.settle(chat.children(1))
    with pytest.raises(NotFound):
        face.settle(chat.children(9))
    with pytest.raises(InvalidInput, match="limit"):
        face.settle(chat.children(limit=0))
    with pytest.raises(NotFound, match="unused"):
        face.settle(kit.chat("unused").children(1))


def test_the_turns_of_a_question_are_those_of_all_branches(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The one that wrote it, the regenerated ones, also of another branch, and none of another question."""
    chat = kit.chat("k")
    first = face.settle(chat.send("one"))
    face.settle(chat.send("two"))
    again = face.settle(chat.regenerate(1))
    fork = face.settle(chat.fork(1))
    third = face.settle(fork.resume())
    expected = [first.turn_id, again.turn_id, third.turn_id]
    turns = face.settle(chat.turns(question=1))
    assert [turn.id for turn in turns] == expected
    assert [turn.id for turn in face.settle(chat.turns(question=turns[0].question))] == expected
    assert [turn.id for turn in face.settle(fork.turns(question=1))] == expected
    assert {turn.question for turn in turns} == {turns[0].question}
    pages: list[Any] = []
    before = None
    while page := face.settle(chat.turns(question=1, limit=1, before=before)):
        pages = page + pages
        before = page[0].id
    assert [turn.id for turn in pages] == expected


def test_a_turn_with_tool_results_answers_the_question_of_its_calls(
    face: Face, kit: Any, server: LoopbackServer
) -> None:
    """The turn that handed in the results is one of the turns of the question."""
    server.script(completion(None, tool_calls=[CALL], finish="tool_calls"))
    chat = kit.chat("k")
    asking = face.settle(chat.send("one", tools=[ASK]))
    answered = face.settle(chat.send(tool_results={"c1": "ja"}, tools=[ASK]))
    assert [turn.id for turn in face.settle(chat.turns(question=1))] == [asking.turn_id, answered.turn_id]


@pytest.mark.once
def test_the_turns_of_what_is_no_question(face: Face, kit: Any) -> None:
    """A reply, a passage and a message that does not exist are refused; an unknown turn is not found."""
    chat = kit.chat("k")
    reply = face.settle(chat.send("one", passages=["a"]))
    with pytest.raises(InvalidInput, match="is not a question"):
        face.settle(chat.turns(question=reply.message))
    with pytest.raises(InvalidInput, match="passage"):
        face.settle(chat.turns(question=1))
    with pytest.raises(NotFound):
        face.settle(chat.turns(question=9))
    with pytest.raises(NotFound):
        face.settle(chat.turns(question=2, before="0191f0a0-0000-7000-8000-000000000000"))


def test_a_branch_before_the_first_message(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """It sends nothing of other branches, moves none, is listed without an end, and verifies before and after its turn."""
    main = kit.chat("k")
    face.settle(main.send("one"))
    root = face.settle(main.fork(after=0, name="題名"))
    assert face.settle(root.messages()) == []
    assert [(each.number, each.head) for each in face.settle(main.branches())][1] == (1, None)
    face.settle(main.verify())
    assert face.settle(face.settle(root.fork(after=0)).turns()) == []
    with pytest.raises(NotFound, match="pass after=0"):
        face.settle(root.fork())
    face.settle(root.send("a title"))
    assert sent(server) == ["a title"]
    face.settle(root.send("more"))
    assert texts(face, main)[0] == "one"
    assert len(texts(face, main)) == 2
    assert texts(face, kit.chat("k", branch="題名"))[::2] == ["a title", "more"]
    assert seqs(face.settle(main.children())) == [1, 3]
    parents = rows(database, "SELECT seq FROM convokit_message WHERE parent_seq IS NULL ORDER BY seq")
    assert [row[0] for row in parents] == [1, 3]
    face.settle(main.verify())


def test_a_branch_without_a_message_is_restored(face: Face, kit: Any, twin: str, server: LoopbackServer) -> None:
    """A restore has the branch as it was, and goes on with it."""
    main = kit.chat("k")
    face.settle(main.send("one"))
    face.settle(main.fork(after=0, name="empty"))
    restored = face.kit(twin, model="m", base_url=server.url)
    into(face, restored, out(face, kit))
    branch = restored.chat("k", branch="empty")
    assert face.settle(branch.messages()) == []
    face.settle(branch.send("a title"))
    assert sent(server) == ["a title"]
    face.settle(branch.verify())
    face.settle(kit.chat("k").erase())
    face.settle(kit.chat("k").verify())
