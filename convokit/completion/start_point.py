"""Resolve the message that a turn, branch or edit starts from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow
from convokit.completion.state import ChatRef, KitState, identify_flow
from convokit.context.new_messages import NewMessages
from convokit.domain.content import Content, ToolResult, find_blob_references
from convokit.domain.ids import parse_message_seq
from convokit.domain.message import ASSISTANT, SUMMARY, TOOL, USER, Message, MessageRow
from convokit.domain.turn import TurnRow
from convokit.errors import InvalidInput, NotFound, Redacted
from convokit.store import blobs, conversations, message_tree, messages, path_pages, tool_calls, turns
from convokit.store.snapshot import find_asking

MessageLike = Message | str | int
"""A message, its id or its seq."""


@dataclass(frozen=True, slots=True)
class StartPoint:
    """The message that a turn starts from, where that is not simply the branch head."""

    seq: int
    """The message that the turn follows; 0 is before the first message."""
    is_question: bool = False
    """Whether that message is the question itself, which is stored already."""
    head: int | None = None
    """The branch head that this start_point was found for, where another head would give another start_point."""


@dataclass(frozen=True, slots=True, repr=False)
class TurnDetails:
    """What the caller of a turn gives besides its question."""

    messages: NewMessages | None = None
    """Messages that are written before the question, in the transaction that begins the turn."""
    expect: int | None = None
    """The branch head that the caller knows; 0 is before the first message. None: any."""
    metadata: str | None = None
    """JSON that is kept with the turn."""


NO_DETAILS = TurnDetails()


@dataclass(frozen=True, slots=True)
class BranchEnd:
    """The end of a branch: the turn to return to, or else the start point of a question or results that have no reply here."""

    turn: TurnRow | None
    start_point: StartPoint | None = None
    results: Content | None = None
    """The results to hand in again at the start point; None where it is a question."""


def resolve_seq_flow(kit: KitState, chat: ChatRef, message: MessageLike) -> Flow[int]:
    """Return the seq of a message. Raises: InvalidInput for a message of another conversation."""
    conversation_id = yield from identify_flow(kit, chat)
    return parse_message_seq(conversation_id, message.id if isinstance(message, Message) else message)


def find_path_end(connection: Connection, conversation_id: UUID, seq: int) -> MessageRow:
    """Return a message that a path can end with. Raises: NotFound, InvalidInput."""
    row = messages.find(connection, conversation_id, seq)
    if row is None:
        raise NotFound("message", seq)
    check_path_end(row)
    return row


def check_path_end(row: MessageRow) -> None:
    """Check that a path can end with a message. Raises: InvalidInput."""
    seq = row.seq
    if row.is_passage and row.status == "redacted":
        problem = f"message {seq} was a passage or a summary and is erased; pass a message of a path"
        raise InvalidInput("message", problem)
    if row.is_passage:
        raise InvalidInput("message", f"message {seq} is a retrieved passage; pass the question it belongs to")
    if row.status == SUMMARY:
        problem = f"message {seq} is a summary and not part of a branch; pass one of the messages it summarizes"
        raise InvalidInput("message", problem)


def find_edit_start_point(connection: Connection, tenant: str, conversation_id: UUID, seq: int) -> StartPoint | None:
    """Return the start point of an edited question: the message that the question and its passages follow."""
    if conversations.find(connection, tenant, conversation_id) is None:
        return None
    row = find_path_end(connection, conversation_id, seq)
    if row.role != USER:
        raise InvalidInput("message", f"message {seq} is not a question; use regenerate for another reply")
    _raise_if_redacted(conversation_id, row)
    parent = find_seq_before_passages(connection, conversation_id, row)
    return StartPoint(0 if parent is None else parent)


def find_question_start_point(
    connection: Connection, tenant: str, conversation_id: UUID, branch: int, seq: int | None
) -> StartPoint | None:
    """Return the start point of the question that a message belongs to; with `seq` None, of the branch's last question."""
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    head = message_tree.read_head(connection, row, branch) if seq is None else None
    at = head if seq is None else find_path_end(connection, conversation_id, seq).seq
    question = find_question(connection, conversation_id, at)
    if question is None:
        raise InvalidInput("message", "there is no question before it that could be answered again")
    _raise_if_redacted(conversation_id, question)
    return StartPoint(question.seq, is_question=True, head=head)


