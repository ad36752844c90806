"""Run transactions on a database without blocking the event loop.

PostgreSQL has an async engine. SQLite has no asynchronous access, only slower detours, so its transactions run in one
writer thread and a few reader threads over the sync engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL

from convokit.errors import KitClosed, ReadOnly
from convokit.runtime import process
from convokit.runtime.sync_store import SyncStore
from convokit.store.dialects import dialect_of_url
from convokit.store.dialects.protocol import AsyncDialect
from convokit.store.engine import (
    WRITE,
    Durability,
    open_async_engine,
    open_engine,
    translate_error,
    validate_durability,
)
from convokit.store.fast_execute import fast_connection

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Result = TypeVar("Result")
_READERS = 4


class AsyncStore(Protocol):
    """Runs a function over a connection in a transaction of its own."""

    async def run(self, call: Callable[[Connection], Result], *, write: bool) -> Result: ...
    async def close(self) -> None: ...


class ThreadedStore:
    """SQLite: one writer thread, a few reader threads."""

    def __init__(self, engine: Engine, name: str, *, read_only: bool) -> None:
        self._store = SyncStore(engine, name, read_only=read_only)
        self._writer = ThreadPoolExecutor(1, "convokit-writer")
        self._readers = ThreadPoolExecutor(_READERS, "convokit-reader")
        self._closed = False
        process.watch(self)

    def after_fork(self) -> None:
        """Start new threads in a child process: a fork copies none."""
        self._writer = ThreadPoolExecutor(1, "convokit-writer")
        self._readers = ThreadPoolExecutor(_READERS, "convokit-reader")

    async def run(self, call: Callable[[Connection], Result], *, write: bool) -> Result:
        """Run `call` in a thread. Raises: StoreError."""
        if self._closed:
            raise KitClosed(self._store.name)
        loop = asyncio.get_running_loop()
        pool = self._writer if write else self._readers
        return await loop.run_in_executor(pool, lambda: self._store.run(call, write=write))

    async def close(self) -> None:
        """End the threads and close the connections. Later calls raise KitClosed."""
        self._closed = True
        for pool in (self._writer, self._readers):
            await asyncio.to_thread(pool.shutdown)
        self._store.close()


class AsyncEngineStore:
    """PostgreSQL: the async engine, each transaction through `run_sync`."""

    def __init__(
        self,
        dialect: AsyncDialect,
        url: URL,
        name: str,
        durability: Durability = "full",
        *,
        search: bool = True,
        read_only: bool = False,
    ) -> None:
        dialect.check_url(url)
        self._dialect = dialect
        self._durability: Durability = validate_durability(durability)
        self._search = search
        self._read_only = read_only
        self._url = url
        self._name = name
        # A connection belongs to the event loop that made it, and `asyncio.run` may be called again and again.
        self._engines: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[AsyncEngine, AsyncEngine]]
        self._engines = WeakKeyDictionary()
        self._closed = False
        process.watch(self)

    def after_fork(self) -> None:
        """Leave the parent's connections alone, in a child process."""
        for engine, _ in self._engines.values():
            engine.sync_engine.dispose(close=False)
        self._engines = WeakKeyDictionary()

    async def run(self, call: Callable[[Connection], Result], *, write: bool) -> Result:
        """Run `call` in a transaction. Raises: StoreError."""
        if self._closed:
            raise KitClosed(self._name)
        if write and self._read_only:
            raise ReadOnly(self._name, "a transaction that writes")
        try:
            async with self._engine(write=write).begin() as connection:
                return await connection.run_sync(lambda connection: call(fast_connection(connection)))
        except self._dialect.errors as error:
            raise translate_error(self._dialect, self._name, error, read_only=self._read_only) from None

    def _engine(self, *, write: bool) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        if loop not in self._engines:
            engine = open_async_engine(
                self._dialect,
                self._url,
                durability=self._durability,
                search=self._search,
                read_only=self._read_only,
            )
            reader = engine.execution_options(**self._dialect.read_options)
            self._engines[loop] = (engine.execution_options(**{WRITE: True}), reader)
        return self._engines[loop][0 if write else 1]

    async def close(self) -> None:
        """Close the connections of this event loop. Later calls raise KitClosed."""
        self._closed = True
        engines = self._engines.pop(asyncio.get_running_loop(), None)
        if engines is not None:
            await engines[0].dispose()
        self._engines.clear()


def open_store(
    url: URL, name: str, durability: Durability = "full", *, search: bool = True, read_only: bool = False
) -> AsyncStore:
    """Return the store for a database. Nothing is connected yet. Raises: SettingsError."""
    dialect = dialect_of_url(url)
    if isinstance(dialect, AsyncDialect):
        return AsyncEngineStore(dialect, url, name, durability, search=search, read_only=read_only)
    engine = open_engine(url, durability=durability, search=search, read_only=read_only)
    return ThreadedStore(engine, name, read_only=read_only)
