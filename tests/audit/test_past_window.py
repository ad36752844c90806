"""What the model saw in a past call, and why other messages stayed out."""

from __future__ import annotations

from typing import Any

import pytest

from convokit import Budget
from convokit.errors import InvalidInput, NotFound
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.completion.summaries import BUDGET, ONCE, SUMMARY, Writer, talk_until
from tests.history.helpers import change
from tests.support.faces import Face
from tests.support.large_databases import grow
from tests.support.server import LoopbackServer
from tests.support.statements import count_statements


def reasons(window: Any) -> dict[int, str]:
    return {part.seq: part.reason for part in window.parts}


def test_each_message_of_the_path_has_a_reason(face: Face, database: str, server: LoopbackServer) -> None:
    """The window, a pin from before it, passages of this turn and of another one, and what is before the window."""
    kit = face.kit(
        database,
        model="m",
        base_url=server.url,
        developer_prompt="短く答える",
        budget=Budget(context_tokens=400, reply_tokens=50, step_tokens=60),
    )
    chat = kit.chat("k")
    face.settle(chat.send("忘れないで"))
    face.settle(chat.pin(1))
    for number in range(9):
        face.settle(chat.send(f"質問 {number} " + "長い文 " * 8, passages=["資料"] if number in (7, 8) else []))
    reply = face.settle(chat.send("最後に"))
    face.settle(chat.regenerate())
    assert face.settle(chat.window(reply.turn_id)).counted_tokens == reply.context.counted
    face.settle(chat.checkout(reply.message.parent_seq - 1))
    turn = face.settle(chat.turns())[-1]
    window = face.settle(chat.window(turn.id))
    found = reasons(window)
    seqs = face.settle(chat.turn(turn)).calls[-1].window
    sent = [part.seq for part in window.parts if part.included]
    assert sorted(sent) == sorted(seqs.messages)
    assert window.start == seqs.start
    assert found[1] == "pinned"
    assert {found[seq] for seq in range(2, window.start)} == {"before_window"}
    assert [part.reason for part in window.parts if part.status == "passage"] == ["passage_of_other_turn", "passage"]
    assert set(found.values()) == {"pinned", "before_window", "window", "passage", "passage_of_other_turn"}
    assert list(found) == sorted(found)
    assert not window.has_earlier
    replay = face.settle(chat.replay(turn.id))
    assert replay.seqs == [None, *seqs.messages]
    assert window.sent_tokens == sum(part.tokens for part in window.parts if part.included)
    assert window.prompt_tokens > 0
    assert window.tools_tokens is None
    assert window.usage == face.settle(chat.turn(turn)).calls[-1].usage
    assert window.context_tokens == 400
    assert window.counted_tokens >= window.sent_tokens + window.prompt_tokens
    assert window.factor == window.usage.prompt_tokens / window.counted_tokens


def test_messages_that_a_summary_stood_for(face: Face, database: str, server: LoopbackServer) -> None:
    """The summary is sent, what it sums up is out, and the call that wrote it is marked."""
    server.answer = Writer()
    kit = face.kit(database, model="m", base_url=server.url, budget=BUDGET, summary=SUMMARY, retry=ONCE)
    chat = kit.chat("k")
    number = talk_until(face, server, chat)
    face.settle(chat.send(f"turn number {number} and more"))
    turn = face.settle(chat.turns())[-1]
    window = face.settle(chat.window(turn))
    found = reasons(window)
    (record,) = face.settle(chat.summaries())
    (part,) = (part for part in window.parts if part.reason == "summary")
    assert (part.seq, part.stands_for) == (record.message.seq, (record.from_seq, record.to_seq))
    summarized = [seq for seq, reason in found.items() if reason == "summarized"]
    assert summarized == list(range(record.from_seq, record.to_seq + 1))
    calls = [
        (each.id, call.number)
        for each in face.settle(chat.turns())
        for call in face.settle(chat.turn(each)).calls
        if call.window.is_summary_request
    ]
    written = face.settle(chat.window(calls[0][0], call=calls[0][1]))
    assert (written.is_summary_request, written.start, written.model) == (True, None, "mini")
    assert (written.counted_tokens, written.factor) == (None, None)
    with count_statements() as statements:
        assert face.settle(chat.window()) == window
    # conversation, turn with calls, path, text of the summary with the reply, summary
    assert len(statements) == 5, statements
    face.settle(chat.redact(record.message.seq))
    again = face.settle(chat.window(turn))
    assert reasons(again) == found


