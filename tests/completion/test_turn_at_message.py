"""A turn at a given message: where it stands, what is written before its question, and what is sent."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from convokit import Budget, Convokit, NewMessage, Summary
from convokit.completion import begin, write_retry
from convokit.errors import (
    ContextOverflow,
    HeadMoved,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    Rejected,
    SettingsError,
)
from tests.history.helpers import rows, sent, seqs, texts
from tests.store.test_turn_cost import Traffic
from tests.support.background_reader import Running
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion, failure, stream

pytestmark = pytest.mark.once

CALL = {"id": "c1", "type": "function", "function": {"name": "ask", "arguments": "{}"}}
ASK = {"type": "function", "function": {"name": "ask", "parameters": {"type": "object", "properties": {}}}}
HUMAN = [{"role": "user", "content": "人間と話したい"}, {"role": "assistant", "content": "担当の者です"}]


def test_after_moves_the_branch_there_first(face: Face, kit: Any, server: LoopbackServer) -> None:
    """By seq, id or message; the old messages stay; 0 starts anew, also in a conversation that does not exist yet."""
    chat = kit.chat("k")
    first = face.settle(chat.send("one"))
    face.settle(chat.send("two"))
    face.settle(chat.send("zwei", after=first.message))
    assert sent(server) == ["one", "echo: one", "zwei"]
    face.settle(chat.send("deux", after=first.message.id))
    face.settle(chat.send("ni", after=2))
    assert texts(face, chat) == ["one", "echo: one", "ni", "echo: ni"]
    assert seqs(face.settle(chat.children(2))) == [3, 5, 7, 9]
    face.settle(chat.send("uno", after=0))
    assert sent(server) == ["uno"]
    assert seqs(face.settle(chat.children(0))) == [1, 11]
    new = kit.chat("new")
    face.settle(new.send("hello", after=0, expect=0))
    assert texts(face, new) == ["hello", "echo: hello"]
    face.settle(chat.verify())


@pytest.mark.once
def test_after_names_a_message_that_a_path_can_end_with(face: Face, kit: Any, database: str) -> None:
    """A message that does not exist, a passage and a message of another conversation are refused. Nothing is written."""
    chat = kit.chat("k")
    face.settle(chat.send("one", passages=["p"]))
    other = face.settle(kit.chat("other").send("x"))
    before = rows(database, "SELECT count(*) FROM convokit_message")
    for after, error in ((9, NotFound), (1, InvalidInput), (other.message, InvalidInput), (True, InvalidInput)):
        with pytest.raises(error):
            face.settle(chat.send("two", after=after))
    with pytest.raises(NotFound):
        face.settle(kit.chat("unused").send("two", after=1))
    assert rows(database, "SELECT count(*) FROM convokit_message") == before


def test_expect_is_the_last_message_that_the_caller_read(face: Face, kit: Any, database: str) -> None:
    """Another end raises HeadMoved and writes nothing. The branch counts, not the conversation."""
    chat = kit.chat("k")
    face.settle(chat.send("one", expect=0))
    fork = face.settle(chat.fork(1))
    with pytest.raises(HeadMoved) as caught:
        face.settle(chat.send("two", expect=1))
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert [row[0] for row in rows(database, "SELECT count(*) FROM convokit_turn")] == [1]
    face.settle(fork.send("on the fork", expect=1))
    face.settle(chat.send("two", expect=2))
    face.settle(chat.send("three", expect=6, after=2, messages=HUMAN))
    assert texts(face, chat)[2:5] == ["人間と話したい", "担当の者です", "three"]
    head = face.settle(chat.messages())[-1]
    face.settle(chat.send("four", expect=head))
    for given in (-1, "2", True, 2.0):
        with pytest.raises(InvalidInput):
            face.settle(chat.send("x", expect=given))


@pytest.mark.once
def test_expect_is_checked_after_the_wait(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """A sender that waited finds another end than it read."""
    server.script(stream(["a ", "b ", "c"], pause_s=0.1))
    running = Running(database, server)
    with pytest.raises(HeadMoved):
        face.settle(kit.chat("k").send("late", expect=0, on_busy="wait"))
    running.end()
    assert [turn.state for turn in face.settle(kit.chat("k").turns())] == ["completed"]


@pytest.mark.once
def test_of_senders_that_expect_the_same_end_one_writes(database: str, server: LoopbackServer) -> None:
    """Four at once, waiting for each other: one reply, three HeadMoved."""
    outcomes: list[str] = []
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("k").send("one")

        def ask(number: int) -> None:
            try:
                kit.chat("k").send(f"two {number}", expect=2, on_busy="wait")
                outcomes.append("reply")
            except HeadMoved:
                outcomes.append("moved")

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert sorted(outcomes) == ["moved", "moved", "moved", "reply"]


def test_messages_are_written_before_the_question(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """They are part of the path: sent, counted, searched, chained, exported; and the next turn follows them."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    note = NewMessage("system", "handover", kind="desk/1", item={"who": "山田"})
    reply = face.settle(chat.send("ありがとう", messages=[*HUMAN, note], passages=["規約"]))
    assert sent(server) == ["one", "echo: one", "人間と話したい", "担当の者です", "規約", "ありがとう"]
    assert reply.message.parent_seq == 7
    stored = face.settle(chat.messages(passages=True))
    assert [(each.seq, each.parent_seq, each.role) for each in stored][2:] == [
        (3, 2, "user"),
        (4, 3, "assistant"),
        (5, 4, "system"),
        (6, 5, "user"),
        (7, 6, "user"),
        (8, 7, "assistant"),
    ]
    assert [each.turn_id for each in stored][2:5] == [None, None, None]
    assert stored[4].item == {"who": "山田"}
    hits = face.settle(kit.search("人間と話したい"))
    assert [hit.message.seq for hit in hits.items] == [3]
    face.settle(chat.verify())
    face.settle(chat.send("more"))
    assert sent(server)[2:4] == ["人間と話したい", "担当の者です"]
    assert [turn.question.rpartition(":")[2] for turn in face.settle(chat.turns())] == ["1", "7", "9"]
    totals = rows(database, "SELECT path_tokens, tokens FROM convokit_message ORDER BY seq")
    assert totals[-1][0] == sum(row[1] for row in totals) - totals[5][1]


