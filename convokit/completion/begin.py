"""The beginning of a turn: question, turn and first API call become durable, together, before a byte is sent.

The places that messages get: until they are written, a request that holds them names those they are expected to have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from convokit.completion import call as calls
from convokit.completion import manifest as manifests
from convokit.completion.effects import Flow
from convokit.completion.options import NO_OPTIONS, Options
from convokit.completion.prepare import PreparedRequest
from convokit.completion.state import ChatRef, KitState
from convokit.completion.write_once import BEGIN_S, sure
from convokit.domain import hashchain
from convokit.domain.content import Content
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import PASSAGE, USER, MessageRow
from convokit.domain.text import dump_json
from convokit.domain.turn import IdempotencyKey
from convokit.store import committed, turn_changes, turn_writes


def renumbered(prepared: PreparedRequest, expected: Sequence[int], rows: Sequence[MessageRow]) -> PreparedRequest:
    """Return the same request with its last messages under the seqs they were written as, where those are not the expected."""
    seqs = {seq: row.seq for seq, row in zip(expected, rows, strict=True) if seq != row.seq}
    if not seqs:
        return prepared
    items = tuple(replace(item, key=seqs.get(item.key, item.key)) for item in prepared.items)
    context = manifests.renumbered(prepared.context, seqs)
    made_of = manifests.written(prepared.plan, context, stream=prepared.stream, now=prepared.at)
    return replace(prepared, items=items, context=context, manifest=made_of)


def begin(
    scope: KitState,
    target: ChatRef,
    prepared: PreparedRequest,
    content: Content | None,
    turn_id: UUID,
    key: IdempotencyKey | None,
) -> Flow[calls.ActiveCall]:
    """Make the turn durable; without `content`, for the stored question that the path which was read ends with.

    Raises: steps.Conflict when the conversation moved since it was read.
    """
    now = scope.clock.now_us()
    seen = prepared.seen.conversation
    row = seen if seen is not None else _new_conversation(scope, target, now)
    described = seen is not None and _describe(row, target)
    completion = calls.new_row(prepared.first, turn_id, now)
    *passages, question = [prepared.seen.path.rows[-1]] if content is None else _asked(prepared, content, turn_id, now)
    asked = [] if content is None else [*passages, question]
    _place(prepared, asked, row)
    expected = [each.seq for each in asked]

    def place(fresh: ConversationRow) -> None:
        _place(prepared, asked, fresh)
        completion.manifest = renumbered(prepared, expected, asked).manifest.text

    timeouts = prepared.plan.timeouts
    beginning = turn_changes.TurnStart(
        conversation=row,
        created=seen is None,
        branch=target.branch,
        question=question,
        passages=passages,
        completion=completion,
        owner=scope.owner(),
        lease_us=calls.lease_us(calls.silence_s(prepared.first)),
        at=now,
        prompts=prepared.first.manifest.prompts,
        blobs=() if content is None else content.blobs,
        key=key,
        described=described,
        head=prepared.seen.head,
        follows=question if content is None else None,
        place=None if seen is None or described or prepared.summarising is not None else place,
    )
    conversation = yield from sure(
        scope, turn_writes.begin, committed.begun, beginning, patience_s=BEGIN_S, passing_only=True
    )
    deadline = scope.clock.monotonic() + timeouts.total_s
    prepared = renumbered(prepared, expected, asked)
    return calls.ActiveCall(
        prepared, conversation, completion, target.branch, question, epoch=1, deadline=deadline, stream=prepared.stream
    )


def _new_conversation(scope: KitState, target: ChatRef, now: int) -> ConversationRow:
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
        chain_hash=hashchain.genesis_hash(target.id),
        created_at=now,
        updated_at=now,
        archived_at=None,
    )


def _describe(row: ConversationRow, target: ChatRef) -> bool:
    """Put what was newly set on the chat into the row. Return whether anything changed."""
    if target.options is NO_OPTIONS and (target.subject, target.title, target.metadata) == (None, None, None):
        return False
    before = (row.settings, row.subject, row.title, row.metadata)
    row.settings = target.options.over(Options.from_json(row.settings)).to_json()
    row.subject = target.subject if target.subject is not None else row.subject
    row.title = target.title if target.title is not None else row.title
    row.metadata = target.metadata if target.metadata is not None else row.metadata
    return (row.settings, row.subject, row.title, row.metadata) != before


def _asked(prepared: PreparedRequest, content: Content, turn_id: UUID, now: int) -> list[MessageRow]:
    """Return the rows of the passages and, last, of the question, without their places.

    Passages add nothing to the path's tokens: no later window holds them.
    """
    rows = prepared.seen.path.rows
    path_tokens = rows[-1].path_tokens if rows else 0
    question = MessageRow(
        seq=0,
        parent_seq=None,
        run_start_seq=0,
        turn_id=turn_id,
        role=USER,
        content=content.text,
        parts=None if content.parts is None else dump_json(content.parts),
        status="complete",
        tokens=prepared.items[-1].tokens,
        counter=prepared.plan.counter.name,
        path_tokens=path_tokens + prepared.items[-1].tokens,
        created_at=now,
        salt=hashchain.new_salt(),
    )
    asked = []
    for text, item in zip(content.passages, prepared.items[-1 - len(content.passages) :], strict=False):
        passage = replace(question, content=text, parts=None, status=PASSAGE, salt=hashchain.new_salt())
        passage.tokens, passage.path_tokens = item.tokens, path_tokens
        asked.append(passage)
    return [*asked, question]


def _place(prepared: PreparedRequest, asked: list[MessageRow], conversation: ConversationRow) -> None:
    """Put rows behind the conversation's last message, the first after the path's end, each following the one before it."""
    path = prepared.seen.path.rows
    before = path[-1] if path else None
    for number, each in enumerate(asked, 1):
        each.seq = conversation.last_seq + number
        each.parent_seq = None if before is None else before.seq
        follows = before is not None and before.seq == each.seq - 1
        each.run_start_seq = before.run_start_seq if before is not None and follows else each.seq
        before = each
