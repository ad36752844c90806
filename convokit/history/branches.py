"""Branches: other questions, other replies, other ends, all in one tree of messages that never change.

Nothing is copied. An edited question lies beside the old one, another reply beside the first; a branch is a number and the
message its path ends with, so making one costs the same wherever it begins. Only `copy` writes messages again, for a
conversation of its own.

Pinning messages: a property of the conversation, not of the message, which never changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion import anchor, resume, turn
from convokit.completion.anchor import resolve_seq_flow
from convokit.completion.effects import Flow, read_flow, write_once_flow
from convokit.completion.options import Options
from convokit.completion.recovery import OnBusy, close_turn_flow, is_worker_gone, resolve_counter
from convokit.completion.state import ChatRef, KitState, identify_flow, not_found
from convokit.completion.turns import find_conversation_flow
from convokit.completion.write_once import BEGIN_S, write_with_retry_flow
from convokit.domain.content import validate_question
from convokit.domain.conversation import MAIN, Branch, BranchRow
from convokit.domain.ids import MAX_SEQ, parse_message_seq
from convokit.domain.message import PASSAGE, SUMMARY, Message, MessageRow
from convokit.domain.paging import validate_limit
from convokit.domain.text import validate_text
from convokit.domain.turn import OpenTurn, Reply
from convokit.errors import ConversationBusy, InvalidInput, NotFound, Redacted
from convokit.history import copies
from convokit.history.queries import over
from convokit.store import branches, conversations, messages, turn_changes, turns

Given = Message | str | int
_TRIES = 8
MOST_PINS = 64
"""Each is read with every turn that has left it behind."""


def edit(scope: KitState, target: ChatRef, given: Given, asked: resume.Asked, *, stream: bool) -> Flow[Reply]:
    """Ask again in place of a question: beside it, behind what it follows. Raises: NotFound, InvalidInput."""
    validate_question(asked.content, asked.context, scope.limits)
    turn.check_on_busy(asked.on_busy)
    seq = yield from anchor.resolve_seq_flow(scope, target, given)
    place = yield from read_flow(anchor.find_edit_anchor, scope.tenant, _id(target), seq)
    if place is None:
        raise not_found(target)
    return (yield from resume.send(scope, target, asked, stream=stream, place=place))


def regenerate(
    scope: KitState, target: ChatRef, given: Given | None, call: Options, *, stream: bool, on_busy: OnBusy
) -> Flow[Reply]:
    """Make another reply to the question that a message belongs to, or to the branch's last one."""
    turn.check_on_busy(on_busy)
    conversation_id = yield from identify_flow(scope, target)
    seq = None if given is None else (yield from anchor.resolve_seq_flow(scope, target, given))
    for _ in range(_TRIES):
        place = yield from read_flow(anchor.find_question_anchor, scope.tenant, conversation_id, target.branch, seq)
        if place is None:
            raise not_found(target)
        try:
            return (yield from turn.ask(scope, target, None, call, stream=stream, on_busy=on_busy, place=place))
        except turn_changes.Conflict:  # the branch has another last question by now
            continue
    raise ConversationBusy(target.name, "several", None)


def fork(scope: KitState, target: ChatRef, given: Given | None, name: str | None) -> Flow[ChatRef]:
    """Make a branch that ends at a message, or where this one ends, and return a chat's target on it."""
    if name is not None:
        _check_name(scope, name)
    conversation_id = yield from identify_flow(scope, target)
    seq = None if given is None else (yield from anchor.resolve_seq_flow(scope, target, given))
    made = BranchRow(0, name, seq, scope.clock.now_us())
    number = yield from write_with_retry_flow(
        scope,
        conversation_id,
        lambda connection: _fork(connection, scope.tenant, conversation_id, target.branch, made),
        lambda connection: branches.find_created_branch(connection, conversation_id, made),
        patience_s=BEGIN_S,
        passing_only=True,
    )
    if number is None:
        raise not_found(target)
    return replace(target, branch=number)


