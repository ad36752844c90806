"""What falls out of the window is summed up once, when the start moves, stored, and sent in its place."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from convokit import Budget, Summary
from convokit.domain.message import Message
from convokit.errors import SettingsError
from tests.completion.summaries import (
    BUDGET,
    HEADING,
    SUMMARY,
    Writer,
    fetched,
    models,
    next_moves,
    sent_to,
    summary_parts,
    talk_until,
    write,
)
from tests.support.faces import Face
from tests.support.server import LoopbackServer, calls, completion
from tests.support.statements import count_statements
from tests.support.token_counts import count_request

# The rules of this module depend on neither database nor API.
pytestmark = pytest.mark.once


def test_what_falls_out_is_summed_up_first(face: Face, summed: Any, server: LoopbackServer) -> None:
    """When the start moves, one call to the summary's model sees what fell out, with the prompt before it; then the request is
    made with its text before the window."""
    chat = summed.chat("k")
    talk_until(face, server, chat)
    assert models(server)[-2:] == ["mini", "m"]
    asked = server.requests[-2].body
    assert asked["messages"][0] == {"role": "system", "content": SUMMARY.prompt}
    assert asked["max_tokens"] == 40
    assert asked["messages"][1]["content"].startswith("user: turn number 0 and more\n\nassistant: echo: turn number 0")
    sent = sent_to(server)
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
        assert models(server, first) == (["mini", "m"] if moved else ["m"])
        sent = server.requests[-1].body["messages"]
        if not moved:
            assert sent[: len(before)] == before
            assert not before or reply.context.stable_tokens > reply.context.fixed_tokens
        before = sent
        starts.append(reply.context.start)
    assert writer.made > 5
    assert starts == sorted(starts)


def test_the_log_says_what_a_summary_stands_for(face: Face, summed: Any, server: LoopbackServer) -> None:
    """One statement reads it for all summaries of a page. Without one, and for a removed one, nothing is read."""
    chat = summed.chat("k")
    with count_statements() as statements:
        face.settle(chat.send("turn number 0 and more"))
        before = len(statements)
        assert [each.stands_for for each in face.settle(chat.log())] == [None, None]
    assert len(statements) - before == 2
    talk_until(face, server, chat, until=2, first=1)
    made = face.settle(chat.summaries())
    with count_statements() as statements:
        logged = face.settle(chat.log(limit=1000))
    assert len(statements) == 3, statements
    spans = {each.seq: each.stands_for for each in logged if each.stands_for}
    assert spans == {each.message.seq: (each.from_seq, each.to_seq) for each in made}
    face.settle(chat.redact(made[0].message.seq))
    assert [each.stands_for for each in face.settle(chat.log(limit=1000)) if each.stands_for] == [
        (made[1].from_seq, made[1].to_seq)
    ]


def test_the_next_summary_is_made_of_the_last_one_and_what_followed(
    face: Face, summed: Any, server: LoopbackServer
) -> None:
    """It sees the earlier summary's text and only the messages since, and stands for both."""
    chat = summed.chat("k")
    talk_until(face, server, chat, until=2)
    first, second = (server.requests[at].body for at in [i for i, m in enumerate(models(server)) if m == "mini"])
    seen = second["messages"][1]["content"]
    assert seen.startswith(f"{HEADING}so far 1\n\nuser: turn number ")
    assert "turn number 0 " not in seen
    last = first["messages"][1]["content"].rpartition("echo: turn number ")[2].split()[0]
    assert f"user: turn number {int(last) + 1} and more" in seen
    assert sent_to(server)[1] == HEADING + "so far 2"


def test_a_summary_is_a_row_off_the_path(face: Face, summed: Any, server: LoopbackServer, database: str) -> None:
    """It is stored before it is sent, as a message of its turn and a child of the last it stands for; the talk is listed
    without it, the path keeps its counts, the chain covers it."""
    chat = summed.chat("k")
    turns = talk_until(face, server, chat)
    listed: list[Message] = face.settle(chat.messages(limit=200, passages=True))
    assert len(listed) == 2 * turns
    (row,) = fetched(database, "SELECT * FROM convokit_message WHERE status = 'summary'")
    (stands,) = fetched(database, "SELECT number, from_seq, to_seq, message_seq FROM convokit_summary")
    assert (stands.number, stands.from_seq, stands.message_seq) == (1, 1, row.seq)
    assert (row.role, row.content, row.parent_seq) == ("user", HEADING + "so far 1", stands.to_seq)
    assert row.seq == listed[-2].seq + 1 == listed[-1].seq - 1
    assert row.run_start_seq == row.seq
    assert str(row.turn_id).replace("-", "") == listed[-1].turn_id.hex  # type: ignore[union-attr]
    talk = fetched(
        database, "SELECT seq, tokens, path_tokens FROM convokit_message WHERE status = 'complete' ORDER BY seq"
    )
    assert talk[-1].path_tokens == sum(each.tokens for each in talk)
    assert face.settle(chat.verify()).rows > 0
    write(database, "UPDATE convokit_message SET content = 'other' WHERE status = 'summary'")
    with pytest.raises(Exception, match="not what was written"):
        face.settle(chat.verify())


