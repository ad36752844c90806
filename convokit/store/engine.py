"""Opening a database the way convokit needs it, and saying in one line what is wrong when it cannot be opened.

SQLite: WAL, `synchronous=FULL`, and `BEGIN IMMEDIATE` for every writing transaction. A deferred transaction that reads and
then writes is refused at once when another writer came between (SQLITE_BUSY_SNAPSHOT, which no timeout waits for); Python's
own transaction control gives duplicate positions or deferred transactions, so it is switched off. A database file is only
ever created by `migrate`.

What a database's failure means, as one of convokit's own errors.

The original is not chained: drivers put bound values, which are people's words, into their messages.
"""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from convokit.errors import ConvokitError, SettingsError, StoreFull, StoreUnavailable
from convokit.store.dialects import POSTGRES, try_before_use

_FULL = ("disk is full", "disk I/O error")
_FULL_STATES = {"53100", "53200"}
_PASSING_STATES = {"40001", "40P01", "53300", "57P01", "57P02", "57P03"}
"""Serialization failure, deadlock, too many connections, and a server that is shutting down, crashed or starting."""
log = logging.getLogger(__name__)
Durability = Literal["full", "fast"]
BUSY_TIMEOUT_S = 30.0
"""Longer than the worst queue behind one writer: SQLite's own waiting is not fair."""
WRITE = "convokit_write"
SEARCH = "convokit_search"
"""A connection's execution option: False enters no message into the search index."""


SNAPSHOT = "REPEATABLE READ"
"""What reads several statements from one snapshot; PostgreSQL's own default reads each from another."""
_SUFFIXES = (".db", ".sqlite", ".sqlite3")


def translate_error(name: str, error: SQLAlchemyError | sqlite3.Error) -> ConvokitError:
    """Return the ConvokitError that `error` amounts to; `name` describes the database without its password."""
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        if any(said in str(original) for said in _FULL):
            return StoreFull(name, f"no room to write ({original}); nothing of this transaction was kept")
        return sqlite_problem(name, original)
    if isinstance(error, PoolTimeout):
        return StoreUnavailable(name, "every connection of the pool is in use; spread the load over more processes")
    state = getattr(original, "sqlstate", None)
    if state in _FULL_STATES:
        return StoreFull(name, "the server is out of room; nothing of this transaction was kept")
    if state is None and type(original).__name__ == "OperationalError":
        return StoreUnavailable(name, f"cannot be reached ({_first_line(original)})", transient=True)
    detail = f"{type(original).__name__}" + (f", SQLSTATE {state}" if state else "")
    if getattr(error, "connection_invalidated", False) or (state or "").startswith("08"):
        return StoreUnavailable(name, f"dropped the connection ({detail})", transient=True)
    return StoreUnavailable(name, f"refused a statement ({detail})", transient=state in _PASSING_STATES)


def _first_line(error: object) -> str:
    """Return a connection failure's first line: it names host and reason, and holds no values."""
    return str(error).strip().split("\n", 1)[0][:300]


