"""A summary that fails, or whose turn is left, taken away or taken over, loses nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from convokit import Convokit, Retry
from convokit.errors import Interrupted, ServerFailed
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
)
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, completion, echo, failure

# The rules of this module depend on neither database nor API.
pytestmark = pytest.mark.once


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
    number = talk_until(face, server, chat)
    writer.scripted.append(answer)
    failed = talk_until(face, server, chat, until=2, first=number)
    assert sent_to(server)[1] == HEADING + "so far 1"
    (call,) = fetched(
        database, "SELECT state, error FROM convokit_completion WHERE requested_model = 'mini' AND state != 'ok'"
    )
    assert call.state == "error"
    assert json.loads(call.error)["type"]
    assert len(fetched(database, "SELECT number FROM convokit_summary")) == 1
    reply = face.settle(chat.send(f"turn number {failed} and more"))
    assert models(server)[-2:] == ["m", "m"], "it is not tried again while the start stays"
    assert [included for _, included, _ in summary_parts(reply.context)] == [True, False], (
        "the second says what is missing"
    )
    talk_until(face, server, chat, until=3, first=failed + 1)
    first, last, third = (r.body["messages"][1]["content"] for r in server.requests if r.body["model"] == "mini")
    assert third.startswith(last), "what the failed call was given is in the next one's"
    assert not third.startswith(first)
    assert sent_to(server)[1] == HEADING + "so far 2"
    face.settle(chat.verify())


def test_the_report_names_the_failure(face: Face, summed: Any, server: LoopbackServer, writer: Writer) -> None:
    """The reply of a turn whose summary failed says so, and it is a whole reply."""
    chat = summed.chat("k")
    number = next_moves(face, chat)
    writer.scripted.append(failure(500))
    reply = face.settle(chat.send(f"turn number {number} and more"))
    last = (reply.context.start or 0) - 1
    assert summary_parts(reply.context) == [
        (None, False, "could not be made (ServerFailed)"),
        (None, False, f"messages 1 to {last} are in neither the window nor a summary"),
    ]
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
    talk_until(face, server, chat, until=2)
    assert models(server)[-3:] == ["mini", "mini", "m"]
    assert server.requests[-3].raw == server.requests[-2].raw
    assert sent_to(server)[0] == HEADING + "so far 1"
    states = fetched(
        database, "SELECT number, state FROM convokit_completion WHERE requested_model = 'mini' ORDER BY number"
    )
    assert [tuple(row) for row in states] == [(1, "error"), (2, "ok")]
    face.settle(chat.verify())


def test_a_failed_turn_keeps_its_summary(face: Face, summed: Any, server: LoopbackServer, writer: Writer) -> None:
    """Where the call after the summary fails, the summary is kept: resuming makes the request with it, and no second one."""
    chat = summed.chat("k")
    text = f"turn number {next_moves(face, chat)} and more"
    server.script(completion("kept", model="mini"), failure(500))
    with pytest.raises(ServerFailed):
        face.settle(chat.send(text, idempotency_key="once"))
    first = len(server.requests)
    reply = face.settle(chat.send(text, idempotency_key="once"))
    assert models(server, first) == ["m"]
    assert sent_to(server)[1] == HEADING + "kept"
    assert reply.text == f"echo: {text}"
    assert face.settle(chat.send(text, idempotency_key="once")).message.id == reply.message.id
    assert writer.made == 0
    face.settle(chat.verify())


def test_leaving_in_the_middle_of_the_summary(
    face: Face, summed: Any, server: LoopbackServer, database: str, writer: Writer
) -> None:
    """A reader who leaves while the summary is made leaves a question and no half summary; resuming makes both."""
    chat = summed.chat("k")
    number = next_moves(face, chat)
    events = face.take(chat.stream(f"turn number {number} and more"), 1)
    assert type(events[0]).__name__ == "Started"
    assert face.settle(chat.turns(limit=1))[0].state == "interrupted"
    assert fetched(database, "SELECT number FROM convokit_summary") == []
    assert [message.status for message in face.settle(chat.messages(limit=1))] == ["complete"]
    reply = face.settle(chat.resume())
    assert reply.text == f"echo: turn number {number} and more"
    assert sent_to(server)[1] == HEADING + f"so far {writer.made}"
    ended = fetched(database, "SELECT count(*) AS left FROM convokit_completion WHERE ended_at IS NULL")
    assert ended[0].left == 0
    face.settle(chat.verify())


def test_a_turn_that_is_taken_away_while_it_sums_up(
    face: Face, summed: Any, server: LoopbackServer, database: str, writer: Writer
) -> None:
    """Cancelled in the middle of its summary, a turn ends and stores none; the next turn sums up."""
    chat = summed.chat("k")
    number = next_moves(face, chat)
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
    assert fetched(database, "SELECT number FROM convokit_summary") == []
    assert face.settle(chat.turns(limit=1))[0].state == "cancelled"
    face.settle(chat.send("and now?"))
    assert sent_to(server)[1] == HEADING + "so far 1"
    face.settle(chat.verify())
