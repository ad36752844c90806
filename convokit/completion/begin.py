"""Start a turn: commit the question before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from convokit.completion.call import ActiveCall, lease_us, longest_silence_s, new_call_row
from convokit.completion.effects import Flow
from convokit.completion.options import NO_OPTIONS, Options
from convokit.completion.prepare import PreparedRequest, shift_request
from convokit.completion.state import ChatRef, KitState
from convokit.completion.write_retry import START_S, write_step_flow
from convokit.domain import hashchain
from convokit.domain.content import Content
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import PASSAGE, USER, MessageRow, place_rows
from convokit.domain.text import dump_json
from convokit.domain.turn import IdempotencyKey
from convokit.store.turn_start import TurnStart


def start_turn_flow(
    kit: KitState,
    chat: ChatRef,
    request: PreparedRequest,
    content: Content | None,
    turn_id: UUID,
    key: IdempotencyKey | None,
) -> Flow[ActiveCall]:
    """Write the start of a turn and return its first call. Without `content` the path ends with the question already.

    Raises: Conflict if the conversation changed since it was read.
    """
    now = kit.clock.now_us()
    snapshot, first = request.snapshot, request.first
    path_end = snapshot.path.rows[-1] if snapshot.path.rows else None
    row = snapshot.conversation
    redescribed = row is not None and _update_description(row, chat)
    conversation = row if row is not None else _new_conversation_row(kit, chat, now)
    rows = [] if content is None else _question_rows(request, content, turn_id, now)
    place_rows(rows, conversation.last_seq, path_end)
    question = rows[-1] if rows else path_end
    assert question is not None
    call = new_call_row(first, turn_id, now)
    start = TurnStart(
        conversation=conversation,
        branch=chat.branch,
        head=snapshot.head,
        question=question,
        rows=rows,
        call=call,
        manifest=first.record.manifest,
        owner=kit.owner(),
        lease_us=lease_us(longest_silence_s(first)),
        at=now,
        created=row is None,
        redescribed=redescribed,
        movable=row is not None and not redescribed and request.summary_request is None,
        key=key,
        prompts=first.record.prompts,
        blobs=() if content is None else content.blobs,
    )
    written = yield from write_step_flow(kit, start, patience_s=START_S, only_transient=True)
    if rows and written.rows[-1].seq != question.seq:
        request = shift_request(request, conversation.last_seq, written.rows[-1].seq - question.seq)
        question, call.manifest = written.rows[-1], request.record.manifest.to_json()
    return ActiveCall(
        request,
        written.conversation,
        call,
        chat.branch,
        question,
        epoch=1,
        deadline=kit.clock.monotonic() + request.options.timeouts.total_s,
        stream=request.stream,
    )


def _new_conversation_row(kit: KitState, chat: ChatRef, now: int) -> ConversationRow:
    assert chat.id is not None
    return ConversationRow(
        id=chat.id,
        tenant=kit.tenant,
        key=chat.key,
        subject=chat.subject,
        title=chat.title,
        metadata=chat.metadata,
        settings=chat.options.to_json(),
        head_seq=None,
        last_seq=0,
        last_entry=0,
        chain_hash=hashchain.genesis_hash(chat.id),
        created_at=now,
        updated_at=now,
        archived_at=None,
    )


def _update_description(row: ConversationRow, chat: ChatRef) -> bool:
    """Put the settings, subject, title and metadata of the handle into the row. Return whether anything changed."""
    if chat.options is NO_OPTIONS and (chat.subject, chat.title, chat.metadata) == (None, None, None):
        return False
    before = (row.settings, row.subject, row.title, row.metadata)
    row.settings = chat.options.over(Options.from_json(row.settings)).to_json()
    row.subject = chat.subject if chat.subject is not None else row.subject
    row.title = chat.title if chat.title is not None else row.title
    row.metadata = chat.metadata if chat.metadata is not None else row.metadata
    return (row.settings, row.subject, row.title, row.metadata) != before


def _question_rows(request: PreparedRequest, content: Content, turn_id: UUID, now: int) -> list[MessageRow]:
    """Return the rows of the passages and, last, of the question, without their position.

    Passages add nothing to the tokens of the path: no later window holds them.
    """
    rows: Sequence[MessageRow] = request.snapshot.path.rows
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
        tokens=request.items[-1].tokens,
        counter=request.options.counter.name,
        path_tokens=path_tokens + request.items[-1].tokens,
        created_at=now,
        salt=hashchain.new_salt(),
    )
    passages = []
    for text, item in zip(content.passages, request.items[-1 - len(content.passages) :], strict=False):
        passage = replace(question, content=text, parts=None, status=PASSAGE, salt=hashchain.new_salt())
        passage.tokens, passage.path_tokens = item.tokens, path_tokens
        passages.append(passage)
    return [*passages, question]
