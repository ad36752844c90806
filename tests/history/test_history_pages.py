"""Pages of a conversation with turns, calls and removals, in one snapshot; runs of the tree; several turns at once."""

from __future__ import annotations

import random
from typing import Any

import pytest

from convokit import History, TurnRecord
from convokit.errors import InvalidInput, ModelError, NotFound
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.history.helpers import change
from tests.support.faces import Face
from tests.support.large_databases import grow
from tests.support.selection import keep
from tests.support.server import LoopbackServer, completion, failure
from tests.support.statements import count_statements, count_transactions


def _talk(face: Face, kit: Any, server: LoopbackServer) -> Any:
    """Return a chat of 14 messages: passages, a version of the last reply, a fork, and a redaction."""
    chat = kit.chat("京都", title="旅行")
    for number in range(6):
        face.settle(chat.send(f"{number}問目", passages=["資料"] if number == 2 else []))
    face.settle(chat.regenerate())
    return chat


def _strip(turn: TurnRecord) -> TurnRecord:
    """Return a turn without what `history` and `turn_records` do not read."""
    calls = [call.model_copy(update={"window": None}) for call in turn.calls]
    return turn.model_copy(update={"calls": calls, "tool_runs": []})


def test_a_page_has_what_a_screen_shows(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Conversation, branch, messages with passages, and the turns with their calls."""
    chat = _talk(face, kit, server)
    page = face.settle(chat.history(limit=5))
    assert isinstance(page, History)
    assert page.conversation == face.settle(kit.conversation("京都"))
    assert (page.branch.number, page.branch.name, page.branch.head) == (0, "main", page.messages[-1].id)
    assert page.messages == face.settle(chat.messages(limit=5, passages=True))
    assert (page.has_earlier, page.has_later) == (True, False)
    assert {turn.id for turn in page.turns} == {message.turn_id for message in page.messages}
    whole = {turn.id: face.settle(chat.turn(turn.id)) for turn in page.turns}
    for turn in page.turns:
        assert turn == _strip(whole[turn.id])
    assert page.removals == []


def test_a_page_tells_who_removed_its_texts(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The removals of the page alone, and an erasure."""
    chat = _talk(face, kit, server)
    for seq in (2, 4):
        face.settle(chat.redact(seq, author="監査人", reason=f"第{seq}号"))
    page = face.settle(chat.history(around=4, limit=3))
    (removal,) = page.removals
    assert (removal.kind, removal.ref, removal.removal.author, removal.removal.reason) == (
        "redaction",
        page.messages[1].id,
        "監査人",
        "第4号",
    )
    assert face.settle(chat.removals()) == [
        entry for entry in face.settle(chat.entries(limit=100)) if entry.removal is not None
    ]
    assert [entry.number for entry in face.settle(chat.removals(limit=1))] == [removal.number]
    assert face.settle(chat.removals(before=removal.number))[-1].removal.reason == "第2号"
    face.settle(chat.erase(author="監査人"))
    page = face.settle(chat.history(limit=2))
    assert (page.conversation.erased_by, page.messages) == ("監査人", [])
    assert [(entry.ref, entry.removal.author) for entry in page.removals] == [("*", "監査人")]
    assert [entry.ref for entry in face.settle(chat.history(around=7, limit=2)).removals] == ["*"]
    assert kit.chat("other").id is None
    assert face.settle(kit.chat("other").removals()) == []


@pytest.mark.parametrize("seed", keep(list(range(3)), 0, sample=True))
def test_pages_are_those_of_messages(face: Face, kit: Any, seed: int) -> None:
    """Of a random tree, every page has the messages, the partings and the ends that `messages` gives."""
    chance = random.Random(seed)
    chat, count = kit.chat("k"), 0
    while count < 30:
        after, many = chance.choice([0, count, chance.randint(0, count)]), chance.randint(1, 3)
        face.settle(chat.append([{"role": "user", "content": "m"}] * many, after=after))
        count += many
    for seq in range(1, count + 1):
        limit = chance.choice([1, 2, 5, 9])
        for given in ({}, {"before": seq}, {"around": seq}, {"after": seq}):
            try:
                expected = face.settle(chat.messages(limit=limit, passages=True, **given))
            except InvalidInput:  # not on the branch
                with pytest.raises(InvalidInput, match="is not on this branch"):
                    face.settle(chat.history(limit=limit, **given))
                continue
            page = face.settle(chat.history(limit=limit, **given))
            assert page.messages == expected
            if not expected:
                continue
            whole = face.settle(chat.messages(limit=None, passages=True, around=expected[0].seq))
            if "around" in given or not given:
                whole = face.settle(chat.messages(limit=None, passages=True, **given))
            assert page.has_earlier == (expected[0].parent_seq is not None)
            assert page.has_later == (given.get("before") is not None or expected[-1].seq != whole[-1].seq)


def test_a_branch_is_found_by_number_and_name(face: Face, kit: Any, server: LoopbackServer) -> None:
    chat = _talk(face, kit, server)
    fork = face.settle(chat.fork(2, name="別案"))
    face.settle(fork.send("枝"))
    for branch in (1, "別案"):
        page = face.settle(kit.chat("京都", branch=branch).history())
        assert (page.branch.number, page.branch.name) == (1, "別案")
        assert page.messages[-1].parent_seq == page.messages[-2].seq
        assert [message.text for message in page.messages][2] == "枝"
    with pytest.raises(NotFound, match="branch 7"):
        face.settle(kit.chat("京都", branch=7).history())
    with pytest.raises(NotFound):
        face.settle(kit.chat("unknown").history())
    with pytest.raises(InvalidInput):
        face.settle(chat.history(before=1, after=2))
    with pytest.raises(NotFound):
        face.settle(chat.history(around=99))


def test_an_open_turn_of_a_dead_worker_stays_open(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """A page and `turn_records` show it and write nothing; the question of a failed turn is shown with its error."""
    chat = kit.chat("k")
    server.script(failure(400, "no"))
    with pytest.raises(ModelError):
        face.settle(chat.send("?"))
    (turn,) = face.settle(chat.history()).turns
    assert (turn.state, turn.reply, turn.worker) == ("failed", None, None)
    assert turn.error is not None
    # The lease of a worker of another host has run out.
    change(
        database,
        "UPDATE convokit_turn SET state = 'open', claim = 0, lease_until = 5, ended_at = NULL, "
        """owner = '["elsewhere","b",1,"2"]'""",
    )
    for _ in range(2):
        with count_statements() as statements, count_transactions() as transactions:
            (turn,) = face.settle(chat.history()).turns
        assert (turn.state, turn.worker) == ("open", "gone")
        # conversation, messages, turns with their calls and workers
        assert (len(statements), len(transactions)) == (3, 1)
        (record,) = face.settle(chat.turn_records([turn.id]))
        assert record == turn


def test_runs_are_the_shape_of_the_conversation(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Each run has its ends, what it follows, and the beginning of its first message."""
    chat = _talk(face, kit, server)
    fork = face.settle(chat.fork(2))
    server.script(completion("答"))
    face.settle(fork.send("枝の質問" * 60))
    runs = face.settle(chat.runs())
    assert [(run.first, run.last, run.parent_seq) for run in runs] == [(1, 13, None), (14, 14, 12), (15, 16, 2)]
    assert [run.role for run in runs] == ["user", "assistant", "user"]
    assert runs[2].text == ("枝の質問" * 60)[:200] + "…"
    assert face.settle(chat.runs(limit=1)) == runs[2:]
    assert face.settle(chat.runs(before=runs[2].first)) == runs[:2]
    assert face.settle(kit.chat("unused").runs()) == []


def test_several_turns_at_once(face: Face, kit: Any, server: LoopbackServer) -> None:
    """They are what `turn` returns, but for their tool runs and the windows of their calls, in the order of their start."""
    chat = _talk(face, kit, server)
    turns = face.settle(chat.turns())
    found = face.settle(chat.turn_records([turns[-1], str(turns[0].id), turns[0].id]))
    assert found == [_strip(face.settle(chat.turn(turn))) for turn in (turns[0], turns[-1])]
    assert face.settle(chat.turn_records([])) == []
    with pytest.raises(NotFound):
        face.settle(chat.turn_records(["00000000-0000-0000-0000-000000000000"]))


def test_a_page_is_one_transaction(face: Face, kit: Any, server: LoopbackServer) -> None:
    """So messages, turns and removals agree, whatever others write meanwhile."""
    chat = _talk(face, kit, server)
    face.settle(chat.redact(4, author="監査人"))
    turns = face.settle(chat.turns())
    for read in (chat.history, lambda: chat.turn_records(turns), chat.runs, chat.removals):
        with count_transactions() as transactions:
            face.settle(read())
        assert len(transactions) == 1, read


@pytest.mark.parametrize("passages", keep([1, 6], 1, sample=True))
def test_partings_behind_passages_are_found(face: Face, kit: Any, server: LoopbackServer, passages: int) -> None:
    """A page that starts with a question or among its passages has the `parts_at` of the question, and few statements."""
    chat = kit.chat("k")
    for number in range(3):
        face.settle(chat.send(f"{number}", passages=["資料"] * passages))
    face.settle(chat.edit(2 * passages + 3, "別の質問", passages=["資料"] * passages))
    face.settle(chat.send("終わり"))
    path = face.settle(chat.messages(limit=None, passages=True))
    face.settle(chat.redact(path[-3].seq))
    for limit in range(1, 2 * passages + 4):
        for seq in [each.seq for each in path]:
            for given in ({}, {"before": seq}, {"around": seq}, {"after": seq}):
                with count_statements() as statements:
                    page = face.settle(chat.history(limit=limit, **given))
                assert page.messages == face.settle(chat.messages(limit=limit, passages=True, **given))
                # One more statement: behind a redaction, or to find the message before more than three passages.
                assert len(statements) <= 6 + any(each.status == "redacted" for each in page.messages) + (passages > 3)


@pytest.mark.parametrize("run", [None, 7])
def test_a_page_takes_few_statements_at_any_length(face: Face, kit: Any, database: str, run: int | None) -> None:
    """At most six, and seven around a message off the branch, of 1,000 and of 10,000 messages."""
    for key, count in (("short", 1_000), ("long", 10_000)):
        chat = kit.chat(key)
        face.settle(chat.send("first"))
        engine = open_engine(parse_database_url(database))
        with engine.execution_options(**{WRITE: True}).begin() as connection:
            grow(connection, chat.id, count, run=run)
        engine.dispose()
        path = face.settle(chat.history(limit=20)).messages
        seq, off_branch = path[0].seq, count - 1
        is_parted = run is not None
        pages: list[tuple[dict[str, int], int]] = [
            ({}, 3 + is_parted),
            ({"before": seq}, 3 + is_parted),
            ({"after": 2}, 4 + is_parted),
            ({"around": seq}, 4 + 2 * is_parted),
        ]
        for given, most in [*pages, ({"around": off_branch}, 7)]:
            with count_statements() as statements:
                page = face.settle(chat.history(limit=50, **given))
            assert len(statements) <= most, (given, statements)
            assert len(page.messages) == 50 or given
        with count_statements() as statements:
            assert face.settle(chat.runs())
        assert len(statements) == 2
