"""Define the indexes, and compare the tables with a database.

Only migrations, `db check` and the documentation load this module. An index with options of a database makes SQLAlchemy load
that database's dialect, so users of SQLite would load PostgreSQL's too.
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
WITHOUT_ROWID = (
    schema.branch,
    schema.turn,
    schema.chunk,
    schema.tool_call,
    schema.entry,
    schema.prompt_use,
    schema.summary,
    schema.removal,
    schema.anchor,
    schema.key_window,
)
"""Tables with small rows. SQLite stores the rows in the tree of the primary key instead of a second tree."""


def _add_index(table: Table[Any], name: str, *columns: str, unique: bool = False, where: str | None = None) -> None:
    # SQLAlchemy has one option for each database.
    partial: dict[str, Any] = {} if where is None else {"sqlite_where": text(where), "postgresql_where": text(where)}
    Index(f"{table.name}_{name}", *(table.c[each] for each in columns), unique=unique, **partial)


for _table in WITHOUT_ROWID:
    _table.dialect_options["sqlite"]["with_rowid"] = False

_add_index(schema.conversation, "recent", "tenant", "updated_at", "id")
_add_index(schema.conversation, "subject", "tenant", "subject", "updated_at", "id", where="subject IS NOT NULL")
# The scripts give the key the collation of code points, so that a prefix is a range. No comparison of schemas sees that.
_add_index(schema.conversation, "key", "tenant", "key", where="key IS NOT NULL")
_add_index(schema.conversation, "archived", "tenant", "updated_at", "id", where="archived_at IS NOT NULL")
_add_index(schema.branch, "name", "conversation_id", "name", unique=True, where="name IS NOT NULL")
# Only messages whose seq is not one more than their parent's: there the paths part. For a conversation without branches, the
# index contains one row. Siblings and leaves are found in it without reading the messages between them.
_add_index(schema.message, "parting", "conversation_id", "parent_seq", where="run_start_seq = seq")
_add_index(schema.turn, "claim", "conversation_id", "claim", unique=True, where="claim IS NOT NULL")
_add_index(
    schema.turn, "idempotency", "conversation_id", "idempotency_hash", unique=True, where="idempotency_hash IS NOT NULL"
)
_add_index(schema.turn, "id", "id")
_add_index(schema.turn, "again", "conversation_id", "question_seq", where="after_entry IS NOT NULL")
_add_index(schema.turn, "open", "lease_until", where="claim IS NOT NULL")
_add_index(schema.prompt_use, "digest", "digest")
_add_index(schema.anchor, "digest", "tenant", "digest", "created_at")
_add_index(schema.key, "name", "tenant", "name", unique=True)


def is_compared(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:
    """Return whether Alembic's autogenerate compares this name: convokit's tables, without the search of one database."""
    if type_ == "table":
        return include_name(name, type_, parent_names) and not str(name).startswith(schema.FTS)
    return parent_names.get("table_name") != schema.search.name or (type_, name) not in schema.OF_ONE_DATABASE


def list_differences(connection: Connection) -> list[str]:
    """Return the differences between the database's tables and this code; an empty list if there are none."""
    from alembic.autogenerate import compare_metadata  # noqa: PLC0415  # only `db check` loads Alembic
    from alembic.migration import MigrationContext  # noqa: PLC0415  # only `db check` loads Alembic

    options = {"version_table": schema.VERSION_TABLE, "include_name": is_compared, "compare_type": True}
    context = MigrationContext.configure(plain_connection(connection), opts=options)
    return [str(difference) for difference in compare_metadata(context, metadata)]
