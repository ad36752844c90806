"""The steps of a turn's life, each the work of one transaction.

`begin` makes question, turn and first API call durable before a byte is sent; `settle` closes the turn, however it ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from convokit.domain import hashchain as chains
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow
from convokit.domain.turn import CallRow
from convokit.store import (
    api_calls,
    blobs,
    branches,
    chunks,
    conversations,
    messages,
    removal_records,
    summaries,
    tool_calls,
    turns,
    write_batch,
)
from convokit.store.turn_changes import Conflict, TurnEnd, TurnReopen, TurnStart, TurnUpdate, Written


def begin(connection: Connection, beginning: TurnStart) -> ConversationRow:
    """Make a turn durable: question, if it is asked here, turn and API call, together. Return the conversation as it is now.

    Where only other branches moved the conversation, the turn begins behind what they wrote: it answers the same path.
    Raises: Conflict when its own branch moved, the conversation was created by another process, or a turn is open here.
    """
    try:
        moved = _begun(connection, beginning) or _begun_behind(connection, beginning)
    except IntegrityError:
        raise Conflict from None
    if beginning.described:
        conversations.update_description(connection, moved)
    for digest, body in beginning.prompts:
        blobs.insert_prompt(connection, moved.tenant, digest, body)
    blobs.insert_blobs(connection, moved.id, beginning.blobs)
    return moved


def _begun(connection: Connection, beginning: TurnStart) -> ConversationRow | None:
    """Write a turn's beginning and return the conversation as it is then; None where it moved since it was read."""
    row, question, follows = beginning.conversation, beginning.question, beginning.follows
    asked = [*beginning.passages, question] if follows is None else []
    entries = chains.extend_chain(row.last_entry, row.chain_hash, [each.hash_input() for each in asked])
    head = question.seq if follows is None else follows.seq
    last = question.seq if follows is None else row.last_seq
    moved = write_batch.advance_row(row, beginning.branch, head, last, entries, beginning.at)
    opened = turns.build_open_values(
        beginning.completion.turn_id,
        branch=beginning.branch,
        question_seq=question.seq,
        owner=beginning.owner,
        lease_us=beginning.lease_us,
        at=beginning.at,
        key=beginning.key,
        after=None if follows is None else row,
    )
    addition = write_batch.WriteBatch(row, moved, beginning.branch, head, entries, asked, was=beginning.head)
    addition.created, addition.opened, addition.begun_call = beginning.created, opened, beginning.completion
    return moved if write_batch.write(connection, addition) == "all" else None


def _begun_behind(connection: Connection, beginning: TurnStart) -> ConversationRow:
    """Write it behind what came between, if the path that the request was built of is what it was. Raises: Conflict."""
    was = beginning.conversation
    if beginning.place is None:
        raise Conflict
    row = _again(connection, was)
    path = row.settings, row.pins, branches.read_head(connection, row, beginning.branch)
    taken = turns.find_open(connection, row.id, beginning.branch) or removal_records.has_removals_since(
        connection, row.id, was.last_entry
    )
    if taken or path != (was.settings, was.pins, beginning.head):
        raise Conflict
    beginning.conversation = row
    beginning.place(row)
    moved = _begun(connection, beginning)
    assert moved is not None, "its row is locked"
    return moved


def reopen(connection: Connection, reopening: TurnReopen) -> bool:
    """Open a turn again for another API call. Raises: Conflict when someone else did, or another turn is open."""
    row, turn = reopening.conversation, reopening.turn
    conversations.lock(connection, row.id)
    if removal_records.has_removals_since(connection, row.id, row.last_entry):
        raise Conflict  # the request was built of what is gone since
    try:
        if not turns.reopen(
            connection, row.id, turn.id, turn.epoch, owner=reopening.owner, lease_us=reopening.lease_us
        ):
            raise Conflict
    except IntegrityError:
        raise Conflict from None
    api_calls.insert_call(connection, row.id, reopening.completion)
    for digest, body in reopening.prompts:
        blobs.insert_prompt(connection, row.tenant, digest, body)
    return True


def settle(connection: Connection, settlement: TurnEnd) -> Written | None:
    """Close a turn, if it is still held under this epoch; return None, and write nothing, when it is not."""
    row = settlement.conversation
    rows = settlement.rows(row)
    named = rows[0].seq if rows else None
    ended = turns.build_end_values(
        row.id,
        settlement.turn_id,
        settlement.epoch,
        state=settlement.state,
        reply_seq=named,
        error=settlement.error,
        first_token_at=settlement.first_token_at,
        at=settlement.at,
        takeover=settlement.takeover,
    )
    settled = _extend(connection, settlement, rows, ended=ended, ended_call=settlement.completion)
    if settled is None:
        return None
    if settlement.tools_from_seq is not None:
        tool_calls.close_interrupted(connection, row.id, settlement.turn_id, settlement.tools_from_seq, settlement.at)
    if settlement.pieces:
        chunks.delete_chunks(connection, row.id, settlement.turn_id)
    if settled.rows and settled.rows[0].seq != named:
        turns.correct_reply_seq(connection, row.id, settlement.turn_id, settled.rows[0].seq)
    return settled


