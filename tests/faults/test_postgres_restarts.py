"""PostgreSQL goes away in the middle of everything, and comes back, or does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from convokit.completion import effects, turn, write_retry
from convokit.errors import StoreUnavailable
from tests.support.abandoned_turns import Dead, Watched, leave
from tests.support.faces import Face
from tests.support.restarting_postgres import PASSWORD, RestartingPostgres
from tests.support.server import LoopbackServer, Script, completion, stream

pytestmark = pytest.mark.soak(sample=True)

LONG = "x" * 5000
"""More than is kept in memory before a piece of a stream is stored."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[RestartingPostgres]:
    """A server for this module alone, to be stopped and started."""
    server = RestartingPostgres()
    yield server
    server.close()


@pytest.fixture
def kit(face: Face, postgres: RestartingPostgres, server: LoopbackServer, request: pytest.FixtureRequest) -> Any:
    """A kit of each face, under a tenant of its own."""
    if not postgres.running:
        postgres.start()
    return face.kit(postgres.url, model="loop-1", base_url=server.url, tenant=request.node.name)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon: how long a server may be away is not what is tested."""
    monkeypatch.setattr(effects, "READ_WAITS_S", (0.01, 0.01))
    monkeypatch.setattr(write_retry, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(turn._finish_flow, "__kwdefaults__", {"patience_s": 0.1})
    monkeypatch.setattr("convokit.completion.begin.START_S", 0.1)


def _send(face: Face, chat: Any) -> Any:
    return face.settle(chat.send("hello"))


def _stream(face: Face, chat: Any) -> Any:
    streaming = chat.stream("hello")
    text = "".join(event.text for event in face.collect(streaming))
    assert text == streaming.reply.text
    return streaming.reply


KINDS: dict[str, tuple[Callable[[Face, Any], Any], Callable[[], Script], str]] = {
    "plain": (_send, lambda: completion("done"), "done"),
    "streamed": (_stream, lambda: stream([LONG, LONG, "end"]), LONG + LONG + "end"),
}
FAULTS: dict[str, Callable[[RestartingPostgres], None]] = {
    "restarted": RestartingPostgres.restart,
    "terminated": RestartingPostgres.terminate,
}


@pytest.mark.soak(sample=True)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_outlives_a_fault_before_and_inside_any_transaction(
    face: Face, kit: Any, postgres: RestartingPostgres, server: LoopbackServer, kind: str, fault: str
) -> None:
    """Whenever the server goes, between a turn's transactions or inside one: one question, the whole reply, one call."""
    send, answer, text = KINDS[kind]
    store, seen = kit._runtime._store, 0

    def when(at: int) -> Callable[[bool], None]:
        def strike(write: bool) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                FAULTS[fault](postgres)

        return strike

    def run(key: str) -> None:
        server.script(answer())
        server.requests.clear()
        reply = send(face, kit.chat(key))
        assert reply.text == text
        stored = face.settle(kit.chat(key).messages())
        assert [(message.role, message.text) for message in stored] == [("user", "hello"), ("assistant", text)]
        assert stored[-1].id == reply.message.id
        assert len(server.requests) == 1
        face.settle(kit.chat(key).verify())

    face.settle(kit.chat("warm").send("up"))
    kit._runtime._store = Watched(store, when(0))
    run("whole")
    transactions = seen - 2  # less the two that looked at it afterwards
    assert transactions == {"plain": 3, "streamed": 5}[kind]
    for at in range(1, transactions + 1):
        for place in ("before", "inside"):
            seen = 0
            kit._runtime._store = Watched(store, **{"before": lambda write: None, place: when(at)})
            run(f"{place} {at}")
            assert seen >= at
    kit._runtime._store = store


@pytest.mark.soak(sample=True)
@pytest.mark.once
def test_a_restart_while_the_model_thinks(
    face: Face, kit: Any, postgres: RestartingPostgres, server: LoopbackServer
) -> None:
    """The reply that was paid for is saved, though the server it goes to is another one than the question went to."""

    def answer(body: Any) -> Script:
        postgres.restart()
        return completion("done")

    server.answer = answer
    assert face.settle(kit.chat("k").send("hello")).text == "done"
    assert [message.text for message in face.settle(kit.chat("k").messages())] == ["hello", "done"]
    face.settle(kit.chat("k").verify())


