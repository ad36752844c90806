"""Runs convokit's migrations, on the connection it is handed or on the database of alembic.ini.

Only convokit's own tables are ever looked at or touched: a host application's tables, and its own Alembic, stay out of it.
"""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection

from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.indexes import is_compared, metadata
from convokit.store.schema import VERSION_TABLE


def run(connection: Connection) -> None:
    """Run the migrations in the transaction that the connection holds."""
    options: dict[str, Any] = {
        "connection": connection,
        "target_metadata": metadata,
        "version_table": VERSION_TABLE,
        "include_name": is_compared,
        "compare_type": True,
        "transactional_ddl": True,
    }
    context.configure(**options)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if isinstance(given, Connection):
    run(given)
else:
    url = context.get_x_argument(as_dictionary=True).get("url") or context.config.get_main_option("sqlalchemy.url")
    engine = open_engine(parse_database_url(str(url)), create=True)
    with engine.execution_options(**{WRITE: True}).begin() as opened:
        run(opened)
    engine.dispose()
