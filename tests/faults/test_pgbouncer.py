"""Everything through a pgbouncer in transaction mode: each transaction may run on another connection of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from convokit.errors import StoreUnavailable
from convokit.store import engine
from convokit.store.dialects import postgresql
from tests.support.abandoned_turns import leave
from tests.support.databases import Postgres
from tests.support.faces import Face
from tests.support.pgbouncer import PROGRAM, PgBouncer
from tests.support.server import LoopbackServer, completion, stream

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no pgbouncer program here")
SERVER_CONNECTIONS = 3
LONG = "x" * 5000


@pytest.fixture(scope="module")
def pooler(postgres: Postgres) -> Iterator[PgBouncer]:
    pooler = PgBouncer(postgres.url, SERVER_CONNECTIONS)
    yield pooler
    pooler.close()


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    """A migrated database, directly."""
    url = postgres.migrated()
    yield url
    postgres.release(url)


@pytest.fixture
def kits(face: Face, pooler: PgBouncer, url: str, server: LoopbackServer) -> list[Any]:
    """Two kits on one database, as two processes would have them."""
    return [face.kit(pooler.through(url), model="loop-1", base_url=server.url) for _ in range(2)]


def _at_once(face: Face, works: list[Callable[[], Any]]) -> list[Any]:
    if face.name == "sync":
        with ThreadPoolExecutor(len(works)) as threads:
            return [each.result() for each in [threads.submit(work) for work in works]]

    async def gathered() -> list[Any]:
        return list(await asyncio.gather(*(work() for work in works)))

    return face.loop.run_until_complete(gathered())


@pytest.mark.once
def test_a_whole_life(face: Face, kits: list[Any], server: LoopbackServer) -> None:
    """Turns, streams, tools, repeats, a takeover and reading back, in turns by two kits on one conversation: all as ever."""
    paid: list[str] = []

    def pay(to: str) -> str:
        """Pay."""
        paid.append(to)
        return "paid"

    for number in range(8):  # a statement is prepared at its sixth execution
        kit = kits[number % 2]
        assert face.settle(kit.chat("k").send(f"turn {number}")).text == f"echo: turn {number}"
        streaming = kit.chat("k").stream(f"stream {number}")
        assert "".join(event.text for event in face.collect(streaming)) == f"echo: stream {number}"
    call = {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": '{"to": "x"}'}}
    server.script(completion(None, tool_calls=[call]), completion("done"))
    replies = [face.settle(kit.chat("k").send("pay", tools=[pay], idempotency_key="x")) for kit in kits]
    assert {reply.message.id for reply in replies} == {replies[0].message.id}
    assert paid == ["x"]
    server.script(stream([LONG, "lost", LONG]))
    leave(face, kits[0], "left", "count")
    assert [each.key for each in face.settle(kits[1].recover())] == ["left"]
    assert [message.text for message in face.settle(kits[0].chat("left").messages())] == ["count", LONG]
    assert len(face.settle(kits[0].chat("k").messages(limit=100))) == 2 * 16 + 4
    assert sorted(each.key for each in face.settle(kits[1].conversations())) == ["k", "left"]
    for key in ("k", "left"):
        face.settle(kits[1].chat(key).verify())


@pytest.mark.soak(sample=True)
def test_many_at_once_over_few_connections(face: Face, kits: list[Any], url: str) -> None:
    """Twenty senders share three connections of the server; every turn is there, and no sender saw an error."""

    def work(number: int) -> Callable[[], Any]:
        return lambda: kits[number % 2].chat(f"c{number}").send("hello")

    for _ in range(4):
        replies = _at_once(face, [work(number) for number in range(20)])
        assert {reply.text for reply in replies} == {"echo: hello"}
    assert len(face.settle(kits[0].conversations(limit=50))) == 20
    for number in range(20):
        verified = face.settle(kits[1].chat(f"c{number}").verify())
        assert verified.rows == 4 * 3
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        ).fetchone()
    assert found is not None
    assert found[0] <= SERVER_CONNECTIONS + 1


@pytest.mark.soak(sample=True)
def test_migrating_through_it(face: Face, pooler: PgBouncer, postgres: Postgres, server: LoopbackServer) -> None:
    """The tables may be made through the pooler too: the lock is one of the transaction."""
    url = postgres.empty()
    kit = face.kit(pooler.through(url), model="loop-1", base_url=server.url)
    face.settle(kit.migrate())
    assert face.settle(kit.chat("k").send("hello")).text == "echo: hello"
    face.settle(kit.close())
    postgres.release(url)


def test_statements_are_prepared_only_on_a_direct_connection(pooler: PgBouncer, url: str) -> None:
    """A direct connection keeps the driver's prepared statements, which make turns cheaper; one to a pooler has none."""
    for address, prepares in ((url, True), (pooler.through(url), False)):
        opened = engine.open_engine(engine.parse_database_url(address))
        with opened.connect() as connection:
            driver: Any = connection.connection.driver_connection
            assert (driver.prepare_threshold is not None) == prepares
        opened.dispose()


@pytest.mark.soak(sample=True)
def test_the_harness_sees_prepared_statements(
    face: Face, pooler: PgBouncer, url: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative control: with the driver's prepared statements left on, two kits get into each other's way."""
    events = [
        each
        for each in postgresql.ENGINE_OPTIONS["pool_events"]
        if each[0] is not postgresql._disable_prepared_statements_behind_pooler
    ]
    monkeypatch.setitem(postgresql.ENGINE_OPTIONS, "pool_events", events)
    kits = [face.kit(pooler.through(url), model="loop-1", base_url=server.url) for _ in range(2)]

    def talk() -> None:
        for number in range(16):
            face.settle(kits[number % 2].chat(f"c{number % 2}").send("hello"))

    with pytest.raises(StoreUnavailable, match=r"PreparedStatement|SqlStatementName"):
        talk()
