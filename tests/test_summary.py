"""The rolling summary: what falls out of the window is summed up once, stored, and sent in its place."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sqlalchemy import text as sql

from convokit import Budget, Convokit, Retry, Summary
from convokit.domain.message import Message
from convokit.errors import ContextOverflow, Interrupted, InvalidInput, ServerFailed, SettingsError
from convokit.store import summaries
from convokit.store.engine import WRITE, database_url, open_engine
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, completion, echo, failure
from tests.test_tools import calls

BUDGET = Budget(context_tokens=400, reply_tokens=50, step_tokens=60)
SUMMARY = Summary(model="mini", max_tokens=40)
HEADING = "Summary of the earlier part of this conversation:\n\n"
ONCE = Retry(attempts=1)


class Writer:
    """Answers summaries with "so far 1", "so far 2" …, or with what is scripted for them, and everything else with an echo."""

    def __init__(self) -> None:
        self.made = 0
        self.scripted: list[Script] = []

    def __call__(self, body: Any) -> Script:
        if body["model"] != "mini":
            return echo(body)
        if self.scripted:
            return self.scripted.pop(0)
        self.made += 1
        return completion(f"so far {self.made}", model="mini")


@pytest.fixture
def writer(server: LoopbackServer) -> Writer:
    made = Writer()
    server.answer = made
    return made


@pytest.fixture
def summed(face: Face, database: str, server: LoopbackServer, writer: Writer) -> Any:
    """A kit with a small budget and a summary."""
    assert writer.made == 0
    return face.kit(
        database, model="m", base_url=server.url, budget=BUDGET, summary=SUMMARY, retry=ONCE, developer_prompt="Brief."
    )


def _models(server: LoopbackServer, since: int = 0) -> list[str]:
    return [request.body["model"] for request in server.requests[since:]]


def _sent(server: LoopbackServer, index: int = -1) -> list[Any]:
    return [each["content"] for each in server.requests[index].body["messages"]]


def _talk(face: Face, server: LoopbackServer, chat: Any, *, until: int = 1, first: int = 0) -> int:
    """Send turns until `until` summary calls were made; return the number of the next turn."""
    for number in range(first, first + 60):
        face.settle(chat.send(f"turn number {number} and more"))
        if _models(server).count("mini") >= until:
            return number + 1
    raise AssertionError("no summary was made")


def _next_moves(face: Face, chat: Any) -> int:
    """Send turns until the next one, whose number is returned, would be the first to sum up."""
    for number in range(60):
        text = f"turn number {number} and more"
        if _parts(face.settle(chat.context(text)).report):
            return number
        face.settle(chat.send(text))
    raise AssertionError("the start never moves")


def _rows(database: str, query: str, **values: Any) -> list[Any]:
    engine = open_engine(database_url(database))
    with engine.connect() as connection:
        found = list(connection.execute(sql(query), values))
    engine.dispose()
    return found


def _write(database: str, statement: str) -> None:
    engine = open_engine(database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(sql(statement))
    engine.dispose()


def _parts(report: Any) -> list[tuple[int | None, bool, str]]:
    return [(part.key, part.included, part.rule) for part in report.parts if part.kind == "summary"]


def test_what_falls_out_is_summed_up_first(face: Face, summed: Any, server: LoopbackServer) -> None:
    """When the start moves, one call to the summary's model sees what fell out, with the prompt before it; then the request is
    made with its text before the window."""
    chat = summed.chat("k")
    _talk(face, server, chat)
    assert _models(server)[-2:] == ["mini", "m"]
    asked = server.requests[-2].body
    assert asked["messages"][0] == {"role": "system", "content": SUMMARY.prompt}
    assert asked["max_tokens"] == 40
    assert asked["messages"][1]["content"].startswith("user: turn number 0 and more\n\nassistant: echo: turn number 0")
    sent = _sent(server)
    assert sent[:2] == ["Brief.", HEADING + "so far 1"]
    start = int(sent[2].split()[2])
    assert sent[2] == f"turn number {start} and more"
    assert asked["messages"][1]["content"].endswith(f"assistant: echo: turn number {start - 1} and more")


def test_it_is_made_when_the_start_moves_and_no_other_time(
    face: Face, summed: Any, server: LoopbackServer, writer: Writer
) -> None:
    """Over many turns: a summary call in exactly the turns in which the start moved; in between each prompt begins with the
    whole of the one before it, summary and all."""
    chat, starts = summed.chat("k"), [1]
    before: list[Any] = []
    for number in range(40):
        first = len(server.requests)
        reply = face.settle(chat.send(f"turn number {number} and more"))
        moved = reply.context.start != starts[-1]
        assert _models(server, first) == (["mini", "m"] if moved else ["m"])
        sent = server.requests[-1].body["messages"]
        if not moved:
            assert sent[: len(before)] == before
            assert not before or reply.context.stable_tokens > reply.context.fixed_tokens
        before = sent
        starts.append(reply.context.start)
    assert writer.made > 5
    assert starts == sorted(starts)


def test_the_next_summary_is_made_of_the_last_one_and_what_followed(
    face: Face, summed: Any, server: LoopbackServer
) -> None:
    """It sees the earlier summary's text and only the messages since, and stands for both."""
    chat = summed.chat("k")
    _talk(face, server, chat, until=2)
    first, second = (server.requests[at].body for at in [i for i, m in enumerate(_models(server)) if m == "mini"])
    seen = second["messages"][1]["content"]
    assert seen.startswith(f"{HEADING}so far 1\n\nuser: turn number ")
    assert "turn number 0 " not in seen
    last = first["messages"][1]["content"].rpartition("echo: turn number ")[2].split()[0]
    assert f"user: turn number {int(last) + 1} and more" in seen
    assert _sent(server)[1] == HEADING + "so far 2"


