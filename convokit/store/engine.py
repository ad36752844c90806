"""Opening a database the way convokit needs it, and saying in one line what is wrong when it cannot be opened.

SQLite: WAL, `synchronous=FULL`, and `BEGIN IMMEDIATE` for every writing transaction. A deferred transaction that reads and
then writes is refused at once when another writer came between (SQLITE_BUSY_SNAPSHOT, which no timeout waits for); Python's
own transaction control gives duplicate positions or deferred transactions, so it is switched off. A database file is only
ever created by `migrate`.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from convokit.errors import ConvokitError, SettingsError, StoreUnavailable

BUSY_TIMEOUT_S = 30.0
"""Longer than the worst queue behind one writer: SQLite's own waiting is not fair."""
WRITE = "convokit_write"


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


POSTGRES: dict[str, Any] = {
    "hide_parameters": True,
    "pool_pre_ping": True,
    "pool_size": 16,
    "max_overflow": 16,
    "pool_events": [(_prepare_nothing_behind_a_pooler, "connect")],
}
"""A restarted server leaves dead connections in the pool: each is tried before it is used."""
SNAPSHOT = "REPEATABLE READ"
"""What reads several statements from one snapshot; PostgreSQL's own default reads each from another."""
_SUFFIXES = (".db", ".sqlite", ".sqlite3")


def database_url(database: str | Path) -> URL:
    """Return the URL of `database`: a SQLAlchemy URL, or the path of a SQLite file.

    Raises: SettingsError when it is neither, or names something that cannot persist.
    """
    if isinstance(database, Path) or (Path(database).suffix in _SUFFIXES and "://" not in database):
        return URL.create("sqlite", database=str(database))
    try:
        url = make_url(database)
    except ArgumentError:
        raise SettingsError(
            "database", 'not a database URL; write "sqlite:///chat.db" or "postgresql://user@host/name"'
        ) from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise SettingsError(
                "database", "a SQLite database in memory cannot be resumed: name a file, sqlite:///chat.db"
            )
        return url
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend == "postgres":
        raise SettingsError("database", "write postgresql:// for postgres://")
    raise SettingsError("database", f"{backend} is not supported; SQLite and PostgreSQL are")


def describe(url: URL) -> str:
    """Return the database's name for people: no password, no parameters."""
    if url.get_backend_name() == "sqlite":
        return f"SQLite database {url.database}"
    return f"PostgreSQL database {url.database or ''} at {url.host or 'the local socket'}".replace("  ", " ")


def open_engine(url: URL, *, create: bool = False) -> Engine:
    """Return an engine for `url`; nothing is connected yet. `create` lets a missing SQLite file be made."""
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, create=create)
    require_driver()
    return create_engine(url, **POSTGRES)


def require_driver() -> None:
    """Raise: SettingsError when the PostgreSQL driver is not installed."""
    try:
        import psycopg  # noqa: F401, PLC0415  # an extra: most SQLite users never install it
    except ImportError:
        raise SettingsError("database", 'PostgreSQL needs its driver: pip install "convokit-sql[postgres]"') from None


def _sqlite_engine(url: URL, *, create: bool) -> Engine:
    path = str(url.database)
    target = f"file:{quote(path)}?mode={'rwc' if create else 'rw'}"

    def connect() -> sqlite3.Connection:
        _check_file(path, create=create)
        connection = sqlite3.connect(target, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
        connection.isolation_level = None
        try:
            _set_pragmas(connection, path, create=create)
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=_pool_class(), hide_parameters=True)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get(WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _pool_class() -> Any:
    from sqlalchemy.pool import QueuePool  # noqa: PLC0415  # `sqlite://` would choose a pool for memory databases

    return QueuePool


def _set_pragmas(connection: sqlite3.Connection, path: str, *, create: bool) -> None:
    """Set what holds for a connection. The journal mode stays in the file: only `migrate` may set it, in a file made ours."""
    name = f"SQLite database {path}"
    try:
        mode = _made_wal(connection) if create else connection.execute("PRAGMA journal_mode").fetchone()[0]
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.DatabaseError as error:
        raise sqlite_problem(name, error) from None
    if create and mode != "wal":
        raise StoreUnavailable(name, f"cannot use write-ahead logging here (journal mode {mode}): use a local disk")


def _made_wal(connection: sqlite3.Connection) -> str:
    """Set write-ahead logging and return the mode. SQLite does not wait for others here, so we do."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _check_file(path: str, *, create: bool) -> None:
    name = f"SQLite database {path}"
    try:
        problem = _problem_with(Path(path), create=create)
    except (OSError, ValueError) as error:  # a folder that may not be searched, a name no file can have
        problem = f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    if problem is not None:
        raise StoreUnavailable(name, problem)


def _problem_with(file: Path, *, create: bool) -> str | None:
    if file.is_dir():
        return "is a folder, not a file"
    if file.exists():
        return None
    if not file.parent.is_dir():
        return f"the folder {file.parent} does not exist: create it first"
    if "\0" in str(file):
        return "its name holds NUL (U+0000)"
    return None if create else "there is no such file: create it with kit.migrate() or `convokit db upgrade`"


def sqlite_problem(name: str, error: sqlite3.Error) -> ConvokitError:
    """Return what a failure of SQLite means for a person."""
    said = str(error)
    if "not a database" in said or "malformed" in said:
        return StoreUnavailable(name, f"is not a usable SQLite database ({said})")
    if "readonly" in said or "read-only" in said:
        return StoreUnavailable(name, "is not writable: check the file's and its folder's permissions")
    if "unable to open" in said:
        return StoreUnavailable(name, "cannot be opened: check the path and its permissions")
    if "locked" in said or "busy" in said:
        return StoreUnavailable(name, f"is locked by another writer for over {BUSY_TIMEOUT_S:.0f} s")
    return StoreUnavailable(name, said)
