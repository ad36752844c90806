"""Commits whose acknowledgement is lost: the server has done them, and the client cannot know.

A proxy cuts the connection in place of the server's answer to COMMIT, at the nth commit of a turn, for every n there is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Thread
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from convokit import Convokit, Retry
from convokit.completion import effects, write_retry
from convokit.errors import Interrupted, InvalidInput, ServerFailed
from convokit.store.turn_end import LateReply
from tests.support.abandoned_turns import leave
from tests.support.databases import Postgres
from tests.support.faces import Face
from tests.support.proxy import Proxy
from tests.support.selection import keep
from tests.support.server import LoopbackServer, Script, completion, failure, stream

pytestmark = pytest.mark.soak(sample=True)

ONCE, AT_ONCE = Retry(attempts=1), Retry(attempts=3, initial_s=0)
LONG = "x" * 5000
"""More than is kept in memory before a piece of a stream is stored."""


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    url = postgres.migrated()
    yield url
    postgres.release(url)


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    proxy = Proxy(postgres.url)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection can be made again at once: what is waited in between proves nothing here."""
    monkeypatch.setattr(effects, "READ_WAITS_S", (0.01,) * 6)
    monkeypatch.setattr(write_retry, "_FIRST_WAIT_S", 0.01)


def _nothing(turns: Turns, key: str) -> None:
    """Nothing came before it."""


@dataclass
class Turn:
    """A kind of turn: what came before it, what the server says, how it is sent, and what must be stored after it."""

    send: Callable[[Turns, Any, str | None], Any]
    answers: Callable[[], list[Script]]
    stored: list[tuple[str, str]]
    calls: int
    before: Callable[[Turns, str], None] = _nothing
    turns: int = 1


class Turns:
    """Runs turns through the proxy, and looks at the database past it."""

    def __init__(self, face: Face, proxy: Proxy, server: LoopbackServer, url: str) -> None:
        self.face, self.proxy, self.server, self.url = face, proxy, server, url
        self.kit = self._kit(proxy.through(url))
        self.direct = self._kit(url)
        self.ran: list[str] = []
        face.settle(self.kit.chat("warm").send("up"))

    def _kit(self, url: str) -> Any:
        return self.face.kit(url, model="loop-1", base_url=self.server.url, retry=AT_ONCE)

    def pay(self, to: str) -> str:
        """Pay."""
        self.ran.append(to)
        return "paid"

    def run(self, turn: Turn, key: str, *, lose: int = 0, idempotency_key: str | None = None, late_s: float = 0) -> int:
        """Run a turn in a conversation of its own, losing the nth acknowledgement. Return how many commits it made."""
        turn.before(self, key)
        self.ran.clear()
        self.server.requests.clear()
        self.server.script(*turn.answers())
        before = self.proxy.commits
        if lose:
            self.proxy.lose(lose, late_s=late_s)
        reply = turn.send(self, self.kit.chat(key), idempotency_key)
        commits = self.proxy.commits - before
        self._check(turn, key, reply)
        if idempotency_key is not None:
            again = turn.send(self, self.direct.chat(key), idempotency_key)
            assert (again.message.id, again.turn_id, again.text) == (reply.message.id, reply.turn_id, reply.text)
            self._check(turn, key, again)
        return commits

    def _check(self, turn: Turn, key: str, reply: Any) -> None:
        chat = self.direct.chat(key)
        messages = self.face.settle(chat.messages())
        assert [(message.role, message.text) for message in messages] == turn.stored
        assert messages[-1].id == reply.message.id
        assert len(self.server.requests) == turn.calls, "a call was made, and paid for, again"
        assert len(self.ran) <= 1, "a tool was run again"
        self.face.settle(chat.verify())
        with psycopg.connect(self.url) as connection:
            found = connection.execute(_STORED, {"id": chat.id}).fetchone()
        before = turn.before is not _nothing
        assert found == (turn.turns, turn.calls + before, 0, 0, len(turn.stored))


_STORED = """
    SELECT (SELECT count(*) FROM convokit_turn WHERE conversation_id = %(id)s),
           (SELECT count(*) FROM convokit_completion WHERE conversation_id = %(id)s),
           (SELECT count(*) FROM convokit_turn WHERE conversation_id = %(id)s AND claim IS NOT NULL),
           (SELECT count(*) FROM convokit_chunk WHERE conversation_id = %(id)s),
           (SELECT count(*) FROM convokit_message WHERE conversation_id = %(id)s)
"""


