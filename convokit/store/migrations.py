"""Run Alembic migrations, and check that the tables match this code.

Migrations run only on request, in one transaction under one lock. The code refuses a database that is older than it needs. A
newer database states the oldest code that may use it, so that releases can be rolled out one process at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, Text, column, inspect, select, table
from sqlalchemy.exc import OperationalError, ProgrammingError

from convokit.errors import ConvokitError, SchemaOutdated, StoreError
from convokit.store import distribution
from convokit.store.dialects import dialect_of
from convokit.store.engine import describe_url
from convokit.store.fast_execute import plain_connection
from convokit.store.schema import GENERATION, PREFIX, REVISION, VERSION_TABLE, schema_

# Alembic keeps its state in module globals, so a process runs one migration at a time, whatever the database.
_ALEMBIC_LOCK = threading.Lock()
_SELECT_REVISION: Select[str] = select(column("version_num", Text)).select_from(table(VERSION_TABLE))
_UPGRADE = "run kit.migrate() or `convokit db upgrade`"


def find_scripts() -> Path:
    """Return the folder of the migration scripts: in the installed package, or else in the checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise ConvokitError(f"the migration scripts are missing in {package}; reinstall convokit-sql")


def include_name(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:
    """Return whether Alembic's autogenerate compares this name: True for convokit's own tables only.

    A host application passes the opposite for tables, and everything else, to its own Alembic:
    `lambda name, kind, parents: kind != "table" or not include_name(name, kind, parents)`.
    """
    if type_ == "table":
        return name is not None and name.startswith(PREFIX)
    return True


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Upgrade the tables to `revision` in the caller's writing transaction. Safe to run in many processes at once."""
    from alembic import command  # noqa: PLC0415  # only a process that migrates loads Alembic

    dialect_of(connection).lock_migrations(connection)
    current, wanted = read_revision(connection), REVISION if revision == "head" else revision
    is_current = current is not None and current >= wanted
    database = describe_url(connection.engine.url)
    with _ALEMBIC_LOCK, distribution.distribute_new_tables(connection, database, is_current=is_current):
        _check_no_other_migration()
        command.upgrade(_build_config(plain_connection(connection)), revision)


def _check_no_other_migration() -> None:
    """Raise StoreError inside a migration of a host application."""
    from alembic import context  # noqa: PLC0415  # only a process that migrates loads Alembic

    try:
        context.get_context()
    except (NameError, AttributeError):  # no Alembic environment is active
        return
    raise StoreError("another Alembic migration is running; call kit.migrate() before or after it")


def _build_config(connection: Connection) -> Any:
    from alembic.config import Config  # noqa: PLC0415  # only a process that migrates loads Alembic

    config = Config()
    # Alembic's ConfigParser interpolates "%".
    config.set_main_option("script_location", str(find_scripts()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def read_revision(connection: Connection) -> str | None:
    """Return the revision of the tables; None if there are none."""
    try:
        with connection.begin_nested():  # PostgreSQL aborts a transaction at an error; the savepoint keeps it usable
            revision = connection.execute(_SELECT_REVISION).scalar_one_or_none()
    except (OperationalError, ProgrammingError):
        return None
    return None if revision is None else str(revision)


def check_schema(connection: Connection, database: str) -> UUID:
    """Check that the tables match this code, and return the database's id.

    Args:
        connection: An open connection.
        database: The database's name for the error message.

    Raises: SchemaOutdated with both revisions and the action to take.
    """
    revision = read_revision(connection)
    if revision is None:
        raise SchemaOutdated(database, has=None, needs=REVISION, action=_UPGRADE + _describe_other_tables(connection))
    if revision < REVISION:  # revisions are numbers of four digits, in order
        raise SchemaOutdated(database, has=revision, needs=REVISION, action=_UPGRADE)
    row = connection.execute(select(schema_.c.oldest_code, schema_.c.database_id)).one()
    if row.oldest_code > GENERATION:
        raise SchemaOutdated(
            database, has=revision, needs=REVISION, action="upgrade the convokit-sql package, which is too old"
        )
    database_id: UUID = row.database_id
    return database_id


def _describe_other_tables(connection: Connection) -> str:
    names = [name for name in inspect(plain_connection(connection)).get_table_names() if not name.startswith(PREFIX)]
    return f" (other tables are not changed: {', '.join(sorted(names)[:3])})" if names else ""
