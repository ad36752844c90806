"""Read and write API calls and their reported usage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, func, insert, select, update

from convokit.domain.turn import LATE, CallRow
from convokit.store.schema import completion

_COLUMNS = tuple(getattr(completion.c, name) for name in CallRow.__slots__)
_BEFORE_CALL = (
    "turn_id",
    "number",
    "manifest",
    "body_salt",
    "body_digest",
    "requested_model",
    "provider",
    "started_at",
)
"""Columns that are written before the call and never change."""
_OUTCOME = tuple(name for name in CallRow.__slots__ if name not in _BEFORE_CALL)
_OF_TURN = (completion.c.conversation_id == bindparam("id"), completion.c.turn_id == bindparam("turn"))
_INSERT = insert(completion)
END_CALL = (
    update(completion)
    .where(
        completion.c.conversation_id == bindparam("b_id"),
        completion.c.turn_id == bindparam("b_turn"),
        completion.c.number == bindparam("b_number"),
    )
    .values({name: bindparam(f"v_{name}") for name in _OUTCOME})
)
_SELECT_ONE = select(*_COLUMNS).where(*_OF_TURN, completion.c.number == bindparam("number"))
_SELECT_OF_TURN = select(*_COLUMNS).where(*_OF_TURN).order_by(completion.c.number)
_SELECT_LAST_NUMBER = select(func.coalesce(func.max(completion.c.number), 0)).where(*_OF_TURN)
_COUNT_ENDED = (
    select(func.count())
    .select_from(completion)
    .where(completion.c.conversation_id == bindparam("id"), completion.c.ended_at.is_not(None))
)
_SELECT_LAST_ANSWERED = (
    select(completion.c.manifest, completion.c.prompt_tokens, completion.c.cached_tokens, completion.c.usage_source)
    .where(*_OF_TURN, completion.c.first_byte_at.is_not(None), completion.c.ended_at.is_not(None))
    .where(completion.c.state != LATE)
    .order_by(completion.c.number.desc())
    .limit(1)
)


@dataclass(slots=True)
class AnsweredCall:
    """The manifest of a call that was answered, and the reported usage of its prompt."""

    manifest: str
    prompt_tokens: int | None
    cached_tokens: int | None
    usage_source: str | None


def insert_call(connection: Connection, conversation_id: UUID, row: CallRow) -> None:
    """Record an API call. The record is committed before the request is sent."""
    values = {name: getattr(row, name) for name in row.__slots__}
    connection.execute(_INSERT, {"conversation_id": conversation_id, **values})


def next_number(connection: Connection, conversation_id: UUID, turn_id: UUID) -> int:
    """Return the number of a turn's next call. The conversation must be locked, so that no other call gets it too."""
    return int(connection.execute(*build_last_number_query(conversation_id, turn_id)).scalar_one()) + 1


def build_last_number_query(conversation_id: UUID, turn_id: UUID) -> tuple[Any, dict[str, Any]]:
    """Return the statement, with its values, for the number of a turn's last call; 0 if it has none."""
    return _SELECT_LAST_NUMBER, {"id": conversation_id, "turn": turn_id}


def end_call(connection: Connection, conversation_id: UUID, row: CallRow) -> None:
    """Record the outcome of an API call."""
    connection.execute(END_CALL, build_call_end_values(conversation_id, row))


def build_call_end_values(conversation_id: UUID, row: CallRow) -> dict[str, Any]:
    """Return the parameters of `END_CALL`."""
    values = {f"v_{name}": getattr(row, name) for name in _OUTCOME}
    return {"b_id": conversation_id, "b_turn": row.turn_id, "b_number": row.number, **values}


def find_call(connection: Connection, conversation_id: UUID, turn_id: UUID, number: int) -> CallRow | None:
    """Return one API call of a turn, or None."""
    row = connection.execute(_SELECT_ONE, {"id": conversation_id, "turn": turn_id, "number": number}).one_or_none()
    return None if row is None else CallRow(**dict(row._mapping))


def list_calls(connection: Connection, conversation_id: UUID, turn_id: UUID) -> list[CallRow]:
    """Return the API calls of a turn, in order."""
    rows = connection.execute(_SELECT_OF_TURN, {"id": conversation_id, "turn": turn_id})
    return [CallRow(**dict(row._mapping)) for row in rows]


def count_ended_calls(connection: Connection, conversation_id: UUID) -> int:
    """Return the number of ended API calls of a conversation."""
    return int(connection.execute(_COUNT_ENDED, {"id": conversation_id}).scalar_one())


def find_last_answered_call(connection: Connection, conversation_id: UUID, turn_id: UUID) -> AnsweredCall | None:
    """Return the last call of a turn that was answered, or None."""
    row = connection.execute(_SELECT_LAST_ANSWERED, {"id": conversation_id, "turn": turn_id}).one_or_none()
    return None if row is None else AnsweredCall(*row)
