"""A primary dies, and its standby takes over: turns go on, and nothing that was acknowledged is lost or doubled.

Each test has its own pair of servers, because a failover cannot be undone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from convokit import AsyncConvokit, Convokit
from convokit.errors import ReadOnly, StoreUnavailable
from tests.support.faces import Face
from tests.support.restarting_postgres import PASSWORD, RestartingPostgres
from tests.support.server import LoopbackServer, Script, completion, stream
from tests.support.standby import Standby

pytestmark = pytest.mark.soak(sample=True)

OUTAGE_S = 2.0
"""From the death of the primary to the promotion of the standby."""
TEXTS = ("before", "slow", "after")
"""Questions of each worker. The model answers the second one while no server accepts writes."""


@pytest.fixture
def primary() -> Iterator[RestartingPostgres]:
    server = RestartingPostgres()
    yield server
    server.close()


@pytest.fixture
def standby(primary: RestartingPostgres) -> Iterator[Standby]:
    made = Standby(primary)
    made.make_synchronous()
    yield made
    made.close()


@pytest.fixture
def servers(primary: RestartingPostgres, standby: Standby) -> str:
    """A URL with both servers, as libpq writes it. The standby is first, so that a new connection has to try both."""
    first, second = make_url(standby.url), make_url(primary.url)
    hosts = f"{first.host}:{first.port},{second.host}:{second.port}"
    return f"postgresql://postgres:{PASSWORD}@{hosts}/{first.database}"


def _answer(body: Any) -> Script:
    text = body["messages"][-1]["content"]
    is_slow = text.endswith("slow")
    if body.get("stream"):
        return stream([f"to {text}", *([" word"] * 10)], pause_s=0.25 if is_slow else 0.0)
    answer = completion(f"to {text}")
    answer.delay_s = OUTAGE_S / 2 if is_slow else 0.0
    return answer


def _send_all(kit: Convokit, key: str, texts: tuple[str, ...] = TEXTS) -> None:
    for text in texts:
        assert kit.chat(key).send(f"{key} {text}").text == f"to {key} {text}"


def _stream_all(kit: Convokit, key: str) -> None:
    for text in TEXTS:
        with kit.chat(key).stream(f"{key} {text}") as events:
            seen = "".join(event.text for event in events)
        assert seen == events.reply.text == f"to {key} {text}" + " word" * 10


async def _send_all_async(kit: AsyncConvokit, key: str, texts: tuple[str, ...] = TEXTS) -> None:
    for text in texts:
        assert (await kit.chat(key).send(f"{key} {text}")).text == f"to {key} {text}"


async def _stream_all_async(kit: AsyncConvokit, key: str) -> None:
    for text in TEXTS:
        async with kit.chat(key).stream(f"{key} {text}") as events:
            seen = "".join([event.text async for event in events])
        assert seen == events.reply.text == f"to {key} {text}" + " word" * 10


async def _run_async(url: str, server: LoopbackServer, dead: threading.Event) -> None:
    """Run the workers of the async API in one event loop. One begins its turn when the primary is dead."""
    async with AsyncConvokit(url, model="loop-1", base_url=server.url) as kit:

        async def begin_late() -> None:
            while not dead.is_set():
                await asyncio.sleep(0.01)
            await _send_all_async(kit, "async late", ("late",))

        workers = [_send_all_async(kit, "async send"), _stream_all_async(kit, "async stream"), begin_late()]
        await asyncio.gather(*workers)


def _begin_late(kit: Convokit, standby_kit: Convokit, dead: threading.Event) -> None:
    """Begin calls when the primary is dead."""
    dead.wait()
    _send_all(kit, "sync late", ("late",))
    kit.chat("sync send").update(title="late")
    kit.chat("sync append").append([{"role": "user", "content": "late"}])
    standby_kit.chat("sync behind one address").messages()  # the standby can be read; another thread writes


def test_turns_that_began_outlive_a_failover(
    primary: RestartingPostgres, standby: Standby, servers: str, server: LoopbackServer
) -> None:
    """No call fails: neither turns whose reply comes while no server accepts writes, nor turns that begin then.

    One kit knows the standby alone, as behind one address that has moved already. It gets SQLSTATE 25006 until the promotion.
    """
    server.answer = _answer
    dead = threading.Event()
    kit = Convokit(servers, model="loop-1", base_url=server.url)
    moved = Convokit(standby.url, model="loop-1", base_url=server.url)
    with kit, moved, ThreadPoolExecutor(8) as pool:
        running = [
            pool.submit(_send_all, kit, "sync send"),
            pool.submit(_stream_all, kit, "sync stream"),
            pool.submit(_begin_late, kit, moved, dead),
            pool.submit(asyncio.run, _run_async(servers, server, dead)),
        ]
        while _count_questions(server, "slow") < 4:
            assert not any(each.done() for each in running), [each.exception() for each in running if each.done()]
            time.sleep(0.01)
        primary.stop()
        died_at = time.monotonic()
        dead.set()
        running.append(pool.submit(_send_all, moved, "sync behind one address", ("late",)))
        time.sleep(OUTAGE_S)
        assert not any(each.done() for each in running)
        standby.promote()
        for each in running:
            each.result(timeout=20)
        assert time.monotonic() - died_at > OUTAGE_S
    _check_history(standby.url, server)


def _check_history(url: str, server: LoopbackServer) -> None:
    """Check that each question and its reply is stored once, and that the model was asked once for each."""
    with Convokit(url, model="loop-1", base_url=server.url) as kit:
        for api in ("sync", "async"):
            for key, end in ((f"{api} send", ""), (f"{api} stream", " word" * 10)):
                pairs = [(f"{key} {text}", f"to {key} {text}{end}") for text in TEXTS]
                assert [each.text for each in kit.chat(key).messages()] == [text for pair in pairs for text in pair]
            assert [each.text for each in kit.chat(f"{api} late").messages()] == [
                f"{api} late late",
                f"to {api} late late",
            ]
        assert len(kit.chat("sync behind one address").messages()) == 2
        assert [each.text for each in kit.chat("sync append").messages()] == ["late"]
        found = kit.conversation("sync send")
        assert found is not None
        assert found.title == "late"
        assert all(
            each.status == "complete" for key in ("sync send", "async stream") for each in kit.chat(key).messages()
        )
        assert {turn.state for turn in kit.chat("async stream").turns()} == {"completed"}
        assert kit.verify().conversations == 8
    asked = Counter(request.body["messages"][-1]["content"] for request in server.requests)
    assert set(asked.values()) == {1}


def _count_questions(server: LoopbackServer, text: str) -> int:
    return sum(request.body["messages"][-1]["content"].endswith(text) for request in server.requests)


@pytest.fixture
def promoted(primary: RestartingPostgres, standby: Standby) -> None:
    """Let the standby take over."""
    standby.catch_up()
    primary.stop()
    standby.promote()


def _set_read_only(url: str, *, is_on: bool) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if is_on else 'off'}")
        connection.execute("SELECT pg_reload_conf()")
    wanted = ("on" if is_on else "off",)
    shown: Any = None
    while shown != wanted:
        with psycopg.connect(url) as connection:
            shown = connection.execute("SHOW default_transaction_read_only").fetchone()
    time.sleep(0.1)  # sessions that exist get the signal a little later


@pytest.mark.usefixtures("promoted")
def test_a_server_that_is_read_only_for_a_while(
    face: Face, standby: Standby, servers: str, server: LoopbackServer
) -> None:
    """A primary was demoted, and its sessions live on. The turn begins when the server accepts writes again.

    The sync kit knows one address, the async kit several servers.
    """
    kit = face.kit(standby.url if face.name == "sync" else servers, model="loop-1", base_url=server.url)
    chat = kit.chat(face.name)
    face.settle(chat.send("one"))
    _set_read_only(standby.url, is_on=True)
    timer = threading.Timer(1.0, _set_read_only, (standby.url,), {"is_on": False})
    timer.start()
    assert face.settle(chat.send("two")).text == "echo: two"
    assert timer.finished.is_set()
    timer.join()
    assert [each.text for each in face.settle(chat.messages())] == ["one", "echo: one", "two", "echo: two"]
    face.settle(chat.verify())


@pytest.mark.usefixtures("promoted")
def test_a_server_that_stays_read_only(
    face: Face, standby: Standby, servers: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what each server is. The model is not called, and a read-only kit reads."""
    monkeypatch.setattr("convokit.completion.begin.START_S", 0.5)
    monkeypatch.setattr("convokit.completion.effects.READ_WAITS_S", (0.1,))
    several = face.name == "async"
    kit = face.kit(servers if several else standby.url, model="loop-1", base_url=server.url)
    chat = kit.chat(f"stays {face.name}")
    face.settle(chat.send("one"))
    calls = len(server.requests)
    kind = StoreUnavailable if several else ReadOnly
    reason = r"session is read-only; .*refused" if several else r"the server is read-only \(SQLSTATE 25006\)"
    _set_read_only(standby.url, is_on=True)
    try:
        with pytest.raises(kind, match=reason) as caught:
            face.settle(chat.send("two"))
        reader = face.kit(servers, read_only=True)
        assert len(face.settle(reader.chat(chat.key).messages())) == 2
    finally:
        _set_read_only(standby.url, is_on=False)
    assert caught.value.transient
    assert PASSWORD not in str(caught.value)
    assert len(server.requests) == calls
