"""What an operator asks of a database: its own version, clock and settings, and how many turns are open in it.

Counts only, over all tenants: nothing here tells whose they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text

from convokit.store.clock import now_us
from convokit.store.schema import turn

_PRAGMAS = ("journal_mode", "synchronous", "foreign_keys")
_OPEN = select(func.count(), func.max(now_us() - turn.c.started_at), func.count().filter(turn.c.lease_until < now_us()))


@dataclass(frozen=True, slots=True)
class OpenTurns:
    """How many turns are open, the age of the oldest, and how many outlived their lease."""

    count: int
    oldest_us: int
    expired: int


def open_turns(connection: Connection) -> OpenTurns:
    """Return what is open now, in the whole database."""
    count, oldest, expired = connection.execute(_OPEN.where(turn.c.claim.is_not(None))).one()
    return OpenTurns(count, oldest or 0, expired or 0)


def clock_us(connection: Connection) -> int:
    """Return the database's own time, in microseconds since 1970."""
    return int(connection.execute(select(now_us())).scalar_one())


def version(connection: Connection) -> tuple[int, ...]:
    """Return the version of SQLite or of the PostgreSQL server."""
    found = connection.dialect.server_version_info
    return tuple(part for part in found or () if isinstance(part, int))


def pragmas(connection: Connection) -> dict[str, str]:
    """Return the SQLite settings that durability depends on, as this connection has them."""
    return {name: str(connection.execute(text(f"PRAGMA {name}")).scalar_one()) for name in _PRAGMAS}
