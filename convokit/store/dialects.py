"""Connections to PostgreSQL, sync and async alike: how statements are sent, and how a dead connection is noticed.

The database's own clock, in microseconds since 1970: the only clock that leases are measured by.

Constant within a statement, as a distributed PostgreSQL asks of an UPDATE.

INSERTs that may meet a row which is there already: each database has its own, in its own dialect.

Only the dialect of the database that is open is loaded; PostgreSQL's alone takes as long to load as thirty of our modules.
"""

from __future__ import annotations

import functools
import select
import time
from importlib import import_module
from typing import Any

from sqlalchemy import BigInteger, Engine, Table, event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now_us(FunctionElement[int]):  # noqa: N801  # reads as the SQL function it is
    """Microseconds since 1970 UTC."""

    inherit_cache = True
    type = BigInteger()
    name = "now_us"


@compiles(now_us, "sqlite")
def _sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000"


@compiles(now_us, "postgresql")
def _postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT)"


def insert_into(dialect: str, table: Table[Any]) -> Any:
    """Return the dialect's own INSERT."""
    return import_module(f"sqlalchemy.dialects.{dialect}").insert(table)


@functools.cache
def insert_new(dialect: str, table: Table[Any]) -> Any:
    """Return an INSERT that leaves a row alone which is already there."""
    return insert_into(dialect, table).on_conflict_do_nothing()


def _prepare_nothing_behind_a_pooler(connection: Any, record: object) -> None:
    """Switch prepared statements off on a new connection that ends at a pooler, such as pgbouncer.

    In its transaction mode every transaction may run on another connection of the server, where a statement's name is unknown
    or, worse, stands for another statement. A pooler shows: the process that was announced is not the one that answers.
    """
    before, connection.autocommit = connection.autocommit, True
    cursor = connection.cursor()
    try:
        cursor.execute("SELECT pg_backend_pid()")
        behind_pooler = cursor.fetchone()[0] != connection.info.backend_pid
    finally:
        cursor.close()
        connection.autocommit = before
    if behind_pooler:
        getattr(connection, "driver_connection", connection).prepare_threshold = None


def _send_statements_as_they_are(connection: Any, record: object) -> None:
    """Have a new connection take the server's own placeholders ($1), which no execution has to look for and rewrite."""
    import psycopg  # noqa: PLC0415  # an extra: most SQLite users never install it

    driver = getattr(connection, "driver_connection", connection)
    asynchronous = isinstance(driver, psycopg.AsyncConnection)
    driver.cursor_factory = psycopg.AsyncRawCursor if asynchronous else psycopg.RawCursor
    driver.server_cursor_factory = psycopg.AsyncRawServerCursor if asynchronous else psycopg.RawServerCursor


POSTGRES: dict[str, Any] = {
    "hide_parameters": True,
    "paramstyle": "numeric_dollar",
    "use_native_hstore": False,
    "pool_size": 16,
    "max_overflow": 16,
    "pool_events": [(_send_statements_as_they_are, "connect"), (_prepare_nothing_behind_a_pooler, "connect")],
}
UNTRIED_S = 1.0
"""How long a connection may lie in the pool and be used without a trial, unless the server has sent something meanwhile."""


def try_before_use(engine: Engine) -> None:
    """Have the connections that a restarted PostgreSQL left dead in the pool noticed before they are used.

    Each is tried by a round trip, but for those that were in use a moment ago. A server that ends a connection says so: what
    lies unread on it is seen without asking anybody.
    """

    @event.listens_for(engine, "checkin")
    def checkin(connection: Any, record: Any) -> None:
        record.info["left"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, proxy: Any) -> None:
        left = record.info.get("left")
        if left is None or (time.monotonic() - left < UNTRIED_S and not _was_sent_something(connection)):
            return  # new, or used a moment ago
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            raise InvalidatePoolError("the server has ended the connection") from None


def _was_sent_something(connection: Any) -> bool:
    driver = getattr(connection, "driver_connection", connection)
    if driver.closed:
        return True
    socket = driver.pgconn.socket
    if not hasattr(select, "poll"):
        return bool(select.select([socket], [], [], 0)[0])
    polled = select.poll()
    polled.register(socket, select.POLLIN)
    return bool(polled.poll(0))
