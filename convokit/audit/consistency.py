"""Rows that contradict each other: one statement for each rule, which finds the first row that breaks it.

The chain commits to messages and to ended API calls. Everything else of a conversation must agree with these, and these with
each other. A statement reads the rows of one table once, and looks others up by their key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast
from uuid import UUID

from sqlalchemy import (
    BindParameter,
    Boolean,
    ColumnElement,
    Connection,
    Executable,
    Exists,
    and_,
    bindparam,
    case,
    exists,
    not_,
    or_,
    select,
)

from convokit.domain.message import ASSISTANT, PASSAGE, TOOL, USER
from convokit.domain.turn import LATE_CALL_OFFSET
from convokit.store.schema import branch, chunk, completion, conversation, message, summary, tool_call, turn

_ID: BindParameter[Any] = bindparam("id")
_LAST: BindParameter[Any] = bindparam("last")
_IMPORTED: BindParameter[bool] = bindparam("imported", type_=Boolean)
"""Whether messages were brought here from another conversation: their turns may have stayed there, with all their calls."""
_LEFT = "abandoned"
"""A call that was running when its conversation was exported came here as that, without an end."""
_STATES = ("open", "completed", "interrupted", "cancelled", "failed", "abandoned", "superseded")


class Contradiction(NamedTuple):
    """A row that another one contradicts: of which table, its name there, the message it is about, and what is wrong."""

    table: str
    name: str
    seq: int | None
    problem: str


class _Rule(NamedTuple):
    table: str
    problem: str
    statement: Executable


def _of(table: Any) -> ColumnElement[bool]:
    return cast("ColumnElement[bool]", table.c.conversation_id == _ID)


def _there_is(table: Any, *conditions: ColumnElement[bool]) -> Exists:
    return exists().where(_of(table), *conditions)


_other, _parent, _reply = message.alias("other"), message.alias("parent"), message.alias("reply")
_held, _later = completion.alias("held"), completion.alias("later")
_is_open = turn.c.state == "open"
_of_message = turn.c.id == message.c.turn_id
_of_call = turn.c.id == completion.c.turn_id
_at_question = _other.c.seq == turn.c.question_seq


def _message(problem: str, *conditions: ColumnElement[bool]) -> _Rule:
    found = select(message.c.seq, message.c.seq).where(_of(message), *conditions)
    return _Rule("message", problem, found.order_by(message.c.seq).limit(1))


def _turn(problem: str, *conditions: ColumnElement[bool]) -> _Rule:
    found = select(turn.c.id, turn.c.question_seq).where(_of(turn), *conditions)
    return _Rule("turn", problem, found.order_by(turn.c.question_seq, turn.c.id).limit(1))


def _call(problem: str, *conditions: ColumnElement[bool]) -> _Rule:
    found = select(completion.c.turn_id, completion.c.number).where(_of(completion), *conditions)
    return _Rule("completion", problem, found.order_by(completion.c.turn_id, completion.c.number).limit(1))


def _outside(seq: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether there is no such message: they are numbered without gaps."""
    return or_(seq < 1, seq > _LAST)


