"""How the tables lie on the disk: their indexes, and which of them SQLite keeps in their key's own tree.

No statement needs to know: only what compares the tables with the migrations, or describes them, loads this. An option of a
database's own makes SQLAlchemy load that database's dialect, PostgreSQL's for who has SQLite too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Index, Table, text

from convokit.store import schema
from convokit.store.fast_execute import plain_connection
from convokit.store.migrations import include_name

metadata = schema.metadata
"""The tables, with their indexes."""
SMALL = (schema.branch, schema.turn, schema.chunk, schema.tool_call, schema.entry, schema.summary, schema.removal)
"""Rows that are small enough to lie in their key's own tree on SQLite, instead of being named there a second time."""


def _index(table: Table[Any], name: str, *columns: str, unique: bool = False, where: str | None = None) -> None:
    partial: dict[str, Any] = {} if where is None else {"sqlite_where": text(where), "postgresql_where": text(where)}
    Index(f"{table.name}_{name}", *(table.c[each] for each in columns), unique=unique, **partial)


for _small in SMALL:
    _small.dialect_options["sqlite"]["with_rowid"] = False

_index(schema.conversation, "recent", "tenant", "updated_at", "id")
_index(schema.conversation, "subject", "tenant", "subject", "updated_at", "id", where="subject IS NOT NULL")
_index(schema.branch, "name", "conversation_id", "name", unique=True, where="name IS NOT NULL")
# Only messages that do not lie right behind their parent: where paths part. A conversation without branches has one row in it,
# its first message; siblings and leaves are found from it without reading the messages between.
_index(schema.message, "parting", "conversation_id", "parent_seq", where="run_start_seq = seq")
_index(schema.turn, "claim", "conversation_id", "claim", unique=True, where="claim IS NOT NULL")
_index(
    schema.turn, "idempotency", "conversation_id", "idempotency_hash", unique=True, where="idempotency_hash IS NOT NULL"
)
_index(schema.turn, "again", "conversation_id", "question_seq", where="after_entry IS NOT NULL")
_index(schema.turn, "open", "lease_until", where="claim IS NOT NULL")


def is_compared(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:
    """Keep autogenerate to what `schema` describes: convokit's own tables, without what one engine alone has for search."""
    if type_ == "table":
        return include_name(name, type_, parent_names) and not str(name).startswith(schema.FTS)
    return parent_names.get("table_name") != schema.search.name or (type_, name) not in schema.OF_ONE_ENGINE


def list_differences(connection: Connection) -> list[str]:
    """Return how the database's tables differ from what this code expects; an empty list means not at all."""
    from alembic.autogenerate import compare_metadata  # noqa: PLC0415
    from alembic.migration import MigrationContext  # noqa: PLC0415

    options = {"version_table": schema.VERSION_TABLE, "include_name": is_compared, "compare_type": True}
    context = MigrationContext.configure(plain_connection(connection), opts=options)
    return [str(difference) for difference in compare_metadata(context, metadata)]
