"""A worker dies, and a worker joins, while turns are sent: nothing is lost or doubled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.cluster.conftest import distribute, migrate, read_cluster_line
from tests.cluster.load import Load
from tests.cluster.servers import CitusServers
from tests.support.server import LoopbackServer

OUTAGE_S = 3.0
DEAD = 2
"""The worker that is killed."""


@dataclass
class Outage:
    """What was sent while a worker was dead."""

    load: Load
    waiting: set[str]
    """The conversations of the dead worker."""
    began: float
    ended: float

    def count_turns(self, key: str) -> int:
        """Return the number of turns that began and ended while the worker was dead."""
        return sum(self.began < turn.started and turn.ended < self.ended for turn in self.load.turns[key])


@pytest.fixture(scope="module")
def outage(citus: CitusServers, cluster_url: str) -> Iterator[Outage]:
    server = LoopbackServer().start()
    with Load(cluster_url, server.url, [f"outage {number}" for number in range(8)]) as load:
        workers = load.find_workers()
        load.wait_for_turns()
        citus.kill(DEAD)
        began = time.monotonic()
        time.sleep(OUTAGE_S)
        ended = time.monotonic()
        citus.start(DEAD)
        load.wait_for_turns()
    port = make_url(citus.url("app", DEAD)).port
    yield Outage(load, {key for key in load.keys if workers[key] == port}, began, ended)
    server.stop()


def test_no_acknowledged_turn_is_lost_or_doubled(outage: Outage) -> None:
    """No call fails either: the conversations of the dead worker wait for it."""
    assert 0 < len(outage.waiting) < len(outage.load.keys)
    outage.load.check()
    assert all(outage.count_turns(key) == 0 for key in outage.waiting)


def test_conversations_of_other_workers_go_on(outage: Outage) -> None:
    """A turn needs the server of its conversation and no other."""
    others = set(outage.load.keys) - outage.waiting
    assert all(outage.count_turns(key) > 0 for key in others), {key: outage.count_turns(key) for key in others}


def test_shards_move_to_a_new_worker_under_load(citus: CitusServers, new_database: str, server: LoopbackServer) -> None:
    """Turns go on while a third worker takes a third of the conversations."""
    url = citus.url(new_database)
    migrate(url)
    distribute(url, "--worker", citus.worker(1), "--worker", citus.worker(2), "--shards", "3")
    with Load(url, server.url, [f"moved {number}" for number in range(6)]) as load:
        worker = citus.add(new_database)
        assert distribute(url, "--worker", worker).startswith(f"added {worker}\n")
        assert "3 workers, 3 shards (not balanced: " in read_cluster_line(url)
        with psycopg.connect(url, autocommit=True, options="-c statement_timeout=60s") as connection:
            connection.execute("SELECT citus_rebalance_start()")
            connection.execute("SELECT citus_rebalance_wait()")
            counts = connection.execute(
                "SELECT nodeport, count(*) FROM citus_shards WHERE table_name = 'convokit_message'::regclass GROUP BY 1"
            ).fetchall()
        load.wait_for_turns()
    assert sorted(count for _, count in counts) == [1, 1, 1]
    load.check()