def test_a_summary_is_a_row_off_the_path(face: Face, summed: Any, server: LoopbackServer, database: str) -> None:
    """It is stored before it is sent, as a message of its turn and a child of the last it stands for; the talk is listed
    without it, the path keeps its counts, the chain covers it."""
    chat = summed.chat("k")
    turns = _talk(face, server, chat)
    listed: list[Message] = face.settle(chat.messages(limit=200, passages=True))
    assert len(listed) == 2 * turns
    (row,) = _rows(database, "SELECT * FROM convokit_message WHERE status = 'summary'")
    (stands,) = _rows(database, "SELECT number, from_seq, to_seq, message_seq FROM convokit_summary")
    assert (stands.number, stands.from_seq, stands.message_seq) == (1, 1, row.seq)
    assert (row.role, row.content, row.parent_seq) == ("user", HEADING + "so far 1", stands.to_seq)
    assert row.seq == listed[-2].seq + 1 == listed[-1].seq - 1
    assert row.run_start_seq == row.seq
    assert str(row.turn_id).replace("-", "") == listed[-1].turn_id.hex  # type: ignore[union-attr]
    talk = _rows(
        database, "SELECT seq, tokens, path_tokens FROM convokit_message WHERE status = 'complete' ORDER BY seq"
    )
    assert talk[-1].path_tokens == sum(each.tokens for each in talk)
    assert face.settle(chat.verify()).rows > 0
    _write(database, "UPDATE convokit_message SET content = 'other' WHERE status = 'summary'")
    with pytest.raises(Exception, match="not what was written"):
        face.settle(chat.verify())


def test_its_call_is_recorded_and_can_be_shown_again(
    face: Face, summed: Any, server: LoopbackServer, database: str
) -> None:
    """It is the turn's first call, with usage and chain entry of its own; a replay gives the very bytes of both calls."""
    chat = summed.chat("k")
    _talk(face, server, chat, until=2)
    turn = face.settle(chat.turns(limit=1))[0]
    rows = _rows(
        database,
        "SELECT number, state, requested_model, served_model, prompt_tokens, usage_source FROM convokit_completion"
        " WHERE requested_model = 'mini' ORDER BY started_at",
    )
    assert [tuple(row) for row in rows] == [(1, "ok", "mini", "mini", 9, "reported")] * 2
    for number, request in ((1, server.requests[-2]), (2, server.requests[-1])):
        shown = face.settle(chat.replay(turn.id, call=number))
        assert (shown.status, shown.body) == ("exact", request.raw)
    assert [turn.reply] == [face.settle(chat.messages(limit=1))[0].id]


