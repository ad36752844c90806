"""Callers that want one turn or one branch at once: one reply is paid, none is lost, and everybody gets a turn."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text as sql

from convokit import AsyncConvokit, Convokit, Retry, Timeouts
from convokit.completion.process_turns import RunningTurns, WaitingLines
from convokit.domain.ids import new_id
from convokit.errors import ConversationBusy, ServerFailed, StoreError, StoreUnavailable
from convokit.runtime.process import lines
from convokit.store.engine import WRITE, describe_url, open_engine, parse_database_url
from convokit.store.turn_end import LateReply, TurnEnd
from tests.store.test_turn_cost import Traffic
from tests.support.background_reader import Running
from tests.support.server import LoopbackServer, completion, failure, stream

ONE_TRY = Retry(attempts=1)


def slow(text: str, delay_s: float) -> Any:
    script = completion(text)
    script.delay_s = delay_s
    return script


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Return what each call returned or raised."""
    results: list[Any] = [None] * len(calls)

    def work(index: int) -> None:
        try:
            results[index] = calls[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_repeats_of_a_failed_send_in_threads_make_one_call(database: str, server: LoopbackServer) -> None:
    """Four threads repeat a send that failed: one of them calls the model, and all get its reply."""
    with Convokit(database, model="m", base_url=server.url, retry=ONE_TRY) as kit:
        server.script(failure(500))
        with pytest.raises(ServerFailed):
            kit.chat("k").send("hello", idempotency_key="a")
        server.script(slow("once", 0.2))

        def repeat() -> str:
            return kit.chat("k").send("hello", idempotency_key="a", on_busy="wait").text

        assert in_threads(*[repeat] * 4) == ["once"] * 4
        assert len(server.requests) == 2
        kit.chat("k").verify()


def test_repeats_of_a_failed_send_in_tasks_make_one_call(database: str, server: LoopbackServer) -> None:
    """The same with four tasks of an event loop."""

    async def main() -> list[str]:
        async with AsyncConvokit(database, model="m", base_url=server.url, retry=ONE_TRY) as kit:
            server.script(failure(500))
            with pytest.raises(ServerFailed):
                await kit.chat("k").send("hello", idempotency_key="a")
            server.script(slow("once", 0.2))
            sends = [kit.chat("k").send("hello", idempotency_key="a", on_busy="wait") for _ in range(4)]
            return [reply.text for reply in await asyncio.gather(*sends)]

    assert asyncio.run(main()) == ["once"] * 4
    assert len(server.requests) == 2


def test_a_turn_runs_until_the_last_caller_leaves_it() -> None:
    """The caller that lost the race to reopen a turn does not hide the one that won."""
    running, turn_id = RunningTurns(), new_id()
    running.add(turn_id)
    running.add(turn_id)
    running.remove(turn_id)
    assert turn_id in running
    running.remove(turn_id)
    assert turn_id not in running


@pytest.mark.once
def test_late_replies_and_new_calls_get_numbers_of_their_own(database: str, server: LoopbackServer) -> None:
    """A turn is cancelled twice while its reply comes, and then finished: five rows of calls, and no reply is lost."""
    words = [f"word{number} " for number in range(30)]
    server.script(*[stream(words, pause_s=0.02)] * 3)
    with Convokit(database, model="m", base_url=server.url) as kit:
        first = Running(database, server)
        kit.chat("k").cancel()
        first.end()
        turn_id = kit.chat("k").turns()[-1].id
        again = Running(database, server, ask=lambda chat: chat.stream("count", idempotency_key="b"), key="other")
        kit.chat("other").cancel()
        again.end()
        repeated = Running(database, server, ask=lambda chat: chat.stream("count", idempotency_key="b"), key="other")
        kit.chat("other").cancel()
        repeated.end()
        server.script(completion("whole"))
        reply = kit.chat("other").send("count", idempotency_key="b")
        assert reply.text == "whole"
        assert kit.chat("other").send("count", idempotency_key="b").attempts == 3
        kit.chat("other").verify()
        assert kit.chat("k").resume().turn_id == turn_id
        with kit._runtime._store.engine.connect() as connection:
            query = "SELECT number, state FROM convokit_completion c JOIN convokit_conversation v ON v.id = c.conversation_id"
            rows = connection.execute(sql(f"{query} WHERE v.key = 'other' ORDER BY number")).all()
            late = connection.execute(sql("SELECT content FROM convokit_message WHERE status = 'late'")).scalars().all()
    assert [tuple(row) for row in rows] == [
        (1, "abandoned"), (2, "late"), (3, "abandoned"), (4, "late"), (5, "ok"),
    ]  # fmt: skip
    assert [text.startswith(each.text) for text, each in zip(late, [first, again, repeated], strict=True)] == [True] * 3


def test_a_refused_row_is_not_tried_again(
    database: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unique index that refuses a reply is no lost connection. The error has the text, which exists nowhere else."""
    tries: list[float] = []

    def refuse(step: TurnEnd, connection: Any) -> None:
        tries.append(time.monotonic())
        table = "convokit_conversation"
        connection.exec_driver_sql(f"INSERT INTO {table} SELECT * FROM {table}")

    monkeypatch.setattr(TurnEnd, "write", refuse)
    with (
        Convokit(database, model="m", base_url=server.url) as kit,
        pytest.raises(StoreError, match="refused a row") as caught,
    ):
        kit.chat("k").send("hello")
    assert not isinstance(caught.value, StoreUnavailable)
    assert caught.value.unsaved == "echo: hello"
    assert len(tries) == 1


@pytest.mark.once
def test_a_late_reply_that_cannot_be_stored_is_in_the_error(
    database: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while its reply came, and the database is gone: the caller has the text."""
    server.script(stream(["one ", "two ", "three ", "four ", "five ", "six "] * 5, pause_s=0.02))

    def fail(step: Any, connection: Any) -> None:
        raise StoreError("db: refused a row")

    monkeypatch.setattr(LateReply, "write", fail)
    with Convokit(database, model="m", base_url=server.url) as kit:
        running = Running(database, server)
        kit.chat("k").cancel()
        running.end()
    assert running.text
    assert isinstance(running.error, StoreError)
    assert running.error.unsaved.startswith(running.text)


def test_every_write_of_a_turn_locks_the_conversation_first(server: LoopbackServer, postgres: Any) -> None:
    """Two transactions that lock the turn and the conversation in different orders would wait for each other."""
    url = postgres.migrated()
    with Convokit(url, model="m", base_url=server.url, retry=ONE_TRY) as kit:
        kit.chat("k").send("hello")
        traffic = Traffic(kit)
        server.script(failure(500))
        with pytest.raises(ServerFailed):
            kit.chat("k").send("again")
        kit.chat("k").resume()
        kit.chat("k").regenerate()
        with kit.chat("k").stream("streamed") as events:
            next(iter(events))
        kit.chat("k").cancel()
    transactions, statements = [], iter(each for each in traffic.statements if not each.startswith("BEGIN"))
    for _, size in traffic.sizes:
        transactions.append(list(itertools.islice(statements, size)))
    of_both = [each for each in transactions if "UPDATE convokit_conversation" in "".join(each)]
    assert len(of_both) > 6
    locks = ("UPDATE convokit_conversation", "SELECT convokit_conversation.")
    assert [each[0].startswith(locks) for each in of_both] == [True] * len(of_both)
    assert all("FOR NO KEY UPDATE" in each[0] for each in of_both if each[0].startswith("SELECT"))
    postgres.release(url)


def test_a_clock_that_jumps_takes_no_turn_from_a_living_worker(
    backend: str, database: str, server: LoopbackServer
) -> None:
    """SQLite's clock is this machine's: a lease that seems over says nothing while the worker lives. PostgreSQL's decides."""
    server.script(stream([f"word{number} " for number in range(40)], pause_s=0.02))
    engine = open_engine(parse_database_url(database))

    def jump(column: str, by_s: float) -> None:
        with engine.execution_options(**{WRITE: True}).begin() as connection:
            connection.execute(
                sql(f"UPDATE convokit_turn SET {column} = {column} - :by"), {"by": int(by_s * 1_000_000)}
            )

    with Convokit(database, model="m", base_url=server.url, timeouts=Timeouts(total_s=60)) as kit:
        running = Running(database, server)
        jump("lease_until", 3600)
        if backend == "sqlite":
            with pytest.raises(ConversationBusy):
                kit.chat("k").send("mine")
            jump("lease_until", 3600)
            jump("started_at", 601)
        assert kit.chat("k").send("mine").text == "echo: mine"
        running.end()
        assert [turn.state for turn in kit.chat("k").turns()] == ["abandoned", "completed"]
    engine.dispose()


@pytest.mark.once
def test_senders_that_wait_are_served_in_the_order_they_came(database: str, server: LoopbackServer) -> None:
    """Whoever has just finished goes behind those who wait, so nobody is a turn ahead of another by more than one."""
    with Convokit(database, model="m", base_url=server.url, timeouts=Timeouts(busy_s=30)) as kit:
        server.answer = lambda body: slow(f"echo: {body['messages'][-1]['content']}", 0.03)
        start = threading.Barrier(5)

        def talk(name: str) -> Callable[[], list[str]]:
            def work() -> list[str]:
                start.wait()
                return [kit.chat("k").send(f"{name}{number}", on_busy="wait").text for number in range(3)]

            return work

        in_threads(*(talk(name) for name in "abcde"))
        served = [message.text for message in kit.chat("k").messages(limit=100) if message.role == "user"]
    rounds = [served[at : at + 5] for at in range(0, 15, 5)]
    assert [sorted(text[1] for text in each) for each in rounds] == [["0"] * 5, ["1"] * 5, ["2"] * 5]
    assert len({"".join(text[0] for text in each) for each in rounds}) == 1


@pytest.mark.once
def test_a_waiting_sender_reads_one_row_at_a_time(database: str, server: LoopbackServer) -> None:
    """The window is read when the branch is free, not with every look at it; and only the first of a line looks."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("k").send("hello")
        server.script(slow("slow", 0.5))
        holder = threading.Thread(target=lambda: kit.chat("k").send("holds"))
        holder.start()
        while len(server.requests) < 2:
            time.sleep(0.01)
        traffic = Traffic(kit)
        in_threads(*[lambda: kit.chat("k").send("waits", on_busy="wait")] * 3)
        holder.join()
    reads = [size for kind, size in traffic.sizes if kind == "read"]
    assert 3 <= len([size for size in reads if size > 1]) <= 6
    assert reads.count(1) >= 2


def test_a_line_forgets_who_left_it() -> None:
    """Leaving from the middle keeps the order of the others."""
    lines, branch = WaitingLines(), ("db", new_id(), 0)
    first, second, third = (ExitStack() for _ in range(3))
    positions = [stack.enter_context(lines.join(branch)) for stack in (first, second, third)]
    assert [each.is_first for each in positions] == [True, False, False]
    second.close()
    first.close()
    assert positions[2].is_first
    third.close()
    with lines.join(branch) as alone:
        assert alone.is_first


def test_senders_of_a_copy_do_not_wait_for_the_original(database: str, twin: str, server: LoopbackServer) -> None:
    """A restored backup has the same ids. Its senders stand in lines of their own."""
    patience = Timeouts(busy_s=0.05)
    with (
        Convokit(database, model="m", base_url=server.url, timeouts=patience) as kit,
        Convokit(twin, model="m", base_url=server.url, timeouts=patience) as copy,
    ):
        conversation_id = UUID(kit.chat("k").send("hello").message.id.partition(":")[0])
        with lines.join((describe_url(parse_database_url(database)), conversation_id, 0)):
            assert copy.chat("k").send("hello", on_busy="wait").message.id == f"{conversation_id}:2"
            with pytest.raises(ConversationBusy):
                kit.chat("k").send("again", on_busy="wait")
