"""The pieces of a reply on its way, kept until its final row holds them."""

from __future__ import annotations

import functools
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, delete, select

from convokit.store.dialects import insert_into
from convokit.store.schema import chunk

_CHUNKS = (
    select(chunk.c.text)
    .where(chunk.c.conversation_id == bindparam("id"), chunk.c.turn_id == bindparam("turn"))
    .order_by(chunk.c.completion, chunk.c.number)
)
_PIECES = (
    select(chunk.c.number, chunk.c.text)
    .where(
        chunk.c.conversation_id == bindparam("id"),
        chunk.c.turn_id == bindparam("turn"),
        chunk.c.completion == bindparam("completion"),
        chunk.c.number >= bindparam("first"),
    )
    .order_by(chunk.c.number)
)
_PRUNE = delete(chunk).where(chunk.c.conversation_id == bindparam("id"), chunk.c.turn_id == bindparam("turn"))


@functools.cache
def _chunk(dialect: str) -> Any:
    """Return the INSERT of a piece. One whose commit's acknowledgement was lost is stored again, longer by what came since."""
    statement = insert_into(dialect, chunk)
    return statement.on_conflict_do_update(
        index_elements=[chunk.c.conversation_id, chunk.c.turn_id, chunk.c.completion, chunk.c.number],
        set_={"text": statement.excluded.text},
    )


def append_chunk(
    connection: Connection, conversation_id: UUID, turn_id: UUID, completion_number: int, number: int, text: str
) -> None:
    """Store a piece of the reply on its way, in place of an earlier one under its number."""
    connection.execute(
        _chunk(connection.dialect.name),
        {
            "conversation_id": conversation_id,
            "turn_id": turn_id,
            "completion": completion_number,
            "number": number,
            "text": text,
        },
    )


def read_partial_text(connection: Connection, conversation_id: UUID, turn_id: UUID) -> str:
    """Return what was stored of a reply on its way."""
    return "".join(connection.execute(_CHUNKS, {"id": conversation_id, "turn": turn_id}).scalars())


def read_chunks_since(
    connection: Connection, conversation_id: UUID, turn_id: UUID, completion_number: int, first: int
) -> list[tuple[int, str]]:
    """Return the stored pieces of one call, from piece `first` on."""
    values = {"id": conversation_id, "turn": turn_id, "completion": completion_number, "first": first}
    return [(row[0], row[1]) for row in connection.execute(_PIECES, values)]


def delete_chunks(connection: Connection, conversation_id: UUID, turn_id: UUID) -> None:
    """Delete the pieces: the final row holds them now."""
    connection.execute(_PRUNE, {"id": conversation_id, "turn": turn_id})