def test_the_report_and_the_context_say_so(face: Face, summed: Any, server: LoopbackServer) -> None:
    """`context` says beforehand that one would be made, and makes none; the reply's report counts it, and so does `context`
    afterwards."""
    chat = summed.chat("k")
    for number in range(60):
        text = f"turn number {number} and more"
        count = len(server.requests)
        shown = face.settle(chat.context(text))
        assert len(server.requests) == count
        reply = face.settle(chat.send(text))
        if "mini" in _models(server):
            break
        assert _parts(shown.report) == _parts(reply.context) == []
    assert _parts(shown.report) == [(None, False, "would be made first: the window's start moves")]
    (part,) = [part for part in reply.context.parts if part.kind == "summary"]
    assert (part.included, part.role, part.excerpt) == (True, "user", "so far 1")
    assert part.rule == f"of messages 1 to {reply.context.start - 1}"
    sent = [each for each in reply.context.included if each.kind in ("message", "summary")]
    assert sum(each.tokens for each in sent) == reply.context.tokens - reply.context.fixed_tokens
    assert sent[0] == part
    after = face.settle(chat.context())
    assert after.messages[1]["content"] == HEADING + "so far 1"


@pytest.mark.parametrize(
    "answer",
    [
        failure(500),
        failure(400, "too long", code="context_length_exceeded"),
        completion(""),
        completion("  \n "),
        completion(None, refusal="I will not."),
        completion("half", usage={}).__class__([b"{"]),
    ],
    ids=["500", "overflow", "empty", "blank", "refused", "no JSON"],
)
def test_a_failed_summary_changes_nothing(
    face: Face, summed: Any, server: LoopbackServer, writer: Writer, database: str, answer: Script
) -> None:
    """The turn goes on with the summary that was there; the failure is on the call's record and in the report; the next is made
    when the start moves again, and covers what the failed one left."""
    chat = summed.chat("k")
    number = _talk(face, server, chat)
    writer.scripted.append(answer)
    failed = _talk(face, server, chat, until=2, first=number)
    assert _sent(server)[1] == HEADING + "so far 1"
    (call,) = _rows(
        database, "SELECT state, error FROM convokit_completion WHERE requested_model = 'mini' AND state != 'ok'"
    )
    assert call.state == "error"
    assert json.loads(call.error)["type"]
    assert len(_rows(database, "SELECT number FROM convokit_summary")) == 1
    reply = face.settle(chat.send(f"turn number {failed} and more"))
    assert _models(server)[-2:] == ["m", "m"], "it is not tried again while the start stays"
    assert [included for _, included, _ in _parts(reply.context)] == [True]
    _talk(face, server, chat, until=3, first=failed + 1)
    first, last, third = (r.body["messages"][1]["content"] for r in server.requests if r.body["model"] == "mini")
    assert third.startswith(last), "what the failed call was given is in the next one's"
    assert not third.startswith(first)
    assert _sent(server)[1] == HEADING + "so far 2"
    face.settle(chat.verify())


def test_the_report_names_the_failure(face: Face, summed: Any, server: LoopbackServer, writer: Writer) -> None:
    """The reply of a turn whose summary failed says so, and it is a whole reply."""
    chat, reply = summed.chat("k"), None
    writer.scripted.append(failure(500))
    for number in range(60):
        reply = face.settle(chat.send(f"turn number {number} and more"))
        if "mini" in _models(server):
            break
    assert reply is not None
    assert _parts(reply.context) == [(None, False, "could not be made (ServerFailed)")]
    assert reply.text == f"echo: turn number {number} and more"
    assert reply.attempts == 2


def test_a_summary_call_is_made_again_like_any_other(
    face: Face, database: str, server: LoopbackServer, writer: Writer
) -> None:
    """It has the turn's retry policy; every try is a row."""
    kit = face.kit(
        database, model="m", base_url=server.url, budget=BUDGET, summary=SUMMARY, retry=Retry(attempts=2, initial_s=0)
    )
    writer.scripted.append(failure(503))
    chat = kit.chat("k")
    _talk(face, server, chat, until=2)
    assert _models(server)[-3:] == ["mini", "mini", "m"]
    assert server.requests[-3].raw == server.requests[-2].raw
    assert _sent(server)[0] == HEADING + "so far 1"
    states = _rows(
        database, "SELECT number, state FROM convokit_completion WHERE requested_model = 'mini' ORDER BY number"
    )
    assert [tuple(row) for row in states] == [(1, "error"), (2, "ok")]
    face.settle(chat.verify())


def test_a_stream_begins_as_usual(face: Face, summed: Any, server: LoopbackServer) -> None:
    """The first event is the turn's start; the summary's call is plain and none of its text is handed out."""
    chat = summed.chat("k")
    for number in range(60):
        stream = chat.stream(f"turn number {number} and more")
        events = face.collect(stream)
        if "mini" in _models(server):
            break
    assert type(events[0]).__name__ == "Started"
    assert "".join(event.text for event in events) == stream.reply.text == f"echo: turn number {number} and more"
    assert "stream" not in server.requests[-2].body
    assert server.requests[-1].body["stream"] is True
    assert _sent(server)[1] == HEADING + "so far 1"
    face.settle(chat.verify())


