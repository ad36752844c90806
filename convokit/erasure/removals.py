"""Redact a message or erase a conversation, in the caller's transaction.

Rows stay but lose their text, so that the hash chain can still be verified. A removal row and a chain entry record who removed
what, and why. Both functions refuse while a turn is open: its worker has the text in memory and would write it again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit.verify import verify_conversation
from convokit.domain import hashchain
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import USER, MessageRow
from convokit.domain.removal import EVERYTHING, RemovalRow
from convokit.erasure import residue, sql
from convokit.errors import ChainBroken, ConversationBusy, NotFound
from convokit.store import anchors, blobs, chain, conversations, messages, removal_records, search_index, tool_calls


@dataclass(frozen=True, slots=True)
class ErasureRequest:
    """The parameters of a removal. `at` is in microseconds since 1970."""

    author: str | None
    reason: str | None
    at: int
    dry_run: bool = False
    seq: int | None = None
    """The message to redact. None erases or purges whole conversations."""


@dataclass(slots=True, repr=False)
class RemovalResult:
    """Rows that one transaction removed or, in a dry run, would remove."""

    counts: Counter[str] = field(default_factory=Counter)
    """Rows emptied or deleted, as in `Receipt.removed`."""
    entries: int = 0
    seqs: tuple[int, ...] = ()
    """The redacted messages. Empty when a whole conversation was erased."""
    prompts: frozenset[bytes] | None = frozenset()
    """Digests of the prompts and tool sets that an erased conversation used. None: unknown, because it was erased earlier."""
    samples: list[bytes] = field(default_factory=list)


def redact_message(
    connection: Connection, tenant: str, conversation_id: UUID, request: ErasureRequest
) -> RemovalResult | None:
    """Remove the text of message `request.seq` and everything derived from it. None: there is no such conversation.

    Removed with it: binaries that no other message refers to, summaries that cover it, its pin, errors and details of the API
    calls of its turn, errors of later calls that sent it, and the salts of every request digest that included it.

    Raises:
        NotFound: There is no such message.
        ConversationBusy: A turn is open.
    """
    conversation = _lock_conversation(connection, tenant, conversation_id, dry_run=request.dry_run)
    if conversation is None:
        return None
    assert request.seq is not None
    message = messages.find(connection, conversation.id, request.seq)
    if message is None:
        raise NotFound("message", request.seq)
    if message.status == "redacted":
        return RemovalResult(seqs=(message.seq,))
    summaries = _collect_summaries(connection, conversation.id, message.seq)
    rows = messages.read_many(connection, conversation.id, sorted({message.seq, *summaries.values()}), with_items=True)
    seqs = [row.seq for row in rows]
    from_caller = tool_calls.list_from_caller(connection, conversation.id, seqs)
    turn_ids = {row.turn_id for row in rows if row.turn_id is not None}
    asked = {row.seq for row in rows if row.role == USER} | set(from_caller)
    question_turn_ids = {row.turn_id for row in rows if row.turn_id is not None and row.seq in asked}
    unused_blobs = sql.find_unused_blobs(connection, conversation.id, residue.collect_blob_digests(rows), seqs)
    calls = _find_affected_calls(connection, conversation.id, rows, turn_ids)
    pins = [seq for seq in conversation.pinned_seqs if seq not in seqs]
    result = RemovalResult(
        seqs=tuple(seqs), samples=residue.sample_messages(connection, conversation, rows, unused_blobs)
    )
    result.counts.update(sql.count_related_rows(connection, conversation.id, seqs, turn_ids, question_turn_ids))
    result.counts.update(
        message=sum(row.status != "redacted" for row in rows),
        completion=len(calls.with_details),
        salt=len(calls.with_body_salt),
        blob=len(unused_blobs),
        summary=len(summaries),
        anchor=anchors.count_anchors(connection, conversation.id, message.seq),
        conversation=int(pins != conversation.pinned_seqs),
    )
    if not request.dry_run:
        # The SQLite index finds the words to delete through the text of the messages.
        search_index.remove_messages(connection, conversation.id, seqs)
        sql.blank_messages(connection, conversation.id, seqs)
        sql.clear_body_salts(connection, conversation.id, calls.with_body_salt)
        sql.clear_call_details(connection, conversation.id, calls.with_details)
        sql.clear_related_rows(connection, conversation.id, seqs, turn_ids, question_turn_ids, calls.turn_ids)
        sql.delete_blobs(connection, conversation.id, unused_blobs)
        sql.delete_summaries(connection, conversation.id, list(summaries))
        # The digest of a message covers the path before it. Those of other paths are lost too, and come back with later turns.
        anchors.delete_anchors(connection, conversation.id, message.seq)
        if pins != conversation.pinned_seqs:
            conversations.set_pins(connection, conversation, json.dumps(pins) if pins else None)
        refs = [f"message:{seq}" for seq in seqs]
        refs += [f"completion:{turn_id}:{number}" for turn_id, number in calls.with_details]
        result.entries = _record_removals(connection, conversation, request, refs)
    return result


def erase_conversation(
    connection: Connection, tenant: str, conversation_id: UUID, request: ErasureRequest
) -> RemovalResult | None:
    """Remove all text of a conversation. Its row, the redacted messages and the chain stay. None: no such conversation.

    A later turn under the same key continues with an empty context.

    Raises:
        ConversationBusy: A turn is open.
    """
    conversation = _lock_conversation(connection, tenant, conversation_id, dry_run=request.dry_run)
    if conversation is None:
        return None
    description = (conversation.subject, conversation.title, conversation.metadata, conversation.settings)
    is_described = any(value is not None for value in description)  # `chat.update` may follow an erasure
    if not is_described and removal_records.is_erased(connection, conversation.id, conversation.last_entry):
        return RemovalResult(prompts=None)
    result = RemovalResult(samples=residue.sample_conversation(connection, conversation))
    result.counts.update(sql.count_conversation_rows(connection, conversation.id))
    result.counts["anchor"] = anchors.count_anchors(connection, conversation.id)
    result.counts["conversation"] += any(value is not None for value in (*description, conversation.pins))
    result.prompts = frozenset(blobs.list_uses(connection, conversation.id))
    if not request.dry_run:
        for page in sql.read_call_pages(connection, conversation.id, 0):
            sql.strip_manifests(connection, conversation.id, page)
        blobs.delete_uses(connection, conversation.id)
        search_index.remove_conversation(connection, conversation.id)
        sql.clear_conversation(connection, conversation.id)
        anchors.delete_anchors(connection, conversation.id)
        conversation.subject = conversation.title = conversation.metadata = conversation.settings = None
        conversations.update_description(connection, conversation)
        conversations.set_pins(connection, conversation, None)
        result.entries = _record_removals(connection, conversation, request, [EVERYTHING])
    return result


def check_removal(
    connection: Connection, tenant: str, conversation_id: UUID, seqs: Sequence[int] | None
) -> tuple[int, str]:
    """Return how many rows still hold removed text, and "whole" or the problem that `verify` found in the chain.

    `seqs` are the redacted messages. None checks the whole conversation.
    """
    remaining = sql.count_remaining(connection, conversation_id, seqs)
    remaining += anchors.count_anchors(connection, conversation_id, min(seqs or (0,)))
    try:
        verify_conversation(connection, tenant, conversation_id)
    except ChainBroken as error:
        return remaining, str(error)
    return remaining, "whole"


def _lock_conversation(
    connection: Connection, tenant: str, conversation_id: UUID, *, dry_run: bool
) -> ConversationRow | None:
    if not dry_run:
        conversations.lock(connection, conversation_id)
    conversation = conversations.find(connection, tenant, conversation_id)
    if conversation is not None and sql.list_open_branches(connection, conversation_id):
        raise ConversationBusy(conversation.key if conversation.key is not None else conversation.id, "open")
    return conversation


def _collect_summaries(connection: Connection, conversation_id: UUID, seq: int) -> dict[int, int]:
    """Return number and message seq of the summaries that cover a message, and of summaries that cover those."""
    summaries: dict[int, int] = {}
    pending = [seq]
    while pending:
        for number, summary_seq in sql.find_summaries_over(connection, conversation_id, pending.pop()):
            if number not in summaries:
                summaries[number] = summary_seq
                pending.append(summary_seq)
    return summaries


@dataclass(frozen=True, slots=True)
class _AffectedCalls:
    """API calls that recorded something of the redacted messages."""

    with_body_salt: list[sql.CallKey] = field(default_factory=list)
    """Their request included a message."""
    with_details: list[sql.CallKey] = field(default_factory=list)
    """Their error or details may quote a message."""
    turn_ids: set[UUID] = field(default_factory=set)
    """Turns whose error may quote a message."""


def _find_affected_calls(
    connection: Connection, conversation_id: UUID, rows: Sequence[MessageRow], turn_ids: set[UUID]
) -> _AffectedCalls:
    calls = _AffectedCalls(turn_ids=set(turn_ids))
    # A request includes messages up to the start of its turn, and later ones of the same turn only. So no call of a turn that
    # started before the first of these messages can have sent one of them.
    question_seqs = [sql.find_question_seq(connection, conversation_id, turn_id) for turn_id in turn_ids]
    first_seq = min([*(row.seq for row in rows), *(seq for seq in question_seqs if seq is not None)])
    for page in sql.read_call_pages(connection, conversation_id, first_seq):
        for call in page:
            window = json.loads(call.manifest)["window"]
            sent = any(first <= row.seq <= last for first, last in window for row in rows)
            if sent and call.has_body_salt:
                calls.with_body_salt.append((call.turn_id, call.number))
            if (call.turn_id in turn_ids and call.has_details) or (sent and call.has_error):
                calls.with_details.append((call.turn_id, call.number))
                calls.turn_ids.add(call.turn_id)
    return calls


def _record_removals(
    connection: Connection, conversation: ConversationRow, request: ErasureRequest, refs: Sequence[str]
) -> int:
    """Write a removal row and a chain entry for each ref. Return how many."""
    rows = [
        RemovalRow(number, ref, request.author, request.reason, hashchain.new_salt(), request.at)
        for number, ref in enumerate(refs, conversation.last_entry + 1)
    ]
    hash_inputs = [row.hash_input() for row in rows]
    entries = hashchain.extend_chain(conversation.last_entry, conversation.chain_hash, hash_inputs)
    removal_records.insert_removals(connection, conversation.id, rows)
    chain.append_entries(connection, conversation.id, entries)
    after = replace(conversation, last_entry=entries[-1].number, chain_hash=entries[-1].hash)
    is_advanced = conversations.advance(connection, conversation, after, None)
    assert is_advanced  # nobody else can advance a locked conversation
    return len(rows)