def _fork(connection: Connection, tenant: str, conversation_id: UUID, branch: int, made: BranchRow) -> int | None:
    """Make the branch and number it, in its row and in the value by which another try finds it."""
    conversations.lock(connection, conversation_id)  # two forks at once: one number each
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    if made.head_seq is None:
        made.head_seq = branches.read_head(connection, row, branch)
    if made.head_seq is None:
        raise NotFound("message", "to fork from", "nothing was said yet")
    anchor.find_anchor_message(connection, conversation_id, made.head_seq)
    if made.name is not None and branches.find_branch_number(connection, conversation_id, made.name) is not None:
        raise InvalidInput("name", f"there is a branch named {made.name!r} already: open it, or take another name")
    branches.create_branch(connection, conversation_id, made)
    return made.number


def _check_name(scope: KitState, name: str) -> None:
    validate_text("name", name, limit=scope.limits.key_chars, setting="Limits.key_chars")
    if not name or name == MAIN:
        raise InvalidInput(
            "name", "is empty" if not name else f"{MAIN!r} is the name of the branch that is always there"
        )


def checkout(scope: KitState, target: ChatRef, given: Given) -> Flow[None]:
    """Move the branch to end at a message. Raises: ConversationBusy while a turn is open on it."""
    conversation_id = yield from identify_flow(scope, target)
    seq = yield from anchor.resolve_seq_flow(scope, target, given)
    while True:
        held = yield from write_once_flow(_checkout, scope.tenant, conversation_id, target.branch, seq)
        if held is None:
            return
        if not is_worker_gone(scope, held):
            raise ConversationBusy(target.name, held.id, held.age_us / 1_000_000)
        conversation = yield from find_conversation_flow(scope, target)
        yield from close_turn_flow(
            scope, conversation, target.branch, held, resolve_counter(scope, conversation), "abandoned"
        )


def _checkout(connection: Connection, tenant: str, conversation_id: UUID, branch: int, seq: int) -> OpenTurn | None:
    """Move the branch, or return the turn that is open on it."""
    conversations.lock(connection, conversation_id)
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        raise NotFound("conversation", conversation_id)
    anchor.find_anchor_message(connection, conversation_id, seq)
    held = turns.find_open(connection, conversation_id, branch)
    if held is None:
        branches.set_head(connection, row, branch, seq)
    return held


def listing(scope: KitState, target: ChatRef, *, limit: int, before: int | None) -> Flow[list[Branch]]:
    """Return the conversation's newest branches, by number."""

    def branches_of(connection: Connection, tenant: str, conversation_id: UUID) -> list[Branch] | None:
        row = conversations.find(connection, tenant, conversation_id)
        if row is None:
            return None
        end = MAX_SEQ if before is None else before
        return [Branch.of(row.id, each) for each in branches.list_branches(connection, row, end, limit)]

    validate_limit(limit)
    if before is not None and (isinstance(before, bool) or not isinstance(before, int) or not 0 < before <= MAX_SEQ):
        raise InvalidInput("before", f"must be a branch's number from 1 up, not {before!r}")
    return (yield from over(scope, target, branches_of))


def leaves(scope: KitState, target: ChatRef, *, limit: int, before: str | int | None) -> Flow[list[Message]]:
    """Return the newest messages that nothing follows, newest first."""

    def leaves_of(connection: Connection, tenant: str, conversation_id: UUID) -> list[Message] | None:
        row = conversations.find(connection, tenant, conversation_id)
        end = MAX_SEQ if before is None else parse_message_seq(conversation_id, before)
        return None if row is None else _values(row.id, branches.list_leaves(connection, row, end, limit))

    validate_limit(limit)
    return (yield from over(scope, target, leaves_of))


def log(scope: KitState, target: ChatRef, *, limit: int, before: str | int | None) -> Flow[list[Message]]:
    """Return the newest messages on all branches, in the order of writing."""

    def log_of(connection: Connection, tenant: str, conversation_id: UUID) -> list[Message] | None:
        row = conversations.find(connection, tenant, conversation_id)
        end = MAX_SEQ if before is None else parse_message_seq(conversation_id, before)
        return None if row is None else _values(row.id, messages.list_newest(connection, row.id, end, limit))

    validate_limit(limit)
    return (yield from over(scope, target, log_of))