def test_messages_begin_a_conversation(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A whole history of another program comes with its last question, in one turn."""
    history = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"message {n}"} for n in range(20)]
    chat = kit.chat("k")
    face.settle(chat.send("now", messages=history))
    assert sent(server) == [*(each["content"] for each in history), "now"]
    assert [turn.question.rpartition(":")[2] for turn in face.settle(chat.turns())] == ["21"]
    face.settle(chat.verify())


@pytest.mark.once
def test_bad_messages_are_named_and_nothing_is_written(face: Face, kit: Any, database: str) -> None:
    """The index and the field; and messages alone are no question."""
    chat = kit.chat("k")
    with pytest.raises(InvalidInput, match=r"messages\[1\].role"):
        face.settle(chat.send("x", messages=[HUMAN[0], {"role": "robot", "content": "x"}]))
    with pytest.raises(InvalidInput, match="messages: must be a list"):
        face.settle(chat.send("x", messages="hello"))
    with pytest.raises(InvalidInput, match="is missing"):
        face.settle(chat.send(messages=HUMAN))
    assert [row[0] for row in rows(database, "SELECT count(*) FROM convokit_message")] == [0]


def test_results_stand_right_behind_their_calls(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Behaviour 96: before the messages if the branch asked, behind them if they end with the calls."""
    asking = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    server.script(completion(None, tool_calls=[CALL], finish="tool_calls"))
    chat = kit.chat("k")
    face.settle(chat.send("one", tools=[ASK]))
    face.settle(chat.send("two", tool_results={"c1": "42"}, messages=HUMAN, tools=[ASK]))
    assert [each["role"] for each in server.requests[-1].body["messages"]] == [
        *("user", "assistant", "tool", "user", "assistant", "user"),
    ]
    face.settle(chat.verify())
    other = kit.chat("other")
    question = {"role": "user", "content": "天気は"}
    reply = face.settle(other.send(tool_results={"c1": "晴れ"}, messages=[question, asking], tools=[ASK]))
    assert [each["role"] for each in server.requests[-1].body["messages"]] == ["user", "assistant", "tool"]
    (turn,) = face.settle(other.turns())
    assert turn.question.rpartition(":")[2] == "1"
    assert [each.id for each in face.settle(other.turns(question=1))] == [reply.turn_id]
    face.settle(other.verify())
    face.settle(other.send("b", tool_results={"c1": "x"}, messages=[question, asking], tools=[ASK]))
    assert [each["role"] for each in server.requests[-1].body["messages"]][4:] == ["user", "assistant", "tool", "user"]
    with pytest.raises(InvalidInput, match="is not an open call"):
        face.settle(other.send(tool_results={"c1": "x"}, messages=HUMAN, tools=[ASK]))
    face.settle(other.verify())


def test_a_turn_with_messages_is_resumed(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The question is asked again with the messages before it; they are not written twice."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    server.script(failure(400))
    with pytest.raises(Rejected):
        face.settle(chat.send("two", messages=HUMAN))
    face.settle(chat.resume())
    assert sent(server) == ["one", "echo: one", "人間と話したい", "担当の者です", "two"]
    assert len(face.settle(chat.messages())) == 6
    face.settle(chat.verify())


def test_a_key_covers_the_message_and_the_messages_before_it(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The same request again returns the reply, whatever end it expects now. Any other request under the key is refused."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    request: dict[str, Any] = {"after": 2, "messages": HUMAN, "turn_metadata": {"a": 1}, "window": "exact", "start": 2}
    reply = face.settle(chat.send("two", idempotency_key="x", expect=2, **request))
    again = face.settle(chat.send("two", idempotency_key="x", expect=6, **request))
    assert again.turn_id == reply.turn_id
    assert len(server.requests) == 2
    others: list[dict[str, Any]] = [{"after": 1}, {"messages": HUMAN[:1]}, {"turn_metadata": {"a": 2}}, {"start": 1}]
    for changed in others:
        with pytest.raises(IdempotencyConflict):
            face.settle(chat.send("two", idempotency_key="x", **{**request, **changed}))


def test_a_turn_at_a_message_costs_what_any_turn_costs(database: str, server: LoopbackServer) -> None:
    """One read and two commits, with as many statements as a plain turn."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        for number in range(3):
            chat.send(f"turn {number}")
        traffic, found = Traffic(kit), []
        given: list[dict[str, Any]] = [{}, {"after": 2, "expect": 8}, {"messages": HUMAN}, {"turn_metadata": {"a": 1}}]
        for options in given:
            traffic.reset()
            chat.send("hello", **options)
            found.append((dict(traffic.transactions), len(traffic.sizes)))
    assert found[0][0] == {"read": 1, "write": 2}
    assert found == [found[0]] * len(given)


def test_an_exact_window_is_the_path_from_there(face: Face, database: str, server: LoopbackServer) -> None:
    """Behaviour 95: no trimming, pins or summary, whatever fits. The next turn chooses its window as before."""
    kit = face.kit(database, model="m", base_url=server.url, budget=Budget(context_tokens=400, reply_tokens=50))
    chat = kit.chat("k")
    for number in range(12):
        face.settle(chat.send(f"turn {number} " + "word " * 20))
    usual = face.settle(chat.send("usual"))
    assert 1 < usual.context.start < 20
    face.settle(chat.pin(1))
    held = rows(database, "SELECT count(*) FROM convokit_message WHERE window_from_seq IS NOT NULL")[0][0]
    summary = Summary(max_tokens=50)
    reply = face.settle(chat.send("all", window="exact", summary=summary))
    assert len(sent(server)) == 27
    assert (reply.context.start, reply.context.rule, reply.context.strategy) == (1, "exact", "exact")
    assert reply.context.tokens > 350
    assert rows(database, "SELECT count(*) FROM convokit_message WHERE window_from_seq IS NOT NULL")[0][0] == held
    reply = face.settle(chat.send("end", window="exact", start=25))
    assert sent(server) == ["usual", "echo: usual", "all", "echo: all", "end"]
    assert reply.context.dropped_tokens > 350
    face.settle(chat.send("nothing", window="exact", start=1000))
    assert sent(server) == ["nothing"]
    face.settle(chat.unpin(1))
    assert face.settle(chat.send("next")).context.start == usual.context.start
    assert face.settle(chat.context("x", window="exact", start=25)).report.start == 25
    face.settle(chat.verify())


@pytest.mark.once
def test_what_cannot_be_sent_is_left_out_of_an_exact_window(face: Face, kit: Any, server: LoopbackServer) -> None:
    """With its reason: a tool result whose call lies before the window."""
    server.script(completion(None, tool_calls=[CALL], finish="tool_calls"))
    chat = kit.chat("k")
    face.settle(chat.send("one", tools=[ASK]))
    face.settle(chat.send(tool_results={"c1": "42"}, tools=[ASK]))
    reply = face.settle(chat.send("two", window="exact", start=3))
    assert [each["role"] for each in server.requests[-1].body["messages"]] == ["assistant", "user"]
    assert [(part.key, part.rule) for part in reply.context.dropped] == [(3, "a tool result without its call")]


@pytest.mark.once
def test_an_exact_window_that_is_too_long_is_the_servers_error(face: Face, kit: Any, server: LoopbackServer) -> None:
    """It is not trimmed and sent again."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    message = "This model's maximum context length is 100 tokens. However, your messages resulted in 200 tokens."
    server.script(failure(400, message, code="context_length_exceeded"))
    with pytest.raises(ContextOverflow):
        face.settle(chat.send("two", window="exact"))
    assert len(server.requests) == 2


@pytest.mark.once
def test_settings_of_an_exact_window_are_checked(face: Face, kit: Any) -> None:
    """An unknown window, a start without one, and a start that is no seq."""
    chat = kit.chat("k")
    for options in (
        {"window": "all"},
        {"start": 2},
        {"window": "exact", "start": 0},
        {"window": "exact", "start": "1"},
    ):
        with pytest.raises(SettingsError, match=r"window|start"):
            face.settle(chat.send("x", **options))


@pytest.mark.once
def test_branches_write_messages_at_the_same_time(database: str, server: LoopbackServer) -> None:
    """Each turn has its own messages right before its question, whatever other branches write meanwhile."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("k").send("one")
        forks = [kit.chat("k").fork(2) for _ in range(4)]

        def ask(number: int) -> None:
            for turn in range(3):
                told = [{"role": "user", "content": f"told {number} {turn}"}]
                forks[number].send(f"asked {number} {turn}", messages=told)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        for number, fork in enumerate(forks):
            said = [message.text for message in fork.messages() if message.role == "user"][1:]
            assert said == [f"{kind} {number} {turn}" for turn in range(3) for kind in ("told", "asked")]
        kit.chat("k").verify()


@pytest.mark.once
def test_a_start_whose_acknowledgement_was_lost_is_found_with_its_messages(
    database: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows that the transaction wrote, those without a turn too."""
    steps: list[Any] = []
    write_step_flow = write_retry.write_step_flow

    def record(kit: Any, step: Any, **options: Any) -> Any:
        written = yield from write_step_flow(kit, step, **options)
        steps.append((step, [row.seq for row in written.rows]))
        return written

    monkeypatch.setattr(begin, "write_step_flow", record)
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("k").send("one")
        kit.chat("k").send("two", messages=HUMAN, passages=["p"])
        step, seqs_written = steps[-1]
        with kit._runtime._store.engine.connect() as connection:
            found = step.find_written(connection)
    assert [row.seq for row in found.rows] == seqs_written == [3, 4, 5, 6]
    assert [row.content for row in found.rows] == ["人間と話したい", "担当の者です", "p", "two"]


def test_results_behind_messages_are_told_from_another_reply(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Their turn is listed before them, and is not taken for a regeneration of the question."""
    asking = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    chat = kit.chat("k")
    first = face.settle(chat.send("one"))
    told = [{"role": "user", "content": "天気は"}, asking]
    second = face.settle(chat.send(tool_results={"c1": "晴れ"}, messages=told, tools=[ASK]))
    third = face.settle(chat.send("three"))
    listed = face.settle(chat.turns())
    assert [turn.id for turn in listed] == [first.turn_id, second.turn_id, third.turn_id]
    before = face.settle(chat.turns(before=second.turn_id))
    assert [turn.id for turn in before] == [first.turn_id]
    other = kit.chat("other")
    server.script(failure(400))
    with pytest.raises(Rejected):
        face.settle(other.send(tool_results={"c1": "晴れ"}, messages=told, tools=[ASK]))
    (failed,) = face.settle(other.turns())
    face.settle(other.checkout(1))
    assert face.settle(other.resume()).turn_id != failed.id
    assert sent(server) == ["天気は"]
    face.settle(other.verify())
