"""Parse database URLs, open engines and translate database errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, cast
from uuid import UUID

from sqlalchemy import Engine, create_engine, insert
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import StaticPool

from convokit.errors import ConvokitError, ReadOnly, SettingsError, StoreUnavailable
from convokit.store.dialects import dialect_of_url, find_dialect
from convokit.store.dialects.protocol import Dialect
from convokit.store.schema import GENERATION, metadata, schema_

Durability = Literal["full", "fast"]
WRITE = "convokit_write"
"""Execution option of a connection: True for a transaction that writes."""
SEARCH = "convokit_search"
"""Execution option of a connection: False if its messages are not entered into the search index."""
_SCHEME = re.compile(r"(\w+)(?:\+\w+)?://")
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
    scheme = _SCHEME.match(database)
    try:
        if scheme is not None:
            return find_dialect(scheme[1]).parse_url(database)
    except (ArgumentError, ValueError) as error:  # ValueError: the port is not a number
        if isinstance(error, SettingsError):
            raise
    raise SettingsError("database", 'is not a database URL; write "sqlite:///chat.db" or "postgresql://user@host/name"')


def describe_url(url: URL) -> str:
    """Return the database's name for people, without password and parameters."""
    return dialect_of_url(url).describe_url(url)


def validate_durability(given: str) -> Durability:
    """Return `given`. Raises: SettingsError unless it is "full" or "fast"."""
    if given not in ("full", "fast"):
        raise SettingsError("durability", f'must be "full" or "fast", not {given!r}')
    return cast("Durability", given)


def open_engine(
    url: URL,
    *,
    create: bool = False,
    durability: Durability = "full",
    search: bool = True,
    read_only: bool = False,
) -> Engine:
    """Return an engine for `url` that is not connected yet.

    Args:
        url: A URL from `parse_database_url`.
        create: Create a SQLite file that does not exist.
        durability: "fast" commits without waiting for the disk. A power failure may lose the last seconds; a crash of the
            process loses nothing. "full" keeps the server's own setting on PostgreSQL.
        search: Enter messages into the search index.
        read_only: Let the database refuse every write.

    Raises: SettingsError.
    """
    sync_commit = validate_durability(durability) == "full"
    engine = dialect_of_url(url).open_engine(url, create=create, sync_commit=sync_commit, read_only=read_only)
    engine.update_execution_options(**{SEARCH: search})
    return engine


def open_scratch_engine(database_id: UUID) -> Engine:
    """Return an engine for an empty SQLite database in memory that has the tables and this id. One thread at a time uses it."""
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}, hide_parameters=True
    )
    engine.update_execution_options(**{SEARCH: False, WRITE: True})
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(schema_), {"only": 1, "database_id": database_id, "oldest_code": GENERATION})
    return engine


def translate_error(dialect: Dialect, name: str, error: Exception, *, read_only: bool = False) -> ConvokitError:
    """Return the ConvokitError for a failed transaction; `name` describes the database. `read_only`: the kit may only read.

    Raise it `from None`: drivers put bound values, which may be users' text, into their messages.
    """
    if isinstance(error, PoolTimeout):
        return StoreUnavailable(name, "all connections of the pool are in use; spread the load over more processes")
    original = (error.orig if isinstance(error, DBAPIError) else None) or error
    if read_only and dialect.is_write_refused(original):
        return ReadOnly(name, "a statement that writes")
    is_lost = bool(getattr(error, "connection_invalidated", False))
    return dialect.translate_driver_error(name, original, is_connection_lost=is_lost)
