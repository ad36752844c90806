"""Parse database URLs, open engines and translate database errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from sqlalchemy import Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from convokit.errors import ConvokitError, SettingsError, StoreUnavailable
from convokit.store.dialects import dialect_of_url
from convokit.store.dialects.protocol import AsyncDialect, Dialect

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Durability = Literal["full", "fast"]
WRITE = "convokit_write"
"""Execution option of a connection: True for a transaction that writes."""
SEARCH = "convokit_search"
"""Execution option of a connection: False if its messages are not entered into the search index."""
_SUFFIXES = (".db", ".sqlite", ".sqlite3")


def parse_database_url(database: str | Path) -> URL:
    """Return the URL of `database`, which is a SQLAlchemy URL or the path of a SQLite file.

    Raises: SettingsError if it is neither, or if nothing could persist there.
    """
    if not isinstance(database, str | Path):
        raise SettingsError("database", f"must be a URL or the path of a SQLite file, not {type(database).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in str(database)):
        raise SettingsError("database", "contains a lone surrogate, which no file or host name can contain")
    if isinstance(database, Path) or (Path(database).suffix in _SUFFIXES and "://" not in database):
        return URL.create("sqlite", database=str(database))
    try:
        url = make_url(database)
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        raise SettingsError(
            "database", 'is not a database URL; write "sqlite:///chat.db" or "postgresql://user@host/name"'
        ) from None
    return dialect_of_url(url).complete_url(url)


def describe_url(url: URL) -> str:
    """Return the database's name for people, without password and parameters."""
    return dialect_of_url(url).describe_url(url)


def validate_durability(given: str) -> Durability:
    """Return `given`. Raises: SettingsError unless it is "full" or "fast"."""
    if given not in ("full", "fast"):
        raise SettingsError("durability", f'must be "full" or "fast", not {given!r}')
    return cast("Durability", given)


def open_engine(url: URL, *, create: bool = False, durability: Durability = "full", search: bool = True) -> Engine:
    """Return an engine for `url` that is not connected yet.

    Args:
        url: A URL from `parse_database_url`.
        create: Create a SQLite file that does not exist.
        durability: "fast" commits without waiting for the disk. A power failure may lose the last seconds; a crash of the
            process loses nothing. "full" keeps the server's own setting on PostgreSQL.
        search: Enter messages into the search index.

    Raises: SettingsError.
    """
    sync_commit = validate_durability(durability) == "full"
    engine = dialect_of_url(url).open_engine(url, create=create, sync_commit=sync_commit)
    engine.update_execution_options(**{SEARCH: search})
    return engine


def open_async_engine(
    dialect: AsyncDialect, url: URL, *, durability: Durability = "full", search: bool = True
) -> AsyncEngine:
    """Return an asynchronous engine for `url` that is not connected yet. The arguments are those of `open_engine`."""
    sync_commit = validate_durability(durability) == "full"
    engine = dialect.open_async_engine(url, sync_commit=sync_commit)
    engine.update_execution_options(**{SEARCH: search})
    return engine


def translate_error(dialect: Dialect, name: str, error: Exception) -> ConvokitError:
    """Return the ConvokitError for a failed transaction; `name` describes the database.

    Raise it `from None`: drivers put bound values, which may be users' text, into their messages.
    """
    if isinstance(error, PoolTimeout):
        return StoreUnavailable(name, "all connections of the pool are in use; spread the load over more processes")
    original = (error.orig if isinstance(error, DBAPIError) else None) or error
    is_lost = bool(getattr(error, "connection_invalidated", False))
    return dialect.translate_driver_error(name, original, is_connection_lost=is_lost)