def siblings(scope: KitState, target: ChatRef, given: Given) -> Flow[list[Message]]:
    """Return what else follows the message that this one follows, and itself, in the order of writing."""
    seq = yield from anchor.resolve_seq_flow(scope, target, given)

    def siblings_of(connection: Connection, tenant: str, conversation_id: UUID) -> list[Message] | None:
        if conversations.find(connection, tenant, conversation_id) is None:
            return None
        row = anchor.find_anchor_message(connection, conversation_id, seq)
        parent = anchor.find_seq_before_passages(connection, conversation_id, row)
        beside = branches.list_children(connection, conversation_id, parent)
        seen_through = [_behind_passages(connection, conversation_id, each) for each in beside]
        return _values(conversation_id, [each for each in seen_through if each is not None])

    return (yield from over(scope, target, siblings_of))


def _behind_passages(connection: Connection, conversation_id: UUID, row: MessageRow) -> MessageRow | None:
    """Return the question that a passage came with; any other message as it is."""
    while row.is_passage:
        after = branches.list_children(connection, conversation_id, row.seq)
        if not after:
            return None
        row = after[0]
    return row


def _values(conversation_id: UUID, rows: Sequence[MessageRow]) -> list[Message]:
    return [Message.of(conversation_id, row) for row in rows]


def copy(scope: KitState, target: ChatRef, given: Given | None, into: ChatRef) -> Flow[ChatRef]:
    """Write the path to a message again as a conversation of its own, all at once, and return a chat's target on it."""
    conversation_id = yield from identify_flow(scope, target)
    seq = None if given is None else (yield from anchor.resolve_seq_flow(scope, target, given))
    new_id = yield from identify_flow(scope, into)
    at = scope.clock.now_us()
    found = yield from write_with_retry_flow(
        scope,
        conversation_id,
        lambda connection: _copy(connection, scope.tenant, conversation_id, target.branch, seq, new_id, into, at),
        lambda connection: copies.written(connection, scope.tenant, conversation_id, new_id, at),
        patience_s=BEGIN_S,
        passing_only=True,
    )
    if not found:
        raise not_found(target)
    return into


def _copy(
    connection: Connection,
    tenant: str,
    conversation_id: UUID,
    branch: int,
    seq: int | None,
    new_id: UUID,
    into: ChatRef,
    at: int,
) -> bool:
    conversations.lock(connection, conversation_id)  # what is being erased is not copied half
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return False
    head = branches.read_head(connection, row, branch) if seq is None else seq
    if head is None:
        raise NotFound("message", "to copy", "nothing was said yet")
    anchor.find_anchor_message(connection, conversation_id, head)
    made = copies.Copy(new_id, into.key, into.subject or row.subject, into.title or row.title, head, at)
    if not copies.write(connection, row, made):
        raise InvalidInput("key", f"there is a conversation under {into.key!r} already: take another key")
    return True


def _id(target: ChatRef) -> UUID:
    assert target.id is not None
    return target.id


def pin(scope: KitState, target: ChatRef, given: Message | str | int, *, pinned: bool) -> Flow[None]:
    """Pin a message, or unpin it; again is no error. Raises: NotFound, InvalidInput past 64 pins."""
    seq = yield from resolve_seq_flow(scope, target, given)
    conversation_id = yield from identify_flow(scope, target)
    found = yield from write_once_flow(_change, scope.tenant, conversation_id, seq, pinned)
    if not found:
        raise not_found(target)


def _change(connection: Connection, tenant: str, conversation_id: UUID, seq: int, pinned: bool) -> bool:
    conversations.lock(connection, conversation_id)
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return False
    found = messages.find(connection, conversation_id, seq)
    if found is None:
        raise NotFound("message", seq)
    if found.status == "redacted" and pinned:
        raise Redacted(conversation_id, f"message {seq}")
    if found.status == PASSAGE:
        raise InvalidInput(
            "message", "is a passage, which is sent with its own turn only: send it with the next as well"
        )
    if found.status == SUMMARY:
        raise InvalidInput("message", "is a summary, which is sent by itself: pin what it stands for")
    pins = {*row.pinned, seq} if pinned else set(row.pinned) - {seq}
    if len(pins) > MOST_PINS:
        raise InvalidInput("message", f"at most {MOST_PINS} messages of a conversation may be pinned: unpin one first")
    conversations.set_pins(connection, row, json.dumps(sorted(pins)) if pins else None)
    return True
