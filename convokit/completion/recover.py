"""Taking over a turn whose worker is gone: its partial reply is kept, and the conversation goes on.

A worker is gone when its lease ran out by the database's clock, or when it was a process of this host that runs no more. The
takeover is one transaction: killed before it, everything is as it was; after it, the turn is closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, read, write
from convokit.completion.options import Options
from convokit.completion.prepare import plan_for
from convokit.completion.scope import Scope, Target
from convokit.context.tokens import message_tokens
from convokit.domain import chain
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow
from convokit.domain.turn import CompletionRow, OpenTurn
from convokit.errors import ConversationBusy
from convokit.store import messages, steps, turns


@dataclass(slots=True)
class _Left:
    """What a dead worker left behind."""

    text: str
    question: MessageRow | None
    call: CompletionRow | None


def clear_the_way(scope: Scope, target: Target, call: Options, seen: steps.Snapshot) -> Flow[None]:
    """Take over the branch's open turn if its worker is gone. Raises: ConversationBusy when it is not."""
    held, conversation = seen.open_turn, seen.conversation
    assert held is not None
    assert conversation is not None
    if not (held.expired or (held.owner is not None and scope.is_dead(held.owner, held.id))):
        raise ConversationBusy(target.name, held.id, held.age_us / 1_000_000)
    left = yield from read(_left_behind, conversation.id, held)
    plan = plan_for(scope, target, call, conversation)
    now = scope.clock.now_us()
    if left.call is not None:
        left.call.state = "abandoned"
        left.call.ended_at = now
        left.call.salt = chain.new_salt()
        if left.text:
            left.call.usage_source = "estimated"
            left.call.completion_tokens = plan.counter.count(left.text)

    def rows(row: ConversationRow) -> list[MessageRow]:
        if not left.text or left.question is None:
            return []
        shape = {"role": "assistant", "content": left.text}
        tokens = message_tokens(plan.counter, shape)
        return [_partial(left, left.question, row, tokens, plan.counter.name, held.id, now)]

    yield from write(
        steps.settle,
        steps.Settlement(
            conversation=conversation,
            branch=target.branch,
            turn_id=held.id,
            epoch=held.epoch,
            state="abandoned",
            rows=rows,
            completion=left.call,
            at=now,
            takeover=True,
        ),
    )


def _left_behind(connection: Connection, conversation_id: UUID, held: OpenTurn) -> _Left:
    return _Left(
        text=turns.partial_text(connection, conversation_id, held.id),
        question=messages.get(connection, conversation_id, held.question_seq),
        call=turns.call(connection, conversation_id, held.id, held.calls),
    )


def _partial(
    left: _Left, question: MessageRow, row: ConversationRow, tokens: int, counter: str, turn_id: UUID, now: int
) -> MessageRow:
    seq = row.last_seq + 1
    return MessageRow(
        seq=seq,
        parent_seq=question.seq,
        run_start_seq=question.run_start_seq if seq == question.seq + 1 else seq,
        turn_id=turn_id,
        role="assistant",
        content=left.text,
        status="partial",
        tokens=tokens,
        counter=counter,
        path_tokens=question.path_tokens + tokens,
        created_at=now,
        salt=chain.new_salt(),
    )
