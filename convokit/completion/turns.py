"""List and cancel the turns of a chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TypeGuard
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.anchor import is_question
from convokit.completion.effects import Flow, read_flow
from convokit.completion.recovery import close_turn_flow, is_worker_gone, resolve_counter
from convokit.completion.state import ChatRef, KitState, identify_flow, not_found
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import parse_id
from convokit.domain.message import USER, MessageRow
from convokit.domain.paging import validate_limit
from convokit.domain.turn import OpenTurn, Turn, TurnRow
from convokit.errors import NotFound
from convokit.store import branches, conversations, messages, turns


def cancel_flow(scope: KitState, target: ChatRef, turn: UUID | str | None) -> Flow[bool]:
    """End an open turn, keeping what is stored of its reply. Return whether it was open."""
    conversation = yield from find_conversation_flow(scope, target)
    turn_id = None if turn is None else parse_id(turn, "turn")
    found = yield from read_flow(_open, conversation.id, target.branch, turn_id)
    if found is None:
        return False
    branch, held = found
    closed = yield from close_turn_flow(
        scope, conversation, branch, held, resolve_counter(scope, conversation), "cancelled"
    )
    return closed is not None


def list_turns_flow(scope: KitState, target: ChatRef, *, limit: int, before: UUID | str | None) -> Flow[list[Turn]]:
    """Return the newest `limit` turns of the chat's path, oldest first; one whose worker is gone is closed first."""
    validate_limit(limit)
    last = None if before is None else parse_id(before, "before")
    conversation = yield from find_conversation_flow(scope, target)
    found = yield from read_flow(_open, conversation.id, target.branch, None)
    if found is not None and is_worker_gone(scope, found[1]):
        yield from close_turn_flow(scope, conversation, *found, resolve_counter(scope, conversation), "abandoned")
        conversation = yield from find_conversation_flow(scope, target)
    rows = yield from read_flow(read_turns_page, conversation, target.branch, limit, last)
    if rows is None:
        raise NotFound("turn", last)
    return [Turn.of(conversation.id, row) for row in rows]


def find_conversation_flow(scope: KitState, target: ChatRef) -> Flow[ConversationRow]:
    """Return the chat's conversation. Raises: NotFound."""
    conversation_id = yield from identify_flow(scope, target)
    row = yield from read_flow(conversations.find, scope.tenant, conversation_id)
    if row is None:
        raise not_found(target)
    return row


def _open(
    connection: Connection, conversation_id: UUID, branch: int, turn_id: UUID | None
) -> tuple[int, OpenTurn] | None:
    """Return the branch and the open turn: the one that is named, or the branch's own. Raises: NotFound."""
    if turn_id is not None:
        found = turns.find(connection, conversation_id, turn_id)
        if found is None:
            raise NotFound("turn", turn_id)
        branch = found.branch
    held = turns.find_open(connection, conversation_id, branch)
    return None if held is None or (turn_id is not None and held.id != turn_id) else (branch, held)


def read_turns_page(
    connection: Connection, conversation: ConversationRow, branch: int, limit: int, before: UUID | None
) -> list[TurnRow] | None:
    """Return the newest turns of a path, oldest first; None when `before` is not there."""
    head = branches.read_head(connection, conversation, branch)
    if before is not None:
        found = turns.find(connection, conversation.id, before)
        question = None if found is None else messages.find(connection, conversation.id, found.question_seq)
        if question is None:
            return None
        head = question.parent_seq

    def enough(rows: list[MessageRow]) -> int:
        return 0 if len(set(_turn_ids(rows[::-1], {}))) >= limit else len(rows)

    path = messages.read_backwards(connection, conversation.id, head, enough)
    waiting = [row.seq for row, after in pairwise([*path.rows, None]) if _waits(row, after)]
    again = turns.find_regenerations(connection, conversation.id, branch, waiting) if waiting else {}
    ids = list(dict.fromkeys(_turn_ids(path.rows, again)))[-limit:]
    rows = {row.id: row for row in turns.read_many(connection, conversation.id, ids)}
    return [rows[each] for each in ids if each in rows]


def _waits(row: MessageRow | None, after: MessageRow | None) -> TypeGuard[MessageRow]:
    """Whether a message is a question that no reply follows on its path."""
    return row is not None and is_question(row) and (after is None or after.role == USER)


def _turn_ids(rows: Sequence[MessageRow], again: Mapping[int, TurnRow]) -> Iterator[UUID]:
    """Yield the turns of a path: for a question the one whose reply follows it, else the newest that was to answer it."""
    for row, after in pairwise([*rows, None]):
        assert row is not None
        answered = is_question(row) and not _waits(row, after)
        turn_id = again[row.seq].id if row.seq in again else row.turn_id
        if turn_id is not None and not row.is_passage and not answered:
            yield turn_id
