"""Killed while another reply is made: what came is kept, the branch goes on, and the same turn is finished."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.faults.oracles import check_conversation
from tests.history.helpers import counts, sent, texts
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, completion, stream
from tests.support.server import calls as tool_calls

pytestmark = pytest.mark.usefixtures("numbered_replies")

WORDS = [f"word{number} " for number in range(30)]
CHILD = """
import os, signal, sys
from convokit import Convokit
from convokit.completion import call
call.CHUNK_S = 0.0
def look(what: str) -> str:
    "Look it up."
    if dies == "in a tool":
        os.kill(os.getpid(), signal.SIGKILL)
    return "found"
database, url, dies = sys.argv[1:]
with Convokit(database, model="m", base_url=url, tools=[look]) as kit:
    heard = 0
    for each in kit.chat("k").stream_regenerate():
        heard += bool(each.text)
        if dies == "in the stream" and heard == 5:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def _killed(database: str, server: LoopbackServer, dies: str, *answers: Script) -> None:
    """Have another process make another reply, and die at it."""
    server.script(*answers)
    before = len(server.requests)
    child = subprocess.Popen([sys.executable, "-c", CHILD, database, server.url, dies])
    if dies == "before it comes":
        while len(server.requests) == before:
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
    assert child.wait(30) == -signal.SIGKILL


@pytest.fixture
def chat(face: Face, kit: Any) -> Any:
    """A chat with two turns, the second with a passage."""
    made = kit.chat("k")
    face.settle(made.send("one"))
    face.settle(made.send("two", passages=["passage"]))
    return made


@pytest.mark.once
def test_killed_in_the_stream(face: Face, kit: Any, chat: Any, database: str, server: LoopbackServer) -> None:
    """Its pieces become a partial reply beside the old one; resumed, the same turn has a whole one, with its passages."""
    _killed(database, server, "in the stream", stream(WORDS, pause_s=0.02))
    recovered = face.settle(kit.recover())
    assert len(recovered) == 1
    found = face.settle(chat.messages())
    assert [each.text for each in found][:3] == ["one", "1: one", "two"]
    assert found[-1].status == "partial"
    assert "".join(WORDS).startswith(found[-1].text)
    assert recovered[0].kept_chars == len(found[-1].text) > 0
    assert found[-1].parent_seq == found[-2].seq
    assert face.settle(chat.resume()).turn_id == recovered[0].turn_id
    assert sent(server) == ["one", "1: one", "passage", "two"]
    assert texts(face, chat) == ["one", "1: one", "two", "3: two"]
    assert len(face.settle(chat.siblings(5))) == 3
    face.settle(chat.verify())


@pytest.mark.soak(sample=True)
def test_killed_before_anything_came(face: Face, chat: Any, database: str, server: LoopbackServer) -> None:
    """Nobody has to recover: `resume` takes the turn over and makes its reply; the question is there once."""
    slow = completion("never seen")
    slow.delay_s = 5.0
    _killed(database, server, "before it comes", slow)
    before = counts(database)
    assert face.settle(chat.resume()).text == "3: two"
    assert texts(face, chat) == ["one", "1: one", "two", "3: two"]
    assert counts(database)["turn"] == before["turn"] == 3
    assert counts(database)["message"] == before["message"] + 1
    face.settle(chat.verify())


@pytest.mark.soak(sample=True)
def test_killed_in_a_tool(face: Face, chat: Any, database: str, server: LoopbackServer) -> None:
    """The next question goes on behind what was recorded; the call without a result is not sent, nor run again."""
    _killed(database, server, "in a tool", tool_calls(("c1", "look", '{"what": "x"}'), streamed=True))
    face.settle(chat.send("three"))
    assert sent(server)[-2:] == ["two", "three"]
    assert texts(face, chat)[:3] == ["one", "1: one", "two"]
    states = [turn.state for turn in face.settle(chat.turns())]
    assert states == ["completed", "abandoned", "completed"]
    face.settle(chat.verify())


@pytest.mark.soak(sample=True)
def test_killed_again_and_again_on_two_branches(
    face: Face, kit: Any, chat: Any, database: str, server: LoopbackServer
) -> None:
    """However often, on whichever branch: each goes on by itself, and all that was stored still holds together."""
    fork = face.settle(chat.fork())
    for _ in range(3):
        _killed(database, server, "in the stream", stream(WORDS, pause_s=0.02))
        assert face.settle(fork.regenerate()).text.endswith(": two")
    assert face.settle(chat.regenerate()).text.endswith(": two")
    assert len(texts(face, chat)) == len(texts(face, fork)) == 4
    assert [turn.state for turn in face.settle(chat.turns())] == ["completed", "completed"]
    face.settle(chat.verify())
    nothing = face.settle(kit.recover())
    assert nothing == []


@pytest.mark.soak(sample=True)
def test_what_is_left_holds_together(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """After a kill, a takeover and a resume the oracles of a conversation find nothing wrong."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    _killed(database, server, "in the stream", stream(WORDS, pause_s=0.02))
    face.settle(chat.edit(1, "uno"))
    face.settle(chat.regenerate(2))
    check_conversation(database, "k")
