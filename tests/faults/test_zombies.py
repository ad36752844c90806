"""Workers that were stopped past their lease and wake up: they change nothing that somebody else has taken over.

A stopped process is neither dead nor heard of, as in a laptop's sleep or a container's pause: only the lease tells.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from convokit import Convokit
from convokit.completion.effects import Clock
from convokit.errors import ConversationBusy
from tests.faults import oracles
from tests.faults.child_process import Child, may_write, rows, until
from tests.support.selection import keep
from tests.support.server import LoopbackServer, Script, completion, stream

pytestmark = pytest.mark.soak(sample=True)

WORDS = [f"w{number} " for number in range(600)]
EXPIRED = "SELECT count(*) FROM convokit_turn WHERE claim IS NOT NULL AND lease_until < {now}"
NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000",
    "postgresql": "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT)",
}


def now(database: str) -> str:
    """Return the database's own clock, as SQL."""
    return NOW["sqlite" if database.startswith("sqlite") else "postgresql"]


def slow(text: str, delay_s: float) -> Script:
    """Return a plain answer that takes a while."""
    answer = completion(text)
    answer.delay_s = delay_s
    return answer


@contextmanager
def stopped(database: str, server: LoopbackServer, *, pause_s: float, **order: Any) -> Iterator[Child]:
    """Yield a worker that was stopped in the middle of its call, its lease run out."""
    sent = len(server.requests)
    with Child("paused_process", json.dumps({"database": database, "url": server.url, **order})) as worker:
        if order.get("stream"):
            worker.said()
            until(lambda: rows(database, "SELECT count(*) FROM convokit_chunk")[0][0], "a stored piece")
        until(lambda: len(server.requests) > sent, "the worker's call")
        time.sleep(pause_s)
        until(lambda: _stop(database, worker), "a moment when it writes nothing")
        until(lambda: rows(database, EXPIRED.format(now=now(database)))[0][0], "its lease to run out")
        yield worker


def _stop(database: str, worker: Child) -> bool:
    """Stop the worker, but not while it writes: that would be another fault."""
    worker.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, worker.process.pid, os.WSTOPPED | os.WNOWAIT)
    if may_write(database):
        return True
    worker.process.send_signal(signal.SIGCONT)
    return False


def wake(worker: Child) -> dict[str, Any]:
    """Let the worker run on to its end, and return how its turn ended."""
    worker.process.send_signal(signal.SIGCONT)
    said: dict[str, Any] = worker.rest()[-1]
    return said


def state(database: str) -> list[Any]:
    """Return what a zombie must not change: the turns, the heads, and every message that is not a late reply."""
    return [
        rows(database, "SELECT * FROM convokit_turn ORDER BY question_seq"),
        rows(database, "SELECT id, head_seq FROM convokit_conversation"),
        rows(
            database,
            "SELECT seq, parent_seq, status, content FROM convokit_message WHERE status <> 'late' ORDER BY seq",
        ),
    ]


def late(database: str) -> list[Any]:
    """Return the late replies: what they say and what they follow."""
    return rows(database, "SELECT content, parent_seq FROM convokit_message WHERE status = 'late'")


SAMPLE, SOAK = pytest.mark.soak(sample=True), pytest.mark.soak
CASES = [
    (1, "sync", False),
    pytest.param(2, "async", True, marks=SAMPLE),
    *(pytest.param(seed, face, seed % 2 == 0, marks=SOAK) for seed in range(3, 9) for face in ("sync", "async")),
]


@pytest.mark.soak(sample=True)
@pytest.mark.parametrize(("seed", "face", "streamed"), CASES)
def test_a_zombie_changes_nothing(database: str, server: LoopbackServer, seed: int, face: str, streamed: bool) -> None:
    """Taken over by a new turn, the woken worker changes no turn and no head; what it has of a reply is kept, once, as late."""
    chance = random.Random(seed * 2 + streamed)
    server.script(stream(WORDS, pause_s=0.02) if streamed else slow("the zombie's", 1.0))
    with (
        Convokit(database, model="m", base_url=server.url) as kit,
        stopped(database, server, pause_s=chance.uniform(0, 0.5), face=face, stream=streamed) as worker,
    ):
        assert kit.chat("k").send("second", on_busy="raise").text == "echo: second"
        before = state(database)
        ended = wake(worker)
        assert state(database) == before
        assert "Interrupted" in ended["kinds"]
        assert late(database) == [(ended["partial"], 1)]
        if streamed:
            assert "".join(WORDS).startswith(ended["partial"])
            assert WORDS[-1] not in ended["partial"], "it read the stream to its end"
        else:
            assert ended["partial"] == "the zombie's"
        roles = [message.role for message in kit.chat("k").messages()]
        assert roles == (["user", "assistant"] * 2 if streamed else ["user", "user", "assistant"])
        found = oracles.check_conversation(database, "k")
        oracles.check_calls([found], [request.raw for request in server.requests])
        assert [turn["state"] for turn in found.turns] == ["abandoned", "completed"]


