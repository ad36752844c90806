"""Closing a turn that another worker held: its partial reply is kept, and the conversation goes on.

A worker is gone when its lease ran out by the database's clock, or when it was a process of this host that runs no more. The
takeover is one transaction: killed before it, everything is as it was; after it, the turn is closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, Sleep, read_flow
from convokit.completion.options import NO_OPTIONS, Options
from convokit.completion.state import ChatRef, KitState, check_schema_flow, plan_for
from convokit.completion.write_once import SAVE_S, sure
from convokit.domain import hashchain
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import ASSISTANT, MessageRow
from convokit.domain.turn import CallRow, OpenTurn, Recovered
from convokit.errors import ConversationBusy, SettingsError
from convokit.store import (
    api_calls,
    branches,
    chunks,
    committed,
    conversations,
    messages,
    snapshot,
    turn_changes,
    turn_writes,
    turns,
)
from convokit.tokens.counter import Counter, count_message
from convokit.tokens.estimate import CharacterEstimate

OnBusy = Literal["raise", "wait", "supersede"]
POLL_S = 0.1


@dataclass(slots=True)
class _Left:
    """What a worker left behind."""

    text: str
    tail: MessageRow | None
    """The turn's last whole message: what a reply would follow."""
    at_head: bool
    """Whether the branch ends with this turn: a turn that was opened again may have later ones behind it."""
    call: CallRow | None


def is_worker_gone(scope: KitState, held: OpenTurn) -> bool:
    """Whether an open turn's worker is known to be gone."""
    return held.expired or (held.owner is not None and scope.is_dead(held.owner, held.id))


def wait_or_take_over_flow(
    scope: KitState, target: ChatRef, call: Options, seen: snapshot.Snapshot, on_busy: OnBusy, deadline: float
) -> Flow[None]:
    """Take over the branch's open turn if its worker is gone; else do what `on_busy` says about it.

    Raises: ConversationBusy at once for "raise", after `deadline` (monotonic seconds) for "wait".
    """
    held, conversation = seen.open_turn, seen.conversation
    assert held is not None
    assert conversation is not None
    counter = plan_for(scope, target, call, conversation).counter
    if is_worker_gone(scope, held):
        yield from close_turn_flow(scope, conversation, target.branch, held, counter, "abandoned")
    elif on_busy == "supersede":
        yield from close_turn_flow(scope, conversation, target.branch, held, counter, "superseded")
    elif on_busy == "raise" or scope.clock.monotonic() >= deadline:
        raise ConversationBusy(target.name, held.id, held.age_us / 1_000_000)
    else:
        yield Sleep(POLL_S * (0.5 + scope.clock.random()))


def close_turn_flow(
    scope: KitState, conversation: ConversationRow, branch: int, held: OpenTurn, counter: Counter, state: str
) -> Flow[turn_changes.Written | None]:
    """Close someone else's turn, keeping what is stored of its reply. Return None when it was closed meanwhile.

    A superseded turn's partial reply stays out of the path: the new question follows the old one.
    """
    left = yield from read_flow(_left_behind, conversation, branch, held)
    now = scope.clock.now_us()
    if left.call is not None and left.call.ended_at is not None:
        left.call = None  # it ended, and is in the chain as it ended: the worker died between two calls
    if left.call is not None:
        left.call.state = "abandoned"
        left.call.ended_at = now
        left.call.salt = hashchain.new_salt()
        if left.text:
            left.call.usage_source = "estimated"
            left.call.completion_tokens = counter.count(left.text)

    def rows(row: ConversationRow) -> list[MessageRow]:
        if not left.text or left.tail is None or state == "superseded":
            return []
        return [_partial(left.text, left.tail, row, counter, held.id, now)]

    settlement = turn_changes.TurnEnd(
        conversation=conversation,
        branch=branch,
        turn_id=held.id,
        epoch=held.epoch,
        state=state,
        rows=rows,
        completion=left.call,
        at=now,
        takeover=True,
        moves_head=left.at_head,
        tools_from_seq=held.from_seq,
    )
    return (
        yield from sure(scope, turn_writes.settle, committed.settled, settlement, patience_s=SAVE_S, passing_only=True)
    )


def _left_behind(connection: Connection, conversation: ConversationRow, branch: int, held: OpenTurn) -> _Left:
    head = branches.read_head(connection, conversation, branch)
    tail = None if head is None else messages.find(connection, conversation.id, head)
    at_head = tail is not None and (tail.turn_id == held.id or tail.seq == held.question_seq)
    if tail is None or not at_head or tail.status == "partial":
        last = messages.find_last_seq_of_turn(connection, conversation.id, held.id, held.question_seq, held.from_seq)
        tail = messages.find(connection, conversation.id, last)
    return _Left(
        text=chunks.read_partial_text(connection, conversation.id, held.id),
        tail=tail,
        at_head=at_head,
        call=api_calls.find_call(connection, conversation.id, held.id, held.calls),
    )


def _partial(
    text: str, tail: MessageRow, row: ConversationRow, counter: Counter, turn_id: UUID, now: int
) -> MessageRow:
    seq = row.last_seq + 1
    tokens = count_message(counter, {"role": ASSISTANT, "content": text})
    return MessageRow(
        seq=seq,
        parent_seq=tail.seq,
        run_start_seq=tail.run_start_seq if seq == tail.seq + 1 else seq,
        turn_id=turn_id,
        role=ASSISTANT,
        content=text,
        status="partial",
        tokens=tokens,
        counter=counter.name,
        path_tokens=tail.path_tokens + tokens,
        created_at=now,
        salt=hashchain.new_salt(),
    )


def recover_all_flow(scope: KitState) -> Flow[list[Recovered]]:
    """Take over every turn of the tenant whose worker is gone, one transaction each, and say what was found."""
    yield from check_schema_flow(scope)
    found: list[Recovered] = []
    for conversation_id, branch, held in (yield from read_flow(turns.list_open, scope.tenant)):
        if not is_worker_gone(scope, held):
            continue
        conversation = yield from read_flow(conversations.find, scope.tenant, conversation_id)
        if conversation is None:
            continue
        counter = resolve_counter(scope, conversation)
        closed = yield from close_turn_flow(scope, conversation, branch, held, counter, "abandoned")
        if closed is not None:
            found.append(
                Recovered(
                    conversation_id=conversation_id,
                    key=conversation.key,
                    turn_id=held.id,
                    open_s=held.age_us / 1_000_000,
                    kept_chars=sum(len(row.content or "") for row in closed.rows),
                )
            )
    return found


def resolve_counter(scope: KitState, conversation: ConversationRow | None) -> Counter:
    """Return what counts a conversation's messages, or with None a kit's; an estimate where no model is known."""
    try:
        return plan_for(scope, ChatRef(), NO_OPTIONS, conversation).counter
    except SettingsError:
        return CharacterEstimate()
