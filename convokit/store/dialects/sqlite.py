"""Open SQLite files and translate their errors.

Every writing transaction begins with BEGIN IMMEDIATE. A deferred transaction that reads and then writes fails at once with
SQLITE_BUSY_SNAPSHOT if another writer committed in between; no timeout waits for that. The transaction control of Python's
driver starts deferred transactions, so it is switched off.
"""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from convokit.errors import ConvokitError, SettingsError, StoreError, StoreFull, StoreUnavailable
from convokit.store.dialects.protocol import DatabaseFacts, Dialect
from convokit.store.dialects.sqlite_files import (
    BUSY_TIMEOUT_S,
    FileConnection,
    FileIdentity,
    describe_file,
    is_file_writable,
    is_write_refused,
    open_for_writing,
    open_read_only,
    read_immutable_identity,
    translate_sqlite_error,
)
from convokit.store.dialects.sqlite_search import SqliteSearch
from convokit.store.engine import WRITE

log = logging.getLogger("convokit.store")
_FULL = ("disk is full", "disk I/O error")
_READ_ONLY_OPTIONS = ("mode", "uri", "immutable", "query_only", "nolock")
"""Options of SQLite's own file URLs, and of other programs, that users write for a file which they only read."""
_DURABLE = {"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"}
"""Settings that `doctor` expects; 2 is FULL. With others, a power failure may lose a commit."""


class SqliteDialect(Dialect):
    """SQLite with Python's own driver, which is synchronous. The async API runs it in threads."""

    search = SqliteSearch()
    # SQLite's clock counts milliseconds, and a day as a float holds no more.
    now_us_sql = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000"
    has_local_clock = True
    has_single_writer = True
    has_pipelines = False
    can_be_distributed = False
    code_point_collation = "BINARY"
    read_options: Mapping[str, Any] = {}
    facts_name = "settings"
    errors = (SQLAlchemyError, sqlite3.Error)

    def parse_url(self, database: str) -> URL:
        url = make_url(database)
        if not url.database or url.database == ":memory:":
            raise SettingsError(
                "database", "a SQLite database in memory is lost at exit; use a file: sqlite:///chat.db"
            )
        for name in url.query:
            advice = (
                "to open it for reading, pass read_only=True to the kit"
                if name in _READ_ONLY_OPTIONS
                else "leave it out"
            )
            raise SettingsError("database", f"the URL of a SQLite file takes no option {name!r}: {advice}")
        return url

    def describe_url(self, url: URL) -> str:
        return describe_file(str(url.database))

    def file_of_url(self, url: URL) -> str | None:
        return str(url.database)

    def file_of(self, connection: Connection) -> str | None:
        return str(connection.exec_driver_sql("PRAGMA database_list").all()[0][2])

    def check_url(self, url: URL) -> None:
        """Do nothing: the driver is part of Python, and only the file's path is read from the URL."""

    def open_engine(self, url: URL, *, create: bool, sync_commit: bool, read_only: bool) -> Engine:
        if not read_only:
            _warn_of_wal_reset_bug()
        synchronous = "FULL" if sync_commit else "NORMAL"
        return _create_engine(str(url.database), create=create, synchronous=synchronous, read_only=read_only)

    def is_writable(self, connection: Connection) -> bool:
        return is_file_writable(str(self.file_of(connection)))

    def is_write_refused(self, error: BaseException) -> bool:
        return is_write_refused(error)

    def translate_driver_error(self, name: str, error: BaseException, *, is_connection_lost: bool) -> ConvokitError:
        if not isinstance(error, sqlite3.Error):
            kind = type(error).__name__
            if is_connection_lost:
                return StoreUnavailable(name, f"dropped the connection ({kind})", transient=True)
            return StoreUnavailable(name, f"refused a statement ({kind})")
        if isinstance(error, sqlite3.IntegrityError):  # another try would be refused too
            return StoreError(f"{name}: refused a row ({error})")
        if any(message in str(error) for message in _FULL):
            return StoreFull(name, f"the disk cannot be written ({error}); this transaction was rolled back")
        return translate_sqlite_error(name, error)

    def insert_or_ignore(self, table: Table[Any]) -> Any:
        return _insert_or_ignore(table)

    def insert_or_update(self, table: Table[Any], *columns: str) -> Any:
        return _insert_or_update(table, columns)

    def lock_migrations(self, connection: Connection) -> None:
        """Do nothing: a writing transaction is the only one."""

    def read_replication(self, connection: Connection) -> Mapping[str, DatabaseFacts]:
        return {}

    def read_facts(self, connection: Connection) -> DatabaseFacts:
        found = {name: str(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in _DURABLE}
        listed = ", ".join(f"{name}={value}" for name, value in found.items())
        if found == _DURABLE:
            return DatabaseFacts(listed)
        return DatabaseFacts(listed, "expected journal_mode=wal, synchronous=2 (FULL) and foreign_keys=1")


# The statements are constants for `fast_execute`, which compiles a constant once.
@functools.cache
def _insert_or_ignore(table: Table[Any]) -> Any:
    return insert(table).on_conflict_do_nothing()


@functools.cache
def _insert_or_update(table: Table[Any], columns: tuple[str, ...]) -> Any:
    statement = insert(table)
    values = {name: statement.excluded[name] for name in columns}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=values)


