"""Open PostgreSQL databases and translate their errors."""

from __future__ import annotations

import difflib
import functools
import select
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import ArgumentError, InvalidatePoolError, SQLAlchemyError

from convokit.errors import ConvokitError, SettingsError
from convokit.store.dialects.postgresql_errors import READ_ONLY_STATE, translate_postgresql_error
from convokit.store.dialects.postgresql_hosts import (
    add_failover_options,
    check_target,
    describe_servers,
    parse_postgresql_url,
)
from convokit.store.dialects.postgresql_replication import read_replication
from convokit.store.dialects.postgresql_search import PostgresqlSearch
from convokit.store.dialects.protocol import DatabaseFacts, Dialect
from convokit.store.engine import WRITE

IDLE_TRUSTED_S = 1.0
"""A pooled connection that was idle for less is used without a test, unless the server has sent something meanwhile."""
_MIGRATION_LOCK = 0x636F6E766F6B6974 >> 1
"""The number of the advisory lock: "convokit"."""
_OPTION_ADVICE = {
    "ssl": "write sslmode=require",
    "schema": "write options=-csearch_path%3DNAME",
    "search_path": "write options=-csearch_path%3DNAME",
    "currentSchema": "write options=-csearch_path%3DNAME",
    "pgbouncer": "leave it out, because convokit recognizes pgbouncer itself",
    "prepare_threshold": "leave it out, because convokit recognizes pgbouncer itself",
    "prepared_statement_cache_size": "leave it out, because convokit recognizes pgbouncer itself",
    "statement_cache_size": "leave it out, because convokit recognizes pgbouncer itself",
    "server_settings": "write options=-cNAME%3DVALUE",
    "timeout": "write connect_timeout=SECONDS",
    "command_timeout": "write options=-cstatement_timeout%3DMILLISECONDS",
    "statement_timeout": "write options=-cstatement_timeout%3DMILLISECONDS",
}
"""Advice on options of other drivers and programs that do not belong to PostgreSQL's own."""


class PostgresqlDialect(Dialect):
    """PostgreSQL with psycopg 3."""

    search = PostgresqlSearch()
    # Not clock_timestamp(): a distributed PostgreSQL requires a value that is constant within an UPDATE.
    now_us_sql = "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT)"
    has_local_clock = False
    has_single_writer = False
    can_be_distributed = True
    code_point_collation = "C"
    # READ COMMITTED, the server's default, gives each statement a snapshot of its own.
    read_options: Mapping[str, Any] = {"isolation_level": "REPEATABLE READ"}
    facts_name = "server"
    errors = (SQLAlchemyError,)

    @functools.cached_property
    def has_pipelines(self) -> bool:  # type: ignore[override]
        from psycopg import Pipeline  # noqa: PLC0415  # an extra: most SQLite users never install it

        return Pipeline.is_supported()  # not with libpq below version 14

    def parse_url(self, database: str) -> URL:
        return parse_postgresql_url(database).set(drivername="postgresql+psycopg")

    def describe_url(self, url: URL) -> str:
        return f"PostgreSQL database {url.database or ''} at {describe_servers(url)}".replace("  ", " ")

    def file_of_url(self, url: URL) -> str | None:
        return None

    def file_of(self, connection: Connection) -> str | None:
        return None

    def check_url(self, url: URL) -> None:
        try:
            from psycopg import pq  # noqa: PLC0415  # an extra: most SQLite users never install it
        except ImportError:
            raise SettingsError(
                "database", 'PostgreSQL needs its driver: pip install "convokit-sql[postgres]"'
            ) from None
        known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
        for name, value in url.query.items():
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                advice = _OPTION_ADVICE.get(name) or (f"did you mean {close[0]}?" if close else "leave it out")
                raise SettingsError("database", f"PostgreSQL has no option {name!r} in a URL: {advice}")
            if not isinstance(value, str) and name not in ("host", "port"):
                raise SettingsError("database", f"the URL has the option {name!r} more than once: keep one")
        check_target(url)
        try:
            url.get_dialect()().create_connect_args(url)
        except ArgumentError as error:  # lists of hosts and ports that do not fit
            raise SettingsError("database", f"its hosts and ports cannot be used: {error}") from None

    def open_engine(self, url: URL, *, create: bool, sync_commit: bool, read_only: bool) -> Engine:
        self.check_url(url)
        url = add_failover_options(url, read_only=read_only)
        engine = create_engine(url, **(_READ_ONLY_OPTIONS if read_only else ENGINE_OPTIONS))
        _add_listeners(engine, sync_commit=sync_commit, read_only=read_only)
        return engine

    def is_writable(self, connection: Connection) -> bool:
        # "on" on a standby, and where the user or the database has default_transaction_read_only.
        return str(connection.exec_driver_sql("SHOW transaction_read_only").scalar_one()) == "off"

    def is_write_refused(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) == READ_ONLY_STATE

    def translate_driver_error(self, name: str, error: BaseException, *, is_connection_lost: bool) -> ConvokitError:
        return translate_postgresql_error(name, error, is_connection_lost=is_connection_lost)

    def insert_or_ignore(self, table: Table[Any]) -> Any:
        return _insert_or_ignore(table)

    def insert_or_update(self, table: Table[Any], *columns: str) -> Any:
        return _insert_or_update(table, columns)

    def lock_migrations(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})

    def read_facts(self, connection: Connection) -> DatabaseFacts:
        version = connection.dialect.server_version_info or ()
        return DatabaseFacts("PostgreSQL " + ".".join(map(str, version)))

    def read_replication(self, connection: Connection) -> Mapping[str, DatabaseFacts]:
        return read_replication(connection)