def find_branch_end(connection: Connection, tenant: str, conversation_id: UUID, branch: int) -> BranchEnd | None:
    """Return the end of a branch; None if the conversation does not exist."""
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    head = message_tree.read_head(connection, row, branch)
    end = None if head is None else messages.find(connection, conversation_id, head)
    if end is None:
        return BranchEnd(None)
    open_turn = turns.find_open(connection, conversation_id, branch)
    if open_turn is not None:
        return BranchEnd(turns.find(connection, conversation_id, open_turn.id))
    turn = _find_turn(connection, conversation_id, branch, end)
    is_resumable = turn is not None and turn.branch == branch and turn.state != "completed"
    if is_resumable or _is_whole_reply(end, turn):
        return BranchEnd(turn)
    if end.role == TOOL:
        return _find_results(connection, conversation_id, end, head)
    is_broken = end.status in ("partial", "late")
    question = find_question(connection, conversation_id, end.parent_seq if is_broken else end.seq, only_last=True)
    if question is None:
        return BranchEnd(None)
    _raise_if_redacted(conversation_id, question)
    return BranchEnd(None, StartPoint(question.seq, is_question=True, head=head))


def _find_results(connection: Connection, conversation_id: UUID, end: MessageRow, head: int | None) -> BranchEnd:
    """Return the results that a path ends with, if they answer calls that the caller ran.

    Their turn belongs to another branch, or they were imported. A turn of this branch is started with copies of them, so that
    every turn has the messages that it starts with.
    """

    def count_missing(rows: list[MessageRow]) -> int:
        return len(rows) if all(row.role == TOOL for row in rows) else 0

    rows = messages.read_backwards(connection, conversation_id, end.seq, count_missing).rows
    first = len(rows)
    while first and rows[first - 1].role == TOOL:
        first -= 1
    results, asking = rows[first:], find_asking(rows)
    if asking is None or tool_calls.has_tool_calls(connection, conversation_id, asking.seq):
        return BranchEnd(None)
    for row in results:
        _raise_if_redacted(conversation_id, row)
    handed_in = tuple(
        ToolResult(row.tool_call_id or "", row.content, None if row.parts is None else json.loads(row.parts))
        for row in results
    )
    digests = [digest for row in results for digest in find_blob_references(row.parts, None)]
    found = tuple(blobs.read_blobs(connection, conversation_id, digests).values()) if digests else ()
    content = Content(None, blobs=found, results=handed_in, has_question=False)
    return BranchEnd(None, StartPoint(asking.seq, head=head), content)


def _is_whole_reply(end: MessageRow, turn: TurnRow | None) -> bool:
    """Return whether a path ends with a complete reply."""
    if turn is not None and turn.reply_seq == end.seq:
        return turn.state == "completed"
    return end.role == ASSISTANT and end.status in ("complete", "redacted") and end.tool_calls is None


def _find_turn(connection: Connection, conversation_id: UUID, branch: int, end: MessageRow) -> TurnRow | None:
    """Return the turn of a path's last message: for a question, the branch's newest turn that answers it."""
    if end.is_question:
        regenerations = turns.find_regenerations(connection, conversation_id, branch, [end.seq])
        if end.seq in regenerations:
            return regenerations[end.seq]
    return None if end.turn_id is None else turns.find(connection, conversation_id, end.turn_id)


def find_question(
    connection: Connection, conversation_id: UUID, at: int | None, *, only_last: bool = False
) -> MessageRow | None:
    """Return the last question of the path to `at`; with `only_last`, only if the path ends with it."""

    def rows_needed(rows: list[MessageRow]) -> int:
        return 0 if only_last or any(row.is_question for row in rows) else len(rows)

    rows = messages.read_backwards(connection, conversation_id, at, rows_needed).rows
    rows = rows[-1:] if only_last else rows
    return next((row for row in reversed(rows) if row.is_question), None)


def find_seq_before_passages(connection: Connection, conversation_id: UUID, row: MessageRow) -> int | None:
    """Return the seq of the message that a question and its passages follow."""
    return path_pages.find_before_passages(connection, conversation_id, row.parent_seq)


def _raise_if_redacted(conversation_id: UUID, row: MessageRow) -> None:
    if row.status == "redacted":
        raise Redacted(conversation_id, f"message {row.seq}")