def test_its_call_is_recorded_and_can_be_shown_again(
    face: Face, summed: Any, server: LoopbackServer, database: str
) -> None:
    """It is the turn's first call, with usage and chain entry of its own; a replay gives the very bytes of both calls."""
    chat = summed.chat("k")
    talk_until(face, server, chat, until=2)
    turn = face.settle(chat.turns(limit=1))[0]
    rows = fetched(
        database,
        "SELECT number, state, requested_model, served_model, prompt_tokens, usage_source FROM convokit_completion"
        " WHERE requested_model = 'mini' ORDER BY started_at",
    )
    sent = [count_request(each.body) for each in server.requests if each.body["model"] == "mini"]
    assert [tuple(row) for row in rows] == [(1, "ok", "mini", "mini", tokens, "reported") for tokens in sent]
    assert len(sent) == 2
    for number, request in ((1, server.requests[-2]), (2, server.requests[-1])):
        shown = face.settle(chat.replay(turn.id, call=number))
        assert (shown.status, shown.body) == ("exact", request.raw)
    assert [turn.reply] == [face.settle(chat.messages(limit=1))[0].id]


def test_the_report_and_the_context_say_so(face: Face, summed: Any, server: LoopbackServer) -> None:
    """`context` says beforehand that one would be made, and makes none; the reply's report counts it, and so does `context`
    afterwards."""
    chat = summed.chat("k")
    text = f"turn number {next_moves(face, chat)} and more"
    assert "mini" not in models(server)
    count = len(server.requests)
    shown = face.settle(chat.context(text))
    assert len(server.requests) == count
    reply = face.settle(chat.send(text))
    assert summary_parts(shown.report) == [(None, False, "would be made first: the window's start moves")]
    (part,) = [part for part in reply.context.parts if part.kind == "summary"]
    assert (part.included, part.role, part.excerpt) == (True, "user", "so far 1")
    assert part.rule == f"of messages 1 to {reply.context.start - 1}"
    sent = [each for each in reply.context.included if each.kind in ("message", "summary")]
    assert sum(each.tokens for each in sent) == reply.context.tokens - reply.context.fixed_tokens
    assert sent[0] == part
    after = face.settle(chat.context())
    assert after.messages[1]["content"] == HEADING + "so far 1"


def test_a_stream_begins_as_usual(face: Face, summed: Any, server: LoopbackServer) -> None:
    """The first event is the turn's start; the summary's call is plain and none of its text is handed out."""
    chat = summed.chat("k")
    number = next_moves(face, chat)
    stream = chat.stream(f"turn number {number} and more")
    events = face.collect(stream)
    assert type(events[0]).__name__ == "Started"
    assert "".join(event.text for event in events) == stream.reply.text == f"echo: turn number {number} and more"
    assert "stream" not in server.requests[-2].body
    assert server.requests[-1].body["stream"] is True
    assert sent_to(server)[1] == HEADING + "so far 1"
    face.settle(chat.verify())


def test_it_stays_through_tool_rounds(face: Face, summed: Any, server: LoopbackServer) -> None:
    """Every call of the turn that made it holds it, and each begins with the one before."""

    def lookup(port: int) -> str:
        """Return who listens."""
        return "nginx"

    chat = summed.chat("k", tools=[lookup], budget=Budget(context_tokens=700, reply_tokens=50, step_tokens=300))
    number = next_moves(face, chat)
    first = len(server.requests)
    server.script(
        completion("so far", model="mini"), calls(("c1", "lookup", '{"port": 80}')), completion("nginx it is")
    )
    face.settle(chat.send(f"turn number {number} and more"))
    assert models(server, first) == ["mini", "m", "m"]
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
    for number in range(next_moves(face, summed.chat("probe", tools=[lookup], budget=roomy)) - 1):
        face.settle(chat.send(f"turn number {number} and more"))
    server.script(calls(("c1", "lookup", "{}")), completion("so it is"))
    reply = face.settle(chat.send("turn number 9 and more"))
    assert reply.context.start > 1
    assert writer.made == 0
    after = face.settle(chat.send("next"))
    assert after.context.start == reply.context.start
    assert writer.made == 1
    assert sent_to(server)[1] == HEADING + "so far 1"


def test_passages_and_what_says_nothing_are_not_summed_up(face: Face, summed: Any, server: LoopbackServer) -> None:
    """A passage was for its turn alone: it is in no summary."""
    chat = summed.chat("k")
    face.settle(chat.send("first", passages=["a secret passage"]))
    talk_until(face, server, chat)
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
    assert models(server)[-2:] == ["mini", "n"]
    assert writer.made == 1
    seen = server.requests[-2].body["messages"][1]["content"]
    assert "turn number 0 " not in seen
    assert 8 < seen.count("user: ") < 40
    (row,) = fetched(database, "SELECT from_seq, to_seq FROM convokit_summary")
    first, last = (
        int(each.split()[0]) for each in re.findall(r"user: turn number (.*?) and", seen)[:: seen.count("user: ") - 1]
    )
    assert row.from_seq in (2 * first, 2 * first + 1), "the oldest of them is a reply or the first question"
    assert row.to_seq == 2 * last + 2


def test_off_is_off(face: Face, summed: Any, server: LoopbackServer, writer: Writer) -> None:
    """Without a summary, or with `summary=None` for a call, none is made and none is sent."""
    chat = summed.chat("k")
    for number in range(25):
        face.settle(chat.send(f"turn number {number} and more", summary=None))
    assert writer.made == 0
    talk_until(face, server, chat, first=25)
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
