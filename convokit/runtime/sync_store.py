"""Run transactions on a database, in the caller's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL

from convokit.errors import KitClosed, ReadOnly
from convokit.runtime import process
from convokit.store import migrations
from convokit.store.dialects import dialect_of
from convokit.store.engine import WRITE, Durability, open_engine, translate_error
from convokit.store.fast_execute import fast_connection

Result = TypeVar("Result")


class SyncStore:
    """Transactions on one engine.

    On SQLite one writer of a process runs at a time: SQLite's own waiting is not fair.
    """

    def __init__(self, engine: Engine, name: str, *, read_only: bool = False) -> None:
        self.engine = engine
        self._read_only = read_only
        self.name = name
        self._dialect = dialect_of(engine)
        self._writer = engine.execution_options(**{WRITE: True})
        self._reader = engine.execution_options(**self._dialect.read_options)
        self._lock = threading.Lock() if self._dialect.has_single_writer else None
        self._closed = False
        process.watch(self)

    def after_fork(self) -> None:
        """Leave the parent's connections alone, in a child process."""
        self.engine.dispose(close=False)
        self._lock = threading.Lock() if self._lock is not None else None

    def run(self, call: Callable[[Connection], Result], *, write: bool) -> Result:
        """Run `call` in a transaction of its own. Raises: StoreError."""
        if self._closed:
            raise KitClosed(self.name)
        if write and self._read_only:
            raise ReadOnly(self.name, "a transaction that writes")
        try:
            if not write:
                with self._reader.begin() as connection:
                    return call(fast_connection(connection))
            if self._lock is None:
                with self._writer.begin() as connection:
                    return call(fast_connection(connection))
            with self._lock, self._writer.begin() as connection:
                return call(fast_connection(connection))
        except self._dialect.errors as error:
            raise translate_error(self._dialect, self.name, error, read_only=self._read_only) from None

    def close(self) -> None:
        """Close the connections. Later calls raise KitClosed."""
        self._closed = True
        self.engine.dispose()


def open_store(
    url: URL, name: str, durability: Durability = "full", *, search: bool = True, read_only: bool = False
) -> SyncStore:
    """Return the store for a database. Nothing is connected yet. Raises: SettingsError."""
    engine = open_engine(url, durability=durability, search=search, read_only=read_only)
    return SyncStore(engine, name, read_only=read_only)


def migrate(url: URL, name: str) -> None:
    """Bring the tables up to date over a connection of its own. Raises: StoreError."""
    store = SyncStore(open_engine(url, create=True), name)
    try:
        store.run(migrations.upgrade, write=True)
    finally:
        store.close()