def _extend(
    connection: Connection,
    settlement: TurnEnd | TurnUpdate,
    rows: list[MessageRow],
    *,
    ended: Mapping[str, Any] | None = None,
    ended_call: CallRow | None = None,
    begun_call: CallRow | None = None,
) -> Written | None:
    """Append the replies and the chain's entries; again, on a fresh row, while other branches come between.

    None, and nothing written, when the turn that was to be `ended` is not ours any more.
    """
    row = settlement.conversation
    call = [settlement.completion.hash_input()] if settlement.completion is not None else []
    while True:
        entries = chains.extend_chain(row.last_entry, row.chain_hash, [*(each.hash_input() for each in rows), *call])
        moves = bool(rows) and settlement.moves_head and rows[0].status != "late"
        head = _head_of(rows) if moves else None
        last = rows[-1].seq if rows else row.last_seq
        moved = write_batch.advance_row(row, settlement.branch, head, last, entries, settlement.at)
        addition = write_batch.WriteBatch(row, moved, settlement.branch, head, entries, rows)
        addition.ended, addition.ended_call, addition.begun_call = ended, ended_call, begun_call
        written = write_batch.write(connection, addition)
        if written == "all":
            held = "".join(each.extra or "" for each in rows)  # of a reply that broke off, perhaps none is kept
            blobs.insert_blobs(connection, row.id, [each for each in settlement.blobs if each.url in held])
            return Written(moved, rows)
        if ended is not None and written == "nothing":
            return None
        ended = None
        row = _again(connection, row)
        rows = settlement.rows(row)


def _head_of(rows: Sequence[MessageRow]) -> int:
    """Return the new head: the first of several choices, the last of messages that follow each other."""
    siblings = rows[-1].parent_seq == rows[0].parent_seq
    return rows[0].seq if siblings else rows[-1].seq


def _again(connection: Connection, row: ConversationRow) -> ConversationRow:
    """Return the row as it is now, and keep others from moving it before we do: what was paid for must not starve."""
    conversations.lock(connection, row.id)
    fresh = conversations.find(connection, row.tenant, row.id)
    if fresh is None:
        raise Conflict
    return fresh


def append_late(connection: Connection, settlement: TurnEnd) -> Written | None:
    """Keep a reply that came after its turn was over, off the path: no turn, claim or head changes.

    None, and nothing written, when what it answers was erased meanwhile.
    """
    conversations.lock(connection, settlement.conversation.id)
    fresh = conversations.find(connection, settlement.conversation.tenant, settlement.conversation.id)
    if fresh is None:
        return None
    if removal_records.has_removals_since(connection, fresh.id, settlement.conversation.last_entry):
        asked = turns.find(connection, fresh.id, settlement.turn_id)
        question = None if asked is None else messages.find(connection, fresh.id, asked.question_seq)
        if question is None or question.status == "redacted":
            return None
        if settlement.completion is not None:
            settlement.completion.body_salt = None  # its request held what is gone, perhaps
    settlement.conversation = fresh
    return _extend(connection, settlement, settlement.rows(fresh), begun_call=settlement.completion)


def record(connection: Connection, recording: TurnUpdate) -> Written | None:
    """Write what happened in an open turn, in one transaction; None, and nothing written, when it is no longer ours."""
    row = recording.conversation
    ours = turns.renew_lease(
        connection, row.id, recording.turn_id, recording.epoch, lease_us=recording.lease_us, first_token_at=None
    )
    if not ours:
        return None
    settled = _extend(
        connection, recording, recording.rows(row), ended_call=recording.ended, begun_call=recording.following
    )
    assert settled is not None
    if recording.ended is not None:
        chunks.delete_chunks(connection, row.id, recording.turn_id)
    for digest, body in recording.prompts:
        blobs.insert_prompt(connection, row.tenant, digest, body)
    if recording.summary is not None:
        recording.summary.message_seq = settled.rows[0].seq
        summaries.insert_summary(connection, row.id, recording.summary)
    for begun, each in enumerate(recording.tool_calls):
        each.message_seq = settled.rows[0].seq
        each.position = begun
        tool_calls.insert_tool_call(connection, row.id, recording.turn_id, each)
    for each, answered in zip(recording.ran, settled.rows, strict=False):
        each.result_seq = answered.seq
        tool_calls.finish_tool_call(connection, row.id, each)
    return settled


def save_piece(
    connection: Connection,
    conversation_id: UUID,
    completion: CallRow,
    epoch: int,
    number: int,
    text: str,
    *,
    lease_us: int,
    first_token_at: int,
) -> bool:
    """Store a piece of the reply and prolong the lease. False: the turn is no longer ours, stop reading."""
    turn_id = completion.turn_id
    if not turns.renew_lease(
        connection, conversation_id, turn_id, epoch, lease_us=lease_us, first_token_at=first_token_at
    ):
        return False
    if text:
        chunks.append_chunk(connection, conversation_id, turn_id, completion.number, number, text)
    return True