def test_it_stays_through_tool_rounds(face: Face, summed: Any, server: LoopbackServer) -> None:
    """Every call of the turn that made it holds it, and each begins with the one before."""

    def lookup(port: int) -> str:
        """Return who listens."""
        return "nginx"

    chat = summed.chat("k", tools=[lookup], budget=Budget(context_tokens=700, reply_tokens=50, step_tokens=300))
    number = _next_moves(face, chat)
    first = len(server.requests)
    server.script(
        completion("so far", model="mini"), calls(("c1", "lookup", '{"port": 80}')), completion("nginx it is")
    )
    face.settle(chat.send(f"turn number {number} and more"))
    assert _models(server, first) == ["mini", "m", "m"]
    one, two = (request.body["messages"] for request in server.requests[-2:])
    assert two[: len(one)] == one
    assert one[1]["content"] == HEADING + "so far"
    turn = face.settle(chat.turns(limit=1))[0]
    for call in (1, 2, 3):
        assert face.settle(chat.replay(turn.id, call=call)).status == "exact"
    face.settle(chat.verify())


def test_what_falls_out_in_the_middle_of_a_turn_is_summed_up_by_the_next(
    face: Face, summed: Any, server: LoopbackServer, writer: Writer
) -> None:
    """Tool results may move the start when the turn's summary is made already: the next turn sums up what they pushed out."""

    def lookup() -> str:
        """Return a lot."""
        return "many words " * 20

    roomy = Budget(context_tokens=700, reply_tokens=50, step_tokens=200)
    chat = summed.chat("k", tools=[lookup], budget=roomy)
    for number in range(_next_moves(face, summed.chat("probe", tools=[lookup], budget=roomy)) - 1):
        face.settle(chat.send(f"turn number {number} and more"))
    server.script(calls(("c1", "lookup", "{}")), completion("so it is"))
    reply = face.settle(chat.send("turn number 9 and more"))
    assert reply.context.start > 1
    assert writer.made == 0
    after = face.settle(chat.send("next"))
    assert after.context.start == reply.context.start
    assert writer.made == 1
    assert _sent(server)[1] == HEADING + "so far 1"


def test_a_failed_turn_keeps_its_summary(face: Face, summed: Any, server: LoopbackServer, writer: Writer) -> None:
    """Where the call after the summary fails, the summary is kept: resuming makes the request with it, and no second one."""
    chat = summed.chat("k")
    text = f"turn number {_next_moves(face, chat)} and more"
    server.script(completion("kept", model="mini"), failure(500))
    with pytest.raises(ServerFailed):
        face.settle(chat.send(text, idempotency_key="once"))
    first = len(server.requests)
    reply = face.settle(chat.send(text, idempotency_key="once"))
    assert _models(server, first) == ["m"]
    assert _sent(server)[1] == HEADING + "kept"
    assert reply.text == f"echo: {text}"
    assert face.settle(chat.send(text, idempotency_key="once")).message.id == reply.message.id
    assert writer.made == 0
    face.settle(chat.verify())


def test_leaving_in_the_middle_of_the_summary(
    face: Face, summed: Any, server: LoopbackServer, database: str, writer: Writer
) -> None:
    """A reader who leaves while the summary is made leaves a question and no half summary; resuming makes both."""
    chat = summed.chat("k")
    number = _next_moves(face, chat)
    events = face.take(chat.stream(f"turn number {number} and more"), 1)
    assert type(events[0]).__name__ == "Started"
    assert face.settle(chat.turns(limit=1))[0].state == "interrupted"
    assert _rows(database, "SELECT number FROM convokit_summary") == []
    assert [message.status for message in face.settle(chat.messages(limit=1))] == ["complete"]
    reply = face.settle(chat.resume())
    assert reply.text == f"echo: turn number {number} and more"
    assert _sent(server)[1] == HEADING + f"so far {writer.made}"
    ended = _rows(database, "SELECT count(*) AS left FROM convokit_completion WHERE ended_at IS NULL")
    assert ended[0].left == 0
    face.settle(chat.verify())