def parse_database_url(database: str | Path) -> URL:
    """Return the URL of `database`: a SQLAlchemy URL, or the path of a SQLite file.

    Raises: SettingsError when it is neither, or names something that cannot persist.
    """
    if not isinstance(database, str | Path):
        raise SettingsError("database", f"must be a URL or the path of a SQLite file, not {type(database).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in str(database)):
        raise SettingsError("database", "holds a lone surrogate: no file or host has such a name")
    if isinstance(database, Path) or (Path(database).suffix in _SUFFIXES and "://" not in database):
        return URL.create("sqlite", database=str(database))
    try:
        url = make_url(database)
    except (ArgumentError, ValueError):  # a port that is no number is a ValueError
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


def describe_url(url: URL) -> str:
    """Return the database's name for people: no password, no parameters."""
    if url.get_backend_name() == "sqlite":
        return f"SQLite database {url.database}"
    return f"PostgreSQL database {url.database or ''} at {url.host or 'the local socket'}".replace("  ", " ")


def open_engine(url: URL, *, create: bool = False, durability: Durability = "full", search: bool = True) -> Engine:
    """Return an engine for `url`; nothing is connected yet. `create` lets a missing SQLite file be made.

    `durability="fast"` commits without waiting for the disk: no crash of a process loses anything, a power cut may take the
    last seconds. Raises: SettingsError.
    """
    validate_durability(durability)
    if url.get_backend_name() == "sqlite":
        engine = _sqlite_engine(url, create=create, synchronous="FULL" if durability == "full" else "NORMAL")
        engine.update_execution_options(**{SEARCH: search})
        return engine
    require_driver()
    engine = create_engine(url, **POSTGRES, execution_options={SEARCH: search})
    try_before_use(engine)
    set_durability(engine, durability)
    return engine


def validate_durability(given: str) -> Durability:
    """Return `given`. Raises: SettingsError unless it is one of the two."""
    if given not in ("full", "fast"):
        raise SettingsError("durability", f'must be "full" or "fast", not {given!r}')
    return cast("Durability", given)


def set_durability(engine: Engine, durability: Durability) -> None:
    """Have PostgreSQL's writing transactions commit without waiting for the disk. "full" leaves the server's own setting."""
    if durability == "fast":

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            if connection.get_execution_options().get(WRITE):  # for this transaction alone: sessions may be shared
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")


def require_driver() -> None:
    """Raise: SettingsError when the PostgreSQL driver is not installed."""
    try:
        import psycopg  # noqa: F401, PLC0415  # an extra: most SQLite users never install it
    except ImportError:
        raise SettingsError("database", 'PostgreSQL needs its driver: pip install "convokit-sql[postgres]"') from None


def _sqlite_engine(url: URL, *, create: bool, synchronous: str) -> Engine:
    path = str(url.database)
    target = f"file:{quote(path)}?mode={'rwc' if create else 'rw'}"

    def connect() -> sqlite3.Connection:
        _check_file(path, create=create)
        connection = sqlite3.connect(target, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
        connection.isolation_level = None
        try:
            _set_pragmas(connection, path, create=create, synchronous=synchronous)
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=_pool_class(), hide_parameters=True)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get(WRITE)
        driver = cast("sqlite3.Connection", connection.connection.dbapi_connection)
        driver.execute(
            "BEGIN IMMEDIATE" if writing else "BEGIN"
        )  # as any driver begins, beneath SQLAlchemy's statements

    _notice_replaced(engine, path)
    _warn_of_version()
    return engine


def _notice_replaced(engine: Engine, path: str) -> None:
    """Open the file anew when another one lies under its name: a connection would go on writing into the deleted one.

    Another database there is refused: what a kit knows of its conversations would be wrong in it.
    """
    known: list[bytes] = []

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        record.info["file"] = _identity(path)
        found = _database_id(connection)
        if known and found != known[0]:
            connection.close()
            problem = "is another database than it was before: open it with a new kit"
            raise StoreUnavailable(f"SQLite database {path}", problem)
        if found is not None and not known:
            known.append(found)

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, proxy: Any) -> None:
        if record.info["file"] != _identity(path):
            raise DisconnectionError(f"{path} was replaced")


def _database_id(connection: sqlite3.Connection) -> bytes | None:
    try:
        row = connection.execute("SELECT database_id FROM convokit_schema").fetchone()
    except sqlite3.Error:  # no tables yet, or no database: whoever uses the connection will be told
        return None
    return None if row is None else row[0]


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def has_wal_reset_bug(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Return whether this SQLite may corrupt a database when two connections write at a checkpoint.

    3.7.0 to 3.51.2, mended in 3.51.3 and in the branches 3.44.6 and 3.50.7 (https://sqlite.org/wal.html#walresetbug). Rare
    enough to have gone unseen for fifteen years, and no reason to refuse; a reason to take a newer SQLite.
    """
    mended = version[:2] in ((3, 44), (3, 50)) and version[2] >= {44: 6, 50: 7}[version[1]]
    return (3, 7, 0) <= version < (3, 51, 3) and not mended


@functools.cache
def _warn_of_version() -> None:
    """Say it once a process."""
    if has_wal_reset_bug():
        log.warning("SQLite %s has the WAL-reset bug; 3.51.3 mends it (see `convokit doctor`)", sqlite3.sqlite_version)


def _pool_class() -> Any:
    from sqlalchemy.pool import QueuePool  # noqa: PLC0415  # `sqlite://` would choose a pool for memory databases

    return QueuePool


def _set_pragmas(connection: sqlite3.Connection, path: str, *, create: bool, synchronous: str) -> None:
    """Set what holds for a connection. The journal mode stays in the file: only `migrate` may set it, in a file made ours."""
    name = f"SQLite database {path}"
    try:
        mode = _made_wal(connection) if create else connection.execute("PRAGMA journal_mode").fetchone()[0]
        for pragma in (f"synchronous={synchronous}", "foreign_keys=ON", "secure_delete=ON"):
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