def test_reasons_that_are_not_stored_are_unknown(face: Face, kit: Any, database: str) -> None:
    """A redacted message, a late reply, one that broke off under the policy, and those that only a strategy left out."""
    chat = kit.chat("k")
    for number in range(4):
        face.settle(chat.send(f"質問 {number}"))
    turn = face.settle(chat.turns())[-1]
    manifest = face.settle(chat.turn(turn)).calls[-1].window
    assert manifest.messages == [1, 2, 3, 4, 5, 6, 7]
    change(
        database,
        "UPDATE convokit_completion SET manifest = replace(manifest, '[[1,7]]', '[[1,1],[7,7]]') WHERE turn_id = "
        "(SELECT turn_id FROM convokit_message WHERE seq = 8)",
    )
    change(database, "UPDATE convokit_message SET status = 'redacted' WHERE seq = 3")
    change(database, "UPDATE convokit_message SET status = 'late' WHERE seq = 4")
    change(database, "UPDATE convokit_message SET status = 'partial' WHERE seq = 6")
    found = reasons(face.settle(chat.window(turn)))
    assert found == {1: "window", 2: "unknown", 3: "redacted", 4: "late", 5: "unknown", 6: "unknown", 7: "window"}
    change(
        database,
        """UPDATE convokit_completion SET manifest = replace(manifest, '"v"', '"partial":"leave_out","v"')""",
    )
    assert reasons(face.settle(chat.window(turn))) == found | {6: "partial_left_out"}


def test_a_window_takes_few_statements(face: Face, kit: Any) -> None:
    """The same for a window of many messages, with 50 messages before it; also of the branch's newest turn."""
    chat = kit.chat("k")
    face.settle(chat.append([{"role": "user", "content": f"{number}"} for number in range(900)]))
    first = face.settle(chat.send("?", window="exact", start=200, developer_prompt="短く"))
    face.settle(chat.append([{"role": "user", "content": "!"}]))
    second = face.settle(chat.send("?", window="exact", start=200, developer_prompt="短く"))
    for turn in (None, second.turn_id):
        with count_statements() as statements:
            window = face.settle(chat.window(turn))
        # conversation, turn with calls, prompt, path, reply
        assert len(statements) == 5, statements
        assert (window.start, window.parts[0].seq, window.has_earlier) == (200, 150, True)
        assert [part.seq for part in window.parts] == list(range(150, 905))
        # An exact window is not scaled, so nothing was counted for it.
        assert window.counted_tokens is None
        with count_statements() as statements:
            assert face.settle(chat.replay(turn)).status == "exact"
        # conversation, turn with calls, messages, prompt
        assert len(statements) == 4, statements
    with count_statements() as statements:
        assert face.settle(chat.diff(first.turn_id, second.turn_id)).reason == "continued"
    assert len(statements) == 4, statements


def test_the_newest_turn_lies_in_an_earlier_run(face: Face, kit: Any) -> None:
    """A branch that starts with appended messages has the turns of the path before it."""
    chat = kit.chat("k")
    reply = face.settle(chat.send("一"))
    face.settle(chat.send("二"))
    fork = face.settle(chat.fork(2))
    face.settle(fork.append([{"role": "user", "content": "追記"}]))
    assert face.settle(fork.window()).turn_id == reply.turn_id
    assert face.settle(fork.replay()).turn_id == reply.turn_id
    with pytest.raises(NotFound, match="no message of this chat belongs to a turn"):
        face.settle(face.settle(chat.fork(0)).window())


def test_a_window_of_nothing(face: Face, kit: Any) -> None:
    chat = kit.chat("k")
    with pytest.raises(NotFound):
        face.settle(chat.window())
    reply = face.settle(chat.send("?"))
    with pytest.raises(NotFound, match="API call 7"):
        face.settle(chat.window(reply.turn_id, call=7))


@pytest.mark.once
def test_a_window_of_more_messages_than_the_limit(face: Face, kit: Any, database: str) -> None:
    """The newest are read. Numbers and tokens are those of all that was sent, also where the window has gaps."""
    chat = kit.chat("k")
    face.settle(chat.send("first"))
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        grow(connection, chat.id, 3_000)
    engine.dispose()
    reply = face.settle(chat.send("?", window="exact", start=101))
    each = face.settle(chat.messages(around=200, limit=1))[0].tokens
    for limit in (1000, 10, 3):
        with count_statements() as statements:
            window = face.settle(chat.window(reply.turn_id, limit=limit))
        assert [part.seq for part in window.parts] == list(range(3_002 - limit, 3_002))
        assert {part.reason for part in window.parts} == {"window"}
        assert (window.sent_messages, window.start, window.has_earlier) == (2_901, 101, True)
        tokens = [part.tokens for part in window.parts]
        assert window.sent_tokens == sum(tokens) + (2_901 - limit) * each
        assert len(statements) == 5, statements
    change(database, "UPDATE convokit_completion SET manifest = replace(manifest, '[[101,', '[[101,110],[121,')")
    window = face.settle(chat.window(reply.turn_id))
    assert (len(window.parts), window.sent_messages) == (1000, 2_891)
    assert window.sent_tokens == sum(part.tokens for part in window.parts) + 1_891 * each
    for bad in (0, 1001, True):
        with pytest.raises(InvalidInput, match="limit"):
            face.settle(chat.window(reply.turn_id, limit=bad))