_OF_MESSAGES = (
    _message(
        "belongs to a turn that is missing",
        message.c.turn_id.is_not(None),
        not_(_there_is(turn, _of_message)),
        or_(not_(_IMPORTED), _there_is(_held, _held.c.turn_id == message.c.turn_id)),
    ),
    _message(
        "is not the question that its turn names",
        message.c.role == USER,
        _there_is(
            turn,
            _of_message,
            or_(
                and_(message.c.status == "complete", message.c.seq != turn.c.question_seq),
                and_(message.c.status == PASSAGE, message.c.seq > turn.c.question_seq),
            ),
        ),
    ),
    _message(
        "does not answer the question that its turn names",
        message.c.role == ASSISTANT,
        _there_is(turn, _of_message, turn.c.question_seq != message.c.parent_seq),
        _there_is(
            _parent,
            _parent.c.seq == message.c.parent_seq,
            _parent.c.turn_id == message.c.turn_id,
            _parent.c.role == USER,
        ),
    ),
    _message(
        "does not follow its own turn",
        message.c.role.in_((ASSISTANT, TOOL)),
        message.c.status.in_(("complete", "partial", "late")),
        _there_is(turn, _of_message),
        not_(_there_is(_parent, _parent.c.seq == message.c.parent_seq, _parent.c.turn_id == message.c.turn_id)),
        not_(_there_is(turn, _of_message, turn.c.question_seq == message.c.parent_seq)),
    ),
    _message(
        "is a whole reply that its turn does not name",
        message.c.role == ASSISTANT,
        message.c.status == "complete",
        not_(_there_is(tool_call, tool_call.c.message_seq == message.c.seq)),
        _there_is(
            turn,
            _of_message,
            or_(turn.c.state != "completed", turn.c.reply_seq.is_(None), turn.c.reply_seq > message.c.seq),
        ),
    ),
)
_OF_TURNS = (
    _turn(
        "is no turn of this conversation: nothing was asked or called in it",
        not_(_there_is(_held, _held.c.turn_id == turn.c.id)),
        not_(_there_is(_other, _at_question, _other.c.turn_id == turn.c.id)),
    ),
    _turn(
        "names a question that is none",
        not_(_there_is(_other, _at_question, _other.c.role == USER, _other.c.status != PASSAGE)),
    ),
    _turn(
        "is not as open, or as closed, as its state says",
        or_(
            turn.c.state.not_in(_STATES),
            _is_open & or_(turn.c.claim.is_(None), turn.c.claim != turn.c.branch),
            _is_open & or_(turn.c.ended_at.is_not(None), turn.c.reply_seq.is_not(None)),
            not_(_is_open) & turn.c.claim.is_not(None),
            not_(_is_open) & turn.c.ended_at.is_(None),
        ),
    ),
    _turn(
        "is on a branch that is missing",
        turn.c.branch != 0,
        not_(_there_is(branch, branch.c.number == turn.c.branch)),
    ),
    _turn(
        "names a reply that is not its own",
        turn.c.reply_seq.is_not(None),
        not_(
            _there_is(
                _reply,
                _reply.c.seq == turn.c.reply_seq,
                _reply.c.turn_id == turn.c.id,
                _reply.c.role == ASSISTANT,
                _reply.c.status.in_(("redacted", case((turn.c.state == "completed", "complete"), else_="partial"))),
                not_(_there_is(tool_call, tool_call.c.message_seq == _reply.c.seq)),
            )
        ),
    ),
)
_OF_CALLS = (
    _call("belongs to a turn that is missing", not_(_there_is(turn, _of_call))),
    _call(
        "is still running, and its turn is over",
        completion.c.ended_at.is_(None),
        completion.c.state != _LEFT,
        not_(_there_is(turn, _of_call, _is_open)),
    ),
    _call(
        "failed, and its turn is completed",
        completion.c.state != "ok",
        completion.c.number < LATE_CALL_OFFSET,
        _there_is(turn, _of_call, turn.c.state == "completed"),
        not_(_there_is(_later, _later.c.turn_id == completion.c.turn_id, _later.c.number > completion.c.number)),
    ),
)
_OF_OTHERS = (
    _Rule(
        "chunk",
        "is no piece of an open turn's reply",
        select(chunk.c.turn_id, chunk.c.number)
        .where(_of(chunk), not_(_there_is(turn, turn.c.id == chunk.c.turn_id, _is_open)))
        .order_by(chunk.c.turn_id, chunk.c.completion, chunk.c.number)
        .limit(1),
    ),
    _Rule(
        "branch",
        "does not end at a message of this conversation",
        select(branch.c.number, branch.c.head_seq)
        .where(_of(branch), or_(branch.c.number < 1, _outside(branch.c.head_seq)))
        .order_by(branch.c.number)
        .limit(1),
    ),
    _Rule(
        "conversation",
        "does not end at a message of its own",
        select(conversation.c.id, conversation.c.head_seq).where(
            conversation.c.id == _ID, _outside(conversation.c.head_seq)
        ),
    ),
    _Rule(
        "summary",
        "stands for messages that are not there",
        select(summary.c.number, summary.c.message_seq)
        .where(
            _of(summary),
            or_(
                _outside(summary.c.from_seq),
                _outside(summary.c.to_seq),
                _outside(summary.c.message_seq),
                summary.c.from_seq > summary.c.to_seq,
            ),
        )
        .order_by(summary.c.number)
        .limit(1),
    ),
)
RULES = (*_OF_MESSAGES, *_OF_TURNS, *_OF_CALLS, *_OF_OTHERS)


def find(
    connection: Connection, conversation_id: UUID, last_seq: int, *, imported: bool = False
) -> Iterator[Contradiction]:
    """Yield, for each rule that is broken, the first row that breaks it. There are `last_seq` messages."""
    for rule in RULES:
        values = {"id": conversation_id, "last": last_seq, "imported": imported}
        found = connection.execute(rule.statement, values).first()
        if found is not None:
            name = f"{found[0]}:{found[1]}" if rule.table == "completion" else str(found[0])
            yield Contradiction(rule.table, name, found[1] if rule.table in ("message", "turn") else None, rule.problem)
