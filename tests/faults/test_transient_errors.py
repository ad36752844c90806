"""Which errors of PostgreSQL are tried again, in every flow that tries again.

A real server produces each error but those of a Citus worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors as driver_errors
from sqlalchemy import text

from convokit.completion import call as calls
from convokit.completion import effects, turn, write_retry
from convokit.errors import ReadOnly, StoreError, StoreUnavailable
from convokit.store.dialects import find_dialect
from tests.support.abandoned_turns import Watched
from tests.support.databases import Postgres
from tests.support.faces import Face
from tests.support.selection import keep
from tests.support.server import LoopbackServer, Script, completion, stream

LONG = "x" * 5000
"""More than is kept in memory before a chunk of a stream is stored."""


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    made = postgres.migrated()
    yield made
    postgres.release(made)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "READ_WAITS_S", (0.01,) * 4)
    monkeypatch.setattr(write_retry, "_FIRST_WAIT_S", 0.01)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn._finish_flow, "__kwdefaults__", {"patience_s": 0.1})
    for module in ("completion.begin", "history.append", "history.conversation_flows"):
        monkeypatch.setattr(f"convokit.{module}.START_S", 0.05)


def fail_with(statement: str) -> Callable[[Any], None]:
    """Return a fault that runs a statement in the transaction, which the server refuses."""
    return lambda connection: connection.execute(text(statement))


def wait_for_lock(connection: Any) -> None:
    """Wait for a lock that another session has, for 1 ms."""
    connection.execute(text("SET LOCAL lock_timeout = '1ms'"))
    with psycopg.connect(**_params(connection)) as other:
        other.execute("SELECT pg_advisory_xact_lock(7)")
        connection.execute(text("SELECT pg_advisory_xact_lock(7)"))


def stay_idle(connection: Any) -> None:
    """Do nothing in a transaction until the server ends the session."""
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '1ms'"))
    pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    _await_end(connection, pid)
    connection.execute(text("SELECT 1"))


def end_session(connection: Any) -> None:
    """Have an operator end the session."""
    pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with psycopg.connect(**_params(connection), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    connection.execute(text("SELECT 1"))


def time_out(connection: Any) -> None:
    connection.execute(text("SET LOCAL statement_timeout = '1ms'"))
    connection.execute(text("SELECT pg_sleep(10)"))


def refuse_write(connection: Any) -> None:
    """Write in a transaction that only reads, as on a standby."""
    connection.execute(text("SET LOCAL transaction_read_only = on"))
    connection.execute(text("UPDATE convokit_schema SET oldest_code = oldest_code"))


def lose_worker(connection: Any) -> None:
    raise driver_errors.InternalError_("server closed the connection unexpectedly\n\tThis probably means ...")


def _params(connection: Any) -> dict[str, Any]:
    info = connection.connection.driver_connection.info
    return {**info.get_parameters(), "password": info.password or None}


def _await_end(connection: Any, pid: int) -> None:
    with psycopg.connect(**_params(connection), autocommit=True) as other:
        while other.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone():
            pass


TRANSIENT: dict[str, Callable[[Any], None]] = {
    "55P03": wait_for_lock,
    "25P03": stay_idle,
    "57P01": end_session,
    "25006": refuse_write,
    "40001": fail_with("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"),
    "57P05": fail_with("DO $$ BEGIN RAISE SQLSTATE '57P05'; END $$"),
    "08006": fail_with("DO $$ BEGIN RAISE SQLSTATE '08006'; END $$"),
}
FINAL: dict[str, Callable[[Any], None]] = {
    "57014": time_out,
    "XX000": fail_with("DO $$ BEGIN RAISE 'tuple concurrently updated' USING ERRCODE = 'XX000'; END $$"),
}


def _send(face: Face, chat: Any) -> None:
    assert face.settle(chat.send("hello")).text == "done"


def _stream(face: Face, chat: Any) -> None:
    streaming = chat.stream("hello")
    face.collect(streaming)
    assert streaming.reply.text == LONG + LONG


FLOWS: dict[str, tuple[Callable[[Face, Any], Any], Callable[[], Script] | None, int]] = {
    "send": (_send, lambda: completion("done"), 3),
    "stream": (_stream, lambda: stream([LONG, LONG]), 5),
    "append": (lambda face, chat: face.settle(chat.append([{"role": "user", "content": "more"}])), None, 1),
    "update": (lambda face, chat: face.settle(chat.update(title="新しい")), None, 1),
    "messages": (lambda face, chat: face.settle(chat.messages()), None, 1),
}
"""A call, what the model server answers if it is asked, and the least number of transactions."""


class Faults:
    """Runs a fault inside the n-th transaction of a kit, and counts all of them."""

    def __init__(self, kit: Any, fault: Callable[[Any], None], *, times: int = 1) -> None:
        self._store, self._fault, self._times = kit._runtime._store, fault, times
        self.at = self.seen = 0

    def run(self, call: Any, *, write: bool) -> Any:
        self.seen += 1
        strikes = 0 < self.at <= self.seen < self.at + self._times
        if not strikes or (self._fault is refuse_write and not write):
            return self._store.run(call, write=write)

        def work(connection: Any) -> Any:
            answer = call(connection)
            self._fault(connection)
            return answer

        return self._store.run(work, write=write)

    def close(self) -> Any:
        return self._store.close()


@pytest.mark.parametrize("state", keep(TRANSIENT, "25006", "55P03"))
@pytest.mark.parametrize("flow", keep(FLOWS, "send", "update"))
@pytest.mark.parametrize("backend", ["postgresql"])
def test_a_transient_error_in_any_transaction_is_tried_again(
    face: Face, url: str, server: LoopbackServer, backend: str, flow: str, state: str
) -> None:
    """The call has its answer, the model was asked once, nothing is doubled and the chain is whole."""
    call, answer, least = FLOWS[flow]
    kit = face.kit(url, model="loop-1", base_url=server.url)
    face.settle(kit.chat("warm").send("up"))
    faults = kit._runtime._store = Faults(kit, TRANSIENT[state])
    stored = []
    for at in range(least + 1):
        face.settle(kit.chat(f"k{at}").append([{"role": "user", "content": "first"}]))
        server.script(*([answer()] if answer is not None else []))
        server.requests.clear()
        faults.seen, faults.at = 0, at
        call(face, kit.chat(f"k{at}"))
        assert faults.seen >= max(at, least)
        faults.at = 0
        assert len(server.requests) == (answer is not None)
        stored.append([(each.role, each.text) for each in face.settle(kit.chat(f"k{at}").messages())])
        face.settle(kit.chat(f"k{at}").verify())
    assert all(each == stored[0] for each in stored)


@pytest.mark.parametrize("state", FINAL)
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("backend", ["postgresql"])
def test_a_timeout_and_an_internal_error_are_not_tried_again(
    face: Face, url: str, server: LoopbackServer, backend: str, flow: str, state: str
) -> None:
    """The first transaction of the call fails, and the call fails with it."""
    kit = face.kit(url, model="loop-1", base_url=server.url)
    face.settle(kit.chat("k").append([{"role": "user", "content": "first"}]))
    faults = kit._runtime._store = Faults(kit, FINAL[state])
    faults.at = 1
    with pytest.raises(StoreUnavailable, match=state) as caught:
        FLOWS[flow][0](face, kit.chat("k"))
    assert not caught.value.transient
    assert (faults.seen, len(server.requests)) == (1, 0)


@pytest.mark.once
@pytest.mark.parametrize("backend", ["postgresql"])
def test_a_paid_reply_is_saved_after_a_timeout(face: Face, url: str, server: LoopbackServer, backend: str) -> None:
    """The reply exists nowhere else. So its write is tried after an error that ends every other call."""
    kit = face.kit(url, model="loop-1", base_url=server.url)
    face.settle(kit.chat("warm").send("up"))
    faults = kit._runtime._store = Faults(kit, time_out)
    faults.at = 3
    server.script(completion("done"))
    assert face.settle(kit.chat("k").send("hello")).text == "done"
    assert faults.seen == 4
    face.settle(kit.chat("k").verify())


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("flow", ["send", "append", "update"])
@pytest.mark.parametrize("backend", ["postgresql"])
def test_a_server_that_stays_read_only_is_named(
    face: Face, url: str, server: LoopbackServer, backend: str, flow: str
) -> None:
    """Each try has a new connection. After the patience of the step the error says what the server is, and what to do."""
    kit = face.kit(url, model="loop-1", base_url=server.url)
    face.settle(kit.chat("k").append([{"role": "user", "content": "first"}]))
    pids: list[int] = []

    def refuse(connection: Any) -> None:
        pids.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        refuse_write(connection)

    faults = kit._runtime._store = Faults(kit, lambda connection: None)

    def strike(write: bool) -> None:
        faults._fault = refuse if write else (lambda connection: None)

    faults.at, faults._times = 1, 10**6
    kit._runtime._store = Watched(faults, strike)
    with pytest.raises(ReadOnly, match=r"the server is read-only .*25006.* connect to the primary") as caught:
        FLOWS[flow][0](face, kit.chat("k"))
    assert caught.value.transient
    assert isinstance(caught.value, StoreUnavailable)
    assert len(set(pids)) == len(pids) > 1
    assert server.requests == []
    assert len(face.settle(kit.chat("k").messages())) == 1


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("backend", ["postgresql"])
def test_a_reply_that_a_read_only_server_refuses_is_handed_over(
    face: Face, url: str, server: LoopbackServer, backend: str
) -> None:
    kit = face.kit(url, model="loop-1", base_url=server.url)
    face.settle(kit.chat("warm").send("up"))
    faults = kit._runtime._store = Faults(kit, refuse_write, times=10**6)
    faults.at = 3
    server.script(completion("done"))
    with pytest.raises(ReadOnly) as caught:
        face.settle(kit.chat("k").send("hello"))
    assert caught.value.unsaved == "done"


@pytest.mark.once
def test_a_chunk_waits_while_the_server_is_read_only(
    face: Face, url: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream goes on, and the next chunk holds what this one had."""
    monkeypatch.setattr(calls, "CHUNK_CHARS", 1)
    kit = face.kit(url, model="loop-1", base_url=server.url)
    face.settle(kit.chat("warm").send("up"))
    faults = kit._runtime._store = Faults(kit, refuse_write)
    faults.at = 3
    server.script(stream(["one ", "two ", "three"]))
    streaming = kit.chat("k").stream("hello")
    face.collect(streaming)
    assert streaming.reply.text == "one two three"
    assert "waits to be stored (ReadOnly)" in caplog.text