@pytest.mark.soak(sample=True)
@pytest.mark.parametrize("fault", FAULTS)
def test_between_two_turns(
    face: Face, kit: Any, postgres: RestartingPostgres, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool notices by itself that its connections are gone: the next turn needs no second try of anything."""
    face.settle(kit.chat("k").send("one"))
    FAULTS[fault](postgres)
    monkeypatch.setattr(effects, "READ_WAITS_S", ())
    monkeypatch.setattr("convokit.completion.begin.START_S", 0.0)
    assert face.settle(kit.chat("k").send("two")).text == "echo: two"


@pytest.mark.soak(sample=True)
@pytest.mark.parametrize("worker", ["lives", "dies"])
def test_a_restart_during_recover(
    face: Face, kit: Any, postgres: RestartingPostgres, server: LoopbackServer, worker: str
) -> None:
    """A sweep that the server, or its own process, dies under strands nothing: it, or the next one, closes every orphan."""
    keys = ["a", "b", "c", "d"]
    for key in keys:
        server.script(stream([LONG, "lost", LONG]))
        leave(face, kit, key, "count")
    store, writes = kit._runtime._store, 0

    def strike(write: bool) -> None:
        nonlocal writes
        writes += write
        if write and writes == 3:
            postgres.restart()
            if worker == "dies":
                raise Dead

    place = {"lives": "inside", "dies": "before"}[worker]
    kit._runtime._store = Watched(store, **{"before": lambda write: None, place: strike})
    found: list[Any] = []
    if worker == "lives":
        found += face.settle(kit.recover())
    else:
        with pytest.raises(Dead):
            face.settle(kit.recover())
    kit._runtime._store = store
    again = face.settle(kit.recover())
    assert sorted(each.key for each in found + again) == (keys if worker == "lives" else ["c", "d"])
    assert not (worker == "lives" and again)
    for key in keys:
        stored = face.settle(kit.chat(key).messages())
        assert [(message.status, message.text) for message in stored] == [("complete", "count"), ("partial", LONG)]
        face.settle(kit.chat(key).verify())
        assert face.settle(kit.chat(key).send("more")).text == "echo: more"


@pytest.mark.soak(sample=True)
@pytest.mark.usefixtures("_impatient")
def test_a_server_that_is_gone_is_named(face: Face, kit: Any, postgres: RestartingPostgres) -> None:
    """Down for good: StoreUnavailable says where and why, and neither it nor what it came from shows the password."""
    face.settle(kit.chat("k").send("one"))
    postgres.stop()
    for attempt in (lambda: kit.chat("k").send("two"), kit.recover, kit.chat("k").messages, kit.conversations):
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1.*cannot be reached") as caught:
            face.settle(attempt())
        assert caught.value.transient
        assert PASSWORD not in repr(caught.value) + str(caught.value.__cause__) + str(caught.value.__dict__)
    postgres.start()
    assert face.settle(kit.chat("k").send("two")).text == "echo: two"
    face.settle(kit.chat("k").verify())


@pytest.mark.once
@pytest.mark.usefixtures("_impatient")
def test_a_reply_that_cannot_be_saved_is_handed_over(
    face: Face, kit: Any, postgres: RestartingPostgres, server: LoopbackServer
) -> None:
    """When the server does not come back in time, the error holds the reply; a repeat later finishes the same turn."""

    def answer(body: Any) -> Script:
        postgres.stop()
        return completion("dear")

    server.answer = answer
    with pytest.raises(StoreUnavailable) as caught:
        face.settle(kit.chat("k").send("hello", idempotency_key="x"))
    assert caught.value.unsaved == "dear"
    postgres.start()
    server.answer = lambda body: completion("again")
    assert face.settle(kit.chat("k").send("hello", idempotency_key="x")).text == "again"
    assert [message.text for message in face.settle(kit.chat("k").messages())] == ["hello", "again"]
    face.settle(kit.chat("k").verify())


@pytest.mark.soak(sample=True)
def test_the_harness_sees_what_is_not_tried_again(kit: Any, face: Face, postgres: RestartingPostgres) -> None:
    """A negative control: an application's own transaction, not tried again, is lost in the same restart."""
    with psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TEMPORARY TABLE scratch (key text)")
        postgres.restart()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO scratch VALUES ('a')")
