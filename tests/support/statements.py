"""Count SQL statements, and let all engines of a test process share their compiled statements.

A kit makes an engine, and an engine compiles each statement anew. A test makes a kit or two for a few turns, so most of its
time would go into compiling. With `--matrix` each engine compiles for itself, as in a program.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Dialect, event
from sqlalchemy.engine import Engine

from convokit.store import fast_execute


def share_compiled() -> None:
    """Replace the caches of each engine by one for all: from now on, and for this process."""
    statements = _Statements()
    setattr(Engine, "_compiled_cache", property(lambda engine: statements, lambda engine, cache: None))  # noqa: B010
    setattr(fast_execute, "_engines", _Engines())  # noqa: B010


def _kind(dialect: Dialect) -> tuple[Any, ...]:
    """Return what compiled SQL depends on. An application's engine beside a kit may have another style of parameters."""
    return type(dialect), dialect.paramstyle, dialect.server_version_info


class _Statements(dict[Any, Any]):
    """The cache of SQLAlchemy. Its own key begins with the dialect object of one engine."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((_kind(key[0]), *key[1:]), default)

    def __setitem__(self, key: Any, compiled: Any) -> None:
        super().__setitem__((_kind(key[0]), *key[1:]), compiled)


class _Engines(dict[Any, Any]):
    """The statements of `convokit.store.fast_execute` by dialect."""

    def __contains__(self, dialect: object) -> bool:
        assert isinstance(dialect, Dialect)
        return super().__contains__(_kind(dialect))

    def __getitem__(self, dialect: Any) -> Any:
        return super().__getitem__(_kind(dialect))

    def __setitem__(self, dialect: Any, statements: Any) -> None:
        super().__setitem__(_kind(dialect), statements)


@contextmanager
def count_statements() -> Iterator[list[str]]:
    """Collect the statements that all engines execute while the block runs, without those that begin a transaction."""
    found: list[str] = []

    def take(*given: Any) -> None:
        if not given[2].startswith("BEGIN"):
            found.append(given[2])

    event.listen(Engine, "before_cursor_execute", take)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", take)


@contextmanager
def count_transactions() -> Iterator[list[Any]]:
    """Collect the connections of all engines that begin a transaction while the block runs."""
    found: list[Any] = []

    def take(connection: Any) -> None:
        found.append(connection)

    event.listen(Engine, "begin", take)
    try:
        yield found
    finally:
        event.remove(Engine, "begin", take)