def test_a_turn_that_is_taken_away_while_it_sums_up(
    face: Face, summed: Any, server: LoopbackServer, database: str, writer: Writer
) -> None:
    """Cancelled in the middle of its summary, a turn ends and stores none; the next turn sums up."""
    chat = summed.chat("k")
    number = _next_moves(face, chat)
    with Convokit(database, model="m", base_url=server.url) as other:

        def cancelling(body: Any) -> Script:
            if body["model"] == "mini":
                assert other.chat("k").cancel()
                server.answer = writer
                return completion("too late")
            return echo(body)

        server.answer = cancelling
        with pytest.raises(Interrupted) as told:
            face.settle(chat.send(f"turn number {number} and more"))
    assert told.value.code == "cancelled"
    assert _rows(database, "SELECT number FROM convokit_summary") == []
    assert face.settle(chat.turns(limit=1))[0].state == "cancelled"
    face.settle(chat.send("and now?"))
    assert _sent(server)[1] == HEADING + "so far 1"
    face.settle(chat.verify())


def test_passages_and_what_says_nothing_are_not_summed_up(face: Face, summed: Any, server: LoopbackServer) -> None:
    """A passage was for its turn alone: it is in no summary."""
    chat = summed.chat("k")
    face.settle(chat.send("first", context=["a secret passage"]))
    _talk(face, server, chat)
    seen = server.requests[-2].body["messages"][1]["content"]
    assert seen.startswith("user: first\n\nassistant: echo: first")
    assert "secret" not in seen


def test_only_as_much_as_one_call_takes(face: Face, database: str, server: LoopbackServer, writer: Writer) -> None:
    """What does not fit the summary's own budget stays out of it, the oldest first; it is one call however long the history."""
    plain = face.kit(database, model="m", base_url=server.url, budget=Budget(context_tokens=100_000))
    for number in range(60):
        face.settle(plain.chat("k").send(f"turn number {number} and more"))
    own = Summary(model="mini", max_tokens=40, budget=Budget(context_tokens=700, reply_tokens=40))
    kit = face.kit(database, model="n", base_url=server.url, budget=BUDGET, summary=own)
    face.settle(kit.chat("k").send("and now?"))
    assert _models(server)[-2:] == ["mini", "n"]
    assert writer.made == 1
    seen = server.requests[-2].body["messages"][1]["content"]
    assert "turn number 0 " not in seen
    assert 8 < seen.count("user: ") < 40
    (row,) = _rows(database, "SELECT from_seq, to_seq FROM convokit_summary")
    first, last = (
        int(each.split()[0]) for each in re.findall(r"user: turn number (.*?) and", seen)[:: seen.count("user: ") - 1]
    )
    assert (row.from_seq, row.to_seq) == (2 * first, 2 * last + 2), "the oldest of them is a reply"


def test_branches_use_what_covers_their_own_past(
    face: Face, summed: Any, server: LoopbackServer, database: str, writer: Writer
) -> None:
    """A branch that forks below what a summary stands for is sent with it; one that forks from before is not. What one branch
    sums up does not change the other's prompt while its start stays."""
    chat = summed.chat("k")
    number = _talk(face, server, chat)
    (stands,) = _rows(database, "SELECT from_seq, to_seq FROM convokit_summary")
    head = face.settle(chat.messages(limit=1))[0].seq
    conversation = _rows(database, "SELECT id FROM convokit_conversation")[0].id
    for branch, at in ((1, head), (2, stands.to_seq - 2)):
        _write(
            database,
            "INSERT INTO convokit_branch (conversation_id, number, head_seq, created_at)"
            f" VALUES ('{conversation}', {branch}, {at}, 1)",
        )
    below, above = summed.chat("k"), summed.chat("k")
    below._target.branch, above._target.branch = 1, 2
    assert face.settle(below.context("so?")).messages[1]["content"] == HEADING + "so far 1"
    shown = face.settle(above.context("so?", budget=Budget(context_tokens=160, reply_tokens=50, step_tokens=20)))
    assert shown.report.start > 1
    assert "so far" not in json.dumps(shown.messages)
    before = _sent(server)
    _talk(face, server, below, until=2, first=number)
    assert _sent(server)[1] == HEADING + "so far 2"
    face.settle(chat.send("ok"))
    assert _sent(server)[: len(before)] == before, "the other branch's summary reaches into this one's window"
    while _sent(server)[1] == HEADING + "so far 1":
        shown = face.settle(chat.context("ok"))
        assert all(key is not None for key, _, _ in _parts(shown.report)), "there is one already"
        face.settle(chat.send("ok"))
    assert _sent(server)[1] == HEADING + "so far 2"
    assert writer.made == 2, "one that stands for all that falls out is there already"
    face.settle(chat.verify())


