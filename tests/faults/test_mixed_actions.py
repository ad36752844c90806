"""Everything at once on one conversation, by processes, threads and tasks: no call too many, no reply lost, no deadlock."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

from convokit import Convokit, Timeouts
from tests.faults import oracles
from tests.faults.child_process import Child, rows
from tests.support.selection import Effort
from tests.support.server import LoopbackServer, Script, completion, echo, failure, stream

TRUE_ERRORS = {"ConversationBusy", "Interrupted", "NotFound", "InvalidInput", "ServerFailed", "IdempotencyConflict"}
"""The errors that an action may rightly end with. Anything about the database would be a fault."""

ENDED_EARLY = {"interrupted", "cancelled", "superseded", "abandoned"}
"""The states of turns that ended before their replies were complete."""


def answer_as_chance_wants(chance: random.Random) -> Any:
    """Return the server: quick, slow, streamed, or failing."""

    def answer(body: Any) -> Script:
        kind = chance.random()
        if kind < 0.15:
            return failure(500)
        if body.get("stream"):
            return stream([f"word{number} " for number in range(10)], pause_s=chance.uniform(0, 0.03))
        script = echo(body) if kind < 0.8 else completion("another")
        script.delay_s = chance.uniform(0, 0.2)
        return script

    return answer


@pytest.mark.soak(sample=True)
def test_no_mix_of_actions_costs_a_call_or_a_reply(
    backend: str, database: str, server: LoopbackServer, effort: Effort
) -> None:
    """Two processes with threads and tasks. Each request has one row of its own, and each reply that was told is stored."""
    rounds, seconds = (8, 20.0) if effort == "soak" else (1, 5.0)
    for seed in range(rounds):
        _run_round(backend, database, server, seed, seconds)


def _run_round(backend: str, database: str, server: LoopbackServer, seed: int, seconds: float) -> None:
    server.answer = answer_as_chance_wants(random.Random(seed))
    order = {"database": database, "url": server.url, "seconds": seconds}
    told: list[dict[str, Any]] = []
    with Child("mixed_process", json.dumps({**order, "seed": 2 * seed})) as one:
        with Child("mixed_process", json.dumps({**order, "seed": 2 * seed + 1})) as other:
            told += other.rest()
        told += one.rest()
    errors = Counter(each["error"] for each in told if "error" in each)
    strange = [each for each in told if "error" in each and each["error"] not in TRUE_ERRORS]
    assert strange == []
    replies = [each for each in told if "text" in each]
    assert len(replies) > 10, errors
    server.answer = echo
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.recover()
        kit.chat("k").verify()
    found = oracles.check_conversation(database, "k")
    unseen = oracles.check_calls([found], [request.raw for request in server.requests])
    states = {turn["id"]: turn["state"] for turn in found.turns}
    unsent = [call for call in unseen if call["state"] != "late"]  # a late reply has a second row for its request
    # A task that was cancelled after its call was stored may not have sent it. Another sender may close its turn first.
    assert [call for call in unsent if call["first_byte_at"] or states[call["turn_id"]] not in ENDED_EARLY] == []
    stored = {(str(row["turn_id"]), row["content"]) for row in found.messages if row["status"] == "complete"}
    assert [each for each in replies if (each["turn"], each["text"]) not in stored] == []
    by_key = {(each["turn"], each["text"]) for each in replies if each["action"] == "repeat"}
    names = Counter(each["name"] for each in replies if each["action"] == "repeat" for _ in [0])
    assert len({turn for turn, _ in by_key}) == len(by_key) == len(names)
    if backend == "postgresql":
        assert rows(database, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


@pytest.mark.soak(sample=True)
def test_nobody_waits_while_another_goes_twice(database: str, server: LoopbackServer, effort: Effort) -> None:
    """Of 24 senders that wait on one branch, nobody gets two turns more than another."""
    seconds = 20.0 if effort == "soak" else 8.0
    counts: Counter[int] = Counter(dict.fromkeys(range(24), 0))

    def answer(body: Any) -> Script:
        script = echo(body)
        script.delay_s = 0.3 if effort == "soak" else 0.05
        return script

    server.answer = answer
    with Convokit(database, model="m", base_url=server.url, timeouts=Timeouts(busy_s=120)) as kit:
        until = time.monotonic() + seconds

        def talk(number: int) -> None:
            while time.monotonic() < until:
                kit.chat("k").send(f"{number}", on_busy="wait")
                counts[number] += time.monotonic() < until

        threads = [threading.Thread(target=talk, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert max(counts.values()) - min(counts.values()) <= 1, counts
    assert sum(counts.values()) > 24
