"""Migrations: Alembic's scripts, run in one transaction under one lock, and the check that code and tables fit.

Nothing here runs by itself. Code refuses a database that is older than it needs, and one whose schema says that this code
is too old for it; in between, releases may roll.

What an operator asks of a database: its own version, clock and settings, and how many turns are open in it.

Counts only, over all tenants: nothing here tells whose they are.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, Text, column, func, inspect, select, table, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from convokit.errors import ConvokitError, SchemaOutdated, StoreError
from convokit.store.dialects import now_us
from convokit.store.fast_execute import plain_connection
from convokit.store.schema import GENERATION, PREFIX, REVISION, VERSION_TABLE, schema_, turn

_ALONE = threading.Lock()
"""Alembic keeps its state in module globals: one migration at a time in a process, whatever the database."""
_LOCK = 0x636F6E766F6B6974 >> 1  # "convokit", as an advisory lock's number
_VERSION: Select[str] = select(column("version_num", Text)).select_from(table(VERSION_TABLE))
_UPGRADE = "run kit.migrate() or `convokit db upgrade`"
_PRAGMAS = ("journal_mode", "synchronous", "foreign_keys")
_OPEN = select(func.count(), func.max(now_us() - turn.c.started_at), func.count().filter(turn.c.lease_until < now_us()))


def find_scripts() -> Path:
    """Return the folder of the migration scripts: in the installed package, else in the checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise ConvokitError(f"the migration scripts are missing beside {package}: reinstall convokit-sql")


def include_name(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:
    """Keep autogenerate on one side of the fence: True for convokit's own tables only.

    A host application passes the opposite for tables, and everything else, to its own Alembic:
    `lambda name, kind, parents: kind != "table" or not include_name(name, kind, parents)`.
    """
    if type_ == "table":
        return name is not None and name.startswith(PREFIX)
    return True


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to `revision`, in the caller's transaction. Safe to run from many processes at once."""
    from alembic import command  # noqa: PLC0415  # only a process that migrates pays for alembic

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    with _ALONE:
        _check_alone()
        command.upgrade(_config(plain_connection(connection)), revision)


def _check_alone() -> None:
    """Raise: StoreError inside a migration of a host application: Alembic runs one at a time."""
    from alembic import context  # noqa: PLC0415

    try:
        context.get_context()
    except (NameError, AttributeError):  # no Alembic environment is set up
        return
    raise StoreError("another Alembic migration is running: call kit.migrate() before it or after it, not inside")


def _config(connection: Connection) -> Any:
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(find_scripts()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def current_revision(connection: Connection) -> str | None:
    """Return the revision the tables are at, or None when there are none."""
    try:
        with connection.begin_nested():
            found = connection.execute(_VERSION).scalar_one_or_none()
    except (OperationalError, ProgrammingError):
        return None
    return None if found is None else str(found)


def check_schema(connection: Connection, database: str) -> UUID:
    """Return the database's id once code and tables are known to fit.

    Raises: SchemaOutdated with both revisions and what to do.
    """
    has = current_revision(connection)
    if has is None:
        others = [
            name for name in inspect(plain_connection(connection)).get_table_names() if not name.startswith(PREFIX)
        ]
        beside = f" (it holds other tables: {', '.join(sorted(others)[:3])}; they are left alone)" if others else ""
        raise SchemaOutdated(database, has=None, needs=REVISION, action=_UPGRADE + beside)
    if has < REVISION:
        raise SchemaOutdated(database, has=has, needs=REVISION, action=_UPGRADE)
    row = connection.execute(select(schema_.c.oldest_code, schema_.c.database_id)).one()
    if row.oldest_code > GENERATION:
        raise SchemaOutdated(
            database, has=has, needs=REVISION, action="upgrade the convokit-sql package: it is too old"
        )
    database_id: UUID = row.database_id
    return database_id


@dataclass(frozen=True, slots=True)
class OpenTurns:
    """How many turns are open, the age of the oldest, and how many outlived their lease."""

    count: int
    oldest_us: int
    expired: int


def count_open_turns(connection: Connection) -> OpenTurns:
    """Return what is open now, in the whole database."""
    count, oldest, expired = connection.execute(_OPEN.where(turn.c.claim.is_not(None))).one()
    return OpenTurns(count, oldest or 0, expired or 0)


def read_clock_us(connection: Connection) -> int:
    """Return the database's own time, in microseconds since 1970."""
    return int(connection.execute(select(now_us())).scalar_one())


def read_server_version(connection: Connection) -> tuple[int, ...]:
    """Return the version of SQLite or of the PostgreSQL server."""
    found = connection.dialect.server_version_info
    return tuple(part for part in found or () if isinstance(part, int))


def read_pragmas(connection: Connection) -> dict[str, str]:
    """Return the SQLite settings that durability depends on, as this connection has them."""
    return {name: str(connection.execute(text(f"PRAGMA {name}")).scalar_one()) for name in _PRAGMAS}
