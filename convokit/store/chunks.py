"""Store the chunks of a reply until its final message is written."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, bindparam, delete, select

from convokit.store.dialects import dialect_of
from convokit.store.schema import chunk

_OF_TURN = (chunk.c.conversation_id == bindparam("id"), chunk.c.turn_id == bindparam("turn"))
_SELECT_TEXTS = select(chunk.c.text).where(*_OF_TURN).order_by(chunk.c.completion, chunk.c.number)
_SELECT_SINCE = (
    select(chunk.c.number, chunk.c.text, chunk.c.events)
    .where(*_OF_TURN, chunk.c.completion == bindparam("completion"), chunk.c.number >= bindparam("first"))
    .order_by(chunk.c.number)
)
_DELETE = delete(chunk).where(*_OF_TURN)


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A stored chunk of a call's reply: its text and, where the call brought more than text, the order of all of it."""

    number: int
    text: str
    events: str | None = None


def append_chunk(
    connection: Connection, conversation_id: UUID, turn_id: UUID, completion_number: int, row: ChunkRow
) -> None:
    """Store a chunk of a call's reply, in place of an earlier one with its number."""
    # If the acknowledgement of a COMMIT was lost, the chunk is stored again, with the text that arrived since.
    connection.execute(
        dialect_of(connection).insert_or_update(chunk, "text", "events"),
        {
            "conversation_id": conversation_id,
            "turn_id": turn_id,
            "completion": completion_number,
            "number": row.number,
            "text": row.text,
            "events": row.events,
        },
    )


def read_partial_text(connection: Connection, conversation_id: UUID, turn_id: UUID) -> str:
    """Return the text of all chunks of a turn."""
    return "".join(connection.execute(_SELECT_TEXTS, {"id": conversation_id, "turn": turn_id}).scalars())


def read_chunks_since(
    connection: Connection, conversation_id: UUID, turn_id: UUID, completion_number: int, first: int
) -> list[ChunkRow]:
    """Return the chunks of one call, from number `first` on."""
    values = {"id": conversation_id, "turn": turn_id, "completion": completion_number, "first": first}
    return [ChunkRow(*row) for row in connection.execute(_SELECT_SINCE, values)]


def delete_chunks(connection: Connection, conversation_id: UUID, turn_id: UUID) -> None:
    """Delete the chunks of a turn, after its final message is written."""
    connection.execute(_DELETE, {"id": conversation_id, "turn": turn_id})
