"""Open SQLite files for writing or only for reading, and explain failures.

A read-only connection opens the file in the first way that applies. Each new connection decides anew.

| state | how it is opened |
|---|---|
| the folder is writable, or there is a write-ahead log | `mode=ro`: SQLite may create the log (`-wal`) and its index (`-shm`) |
| the folder is not writable, and there is no log | `immutable=1`: SQLite takes no locks and looks for no log |
| the folder is not writable, and the log has no usable index | not at all: `StoreUnavailable` |

SQLite trusts that an immutable file does not change. Another user may write to it all the same. So a pooled connection is
opened anew when `read_immutable_identity` differs. A transaction that runs at the moment of such a write may read old rows, or
fail.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from convokit._files import create_private_file
from convokit.errors import ConvokitError, StoreUnavailable

BUSY_TIMEOUT_S = 30.0
"""Longer than the longest queue behind one writer: SQLite does not serve waiting connections in order."""
FileIdentity = tuple[int, ...]
_UNREADABLE_LOG = (
    "has a write-ahead log (-wal) that cannot be read, because the index of the log (-shm) is missing and the folder is not"
    " writable: copy the file together with its -wal into a writable folder, or open it once for writing"
)


def describe_file(path: str) -> str:
    """Return the database's name for people."""
    return f"SQLite database {path}"


class FileConnection(sqlite3.Connection):
    """A connection that knows the file which it opened."""

    identity: FileIdentity | None = None


def open_for_writing(path: str, *, create: bool) -> FileConnection:
    """Open a file. Only `create` makes one: in mode `rw`, a mistyped path is an error instead of a new database.

    Raises: StoreUnavailable; sqlite3.Error.
    """
    _check_file(path, advice="create it with kit.migrate() or `convokit db upgrade`", create=create)
    if create:
        _create_file(path)
    return _connect(path, f"mode={'rwc' if create else 'rw'}")


def open_read_only(path: str) -> FileConnection:
    """Open a file in the way that the module's table says. Raises: StoreUnavailable."""
    _check_file(path, advice="check the path")
    identity = read_immutable_identity(path)
    try:
        connection = _connect(path, "immutable=1" if _is_immutable(path) else "mode=ro")
        connection.identity = identity
        try:
            # The journal mode stays as it is: it is stored in the file.
            connection.execute("PRAGMA query_only=1").fetchall()
            connection.execute("PRAGMA schema_version").fetchall()  # opens the write-ahead log
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        is_refused = "unable to open" in str(error) or is_write_refused(error)
        if is_refused and _has_log(path) and not _is_folder_writable(path):
            raise StoreUnavailable(describe_file(path), _UNREADABLE_LOG) from None
        raise translate_sqlite_error(describe_file(path), error) from None
    return connection


def _connect(path: str, parameters: str) -> FileConnection:
    uri = f"file:{quote(path)}?{parameters}"
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        check_same_thread=False,  # the pool gives a connection to several threads, one after the other
        factory=FileConnection,
    )
    connection.isolation_level = None
    return connection


def _is_immutable(path: str) -> bool:
    """Return whether nobody can be writing the file, as far as this user can see."""
    return not _is_folder_writable(path) and not _has_log(path)


def is_file_writable(path: str) -> bool:
    """Return whether this user may write the file, and create its log beside it."""
    return _is_allowed(path, os.W_OK) and _is_folder_writable(path)


def _is_folder_writable(path: str) -> bool:
    return _is_allowed(os.path.dirname(os.path.realpath(path)), os.W_OK | os.X_OK)


def _is_allowed(path: str, mode: int) -> bool:
    # A process may have changed its effective user. A read-only file system is not writable for root either.
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _has_log(path: str) -> bool:
    """Return whether a log beside the file may hold pages that the file does not have yet."""
    real = os.path.realpath(path)
    if os.path.exists(f"{real}-shm") and os.path.exists(f"{real}-wal"):
        return True  # a log without pages too: a writer may be connected
    logs = (_read_status(real + suffix) for suffix in ("-wal", "-journal"))
    return any(status is not None and status.st_size > 0 for status in logs)


def read_immutable_identity(path: str) -> FileIdentity | None:
    """Return values that change when another file replaces this one, and when somebody writes to an immutable file."""
    status = _read_status(path)
    if status is None or not _is_immutable(path):
        return None if status is None else (status.st_dev, status.st_ino)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read_status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _check_file(path: str, *, advice: str, create: bool = False) -> None:
    """Raise StoreUnavailable if the file cannot be opened. `advice` is for a file that does not exist."""
    try:
        problem = _find_file_problem(Path(path), advice, create=create)
    except (OSError, ValueError) as error:  # a folder without permission, an impossible name
        problem = f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    if problem is not None:
        raise StoreUnavailable(describe_file(path), problem)


def _create_file(path: str) -> None:
    """Create the file with mode 0600, unless the file exists. SQLite gives the log and its index the mode of the file."""
    try:
        create_private_file(path)
    except OSError as error:
        raise StoreUnavailable(describe_file(path), f"cannot be created ({error.strerror or error})") from None


def _find_file_problem(file: Path, advice: str, *, create: bool) -> str | None:
    if file.is_dir():
        return "is a folder, not a file"
    if file.exists():
        return None
    if not file.parent.is_dir():
        return f"the folder {file.parent} does not exist; create it first"
    if "\0" in str(file):
        return "the name contains NUL (U+0000)"
    return None if create else f"no such file; {advice}"


def is_write_refused(error: BaseException) -> bool:
    """Return whether SQLite refused a write because the connection, the file or its folder is read-only."""
    return isinstance(error, sqlite3.Error) and any(each in str(error) for each in ("readonly", "read-only"))


def translate_sqlite_error(name: str, error: sqlite3.Error) -> ConvokitError:
    """Return the ConvokitError for a failure that is not a full disk."""
    message = str(error)
    if "not a database" in message or "malformed" in message:
        return StoreUnavailable(name, f"is not a usable SQLite database ({message})")
    if is_write_refused(error):
        return StoreUnavailable(name, "is not writable; check the permissions of the file and its folder")
    if "unable to open" in message:
        return StoreUnavailable(name, "cannot be opened; check the path and its permissions")
    if "locked" in message or "busy" in message:
        return StoreUnavailable(name, f"is locked by another writer (waited {BUSY_TIMEOUT_S:.0f} s)")
    return StoreUnavailable(name, message)