def _create_engine(path: str, *, create: bool, synchronous: str, read_only: bool) -> Engine:
    def connect() -> FileConnection:
        if read_only:
            return open_read_only(path)
        connection = open_for_writing(path, create=create)
        connection.identity = _read_file_identity(path)
        try:
            _set_pragmas(connection, path, create=create, synchronous=synchronous)
        except BaseException:
            connection.close()
            raise
        return connection

    # Without a pool class, the URL `sqlite://` gets a pool for databases in memory.
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, hide_parameters=True)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        is_writing = connection.get_execution_options().get(WRITE)
        driver = cast("sqlite3.Connection", connection.connection.dbapi_connection)
        # On the driver's connection, so that listeners of SQLAlchemy's statements do not see it, as with any other driver.
        driver.execute("BEGIN IMMEDIATE" if is_writing else "BEGIN")

    _watch_for_replacement(engine, path, read_immutable_identity if read_only else _read_file_identity)
    return engine


def _watch_for_replacement(engine: Engine, path: str, read_identity: Callable[[str], FileIdentity | None]) -> None:
    """Open the file again if another file has replaced it: an open connection would write to the deleted file.

    Another convokit database at the same path is an error. The kit's conversation ids would be wrong in it.
    """
    known_ids: list[bytes] = []

    @event.listens_for(engine, "connect")
    def connect(connection: FileConnection, record: Any) -> None:
        database_id = _read_database_id(connection)
        if known_ids and database_id != known_ids[0]:
            connection.close()
            raise StoreUnavailable(describe_file(path), "was replaced by another database; open it with a new kit")
        if database_id is not None and not known_ids:
            known_ids.append(database_id)

    @event.listens_for(engine, "checkout")
    def checkout(connection: FileConnection, record: Any, proxy: Any) -> None:
        if connection.identity != read_identity(path):
            raise DisconnectionError(f"{path} was replaced")


def _read_database_id(connection: sqlite3.Connection) -> bytes | None:
    try:
        row = connection.execute("SELECT database_id FROM convokit_schema").fetchone()
    except sqlite3.Error:  # no tables yet, or not a database: the first statement of a transaction reports it
        return None
    return None if row is None else row[0]


def _read_file_identity(path: str) -> FileIdentity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def has_wal_reset_bug(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Return whether this SQLite may corrupt a database when two connections write at a checkpoint.

    SQLite 3.7.0 to 3.51.2 has the bug; 3.51.3, 3.44.6 and 3.50.7 fix it (https://sqlite.org/wal.html#walresetbug).
    """
    is_fixed = version[:2] in ((3, 44), (3, 50)) and version[2] >= {44: 6, 50: 7}[version[1]]
    return (3, 7, 0) <= version < (3, 51, 3) and not is_fixed


@functools.cache  # once for each process
def _warn_of_wal_reset_bug() -> None:
    # Only a warning: the bug stayed unnoticed for fifteen years.
    if has_wal_reset_bug():
        log.warning("SQLite %s has the WAL-reset bug; 3.51.3 fixes it (see `convokit doctor`)", sqlite3.sqlite_version)


def _set_pragmas(connection: sqlite3.Connection, path: str, *, create: bool, synchronous: str) -> None:
    try:
        # The journal mode is stored in the file. Only `migrate` sets it, because a file may belong to another program.
        mode = _set_wal(connection) if create else connection.execute("PRAGMA journal_mode").fetchone()[0]
        # secure_delete: the bytes of deleted rows must not stay in free pages of the file.
        for pragma in (f"synchronous={synchronous}", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.DatabaseError as error:
        raise translate_sqlite_error(describe_file(path), error) from None
    if create and mode != "wal":
        raise StoreUnavailable(
            describe_file(path), f"does not support write-ahead logging here (journal mode {mode}); use a local disk"
        )


def _set_wal(connection: sqlite3.Connection) -> str:
    """Set write-ahead logging and return the journal mode."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            # SQLite's busy timeout does not apply to this pragma.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


DIALECT = SqliteDialect()
