"""Find the dialect object of a database.

The object holds everything in which SQLite and PostgreSQL differ. A new database needs a module here that defines `DIALECT`, an
entry in `_MODULES`, and its columns in the migrations. The rest of the package asks the dialect and never compares a database's
name.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, select
from sqlalchemy.engine import URL
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from convokit.errors import SettingsError
from convokit.store.dialects.protocol import Dialect

_MODULES = {"sqlite": "convokit.store.dialects.sqlite", "postgresql": "convokit.store.dialects.postgresql"}
"""Modules by SQLAlchemy's name of the database."""
_ALIASES = {"postgres": "postgresql"}
"""Names that hosts of databases use in their URLs."""


@functools.cache
def find_dialect(name: str) -> Dialect:
    """Return the dialect that SQLAlchemy calls `name`. Raises: SettingsError if the database is not supported."""
    name = _ALIASES.get(name, name)
    if name not in _MODULES:
        raise SettingsError(
            "database", f"{name} is not supported; use sqlite:///chat.db or postgresql://user@host/name"
        )
    # Only the dialect in use is imported: SQLAlchemy's PostgreSQL dialect takes as long to load as thirty of our modules.
    dialect: Dialect = import_module(_MODULES[name]).DIALECT
    return dialect


def dialect_of(bind: Connection | Engine) -> Dialect:
    """Return the dialect of an open database."""
    return find_dialect(bind.dialect.name)


def dialect_of_url(url: URL) -> Dialect:
    """Return the dialect of a database URL. Raises: SettingsError if the database is not supported."""
    return find_dialect(url.get_backend_name())


class now_us(FunctionElement[int]):  # noqa: N801  # reads as the SQL function it is
    """The database's own clock, in microseconds since 1970 UTC. Leases are measured by this clock only."""

    inherit_cache = True
    type = BigInteger()
    name = "now_us"


@compiles(now_us)
def _compile_now_us(element: Any, compiler: Any, **options: Any) -> str:
    return find_dialect(compiler.dialect.name).now_us_sql


def read_clock_us(connection: Connection) -> int:
    """Read the database's clock, in microseconds since 1970 UTC."""
    return int(connection.execute(select(now_us())).scalar_one())