@pytest.fixture
def turns(face: Face, proxy: Proxy, server: LoopbackServer, url: str) -> Turns:
    return Turns(face, proxy, server, url)


def _plain(turns: Turns, chat: Any, key: str | None) -> Any:
    return turns.face.settle(chat.send("pay", idempotency_key=key))


def _streamed(turns: Turns, chat: Any, key: str | None) -> Any:
    streaming = chat.stream("pay", idempotency_key=key)
    text = "".join(event.text for event in turns.face.collect(streaming))
    assert text == streaming.reply.text
    return streaming.reply


def _with_tool(turns: Turns, chat: Any, key: str | None) -> Any:
    return turns.face.settle(chat.send("pay", tools=[turns.pay], idempotency_key=key))


def _failed(turns: Turns, key: str) -> None:
    """A turn under the same idempotency key that failed, so that the next send opens it again."""
    turns.server.script(failure(500))
    with pytest.raises(ServerFailed):
        turns.face.settle(turns.direct.chat(key).send("pay", idempotency_key=key, retry=ONCE))


def _left(turns: Turns, key: str) -> None:
    """A turn whose worker died in the middle of its stream."""
    turns.server.script(stream([LONG, "lost", LONG]))
    leave(turns.face, turns.direct, key, "count")


_CALL = {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": json.dumps({"to": "x"})}}
_ANSWERED = [("user", "pay"), ("assistant", "done")]
KINDS = {
    "plain": Turn(_plain, lambda: [completion("done")], _ANSWERED, calls=1),
    "streamed": Turn(
        _streamed, lambda: [stream([LONG, LONG, "end"])], [("user", "pay"), ("assistant", LONG + LONG + "end")], calls=1
    ),
    "tool round": Turn(
        _with_tool,
        lambda: [completion(None, tool_calls=[_CALL]), completion("done")],
        [("user", "pay"), ("assistant", ""), ("tool", "paid"), ("assistant", "done")],
        calls=2,
    ),
    "retried": Turn(_plain, lambda: [failure(500), completion("done")], _ANSWERED, calls=2),
    "opened again": Turn(_plain, lambda: [completion("done")], _ANSWERED, calls=1, before=_failed),
    "takeover": Turn(
        _plain,
        lambda: [completion("done")],
        [("user", "count"), ("assistant", LONG), *_ANSWERED],
        calls=1,
        before=_left,
        turns=2,
    ),
}


@pytest.mark.parametrize("kind", keep(KINDS, "plain", "tool round", sample=True))
def test_every_lost_acknowledgement_of_a_turn(turns: Turns, kind: str) -> None:
    """Whichever commit's answer is lost, the send returns: one question, one reply, one call, and a repeat has the same."""
    turn = KINDS[kind]
    commits = turns.run(turn, "whole", idempotency_key="whole")
    assert commits >= 3
    for number in range(1, commits + 1):
        turns.run(turn, f"lost {number}", lose=number, idempotency_key=f"lost {number}")
        assert turns.proxy.lost


@pytest.mark.parametrize("kind", keep(["plain", "streamed", "tool round", "retried", "takeover"], "plain", sample=True))
def test_without_an_idempotency_key_too(turns: Turns, kind: str) -> None:
    """The library knows its own writes again: no key of the caller's is needed for one question and one reply."""
    turn = KINDS[kind]
    commits = turns.run(turn, "whole")
    for number in range(1, commits + 1):
        turns.run(turn, f"lost {number}", lose=number)
        assert turns.proxy.lost


@pytest.mark.parametrize("kind", keep(KINDS, "plain", sample=True))
def test_a_commit_that_is_done_after_its_connection_was_lost(turns: Turns, kind: str) -> None:
    """A commit may still be on its way when its client asks whether it is there: it counts once all the same."""
    turn = KINDS[kind]
    key = "whole" if turn.before is _failed else None
    commits = turns.run(turn, "whole", idempotency_key=key)
    for number in range(1, commits + 1):
        key = f"late {number}" if turn.before is _failed else None
        turns.run(turn, f"late {number}", lose=number, idempotency_key=key, late_s=0.2)
        assert turns.proxy.lost


@pytest.mark.soak(sample=True)
def test_a_lost_acknowledgement_during_recover(turns: Turns) -> None:
    """Whichever commit of a sweep loses its answer: every orphan is closed, named once, and its text is kept once."""
    kit, face = turns.kit, turns.face
    for number in range(1, 12):
        keys = [f"{number} {each}" for each in "ab"]
        for key in keys:
            _left(turns, key)
        turns.proxy.lose(number)
        found = face.settle(kit.recover())
        assert sorted(each.key for each in found) == keys
        for key in keys:
            chat = turns.direct.chat(key)
            assert [message.status for message in face.settle(chat.messages())] == ["complete", "partial"]
            face.settle(chat.verify())
        if not turns.proxy.lost:
            assert number > 4
            return
    pytest.fail("a sweep of two takes no more than ten commits")


@pytest.mark.soak(sample=True)
def test_a_redaction_before_a_late_reply_is_looked_for(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late reply whose acknowledgement is lost is found again though its request's salt was redacted meanwhile."""
    write_late, tries = LateReply.write, 0

    def losing(*given: Any) -> Any:
        nonlocal tries
        tries += 1
        turns.proxy.lose(1)
        return write_late(*given)

    monkeypatch.setattr(LateReply, "write", losing)
    monkeypatch.setattr(write_retry, "_FIRST_WAIT_S", 1.0)  # as long as the redaction may take
    chat = turns.direct.chat("k")
    turns.face.settle(chat.send("hello"))
    turns.server.script(stream(["late "] * 40, pause_s=0.02))
    with Convokit(turns.proxy.through(turns.url), model="m", base_url=turns.server.url) as worker:
        events = iter(worker.chat("k").stream("and?"))
        next(event for event in events if event.text)
        turns.face.settle(chat.cancel())
        left = Thread(target=_ended, args=(events,))
        left.start()
        while not turns.proxy.lost:
            time.sleep(0.01)
        turns.face.settle(chat.redact(1))
        left.join()
    with psycopg.connect(turns.url) as connection:
        query = (
            "SELECT number, state, body_salt FROM convokit_completion"
            " WHERE conversation_id = %s ORDER BY started_at, number"
        )
        called = connection.execute(query, (chat.id,)).fetchall()
    assert [(number, state) for number, state, _ in called] == [(1, "ok"), (1, "abandoned"), (2, "late")]
    assert [salt for _, _, salt in called] == [None, None, None]
    assert tries == 1
    turns.face.settle(chat.verify())


@pytest.mark.parametrize("late_s", keep([0.0, 0.2], 0.0, sample=True))
def test_a_lost_acknowledgement_leaves_no_spare_branch_or_copy(turns: Turns, late_s: float) -> None:
    """A fork, and a copy with a key or without, is found again by the next try; another process's fork is not taken for it."""
    face, chat = turns.face, turns.kit.chat("k")
    face.settle(chat.send("hello"))
    makers: list[Callable[[], Any]] = [chat.fork, lambda: chat.fork(name="n"), chat.copy, lambda: chat.copy("c")]
    for make in makers:
        turns.proxy.lose(1, late_s=late_s)
        made = face.settle(make())
        assert turns.proxy.lost
        face.settle(turns.direct.chat("k").fork())
        assert [each.text for each in face.settle(made.messages())] == ["hello", "echo: hello"]
        face.settle(made.verify())
    names = [each.name for each in face.settle(chat.branches())]
    assert names == ["main", None, None, "n", None, None, None]
    assert len(face.settle(turns.kit.conversations())) == 4
    with pytest.raises(InvalidInput, match="there is a conversation under 'c' already"):
        face.settle(chat.copy("c"))


def _ended(events: Iterator[Any]) -> None:
    with pytest.raises(Interrupted):
        list(events)


@pytest.mark.soak(sample=True)
def test_the_harness_sees_doubling(proxy: Proxy, url: str) -> None:
    """A negative control: appends that are repeated blindly after a lost acknowledgement are stored twice."""
    address = make_url(proxy.through(url)).render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE scratch (key text, number serial)")
    for key in ("a", "b", "c"):
        proxy.lose(1)
        for _ in range(2):
            try:
                with psycopg.connect(address) as connection:
                    connection.execute("INSERT INTO scratch (key) VALUES (%s)", (key,))
            except psycopg.OperationalError:
                continue
            break
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT key, count(*) FROM scratch GROUP BY key ORDER BY key").fetchall()
    assert found == [("a", 2), ("b", 2), ("c", 2)]


def test_a_kit_is_not_confused_by_the_proxy_itself(proxy: Proxy, url: str, server: LoopbackServer) -> None:
    """A negative control: with nothing lost, a turn through the proxy is a turn."""
    with Convokit(proxy.through(url), model="m", base_url=server.url) as kit:
        assert kit.chat("k").send("hello").text == "echo: hello"
        assert proxy.commits >= 3
        assert not proxy.lost
