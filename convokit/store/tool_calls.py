"""Record tool calls before they run and their results afterwards."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, bindparam, insert, update

from convokit.domain.turn import ToolCallRow
from convokit.store.schema import tool_call

_INSERT = insert(tool_call)
_FINISH = (
    update(tool_call)
    .where(
        tool_call.c.conversation_id == bindparam("b_id"),
        tool_call.c.message_seq == bindparam("b_seq"),
        tool_call.c.position == bindparam("b_position"),
    )
    .values(
        state=bindparam("new_state"),
        result_seq=bindparam("new_result_seq"),
        error=bindparam("new_error"),
        ended_at=bindparam("new_ended_at"),
    )
)
_CLOSE_RUNNING = (
    update(tool_call)
    .where(
        tool_call.c.conversation_id == bindparam("b_id"),
        tool_call.c.message_seq >= bindparam("b_first"),
        tool_call.c.turn_id == bindparam("b_turn"),
        tool_call.c.state == "running",
    )
    .values(state="unknown", ended_at=bindparam("new_ended_at"))
)


def insert_tool_call(connection: Connection, conversation_id: UUID, turn_id: UUID, row: ToolCallRow) -> None:
    """Record a tool call that is about to run."""
    values = {name: getattr(row, name) for name in row.__slots__}
    connection.execute(_INSERT, {"conversation_id": conversation_id, "turn_id": turn_id, **values})


def finish_tool_call(connection: Connection, conversation_id: UUID, row: ToolCallRow) -> None:
    """Record the outcome of a tool call."""
    values = {
        "b_id": conversation_id,
        "b_seq": row.message_seq,
        "b_position": row.position,
        "new_state": row.state,
        "new_result_seq": row.result_seq,
        "new_error": row.error,
        "new_ended_at": row.ended_at,
    }
    connection.execute(_FINISH, values)


def close_interrupted(connection: Connection, conversation_id: UUID, turn_id: UUID, first_seq: int, at: int) -> None:
    """Mark the turn's running tool calls from `first_seq` on as unknown: their worker is gone, their effect is not known."""
    values = {"b_id": conversation_id, "b_turn": turn_id, "b_first": first_seq, "new_ended_at": at}
    connection.execute(_CLOSE_RUNNING, values)
