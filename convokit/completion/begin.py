"""The beginning of a turn: question, turn and first API call become durable, together, before a byte is sent."""

from __future__ import annotations

from uuid import UUID

from convokit.completion import call as calls
from convokit.completion.effects import Flow
from convokit.completion.options import Options
from convokit.completion.prepare import Prepared
from convokit.completion.saving import BEGIN_S, sure
from convokit.completion.scope import Scope, Target
from convokit.domain import chain
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow
from convokit.domain.parts import Content
from convokit.domain.text import compact_json
from convokit.domain.turn import Key
from convokit.store import outcomes, steps


def begin(
    scope: Scope, target: Target, prepared: Prepared, content: Content, turn_id: UUID, key: Key | None
) -> Flow[calls.Call]:
    """Make the turn durable. Raises: steps.Conflict when the conversation moved since it was read."""
    now = scope.clock.now_us()
    seen = prepared.seen.conversation
    row = seen if seen is not None else _new_conversation(scope, target, now)
    described = seen is not None and _describe(row, target)
    completion = calls.new_row(prepared, turn_id, now)
    question = _question(prepared, content, turn_id, now)
    timeouts = prepared.plan.timeouts
    beginning = steps.Beginning(
        conversation=row,
        created=seen is None,
        branch=target.branch,
        question=question,
        completion=completion,
        owner=scope.owner(),
        lease_us=calls.lease_us(calls.silence_s(prepared)),
        at=now,
        prompts=prepared.prompts,
        blobs=content.blobs,
        key=key,
        described=described,
    )
    conversation = yield from sure(
        scope,
        steps.begin,
        outcomes.begun,
        beginning,
        patience_s=BEGIN_S,
        passing_only=True,
    )
    deadline = scope.clock.monotonic() + timeouts.total_s
    return calls.Call(
        prepared, conversation, completion, target.branch, question, epoch=1, deadline=deadline, stream=prepared.stream
    )


def _new_conversation(scope: Scope, target: Target, now: int) -> ConversationRow:
    assert target.id is not None
    return ConversationRow(
        id=target.id,
        tenant=scope.tenant,
        key=target.key,
        subject=target.subject,
        title=target.title,
        metadata=target.metadata,
        settings=target.options.to_json(),
        head_seq=None,
        last_seq=0,
        last_entry=0,
        chain_hash=chain.genesis(target.id),
        created_at=now,
        updated_at=now,
        archived_at=None,
    )


def _describe(row: ConversationRow, target: Target) -> bool:
    """Put what was newly set on the chat into the row. Return whether anything changed."""
    before = (row.settings, row.subject, row.title, row.metadata)
    row.settings = target.options.over(Options.from_json(row.settings)).to_json()
    row.subject = target.subject if target.subject is not None else row.subject
    row.title = target.title if target.title is not None else row.title
    row.metadata = target.metadata if target.metadata is not None else row.metadata
    return (row.settings, row.subject, row.title, row.metadata) != before


def _question(prepared: Prepared, content: Content, turn_id: UUID, now: int) -> MessageRow:
    rows, seen = prepared.seen.path.rows, prepared.seen.conversation
    head = rows[-1] if rows else None
    seq = seen.last_seq + 1 if seen is not None else 1
    follows = head is not None and head.seq == seq - 1
    tokens = prepared.items[-1].tokens
    return MessageRow(
        seq=seq,
        parent_seq=None if head is None else head.seq,
        run_start_seq=head.run_start_seq if head is not None and follows else seq,
        turn_id=turn_id,
        role="user",
        content=content.text,
        parts=None if content.parts is None else compact_json(content.parts),
        status="complete",
        tokens=tokens,
        counter=prepared.plan.counter.name,
        path_tokens=(head.path_tokens if head is not None else 0) + tokens,
        created_at=now,
        salt=chain.new_salt(),
    )