@pytest.mark.parametrize("streamed", [pytest.param(True, marks=SAMPLE), pytest.param(False, marks=SOAK)])
def test_a_zombie_wakes_while_the_next_turn_is_open(database: str, server: LoopbackServer, streamed: bool) -> None:
    """The claim is the new turn's: the zombie does not let go of it, and the new turn ends as if there were no zombie."""
    server.script(
        stream(WORDS, pause_s=0.02) if streamed else slow("the zombie's", 0.5), stream(["new ", "reply"], pause_s=0.5)
    )
    with (
        Convokit(database, model="m", base_url=server.url) as kit,
        stopped(database, server, pause_s=0.2, stream=streamed) as worker,
        kit.chat("k").stream("second", on_busy="raise") as events,
    ):
        next(iter(events))
        before = state(database)
        ended = wake(worker)
        assert state(database) == before
        assert "Interrupted" in ended["kinds"]
        with pytest.raises(ConversationBusy):
            kit.chat("k").send("third")
        list(events)
        assert events.reply.text == "new reply"
        assert len(late(database)) == 1
        oracles.check_conversation(database, "k")


@pytest.mark.parametrize("streamed", [pytest.param(True, marks=SAMPLE), pytest.param(False, marks=SOAK)])
def test_a_zombies_own_turn_is_taken_over(database: str, server: LoopbackServer, streamed: bool) -> None:
    """The same send under its key is answered by another worker: one question, one reply on the path, the zombie's is late."""
    server.script(stream(WORDS, pause_s=0.02) if streamed else slow("the zombie's", 0.5))
    with (
        Convokit(database, model="m", base_url=server.url) as kit,
        stopped(database, server, pause_s=0.2, stream=streamed, key="once") as worker,
    ):
        reply = kit.chat("k").send("first", idempotency_key="once")
        before = state(database)
        ended = wake(worker)
        assert state(database) == before
        assert "Interrupted" in ended["kinds"]
        assert kit.chat("k").send("first", idempotency_key="once").message == reply.message
        path = kit.chat("k").messages()
        assert [message.text for message in path if message.status == "complete"] == ["first", "echo: first"]
        assert late(database) == [(ended["partial"], 1)]
        oracles.check_once(oracles.check_conversation(database, "k"), {"first": "echo: first"})


@pytest.mark.soak(sample=True)
def test_a_zombie_whose_turn_is_open_again_is_fenced_by_its_epoch(database: str, server: LoopbackServer) -> None:
    """The turn's state alone would not tell: another worker holds the very same turn, open, under a later epoch."""
    server.script(slow("the zombie's", 0.5), stream(["new ", "reply"], pause_s=0.5))
    with (
        Convokit(database, model="m", base_url=server.url) as kit,
        stopped(database, server, pause_s=0.2, key="once") as worker,
        kit.chat("k").stream("first", idempotency_key="once") as events,
    ):
        next(iter(events))
        before = state(database)
        ended = wake(worker)
        assert state(database) == before
        assert "Interrupted" in ended["kinds"]
        list(events)
        assert events.reply.text == "new reply"
        oracles.check_once(oracles.check_conversation(database, "k"), {"first": "new reply"})


@pytest.mark.soak(sample=True)
def test_recover_takes_over_too(database: str, server: LoopbackServer) -> None:
    """`recover` closes a stopped worker's turn like any sender; woken, the worker's reply is late, and the chat goes on."""
    server.script(slow("the zombie's", 0.5))
    with (
        Convokit(database, model="m", base_url=server.url) as kit,
        stopped(database, server, pause_s=0.2) as worker,
    ):
        assert [each.key for each in kit.recover()] == ["k"]
        before = state(database)
        assert "Interrupted" in wake(worker)["kinds"]
        assert state(database) == before
        assert late(database) == [("the zombie's", 1)]
        assert kit.chat("k").send("and now?").text == "echo: and now?"
        oracles.check_conversation(database, "k")