@pytest.mark.once
def test_a_read_only_kit_is_refused_at_once(face: Face, url: str, server: LoopbackServer) -> None:
    kit = face.kit(url, model="loop-1", base_url=server.url, read_only=True)
    with pytest.raises(ReadOnly, match="the kit is read-only: use one without") as caught:
        face.settle(kit.chat("k").send("hello"))
    assert not caught.value.transient
    refused = Faults(
        kit, lambda connection: connection.execute(text("UPDATE convokit_schema SET oldest_code = oldest_code"))
    )
    refused.at = 1
    with pytest.raises(ReadOnly, match="the kit is read-only"):
        face.settle(refused.run(lambda connection: None, write=False))


@pytest.mark.parametrize(
    ("message", "is_transient"),
    [
        ("server closed the connection unexpectedly", True),
        ("failure on connection marked as essential: w1:5432", True),
        ("could not commit transaction for shard 102046 on at least one active node", True),
        ("connection to the remote node w1:5432 failed", True),
        ("duplicate key value violates unique constraint", False),
        ("unexpected chunk number\nDETAIL: server closed the connection", False),
    ],
)
def test_a_lost_citus_worker_is_transient(message: str, is_transient: bool) -> None:
    """Citus reports it as an internal error. Later lines of a message may hold users' text."""
    error = driver_errors.InternalError_(message)
    found = find_dialect("postgresql").translate_driver_error("db", error, is_connection_lost=False)
    assert isinstance(found, StoreUnavailable)
    assert found.transient is is_transient
    assert message.split(" ", 1)[0] not in str(found)


@pytest.mark.parametrize(
    ("lines", "kind", "reason"),
    [
        (["session is read-only", "session is read-only"], ReadOnly, "each server of the URL is read-only"),
        (
            ["Connection refused", "session is read-only"],
            StoreUnavailable,
            "Connection refused; .*session is read-only",
        ),
    ],
)
def test_each_server_that_cannot_be_used_is_named(lines: list[str], kind: type[StoreError], reason: str) -> None:
    """psycopg lists its attempts behind the first line."""
    failed = [f'connection to server at "h{n}", port 5432 failed: {line}' for n, line in enumerate(lines)]
    attempts = [f"- host: 'h{n}', port: '5432', hostaddr: 'h{n}': {line}" for n, line in enumerate(failed)]
    message = "\n".join([failed[-1], "Multiple connection attempts failed. All failures were:", *attempts])
    error = psycopg.OperationalError(message)
    found = find_dialect("postgresql").translate_driver_error("db", error, is_connection_lost=False)
    assert type(found) is kind
    with pytest.raises(kind, match=reason):
        raise found
