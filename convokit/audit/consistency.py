"""Find rows that contradict each other, one statement per rule.

The chain commits to messages and to ended API calls. All other rows of a conversation must agree with these. Each statement
reads the rows of one table once, and finds rows of other tables by their key.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast, get_args

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

from convokit.audit.sql import find_entry_number
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import ASSISTANT, PASSAGE, TOOL, USER
from convokit.domain.turn import LATE, TurnState
from convokit.errors import ChainBroken
from convokit.store.schema import branch, chunk, completion, conversation, message, summary, tool_call, turn

_ID: BindParameter[Any] = bindparam("id")
_LAST_SEQ: BindParameter[Any] = bindparam("last")
_IMPORTED: BindParameter[bool] = bindparam("imported", type_=Boolean)
"""Whether messages were copied or imported: then the source conversation may have kept their turns and calls."""
# An import writes this for a call that was running at the export. Such a call has no `ended_at`.
_ABANDONED = "abandoned"
_FIRST_LATE_NUMBER = 1000
"""Version 0.1 added this to the number of a late call, which it gave no state of its own."""
_SUBJECTS = {"chunk": "chunk of turn", "completion": "API call"}  # in error messages, instead of the table's name


class _Rule(NamedTuple):
    """`statement` selects the first row of `table` that breaks the rule: its key, and for a turn the seq of its question."""

    table: str
    problem: str
    statement: Executable


def _in_conversation(table: Any) -> ColumnElement[bool]:
    return cast("ColumnElement[bool]", table.c.conversation_id == _ID)


def _has_row(table: Any, *conditions: ColumnElement[bool]) -> Exists:
    return exists().where(_in_conversation(table), *conditions)


_question, _parent, _reply = message.alias("question"), message.alias("parent"), message.alias("reply")
_asking_turn, _later_question = turn.alias("asking_turn"), message.alias("later_question")
_call_of_turn, _later_call = completion.alias("call_of_turn"), completion.alias("later_call")
_is_open = turn.c.state == "open"
_turn_of_message = turn.c.id == message.c.turn_id
_turn_of_call = turn.c.id == completion.c.turn_id
_at_question = _question.c.seq == turn.c.question_seq

_is_answering = not_(_has_row(_question, _at_question, _question.c.turn_id == turn.c.id))
"""Whether a turn wrote no question: its tool results belong to an older one."""
_asking_of_other_turn = (
    *(_in_conversation(table) for table in (turn, _parent)),
    _turn_of_message,
    _is_answering,
    _parent.c.seq == message.c.parent_seq,
    _parent.c.turn_id.is_distinct_from(turn.c.id),
)
# A caller's results follow a reply of an earlier turn, or results that were imported with it.
_answers_another_turn = and_(
    message.c.role == TOOL,
    _has_row(_parent, _parent.c.seq == message.c.parent_seq, _parent.c.role.in_((ASSISTANT, TOOL))),
)


def _message_rule(problem: str, *conditions: ColumnElement[bool]) -> _Rule:
    found = select(message.c.seq, message.c.seq).where(_in_conversation(message), *conditions)
    return _Rule("message", problem, found.order_by(message.c.seq).limit(1))


def _turn_rule(problem: str, *conditions: ColumnElement[bool]) -> _Rule:
    found = select(turn.c.id, turn.c.question_seq).where(_in_conversation(turn), *conditions)
    return _Rule("turn", problem, found.order_by(turn.c.question_seq, turn.c.id).limit(1))


def _call_rule(problem: str, *conditions: ColumnElement[bool]) -> _Rule:
    found = select(completion.c.turn_id, completion.c.number).where(_in_conversation(completion), *conditions)
    return _Rule("completion", problem, found.order_by(completion.c.turn_id, completion.c.number).limit(1))


def _is_missing(seq: ColumnElement[Any]) -> ColumnElement[bool]:
    return or_(seq < 1, seq > _LAST_SEQ)  # messages are numbered without gaps


_MESSAGE_RULES = (
    _message_rule(
        "belongs to a turn that is missing",
        message.c.turn_id.is_not(None),
        not_(_has_row(turn, _turn_of_message)),
        or_(not_(_IMPORTED), _has_row(_call_of_turn, _call_of_turn.c.turn_id == message.c.turn_id)),
    ),
    _message_rule(
        "is not the question that its turn names",
        message.c.role == USER,
        _has_row(
            turn,
            _turn_of_message,
            or_(
                and_(message.c.status == "complete", message.c.seq != turn.c.question_seq),
                and_(message.c.status == PASSAGE, message.c.seq > turn.c.question_seq),
            ),
        ),
    ),
    _message_rule(
        "does not answer the question that its turn names",
        message.c.role == ASSISTANT,
        _has_row(turn, _turn_of_message, turn.c.question_seq != message.c.parent_seq),
        _has_row(
            _parent,
            _parent.c.seq == message.c.parent_seq,
            _parent.c.turn_id == message.c.turn_id,
            _parent.c.role == USER,
        ),
    ),
    _message_rule(
        "does not follow a message of its turn",
        message.c.role.in_((ASSISTANT, TOOL)),
        message.c.status.in_(("complete", "partial", "late")),
        _has_row(turn, _turn_of_message),
        not_(_has_row(_parent, _parent.c.seq == message.c.parent_seq, _parent.c.turn_id == message.c.turn_id)),
        not_(_has_row(turn, _turn_of_message, turn.c.question_seq == message.c.parent_seq)),
        not_(_answers_another_turn),
    ),
    _message_rule(
        "answers a call of another question than its turn names",
        message.c.role == TOOL,
        or_(
            _has_row(turn, _turn_of_message, _is_answering, turn.c.question_seq > message.c.seq),
            exists().where(
                *_asking_of_other_turn,
                _in_conversation(_asking_turn),
                _asking_turn.c.id == _parent.c.turn_id,
                _asking_turn.c.question_seq != turn.c.question_seq,
            ),
            exists().where(  # the calls were imported without their turn
                *_asking_of_other_turn,
                not_(_has_row(_asking_turn, _asking_turn.c.id == _parent.c.turn_id)),
                _in_conversation(_later_question),
                _later_question.c.seq.between(message.c.run_start_seq, message.c.seq),
                _later_question.c.seq > turn.c.question_seq,
                _later_question.c.role == USER,
                _later_question.c.status == "complete",
            ),
        ),
    ),
    _message_rule(
        "is a complete reply that its turn does not name",
        message.c.role == ASSISTANT,
        message.c.status == "complete",
        not_(_has_row(tool_call, tool_call.c.message_seq == message.c.seq)),
        _has_row(
            turn,
            _turn_of_message,
            or_(turn.c.state != "completed", turn.c.reply_seq.is_(None), turn.c.reply_seq > message.c.seq),
        ),
    ),
)
_TURN_RULES = (
    _turn_rule(
        "has neither a question nor an API call in this conversation",
        not_(_has_row(_call_of_turn, _call_of_turn.c.turn_id == turn.c.id)),
        not_(_has_row(_question, _at_question, _question.c.turn_id == turn.c.id)),
    ),
    _turn_rule(
        "names a question that is not a user message",
        not_(_has_row(_question, _at_question, _question.c.role == USER, _question.c.status != PASSAGE)),
    ),
    _turn_rule(
        "has columns that contradict its state",
        or_(
            turn.c.state.not_in(get_args(TurnState)),
            _is_open & or_(turn.c.claim.is_(None), turn.c.claim != turn.c.branch),
            _is_open & or_(turn.c.ended_at.is_not(None), turn.c.reply_seq.is_not(None)),
            not_(_is_open) & turn.c.claim.is_not(None),
            not_(_is_open) & turn.c.ended_at.is_(None),
        ),
    ),
    _turn_rule(
        "is on a branch that is missing",
        turn.c.branch != 0,
        not_(_has_row(branch, branch.c.number == turn.c.branch)),
    ),
    _turn_rule(
        "names a reply that belongs elsewhere",
        turn.c.reply_seq.is_not(None),
        not_(
            _has_row(
                _reply,
                _reply.c.seq == turn.c.reply_seq,
                _reply.c.turn_id == turn.c.id,
                _reply.c.role == ASSISTANT,
                _reply.c.status.in_(("redacted", case((turn.c.state == "completed", "complete"), else_="partial"))),
                not_(_has_row(tool_call, tool_call.c.message_seq == _reply.c.seq)),
            )
        ),
    ),
)
_CALL_RULES = (
    _call_rule("belongs to a turn that is missing", not_(_has_row(turn, _turn_of_call))),
    _call_rule(
        "has not ended, and its turn has",
        completion.c.ended_at.is_(None),
        completion.c.state != _ABANDONED,
        not_(_has_row(turn, _turn_of_call, _is_open)),
    ),
    _call_rule(
        "failed, and its turn is completed",
        completion.c.state.not_in(("ok", LATE)),
        completion.c.number < _FIRST_LATE_NUMBER,
        _has_row(turn, _turn_of_call, turn.c.state == "completed"),
        not_(
            _has_row(
                _later_call,
                _later_call.c.turn_id == completion.c.turn_id,
                _later_call.c.number > completion.c.number,
                _later_call.c.state != LATE,
            )
        ),
    ),
)
_OTHER_RULES = (
    _Rule(
        "chunk",
        "belongs to no open turn",
        select(chunk.c.turn_id, chunk.c.number)
        .where(_in_conversation(chunk), not_(_has_row(turn, turn.c.id == chunk.c.turn_id, _is_open)))
        .order_by(chunk.c.turn_id, chunk.c.completion, chunk.c.number)
        .limit(1),
    ),
    _Rule(
        "branch",
        "ends at a message that does not exist",
        select(branch.c.number, branch.c.head_seq)
        .where(_in_conversation(branch), or_(branch.c.number < 1, _is_missing(branch.c.head_seq)))
        .order_by(branch.c.number)
        .limit(1),
    ),
    _Rule(
        "conversation",
        "ends at a message that does not exist",
        select(conversation.c.id, conversation.c.head_seq).where(
            conversation.c.id == _ID, _is_missing(conversation.c.head_seq)
        ),
    ),
    _Rule(
        "summary",
        "names messages that do not exist",
        select(summary.c.number, summary.c.message_seq)
        .where(
            _in_conversation(summary),
            or_(
                _is_missing(summary.c.from_seq),
                _is_missing(summary.c.to_seq),
                _is_missing(summary.c.message_seq),
                summary.c.from_seq > summary.c.to_seq,
            ),
        )
        .order_by(summary.c.number)
        .limit(1),
    ),
)
RULES = (*_MESSAGE_RULES, *_TURN_RULES, *_CALL_RULES, *_OTHER_RULES)


def check_consistency(connection: Connection, row: ConversationRow, last_entry: int, *, imported: bool) -> None:
    """Raise ChainBroken for the first row that breaks a rule. `imported`: the chain starts with a copy or an import."""
    values = {"id": row.id, "last": row.last_seq, "imported": imported}
    for rule in RULES:
        found = connection.execute(rule.statement, values).first()
        if found is None:
            continue
        key = f"{found[0]}:{found[1]}" if rule.table == "completion" else str(found[0])
        entry, name = 0, f"{rule.table}:{key}"
        if rule.table in ("message", "completion"):
            entry, name = find_entry_number(connection, row.id, rule.table, key), key
        elif rule.table == "turn":
            entry = find_entry_number(connection, row.id, "message", str(found[1]))
        subject = _SUBJECTS.get(rule.table, rule.table)
        raise ChainBroken(row.id, entry or last_entry, name, f"{subject} {key} {rule.problem}")
