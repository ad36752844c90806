"""Change single rows in SQL, and return the result of `verify`. Every change is rolled back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, LargeBinary, Table, Text, Uuid, and_, delete, insert, select, update
from sqlalchemy.exc import DatabaseError

from convokit.audit import sql as audit_sql
from convokit.audit.verify import CLEARED_CALL_COLUMNS, CLEARED_MESSAGE_COLUMNS, verify_conversation
from convokit.domain import hashchain as chains
from convokit.errors import ChainBroken
from convokit.store.engine import WRITE
from convokit.store.schema import conversation, entry, message, metadata
from tests.audit.column_coverage import COVERAGE

Row = dict[str, Any]
Change = Callable[[Connection], Any]
TABLES = {name: table for name, table in metadata.tables.items() if name in COVERAGE}


def find_broken(connection: Connection, conversation_id: UUID, tenant: str = "default") -> ChainBroken | None:
    """Return the error that `verify` raises, None when it passes."""
    try:
        assert verify_conversation(connection, tenant, conversation_id) is not None
    except ChainBroken as error:
        return error
    return None


@contextmanager
def open_rolled_back(engine: Engine) -> Iterator[Connection]:
    """Open a write transaction that is rolled back at its end."""
    with engine.execution_options(**{WRITE: True}).connect() as connection, connection.begin() as transaction:
        try:
            yield connection
        finally:
            transaction.rollback()


def verify_after(engine: Engine, conversation_id: UUID, change: Change) -> ChainBroken | str | None:
    """Return the error that `verify` raises after a change, or "refused" when the database refuses the change."""
    with open_rolled_back(engine) as connection:
        try:
            change(connection)
        except DatabaseError:
            return "refused"
        return find_broken(connection, conversation_id)


def read_rows(engine: Engine, table: Table[Any], conversation_id: UUID) -> list[Row]:
    """Return a conversation's rows of a table, in the order of their key."""
    with engine.connect() as connection:
        query = select(table).order_by(*table.primary_key.columns)
        if "conversation_id" in table.c:
            query = query.where(table.c.conversation_id == conversation_id)
        elif table.name == "convokit_conversation":
            query = query.where(table.c.id == conversation_id)
        return [dict(row) for row in connection.execute(query).mappings()]


def build_key_condition(table: Table[Any], row: Row) -> Any:
    return and_(*(column == row[column.name] for column in table.primary_key.columns))


def make_update(table: Table[Any], row: Row, **values: Any) -> Change:
    return lambda connection: connection.execute(update(table).where(build_key_condition(table, row)).values(values))


def make_deletion(table: Table[Any], row: Row) -> Change:
    return lambda connection: connection.execute(delete(table).where(build_key_condition(table, row)))


def make_copy(table: Table[Any], row: Row, **values: Any) -> Change:
    """Return a change that inserts a copy of a row, with other values in some columns."""
    return lambda connection: connection.execute(insert(table), {**row, **values})


def make_swap(table: Table[Any], one: Row, other: Row, names: list[str]) -> Change:
    """Return a change that exchanges the values of two rows in these columns."""

    def change(connection: Connection) -> None:
        connection.execute(
            update(table).where(build_key_condition(table, one)).values({name: other[name] for name in names})
        )
        connection.execute(
            update(table).where(build_key_condition(table, other)).values({name: one[name] for name in names})
        )

    return change


def list_proven_columns(table: Table[Any], row: Row) -> list[str]:
    """Return the columns whose every change must be found. Of a redacted row, these are the empty ones and the key."""
    names = COVERAGE[table.name].proven
    if table.name == "convokit_message" and row["status"] == "redacted":
        names = frozenset({"conversation_id", "seq", "status", *CLEARED_MESSAGE_COLUMNS})
    if table.name == "convokit_completion" and row["salt"] is None:
        names = frozenset({"conversation_id", "turn_id", "number", *CLEARED_CALL_COLUMNS})
        names = names if row["ended_at"] is not None else frozenset({"ended_at"})  # it is still running
    return [column.name for column in table.columns if column.name in names]


def list_other_values(column: Any, value: Any, elsewhere: UUID, ids: list[UUID]) -> list[Any]:
    """Return other values to try in a column."""
    return [each for each in _values(column, value, elsewhere, ids) if each != value]


def _values(column: Any, value: Any, elsewhere: UUID, ids: list[UUID]) -> list[Any]:
    found: list[Any] = [None] if column.nullable and value is not None else []
    if column.name in ("conversation_id",):
        return [elsewhere]
    if isinstance(column.type, Uuid):
        return [*found, UUID(int=7), *[each for each in ids if each != value][:2]]
    if isinstance(column.type, Text):
        return [*found, "x"] if value is None else [*found, value + " ", value.swapcase(), "", *_forged(value)]
    if isinstance(column.type, LargeBinary):
        data = b"" if value is None else bytes(value)
        flipped = bytes([data[0] ^ 1]) + data[1:] if data else b"x"
        return [*found, flipped, data + b"\x00"]
    return [*found, *([1, 2] if value is None else [value + 1, value - 1, -value - 1])]


def _forged(value: str) -> list[str]:
    """Return other values of the right form."""
    states = ("complete", "partial", "late", "redacted", "passage", "ok", "error", "user", "assistant", "tool")
    if value in states:
        return [each for each in states if each != value]
    if value.isdigit():
        return [str(int(value) + 1), f"0{value}", f"{10**30}"]
    return ["*", value[:-1] if len(value) > 1 else "y"]


def rewrite_chain(connection: Connection, conversation_id: UUID) -> None:
    """Change the first message, and compute all hashes of the chain again."""
    make_update(message, {"conversation_id": conversation_id, "seq": 1}, content="never said")(connection)
    first = audit_sql.read_messages(connection, conversation_id, 0, 1)[0]
    found = connection.execute(
        select(entry).where(entry.c.conversation_id == conversation_id).order_by(entry.c.number)
    ).mappings()
    previous = chains.genesis_hash(conversation_id)
    for link in list(found):
        committed = first.hash_input().commitment if link["ref"] == "1" else bytes(link["commitment"])
        previous = chains.compute_entry_hash(previous, link["number"], link["kind"], link["ref"], committed)
        make_update(entry, dict(link), commitment=committed, hash=previous)(connection)
    connection.execute(update(conversation).where(conversation.c.id == conversation_id).values(chain_hash=previous))