def test_a_redacted_summary_is_not_used(face: Face, summed: Any, server: LoopbackServer, database: str) -> None:
    """A summary whose text is gone is as if it had never been; the store says which summaries a message may be in."""
    chat = summed.chat("k")
    _talk(face, server, chat, until=2)
    engine = open_engine(database_url(database))
    with engine.connect() as connection:
        stands = _rows(database, "SELECT to_seq FROM convokit_summary ORDER BY number")
        seqs = (1, stands[0].to_seq, stands[0].to_seq + 1, stands[1].to_seq + 1)
        found = [[each.number for each in summaries.covering(connection, chat.id, seq)] for seq in seqs]
        assert found == [[1, 2], [1, 2], [2], []]
    engine.dispose()
    _write(
        database,
        "UPDATE convokit_message SET status = 'redacted', content = NULL, salt = NULL WHERE seq ="
        " (SELECT max(message_seq) FROM convokit_summary)",
    )
    assert face.settle(chat.context("so?")).messages[1]["content"] == HEADING + "so far 1"


def test_a_summary_gives_way_to_pins_and_the_turn(face: Face, summed: Any, server: LoopbackServer) -> None:
    """Where the current turn leaves no room for it, it stays out, and the report says so; pinned messages come before it."""
    chat = summed.chat("k")
    _talk(face, server, chat)
    face.settle(chat.pin(1))
    reply = face.settle(chat.send("short"))
    assert _sent(server)[1:3] == ["turn number 0 and more", HEADING + "so far 1"]
    assert _parts(reply.context)[0][1] is True
    kinds = set()
    for words in range(100, 200):
        text = "many words " * words
        try:
            shown = face.settle(chat.context(text))
        except ContextOverflow:
            break
        contents = [each["content"] for each in shown.messages][1:]
        (rolled,) = [rule for key, _, rule in _parts(shown.report) if key is not None]
        kinds.add(
            tuple(
                each.split("\n")[0].strip() for each in contents[:-1] if each.startswith(("turn number 0", HEADING[:9]))
            )
        )
        assert contents[-1] == text
        assert rolled.endswith(", but does not fit") == (HEADING + "so far 1" not in contents)
        assert shown.report.tokens <= shown.report.available + shown.report.fixed_tokens
    pin, heading = "turn number 0 and more", HEADING.strip()
    assert kinds == {(pin, heading), (pin,), ()}, "the summary goes before the pin"


def test_a_summary_cannot_be_pinned(face: Face, summed: Any, server: LoopbackServer, database: str) -> None:
    """It is sent by itself."""
    chat = summed.chat("k")
    _talk(face, server, chat)
    (row,) = _rows(database, "SELECT message_seq FROM convokit_summary")
    with pytest.raises(InvalidInput, match="summary"):
        face.settle(chat.pin(row.message_seq))


def test_off_is_off(face: Face, summed: Any, server: LoopbackServer, writer: Writer) -> None:
    """Without a summary, or with `summary=None` for a call, none is made and none is sent."""
    chat = summed.chat("k")
    for number in range(25):
        face.settle(chat.send(f"turn number {number} and more", summary=None))
    assert writer.made == 0
    _talk(face, server, chat, first=25)
    assert len(face.settle(chat.context("so?", summary=None)).messages) > 2
    assert "so far" not in json.dumps(face.settle(chat.context("so?", summary=None)).messages)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"model": ""}, "Summary.model"),
        ({"prompt": "  "}, "Summary.prompt"),
        ({"max_tokens": 0}, "Summary.max_tokens"),
        ({"max_tokens": True}, "Summary.max_tokens"),
        ({"params": []}, "Summary.params"),
        ({"budget": 5}, "Summary.budget"),
    ],
)
def test_bad_settings_are_named(given: dict[str, Any], named: str) -> None:
    """A summary that cannot be made is refused where it is given."""
    with pytest.raises(SettingsError, match=named):
        Summary(**given)


def test_bad_parameters_are_refused(face: Face, sqlite_file: str) -> None:
    """Its request parameters are checked like any others, when the kit is made."""
    with pytest.raises(SettingsError, match="temperature"):
        face.kit(sqlite_file, model="m", summary=Summary(params={"temperature": 9}))
    with pytest.raises(SettingsError, match="summary"):
        face.kit(sqlite_file, model="m", summary="yes")
