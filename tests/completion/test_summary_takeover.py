"""A worker that dies, or is taken over, around its turn's summary call: nothing is lost, nothing is made twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from convokit import Convokit
from convokit.errors import Interrupted
from tests.completion.summaries import HEADING, Writer, fetched, models, next_moves, sent_to, write
from tests.faults.oracles import check_conversation
from tests.support.faces import Face
from tests.support.selection import keep
from tests.support.server import LoopbackServer, Script, completion, echo, stream

CHILD = """
import os, signal, sys
from convokit import Convokit
from convokit.completion import call
call.CHUNK_S = 0.0
from tests.completion.summaries import BUDGET, SUMMARY
database, url, text = sys.argv[1:]
with Convokit(database, model="m", base_url=url, budget=BUDGET, summary=SUMMARY, developer_prompt="Brief.") as kit:
    heard = 0
    for each in kit.chat("k").stream(text):
        heard += bool(each.text)
        if heard == 5:
            os.kill(os.getpid(), signal.SIGKILL)
"""
SUMMARIES = "SELECT number, to_seq, message_seq FROM convokit_summary"
STATES = "SELECT number, state, requested_model FROM convokit_completion WHERE turn_id = :turn ORDER BY number"


def _killed_while_it_sums_up(database: str, server: LoopbackServer, writer: Writer, text: str) -> None:
    """Have another process take a turn, and kill it while its summary's call is on its way."""
    slow = completion("never seen")
    slow.delay_s = 5.0
    writer.scripted.append(slow)
    before = len(server.requests)
    child = subprocess.Popen([sys.executable, "-c", CHILD, database, server.url, text])
    while len(server.requests) == before:
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    assert child.wait(30) == -signal.SIGKILL
    assert models(server, before) == ["mini"]
    (row,) = fetched(database, "SELECT state, ended_at FROM convokit_completion WHERE ended_at IS NULL")
    assert row.state == "sending"


def _by_sending(face: Face, kit: Any, _text: str) -> str:
    return str(face.settle(kit.chat("k").send("and now?")).text)


def _by_resuming(face: Face, kit: Any, _text: str) -> str:
    return str(face.settle(kit.chat("k").resume()).text)


def _by_recovering(face: Face, kit: Any, text: str) -> str:
    (found,) = face.settle(kit.recover())
    assert (found.key, found.kept_chars) == ("k", 0)
    assert face.settle(kit.recover()) == []
    return _by_resuming(face, kit, text)


@pytest.mark.once
@pytest.mark.parametrize("taking_over", keep([_by_sending, _by_resuming, _by_recovering], _by_sending, sample=True))
def test_killed_while_it_sums_up(
    face: Face,
    summed: Any,
    server: LoopbackServer,
    database: str,
    writer: Writer,
    taking_over: Callable[[Face, Any, str], str],
) -> None:
    """Whoever comes next closes the turn and its call, keeps the question, and sums up itself, once; what fell out is whole
    in it."""
    chat = summed.chat("k")
    text = f"turn number {next_moves(face, chat)} and more"
    _killed_while_it_sums_up(database, server, writer, text)
    turn = fetched(database, "SELECT id FROM convokit_turn WHERE state = 'open'")[0].id
    first = len(server.requests)
    said = taking_over(face, summed, text)
    assert models(server, first) == ["mini", "m"]
    assert said == f"echo: {sent_to(server)[-1]}"
    assert sent_to(server)[1] == HEADING + "so far 1"
    assert sum(each == text for each in sent_to(server)) == 1
    asked = server.requests[first].body["messages"][1]["content"]
    assert asked.startswith("user: turn number 0 and more\n\nassistant: echo: turn number 0")
    (stands,) = fetched(database, SUMMARIES)
    assert stands.number == 1
    states = [tuple(row) for row in fetched(database, STATES, turn=turn)]
    resumed = [] if taking_over is _by_sending else [(2, "ok", "mini"), (3, "ok", "m")]
    assert states == [(1, "abandoned", "mini"), *resumed]
    assert fetched(database, "SELECT count(*) AS open FROM convokit_completion WHERE ended_at IS NULL")[0].open == 0
    face.settle(chat.verify())
    check_conversation(database, "k")


@pytest.mark.soak(sample=True)
@pytest.mark.parametrize("taking_over", [_by_sending, _by_resuming])
def test_killed_in_the_reply_behind_the_summary(
    face: Face,
    summed: Any,
    server: LoopbackServer,
    database: str,
    writer: Writer,
    taking_over: Callable[[Face, Any, str], str],
) -> None:
    """The summary stays, and is not made again; the partial reply is the question's child, not the summary's."""
    chat = summed.chat("k")
    text = f"turn number {next_moves(face, chat)} and more"
    server.script(completion("kept", model="mini"), stream([f"word{number} " for number in range(30)], pause_s=0.02))
    child = subprocess.Popen([sys.executable, "-c", CHILD, database, server.url, text])
    assert child.wait(30) == -signal.SIGKILL
    first = len(server.requests)
    said = taking_over(face, summed, text)
    assert said.startswith("echo: ")
    assert models(server, first) == ["m"]
    assert sent_to(server)[1] == HEADING + "kept"
    (partial,) = fetched(database, "SELECT parent_seq, content FROM convokit_message WHERE status = 'partial'")
    asked = fetched(database, "SELECT seq FROM convokit_message WHERE content = :text", text=text)[0].seq
    assert partial.parent_seq == asked
    assert partial.content.startswith("word0 word1")
    assert len(fetched(database, SUMMARIES)) == 1
    assert writer.made == 0
    face.settle(chat.verify())
    check_conversation(database, "k")


def test_a_summary_that_comes_after_a_takeover_is_dropped(
    face: Face, summed: Any, server: LoopbackServer, database: str, writer: Writer
) -> None:
    """A worker whose lease ran out while it summed up stores nothing any more, and makes no further call."""
    chat = summed.chat("k")
    text = f"turn number {next_moves(face, chat)} and more"
    with Convokit(database, model="m", base_url=server.url) as other:

        def overtaking(body: Any) -> Script:
            if body["model"] != "mini":
                return echo(body)
            write(database, "UPDATE convokit_turn SET lease_until = 5, owner = NULL WHERE state = 'open'")
            assert len(other.recover()) == 1
            server.answer = writer
            return completion("too late")

        server.answer = overtaking
        first = len(server.requests)
        with pytest.raises(Interrupted) as told:
            face.settle(chat.send(text))
    assert told.value.code == "abandoned"
    assert models(server, first) == ["mini"]
    assert fetched(database, SUMMARIES) == []
    assert fetched(database, "SELECT seq FROM convokit_message WHERE status = 'summary'") == []
    assert face.settle(chat.resume()).text == f"echo: {text}"
    assert sent_to(server)[1] == HEADING + "so far 1"
    face.settle(chat.verify())
    check_conversation(database, "k")
