"""Record tool calls before they run and their results afterwards.

Calls that the caller answers have no record. Their results are messages that a turn starts with.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, and_, bindparam, exists, insert, not_, or_, select, update

from convokit.domain.message import ASSISTANT, TOOL
from convokit.domain.turn import ToolCallRow
from convokit.store.schema import message, tool_call, turn

_reply_before = message.alias("reply_before")
IS_FROM_CALLER = or_(
    message.c.seq < turn.c.question_seq,
    and_(
        turn.c.after_seq.is_not(None),
        not_(
            exists().where(
                _reply_before.c.conversation_id == bindparam("id"),
                _reply_before.c.seq > turn.c.after_seq,
                _reply_before.c.seq < message.c.seq,
                _reply_before.c.turn_id == turn.c.id,
                _reply_before.c.role == ASSISTANT,
            )
        ),
    ),
)
"""Whether a tool message is a result from the caller: its turn starts with it. Results of functions follow a reply."""
_SELECT_FROM_CALLER = (
    select(message.c.seq)
    .join(turn, and_(turn.c.conversation_id == bindparam("id"), turn.c.id == message.c.turn_id))
    .where(
        message.c.conversation_id == bindparam("id"),
        message.c.seq.in_(bindparam("seqs", expanding=True)),
        message.c.role == TOOL,
        IS_FROM_CALLER,
    )
)
_SELECT_OF_MESSAGE = (
    select(tool_call.c.position)
    .where(tool_call.c.conversation_id == bindparam("id"), tool_call.c.message_seq == bindparam("seq"))
    .limit(1)
)
_SELECT_OF_TURN = (
    select(*(getattr(tool_call.c, name) for name in ToolCallRow.__slots__))
    .where(
        tool_call.c.conversation_id == bindparam("id"),
        tool_call.c.message_seq >= bindparam("first"),
        tool_call.c.message_seq <= bindparam("last"),
        tool_call.c.turn_id == bindparam("turn"),
    )
    .order_by(tool_call.c.message_seq, tool_call.c.position)
)
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


def has_tool_calls(connection: Connection, conversation_id: UUID, message_seq: int) -> bool:
    """Return whether a turn recorded the calls of a message in order to run them."""
    return connection.execute(_SELECT_OF_MESSAGE, {"id": conversation_id, "seq": message_seq}).first() is not None


def list_of_turn(
    connection: Connection, conversation_id: UUID, turn_id: UUID, first_seq: int, last_seq: int
) -> list[ToolCallRow]:
    """Return the tool calls of a turn, in order, whose asking messages have seqs from `first_seq` to `last_seq`."""
    values = {"id": conversation_id, "turn": turn_id, "first": first_seq, "last": last_seq}
    return [ToolCallRow(*row) for row in connection.execute(_SELECT_OF_TURN, values)]


def list_from_caller(connection: Connection, conversation_id: UUID, seqs: Sequence[int]) -> list[int]:
    """Return those of the messages `seqs` that are tool results from a caller."""
    return list(connection.execute(_SELECT_FROM_CALLER, {"id": conversation_id, "seqs": list(seqs)}).scalars())


def close_interrupted(connection: Connection, conversation_id: UUID, turn_id: UUID, first_seq: int, at: int) -> None:
    """Mark the turn's running tool calls from `first_seq` on as unknown: their worker is gone, their effect is not known."""
    values = {"b_id": conversation_id, "b_turn": turn_id, "b_first": first_seq, "new_ended_at": at}
    connection.execute(_CLOSE_RUNNING, values)
