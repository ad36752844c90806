"""Two senders on one conversation: raise, wait, supersede; and turns left behind by dead workers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from sqlalchemy import text as sql

from convokit import Convokit, Timeouts
from convokit.errors import ConversationBusy, Interrupted, SettingsError
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion, stream


def _slow(kit: Any, outcomes: list[Any], text: str = "slow") -> threading.Thread:
    """Send in a thread, and note what came of it."""

    def work() -> None:
        try:
            outcomes.append(kit.chat("k").send(text).text)
        except Interrupted as error:
            outcomes.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 10
    while not outcomes and not _open_turns(kit) and time.monotonic() < deadline:
        time.sleep(0.01)
    return thread


def _open_turns(kit: Any) -> int:
    with kit._runtime._store.engine.connect() as connection:
        return int(connection.execute(sql("SELECT count(*) FROM convokit_turn WHERE state = 'open'")).scalar_one())


@pytest.fixture
def slow_server(server: LoopbackServer) -> LoopbackServer:
    """The first answer takes a second."""
    script = completion("the slow answer")
    script.delay_s = 1.0
    server.script(script)
    return server


@pytest.mark.once
def test_raise_is_the_default(database: str, slow_server: LoopbackServer) -> None:
    """A second sender is told at once, with the turn that is in the way; the first one is not disturbed."""
    with Convokit(database, model="m", base_url=slow_server.url) as kit:
        outcomes: list[Any] = []
        thread = _slow(kit, outcomes)
        with pytest.raises(ConversationBusy) as caught:
            kit.chat("k").send("quick")
        thread.join()
        assert caught.value.turn
        assert outcomes == ["the slow answer"]


@pytest.mark.once
def test_wait_waits_its_turn(database: str, slow_server: LoopbackServer) -> None:
    """A waiting sender goes after the first, and sees its reply in the history."""
    with Convokit(database, model="m", base_url=slow_server.url) as kit:
        outcomes: list[Any] = []
        thread = _slow(kit, outcomes)
        assert kit.chat("k").send("quick", on_busy="wait").text == "echo: quick"
        thread.join()
        assert [each["content"] for each in slow_server.requests[-1].body["messages"]] == [
            "slow", "the slow answer", "quick",
        ]  # fmt: skip
        kit.chat("k").verify()


@pytest.mark.once
def test_waiting_has_an_end(database: str, slow_server: LoopbackServer) -> None:
    """After `Timeouts.busy_s` a waiting sender is told that the conversation is busy."""
    with Convokit(database, model="m", base_url=slow_server.url) as kit:
        outcomes: list[Any] = []
        thread = _slow(kit, outcomes)
        with pytest.raises(ConversationBusy):
            kit.chat("k").send("quick", on_busy="wait", timeouts=Timeouts(busy_s=0.15))
        assert outcomes == []  # the other turn was still running
        thread.join()


@pytest.mark.once
def test_a_superseded_turns_reply_is_kept_off_the_path(database: str, slow_server: LoopbackServer) -> None:
    """The new question follows the superseded one; the old reply, paid for, is stored as late; the chain holds."""
    with Convokit(database, model="m", base_url=slow_server.url) as kit:
        outcomes: list[Any] = []
        thread = _slow(kit, outcomes)
        assert kit.chat("k").send("quick", on_busy="supersede").text == "echo: quick"
        thread.join()
        assert isinstance(outcomes[0], Interrupted)
        assert outcomes[0].partial == "the slow answer"
        assert [message.text for message in kit.chat("k").messages()] == ["slow", "quick", "echo: quick"]
        with kit._runtime._store.engine.connect() as connection:
            late = connection.execute(
                sql("SELECT content, parent_seq FROM convokit_message WHERE status = 'late'")
            ).all()
            states = connection.execute(sql("SELECT state FROM convokit_turn ORDER BY question_seq")).scalars().all()
        assert [tuple(row) for row in late] == [("the slow answer", 1)]
        assert states == ["superseded", "completed"]
        kit.chat("k").verify()
        assert kit.chat("k").send("more").text == "echo: more"
        kit.chat("k").verify()


@pytest.mark.once
def test_an_unknown_policy_is_refused(face: Face, kit: Any) -> None:
    """`on_busy` takes three words."""
    with pytest.raises(SettingsError, match="on_busy"):
        face.settle(kit.chat("k").send("x", on_busy="queue"))


def test_an_expired_lease_is_taken_over(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """A worker of another host whose lease ran out is taken over by the next sender; its late reply changes nothing."""
    face.settle(kit.chat("k").send("first"))
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(
            sql("UPDATE convokit_turn SET state = 'open', claim = 0, owner = :o, lease_until = 5, ended_at = NULL"),
            {"o": '["elsewhere","b",1,"2"]'},
        )
    engine.dispose()
    assert face.settle(kit.chat("k").send("second")).text == "echo: second"


LEFT = """
import sys
from convokit import Convokit
kit = Convokit(sys.argv[1], model="m", base_url=sys.argv[2])
with kit.chat(sys.argv[3]).stream("count") as events:
    for number, event in enumerate(events):
        if number == 13:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.soak(sample=True)
def test_recover_closes_what_dead_workers_left(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """`recover` closes every turn of the tenant whose worker is gone, keeps what came, and says which they were."""
    server.script(*[stream([f"{number} " for number in range(40)], pause_s=0.1) for _ in range(2)])
    for key in ("a", "b"):
        subprocess.run([sys.executable, "-c", LEFT, database, server.url, key], check=False)
    found = face.settle(kit.recover())
    assert sorted(each.key for each in found) == ["a", "b"]
    assert face.settle(kit.recover()) == []
    for key in ("a", "b"):
        stored = face.settle(kit.chat(key).messages())
        assert [message.status for message in stored] == ["complete", "partial"]
        face.settle(kit.chat(key).verify())
