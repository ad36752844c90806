"""Conversations that have been talked in for long, and databases that are full: made by a few statements."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Table, Uuid, bindparam, text

from convokit.store import schema

_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT CAST(:low AS integer) UNION ALL SELECT i + 1 FROM n WHERE i < :high)"


def grow(connection: Connection, conversation_id: UUID, count: int, *, run: int | None = None) -> None:
    """Give a conversation whose one turn is done `count` messages, all of them on its path.

    With `run`, two branches take turns after every `run` messages: half of the messages lie on the path, in runs of so many.
    """
    start = (
        "1"
        if run is None
        else f"CASE WHEN (i - 3) % {2 * run} < {run} AND i < 3 + {run} THEN 1 ELSE i - (i - 3) % {run} END"
    )
    parent = (
        "i - 1"
        if run is None
        else f"CASE WHEN i < 3 + 2 * {run} AND (i - 3) % {run} = 0 THEN 2"
        f" WHEN (i - 3) % {run} = 0 THEN i - {run} - 1 ELSE i - 1 END"
    )
    role = "CASE WHEN i % 2 = 1 THEN 'user' ELSE 'assistant' END"
    given = {"seq": "i", "parent_seq": parent, "run_start_seq": start, "role": role, "window_from_seq": "NULL"}
    given["path_tokens"] = "h.path_tokens + (i - 2) * h.tokens"
    _copy(connection, schema.message, given, conversation_id, "h.seq = 2", (3, count))
    head = count if run is None else count - (count - 2) % (2 * run) - run
    moved = "UPDATE convokit_conversation SET head_seq = :head, last_seq = :last WHERE id = :id"
    connection.execute(
        text(moved).bindparams(bindparam("id", type_=Uuid)), {"head": head, "last": count, "id": conversation_id}
    )


def fill(connection: Connection, conversation_id: UUID, count: int) -> None:
    """Put `count` more rows like this conversation's into every table that a turn writes, of other conversations and turns."""
    postgresql = connection.dialect.name == "postgresql"
    uuid = "CAST(lpad(to_hex(i), 32, '0') AS uuid)" if postgresql else "printf('%032x', i)"
    another = {"id": uuid, "key": "NULL", "updated_at": "h.updated_at - i"}
    _copy(connection, schema.conversation, another, conversation_id, "1 = 1", (1, count), of="id")
    _copy(
        connection,
        schema.turn,
        {"id": uuid, "idempotency_hash": "NULL"},
        conversation_id,
        "h.claim IS NULL",
        (1, count),
    )
    _copy(connection, schema.completion, {"turn_id": uuid}, conversation_id, "h.number = 1", (1, count))
    _copy(connection, schema.entry, {"number": "i"}, conversation_id, "h.number = 1", (1000, 1000 + count))
    erased = f"{uuid}, 1, '*', CAST('x' AS bytea), 0"
    removals = f"{_NUMBERS} SELECT {erased if postgresql else erased.replace('bytea', 'blob')} FROM n"
    insert = f"INSERT INTO convokit_removal (conversation_id, number, ref, salt, created_at) {removals}"
    connection.execute(text(insert), {"low": 1, "high": count})
    for number, (table, columns, values) in enumerate(
        (
            ("branch", "conversation_id, number, created_at", ":id, i, 0"),
            ("chunk", "conversation_id, turn_id, completion, number, text", f":id, {uuid}, 1, 1, 'x'"),
            (
                "tool_call",
                "conversation_id, turn_id, message_seq, position, call_id, name, state",
                f":id, {uuid}, i, 0, 'c', 'f', 'ok'",
            ),
            ("prompt", "tenant, digest, body", "'other', CAST(CAST(i AS text) AS bytea), 'x'"),
            (
                "blob",
                "conversation_id, digest, media_type, data",
                ":id, CAST(CAST(i AS text) AS bytea), 'x', CAST('x' AS bytea)",
            ),
        )
    ):
        shown = values if postgresql else values.replace("bytea", "blob")
        statement = text(f"INSERT INTO convokit_{table} ({columns}) {_NUMBERS} SELECT {shown} FROM n")
        if ":id" in shown:
            statement = statement.bindparams(bindparam("id", type_=Uuid))
        given = {"low": 1000 * number, "high": 1000 * number + count, "id": conversation_id}
        connection.execute(
            statement, {name: given[name] for name in ("low", "high", *(("id",) if ":id" in shown else ()))}
        )


def _copy(
    connection: Connection,
    table: Table[Any],
    given: dict[str, str],
    conversation_id: UUID,
    which: str,
    numbers: tuple[int, int],
    *,
    of: str = "conversation_id",
) -> None:
    """Insert copies of one row of a table, one for each number i, with the values `given` in SQL."""
    columns = [column.name for column in table.columns]
    values = ", ".join(given.get(name, f"h.{name}") for name in columns)
    one = f"(SELECT * FROM {table.name} h WHERE h.{of} = :id AND {which} LIMIT 1)"
    statement = text(f"INSERT INTO {table.name} ({', '.join(columns)}) {_NUMBERS} SELECT {values} FROM n, {one} h")
    statement = statement.bindparams(bindparam("id", type_=Uuid))
    connection.execute(statement, {"low": numbers[0], "high": numbers[1], "id": conversation_id})
