"""Where in the tree of messages something is to happen: found, and checked, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow
from convokit.completion.state import ChatRef, KitState, identify_flow
from convokit.domain.ids import parse_message_seq
from convokit.domain.message import ASSISTANT, SUMMARY, USER, Message, MessageRow
from convokit.domain.turn import TurnRow
from convokit.errors import InvalidInput, NotFound, Redacted
from convokit.store import branches, conversations, messages, turns


@dataclass(frozen=True, slots=True)
class TurnAnchor:
    """Where a turn begins that does not simply follow its branch's head."""

    seq: int
    """What it follows; 0 where it begins the conversation anew."""
    again: bool = False
    """Whether that is its question, which is there already."""
    head: int | None = None
    """The head for which this was decided, where another one would make it another place."""


@dataclass(frozen=True, slots=True)
class BranchEnd:
    """What a branch ends with: the turn to come back to, or else the place of a question that has no reply here."""

    turn: TurnRow | None
    place: TurnAnchor | None = None


def resolve_seq_flow(scope: KitState, target: ChatRef, given: Message | str | int) -> Flow[int]:
    """Return the seq of a message, its id or its seq. Raises: InvalidInput for one of another conversation."""
    conversation_id = yield from identify_flow(scope, target)
    return parse_message_seq(conversation_id, given.id if isinstance(given, Message) else given)


def is_question(row: MessageRow) -> bool:
    """Whether a message is what a turn answers."""
    return row.role == USER and row.status != SUMMARY and not row.is_passage


def find_anchor_message(connection: Connection, conversation_id: UUID, seq: int) -> MessageRow:
    """Return a message a path can end with. Raises: NotFound, InvalidInput."""
    row = messages.find(connection, conversation_id, seq)
    if row is None:
        raise NotFound("message", seq)
    if row.is_passage and row.status == "redacted":
        raise InvalidInput(
            "message", f"message {seq} was a passage or a summary and is emptied: name a message of a path"
        )
    if row.is_passage:
        raise InvalidInput("message", f"message {seq} is a passage, which is no place of its own: name its question")
    if row.status == SUMMARY:
        raise InvalidInput("message", f"message {seq} is a summary, which lies on no path: name what it stands for")
    return row


def find_edit_anchor(connection: Connection, tenant: str, conversation_id: UUID, seq: int) -> TurnAnchor | None:
    """Return the place that a question lies in: what it follows, without the passages that came with it."""
    if conversations.find(connection, tenant, conversation_id) is None:
        return None
    row = find_anchor_message(connection, conversation_id, seq)
    if row.role != USER:
        raise InvalidInput("message", f"message {seq} is no question: edit takes one, regenerate makes another reply")
    _refuse_redacted(conversation_id, row)
    parent = find_seq_before_passages(connection, conversation_id, row)
    return TurnAnchor(0 if parent is None else parent)


def find_question_anchor(
    connection: Connection, tenant: str, conversation_id: UUID, branch: int, seq: int | None
) -> TurnAnchor | None:
    """Return the place of the question that a message belongs to; with None, of the branch's last one."""
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    head = branches.read_head(connection, row, branch) if seq is None else None
    at = head if seq is None else find_anchor_message(connection, conversation_id, seq).seq
    question = _question(connection, conversation_id, at)
    if question is None:
        raise InvalidInput("message", "there is no question before it that could be answered again")
    _refuse_redacted(conversation_id, question)
    return TurnAnchor(question.seq, again=True, head=head)


def find_branch_end(connection: Connection, tenant: str, conversation_id: UUID, branch: int) -> BranchEnd | None:
    """Return what a branch ends with, None where there is no conversation or nothing in it."""
    row = conversations.find(connection, tenant, conversation_id)
    head = None if row is None else branches.read_head(connection, row, branch)
    end = None if head is None else messages.find(connection, conversation_id, head)
    if end is None:
        return None
    held = turns.find_open(connection, conversation_id, branch)
    if held is not None:
        return BranchEnd(turns.find(connection, conversation_id, held.id))
    turn = _turn_of(connection, conversation_id, branch, end)
    own = turn is not None and turn.branch == branch and turn.state != "completed"
    if own or _is_whole(end, turn):
        return BranchEnd(turn)
    broken = end.status in ("partial", "late")
    question = _question(connection, conversation_id, end.parent_seq if broken else end.seq, most=1)
    if question is None:
        return BranchEnd(None)
    _refuse_redacted(conversation_id, question)
    return BranchEnd(None, TurnAnchor(question.seq, again=True, head=head))


def _is_whole(end: MessageRow, turn: TurnRow | None) -> bool:
    """Whether a path ends with a reply that nothing is missing from."""
    if turn is not None and turn.reply_seq == end.seq:
        return turn.state == "completed"
    return end.role == ASSISTANT and end.status in ("complete", "redacted") and end.tool_calls is None


def _turn_of(connection: Connection, conversation_id: UUID, branch: int, end: MessageRow) -> TurnRow | None:
    """Return the turn of a path's last message: for a question, the last one of the branch that was to answer it."""
    if is_question(end):
        again = turns.find_regenerations(connection, conversation_id, branch, [end.seq]).get(end.seq)
        if again is not None:
            return again
    return None if end.turn_id is None else turns.find(connection, conversation_id, end.turn_id)


def _question(
    connection: Connection, conversation_id: UUID, at: int | None, most: int | None = None
) -> MessageRow | None:
    """Return the last question of the path to a message; with `most`, only if it is among the last so many."""

    def enough(rows: list[MessageRow]) -> int:
        return 0 if most is not None or any(map(is_question, rows)) else len(rows)

    rows = messages.read_backwards(connection, conversation_id, at, enough).rows[-(most or 0) :]
    return next(filter(is_question, reversed(rows)), None)


def find_seq_before_passages(connection: Connection, conversation_id: UUID, row: MessageRow) -> int | None:
    """Return the seq of what a question and its passages follow."""

    def enough(rows: list[MessageRow]) -> int:
        return len(rows) if rows[-1].is_passage else 0

    rows = messages.read_backwards(connection, conversation_id, row.parent_seq, enough).rows
    before = next((each for each in reversed(rows) if not each.is_passage), None)
    return None if before is None else before.seq


def _refuse_redacted(conversation_id: UUID, row: MessageRow) -> None:
    if row.status == "redacted":
        raise Redacted(conversation_id, f"message {row.seq}")
