"""Test connections to PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, bindparam, select, text

from convokit.domain.ids import new_id
from convokit.store.dialects import postgresql
from convokit.store.engine import open_engine, parse_database_url
from convokit.store.fast_execute import fast_connection
from convokit.store.schema import conversation

pytestmark = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    opened = open_engine(parse_database_url(database))
    yield opened
    opened.dispose()


@pytest.fixture
def tried(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The connections that were tried."""
    found: list[Any] = []
    original = engine.dialect.do_ping

    def ping(connection: Any) -> bool:
        found.append(connection)
        return original(connection)

    monkeypatch.setattr(engine.dialect, "do_ping", ping)
    return found


def _process(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def _end(database: str, process: int) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", (process,))


def test_statements_use_server_placeholders(engine: Engine) -> None:
    """The driver rewrites no placeholders and prepares the statement."""
    look = select(conversation.c.id).where(conversation.c.id == bindparam("id"))
    with engine.connect() as connection:
        for _ in range(10):
            fast_connection(connection).execute(look, {"id": new_id()})
        prepared = connection.execute(text("SELECT statement FROM pg_prepared_statements")).scalars().all()
    assert str(look.compile(dialect=engine.dialect)) in prepared
    assert "$1" in str(look.compile(dialect=engine.dialect))


def test_a_recently_used_connection_is_not_pinged(engine: Engine, tried: list[Any]) -> None:
    assert len({_process(engine) for _ in range(5)}) == 1
    assert tried == []


def test_an_idle_connection_is_pinged(engine: Engine, tried: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose host is gone sends nothing, so an idle connection is tested."""
    first = _process(engine)
    monkeypatch.setattr(postgresql, "IDLE_TRUSTED_S", 0.0)
    assert _process(engine) == first
    assert len(tried) == 1


@pytest.mark.parametrize("pause_s", [0.0, 60.0])
def test_a_closed_connection_is_replaced(
    engine: Engine, database: str, pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any pause, the next user gets a new connection and no error."""
    monkeypatch.setattr(postgresql, "IDLE_TRUSTED_S", pause_s)
    first = _process(engine)
    _end(database, first)
    assert _process(engine) != first
