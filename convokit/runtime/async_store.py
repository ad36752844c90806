"""Run transactions in threads, so that the event loop stays free.

SQLite has no asynchronous access. With PostgreSQL's asynchronous driver, the event loop would wait for each statement of a
pipeline by itself (ADR 0046).
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL

from convokit.errors import KitClosed
from convokit.runtime import process
from convokit.runtime.sync_store import SyncStore
from convokit.store.dialects import dialect_of
from convokit.store.engine import Durability, open_engine

Result = TypeVar("Result")
_FILE_READERS = 4
"""Threads that read a SQLite file. One further thread writes, because SQLite has one writer at a time."""
_SERVER_THREADS = 8
"""Transactions that run on a server at a time. More threads wait for each other: Python runs one at a time."""


class AsyncStore:
    """Transactions on one engine, in threads. A SQLite file has a thread for writing and others for reading."""

    def __init__(self, engine: Engine, name: str, *, read_only: bool = False) -> None:
        self._store = SyncStore(engine, name, read_only=read_only)
        self._has_single_writer = dialect_of(engine).has_single_writer
        self._closed = False
        self.after_fork()
        process.watch(self)

    def after_fork(self) -> None:
        """Start new threads in a child process: a fork copies none."""
        self._readers = ThreadPoolExecutor(
            _FILE_READERS if self._has_single_writer else _SERVER_THREADS, "convokit-database"
        )
        self._writers = ThreadPoolExecutor(1, "convokit-writer") if self._has_single_writer else self._readers

    async def run(self, call: Callable[[Connection], Result], *, write: bool) -> Result:
        """Run `call` in one transaction. Raises: StoreError."""
        if self._closed:
            raise KitClosed(self._store.name)
        # The thread has the caller's context variables, such as the current span of a tracer.
        context = contextvars.copy_context()
        pool = self._writers if write else self._readers
        return await asyncio.get_running_loop().run_in_executor(
            pool, lambda: context.run(self._store.run, call, write=write)
        )

    async def close(self) -> None:
        """End the threads and close the connections. Later calls raise KitClosed."""
        self._closed = True
        for pool in {self._writers, self._readers}:
            await asyncio.to_thread(pool.shutdown)
        self._store.close()


def open_store(
    url: URL, name: str, durability: Durability = "full", *, search: bool = True, read_only: bool = False
) -> AsyncStore:
    """Return the store for a database. Nothing is connected yet. Raises: SettingsError."""
    engine = open_engine(url, durability=durability, search=search, read_only=read_only)
    return AsyncStore(engine, name, read_only=read_only)
