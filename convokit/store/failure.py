"""What a database's failure means, as one of convokit's own errors.

The original is not chained: drivers put bound values, which are people's words, into their messages.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from convokit.errors import ConvokitError, StoreFull, StoreUnavailable
from convokit.store.engine import sqlite_problem

_FULL = ("disk is full", "disk I/O error")
_FULL_STATES = {"53100", "53200"}
_PASSING_STATES = {"40001", "40P01", "53300", "57P01", "57P02", "57P03"}
"""Serialization failure, deadlock, too many connections, and a server that is shutting down, crashed or starting."""


def translated(name: str, error: SQLAlchemyError | sqlite3.Error) -> ConvokitError:
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
