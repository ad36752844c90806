"""INSERTs that may meet a row which is there already: each database has its own, in its own dialect.

Only the dialect of the database that is open is loaded; PostgreSQL's alone takes as long to load as thirty of our modules.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

from sqlalchemy import Table


def insert_into(dialect: str, table: Table[Any]) -> Any:
    """Return the dialect's own INSERT."""
    return import_module(f"sqlalchemy.dialects.{dialect}").insert(table)


@functools.cache
def insert_new(dialect: str, table: Table[Any]) -> Any:
    """Return an INSERT that leaves a row alone which is already there."""
    return insert_into(dialect, table).on_conflict_do_nothing()
