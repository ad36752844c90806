"""Test that statements which are sent together have their results, and fail as they would one by one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from psycopg.errors import PipelineAborted, UniqueViolation
from sqlalchemy import Connection, bindparam, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from convokit.errors import StoreUnavailable
from convokit.runtime import async_store, sync_store
from convokit.store import pipeline as pipelines
from convokit.store.engine import parse_database_url
from convokit.store.pipeline import pipeline
from convokit.store.schema import prompt

PUT, COUNT = insert(prompt), select(func.count()).select_from(prompt)
REMOVE = delete(prompt).where(prompt.c.digest == bindparam("digest"))
READ = select(prompt.c.digest, prompt.c.body).where(prompt.c.tenant == bindparam("tenant")).order_by(prompt.c.digest)
TERMINATE = select(func.pg_terminate_backend(func.pg_backend_pid()))
Run = Callable[[Callable[[Connection], Any]], Any]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database: str) -> Iterator[Run]:
    """Run a function in a writing transaction, over either driver."""
    url = parse_database_url(database)
    if request.param == "sync":
        store = sync_store.open_store(url, "test")
        yield lambda call: store.run(call, write=True)
        store.close()
        return
    with asyncio.Runner() as runner:
        opened = async_store.open_store(url, "test")
        yield lambda call: runner.run(opened.run(call, write=True))
        runner.run(opened.close())


class _Undone(Exception):
    """Ends a transaction."""


def _row(number: int) -> dict[str, Any]:
    return {"tenant": "t", "digest": bytes([number]), "body": f"第{number}"}


def test_results_come_after_the_block(run: Run) -> None:
    """Rows, row counts, several rows of one statement, and an order that a later statement sees."""

    def work(connection: Connection) -> Any:
        with pipeline(connection) as sending:
            sending.execute(PUT, [_row(1), _row(2), _row(3)])
            removed = sending.execute(REMOVE, {"digest": b"\x02"})
            missing = sending.execute(REMOVE, {"digest": b"\x09"})
            read = sending.execute(READ, {"tenant": "t"})
            count = sending.execute(COUNT)
        return removed.rowcount, missing.rowcount, [tuple(row) for row in read], count.scalar_one()

    assert run(work) == (1, 0, [(b"\x01", "第1"), (b"\x03", "第3")], 2)
    with pytest.raises(StoreUnavailable):
        run(lambda connection: connection.exec_driver_sql("SELECT no_such_column"))
    assert run(lambda connection: connection.execute(COUNT).scalar_one()) == 2


@pytest.mark.parametrize("place", range(4))
def test_the_first_failure_is_raised(run: Run, place: int, caplog: pytest.LogCaptureFixture) -> None:
    """IntegrityError is raised, nothing is stored, the connection goes on, and the driver logs nothing."""
    run(lambda connection: connection.execute(PUT, _row(0)))

    def work(connection: Connection) -> None:
        with pipeline(connection) as sending:
            for number in range(1, 5):
                sending.execute(PUT, _row(0 if number == place + 1 else number))
                sending.execute(COUNT)

    def attempt(connection: Connection) -> None:
        with pytest.raises(IntegrityError) as caught:
            work(connection)
        assert "第" not in str(caught.value)
        raise _Undone

    with caplog.at_level(logging.DEBUG, "psycopg"):
        for _ in range(10):  # the answer arrives while statements are queued, or at the end
            with pytest.raises(_Undone):
                run(attempt)
            assert run(lambda connection: connection.execute(COUNT).scalar_one()) == 1
    assert [record for record in caplog.records if record.name == "psycopg"] == []


def test_a_skipped_statement_hides_no_failure() -> None:
    """If the answers come in two parts, psycopg raises that of a skipped statement while it handles the failure."""
    failure, skipped = UniqueViolation("a row exists"), PipelineAborted("pipeline aborted")
    skipped.__context__ = failure
    assert pipelines._find_cause(skipped) is failure
    assert pipelines._find_cause(failure) is failure


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize("place", range(3))
def test_a_lost_connection_is_replaced(run: Run, database: str, place: int) -> None:
    """A server process that ends in a pipeline makes a transient error, and the next transaction has another connection."""

    def work(connection: Connection) -> None:
        with pipeline(connection) as sending:
            for number in range(3):
                sending.execute(TERMINATE if number == place else COUNT)

    with pytest.raises(StoreUnavailable) as caught:
        run(work)
    assert caught.value.transient
    assert run(lambda connection: connection.execute(COUNT).scalar_one()) == 0


def test_a_thread_has_the_context_of_its_caller(database: str) -> None:
    """Such as the current span, which a tracer of SQL statements looks for."""
    name: ContextVar[str] = ContextVar("name")

    async def read() -> str:
        store = async_store.open_store(parse_database_url(database), "test")
        name.set("太郎")
        found = await store.run(lambda connection: name.get(), write=False)
        await store.close()
        return found

    assert asyncio.run(read()) == "太郎"