@pytest.mark.soak(sample=True)
def test_a_worker_that_nobody_missed_goes_on(database: str, server: LoopbackServer) -> None:
    """A lease that ran out without anybody taking over loses nothing: the woken worker ends its turn as its own."""
    server.script(slow("in time after all", 0.5))
    with stopped(database, server, pause_s=0.2) as worker:
        assert wake(worker) == {"ended": "ok", "text": "in time after all"}
    oracles.check_once(oracles.check_conversation(database, "k"), {"first": "in time after all"})


@pytest.mark.parametrize("streamed", [pytest.param(False, marks=SAMPLE), pytest.param(True, marks=SOAK)])
def test_without_the_fence_it_would_be_seen(database: str, server: LoopbackServer, streamed: bool) -> None:
    """The control: a worker that does not look at its epoch changes what was taken over, and this harness sees it."""
    server.script(stream(WORDS[:200], pause_s=0.01) if streamed else slow("the zombie's", 0.5))
    with (
        Convokit(database, model="m", base_url=server.url) as kit,
        stopped(database, server, pause_s=0.2, stream=streamed, key="once", unfenced=True) as worker,
    ):
        kit.chat("k").send("first", idempotency_key="once")
        before = state(database)
        assert wake(worker)["ended"] == "ok"
        assert state(database) != before
        with pytest.raises(oracles.Broken, match="has the whole replies"):
            oracles.check_conversation(database, "k")


DAY_S = 86_400.0


@pytest.mark.parametrize("shift_s", [pytest.param(DAY_S, marks=SAMPLE), pytest.param(-DAY_S, marks=SOAK)])
def test_a_wrong_clock_neither_takes_over_nor_holds_on(database: str, server: LoopbackServer, shift_s: float) -> None:
    """Leases are the database's: a worker whose clock is a day off is busy as long as any other, and no longer."""
    server.script(slow("the zombie's", 0.5))
    with (
        Convokit(database, model="m", base_url=server.url) as kit,
        stopped(database, server, pause_s=0.2, shift_s=shift_s) as worker,
    ):
        until_us, now_us = rows(database, f"SELECT lease_until, {now(database)} FROM convokit_turn")[0]
        assert 0 < now_us - until_us < DAY_S * 500_000
        assert kit.chat("k").send("second", on_busy="raise").text == "echo: second"
        before = state(database)
        assert "Interrupted" in wake(worker)["kinds"]
        assert state(database) == before
        oracles.check_conversation(database, "k")


@pytest.mark.parametrize("shift_s", keep([DAY_S, -DAY_S], DAY_S, sample=True))
def test_a_clock_that_jumps_changes_no_order(database: str, server: LoopbackServer, shift_s: float) -> None:
    """For a sender whose clock is a day off, another's turn is as busy as for anybody; order is by seq, whatever the times.

    No message is newer than its conversation: a search looks back from there.
    """
    server.script(stream(["slow ", "reply"], pause_s=0.2))
    with (
        Convokit(database, model="m", base_url=server.url) as kit,
        Convokit(database, model="m", base_url=server.url) as wrong,
    ):
        wrong._state = replace(wrong._state, clock=Clock(time=lambda: time.time() + shift_s))
        with kit.chat("k").stream("first") as events:
            next(iter(events))
            with pytest.raises(ConversationBusy):
                wrong.chat("k").send("too early")
            assert wrong.recover() == []
            list(events)
        assert wrong.chat("k").send("second").text == "echo: second"
        assert kit.chat("k").send("third").text == "echo: third"
        stored = kit.chat("k").messages()
        texts = ["first", "slow reply", "second", "echo: second", "third", "echo: third"]
        assert [message.text for message in stored] == texts
        times = [message.created_at for message in stored]
        assert times != sorted(times)
        assert kit.conversations().items[0].updated_at >= max(times)
        assert [each["content"] for each in server.requests[-1].body["messages"]] == texts[:-1]
        oracles.check_conversation(database, "k")