# The statements are constants for `fast_execute`, which compiles a constant once.
@functools.cache
def _insert_or_ignore(table: Table[Any]) -> Any:
    return insert(table).on_conflict_do_nothing()


@functools.cache
def _insert_or_update(table: Table[Any], columns: tuple[str, ...]) -> Any:
    statement = insert(table)
    values = {name: statement.excluded[name] for name in columns}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=values)


def _disable_prepared_statements_behind_pooler(connection: Any, record: object) -> None:
    """Disable prepared statements on a new connection to a pooler such as pgbouncer.

    A pooler in transaction mode runs each transaction on another server connection, where a prepared statement's name is
    unknown or stands for another statement.
    """
    previous, connection.autocommit = connection.autocommit, True
    cursor = connection.cursor()
    try:
        cursor.execute("SELECT pg_backend_pid()")
        # The process that the pooler announced is not the one that answers.
        is_pooler = cursor.fetchone()[0] != connection.info.backend_pid
    finally:
        cursor.close()
        connection.autocommit = previous
    if is_pooler:
        connection.prepare_threshold = None


def _use_server_placeholders(connection: Any, record: object) -> None:
    """Make a new connection accept `$1` placeholders, so that psycopg does not search and rewrite each statement."""
    import psycopg  # noqa: PLC0415  # an extra: most SQLite users never install it

    connection.cursor_factory = psycopg.RawCursor
    connection.server_cursor_factory = psycopg.RawServerCursor


def _begin_read_only(connection: Any, record: object) -> None:
    """Make psycopg add READ ONLY to each BEGIN of a new connection.

    Nothing is set on the session, which other programs share behind a pooler. A hot standby accepts such transactions.
    """
    connection.set_read_only(True)


ENGINE_OPTIONS: dict[str, Any] = {
    "hide_parameters": True,  # an error must not contain users' text
    "paramstyle": "numeric_dollar",
    "use_native_hstore": False,  # saves a query on the first connection
    "pool_size": 16,
    "max_overflow": 16,
    "pool_events": [
        (_use_server_placeholders, "connect"),
        (_disable_prepared_statements_behind_pooler, "connect"),
    ],
}
_READ_ONLY_OPTIONS = {
    **ENGINE_OPTIONS,
    "pool_events": [*ENGINE_OPTIONS["pool_events"], (_begin_read_only, "connect")],
}


def _add_listeners(engine: Engine, *, sync_commit: bool, read_only: bool) -> None:
    _test_idle_connections(engine)
    if not read_only:
        _drop_connections_to_read_only_servers(engine)
    if not sync_commit:

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            if connection.get_execution_options().get(WRITE):
                # LOCAL: behind a pooler, other programs use the same session.
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")


def _drop_connections_to_read_only_servers(engine: Engine) -> None:
    """Empty the pool when the server refuses a write, so that the next try connects anew and may find the new primary."""

    @event.listens_for(engine, "handle_error")
    def handle_error(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) == READ_ONLY_STATE:
            context.is_disconnect = True


def _test_idle_connections(engine: Engine) -> None:
    """Test a pooled connection before it is used, because a restart of the server leaves dead connections in the pool.

    A connection that was used a moment ago is not tested by a round trip. Its socket shows whether the server has closed it.
    """

    @event.listens_for(engine, "checkin")
    def checkin(connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, proxy: Any) -> None:
        idle_since = record.info.get("idle_since")
        if idle_since is None:  # a new connection
            return
        if time.monotonic() - idle_since < IDLE_TRUSTED_S and not _has_unread_data(connection):
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            raise InvalidatePoolError("the server has closed the connection") from None


def _has_unread_data(connection: Any) -> bool:
    """Return whether the server has sent something unasked: a server that closes a connection sends a message first."""
    if connection.closed:
        return True
    socket = connection.pgconn.socket
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([socket], [], [], 0)[0])
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))


DIALECT = PostgresqlDialect()
