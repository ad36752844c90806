"""Changing rows behind the library's back, one change at a time, and what `verify` says of it. Nothing is kept."""

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


def verdict(connection: Connection, conversation_id: UUID, tenant: str = "default") -> ChainBroken | None:
    """Return what verify says: None when it finds nothing."""
    try:
        assert verify_conversation(connection, tenant, conversation_id) is not None
    except ChainBroken as error:
        return error
    return None


@contextmanager
def undone(engine: Engine) -> Iterator[Connection]:
    """A writing transaction that is rolled back at its end."""
    with engine.execution_options(**{WRITE: True}).connect() as connection, connection.begin() as transaction:
        try:
            yield connection
        finally:
            transaction.rollback()


def after(engine: Engine, conversation_id: UUID, change: Change) -> ChainBroken | str | None:
    """Return what verify says after a change, or "refused" when the database does not take the change."""
    with undone(engine) as connection:
        try:
            change(connection)
        except DatabaseError:
            return "refused"
        return verdict(connection, conversation_id)


def rows(engine: Engine, table: Table[Any], conversation_id: UUID) -> list[Row]:
    """Return a conversation's rows of a table, in the order of their key."""
    with engine.connect() as connection:
        query = select(table).order_by(*table.primary_key.columns)
        if "conversation_id" in table.c:
            query = query.where(table.c.conversation_id == conversation_id)
        elif table.name == "convokit_conversation":
            query = query.where(table.c.id == conversation_id)
        return [dict(row) for row in connection.execute(query).mappings()]


def which(table: Table[Any], row: Row) -> Any:
    """Return the condition that finds a row."""
    return and_(*(column == row[column.name] for column in table.primary_key.columns))


def changing(table: Table[Any], row: Row, **values: Any) -> Change:
    """Return the change that sets columns of a row."""
    return lambda connection: connection.execute(update(table).where(which(table, row)).values(values))


def deleting(table: Table[Any], row: Row) -> Change:
    """Return the change that deletes a row."""
    return lambda connection: connection.execute(delete(table).where(which(table, row)))


def inserting(table: Table[Any], row: Row, **values: Any) -> Change:
    """Return the change that inserts a row like another one."""
    return lambda connection: connection.execute(insert(table), {**row, **values})


def swapping(table: Table[Any], one: Row, other: Row, names: list[str]) -> Change:
    """Return the change that exchanges what two rows hold in these columns."""

    def change(connection: Connection) -> None:
        connection.execute(update(table).where(which(table, one)).values({name: other[name] for name in names}))
        connection.execute(update(table).where(which(table, other)).values({name: one[name] for name in names}))

    return change


def proven(table: Table[Any], row: Row) -> list[str]:
    """Return the columns whose every change must be found: of what was lawfully emptied, those that must be empty."""
    names = COVERAGE[table.name].proven
    if table.name == "convokit_message" and row["status"] == "redacted":
        names = frozenset({"conversation_id", "seq", "status", *CLEARED_MESSAGE_COLUMNS})
    if table.name == "convokit_completion" and row["salt"] is None:
        names = frozenset({"conversation_id", "turn_id", "number", *CLEARED_CALL_COLUMNS})
        names = names if row["ended_at"] is not None else frozenset({"ended_at"})  # it is still running
    return [column.name for column in table.columns if column.name in names]


def other_values(column: Any, value: Any, elsewhere: UUID, ids: list[UUID]) -> list[Any]:
    """Return other values that a column could be changed to."""
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
    """Return lies that are of the right form."""
    states = ("complete", "partial", "late", "redacted", "passage", "ok", "error", "user", "assistant", "tool")
    if value in states:
        return [each for each in states if each != value]
    if value.isdigit():
        return [str(int(value) + 1), f"0{value}", f"{10**30}"]
    return ["*", value[:-1] if len(value) > 1 else "y"]


def rewritten(connection: Connection, conversation_id: UUID) -> None:
    """Change the first message and make the whole chain anew."""
    changing(message, {"conversation_id": conversation_id, "seq": 1}, content="never said")(connection)
    first = audit_sql.read_messages(connection, conversation_id, 0, 1)[0]
    found = connection.execute(
        select(entry).where(entry.c.conversation_id == conversation_id).order_by(entry.c.number)
    ).mappings()
    previous = chains.genesis_hash(conversation_id)
    for link in list(found):
        committed = first.hash_input().commitment if link["ref"] == "1" else bytes(link["commitment"])
        previous = chains.compute_entry_hash(previous, link["number"], link["kind"], link["ref"], committed)
        changing(entry, dict(link), commitment=committed, hash=previous)(connection)
    connection.execute(update(conversation).where(conversation.c.id == conversation_id).values(chain_hash=previous))
