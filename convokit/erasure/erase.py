"""Taking words out of a history, lawfully: what goes with a message, what with a conversation, and the entries for it.

The rows stay, emptied, so that the chain still holds them; an entry of its own says that they were emptied, by whom and why.
Everything happens in the caller's one transaction. An open turn holds its words in memory and would write of them again, so
none may be open.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit.verify import verify_conversation
from convokit.domain import hashchain as chains
from convokit.domain.content import blob_digests
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import USER, MessageRow
from convokit.domain.removal import EVERYTHING, MOST_TRACES, Order, RemovalRow, Removed, traces
from convokit.erasure import residue, sql
from convokit.errors import ChainBroken, ConversationBusy, NotFound
from convokit.store import blobs, chain, conversations, messages, removal_records, search_index

_SAMPLE = 4
"""From how many messages at each end of a conversation pieces are taken to look for afterwards."""


def redact(connection: Connection, tenant: str, conversation_id: UUID, order: Order) -> Removed | None:
    """Remove one message's text, and what else holds it; None when there is no such conversation.

    With it go: binaries that no other message refers to, summaries that it went into, its pin, details and errors of the API
    calls of its turn, errors of the later calls that sent it, and the salts of every digest of a request that held it.
    Raises: NotFound, ConversationBusy.
    """
    row = _held(connection, tenant, conversation_id, dry_run=order.dry_run)
    if row is None:
        return None
    assert order.seq is not None
    asked = messages.find(connection, row.id, order.seq)
    if asked is None:
        raise NotFound("message", order.seq)
    if asked.status == "redacted":
        return Removed(seqs=(asked.seq,))
    covering = _summaries(connection, row.id, asked.seq)
    gone = messages.read_many(connection, row.id, sorted({asked.seq, *covering.values()}))
    seqs = [each.seq for each in gone]
    held = list(dict.fromkeys(digest for each in gone for digest in _digests(each)))
    unused = sql.unused(connection, row.id, held, seqs)
    salted, told, turn_ids = _calls(connection, row.id, gone)
    own = {each.turn_id for each in gone if each.turn_id is not None}
    asking = {each.turn_id for each in gone if each.turn_id is not None and each.role == USER}
    removed = Removed(seqs=tuple(seqs), traces=_traces(connection, row.id, gone, unused))
    removed.counts.update(sql.counts_beside(connection, row.id, seqs, own, asking))
    removed.counts.update(message=sum(each.status != "redacted" for each in gone), completion=len(told))
    removed.counts.update(salt=len(salted), blob=len(unused), summary=len(covering))
    pins = [seq for seq in row.pinned if seq not in seqs]
    removed.counts["conversation"] += pins != row.pinned
    if not order.dry_run:
        search_index.remove_messages(connection, row.id, seqs)
        sql.entomb(connection, row.id, seqs)
        sql.unsalt(connection, row.id, salted)
        sql.strip(connection, row.id, told)
        sql.quiet(connection, row.id, seqs, own, asking, turn_ids)
        sql.drop_blobs(connection, row.id, unused)
        sql.drop_summaries(connection, row.id, list(covering))
        if pins != row.pinned:
            conversations.set_pins(connection, row, json.dumps(pins) if pins else None)
        refs = [f"message:{seq}" for seq in seqs] + [f"completion:{turn_id}:{number}" for turn_id, number in told]
        _enter(connection, row, order, refs)
        removed.entries = len(refs)
    return removed


def erase(connection: Connection, tenant: str, conversation_id: UUID, order: Order) -> Removed | None:
    """Remove every text of a conversation; its row, its tombstones and its chain stay. None when there is none.

    A later turn under the same key continues behind them, from an empty context. Raises: ConversationBusy.
    """
    row = _held(connection, tenant, conversation_id, dry_run=order.dry_run)
    if row is None:
        return None
    if removal_records.is_erased(connection, row.id, row.last_entry):
        return Removed(prompts=None)
    removed = Removed(traces=_sampled(connection, row), prompts=frozenset())
    removed.counts.update(sql.counts(connection, row.id))
    said = (row.subject, row.title, row.metadata, row.settings, row.pins)
    removed.counts["conversation"] += any(each is not None for each in said)
    referred: set[bytes] = set()
    batch: list[tuple[UUID, int, str]] = []
    for call in sql.calls(connection, row.id, 0):
        referred.update(residue.referred(call.manifest))
        batch.append((call.turn_id, call.number, call.manifest))
        if len(batch) >= removal_records.PAGE and not order.dry_run:
            sql.bare(connection, row.id, batch)
            batch.clear()
    removed.prompts = frozenset(referred)
    if not order.dry_run:
        sql.bare(connection, row.id, batch)
        search_index.remove_conversation(connection, row.id)
        sql.erase(connection, row.id)
        row.subject = row.title = row.metadata = row.settings = None
        conversations.update_description(connection, row)
        conversations.set_pins(connection, row, None)
        _enter(connection, row, order, [EVERYTHING])
        removed.entries = 1
    return removed


def check(connection: Connection, tenant: str, conversation_id: UUID, seqs: Sequence[int] | None) -> tuple[int, str]:
    """Return how many rows still hold something of what was removed, read again, and what `verify` says of the chain."""
    left = sql.remaining(connection, conversation_id, seqs)
    try:
        verify_conversation(connection, tenant, conversation_id)
    except ChainBroken as error:
        return left, str(error)
    return left, "whole"


def _held(connection: Connection, tenant: str, conversation_id: UUID, *, dry_run: bool) -> ConversationRow | None:
    """Return the conversation, held against everybody else who would move it. Raises: ConversationBusy."""
    if not dry_run:
        conversations.lock(connection, conversation_id)
    row = conversations.find(connection, tenant, conversation_id)
    if row is not None and sql.open_branches(connection, conversation_id):
        raise ConversationBusy(row.key if row.key is not None else row.id, "open")
    return row


def _summaries(connection: Connection, conversation_id: UUID, seq: int) -> dict[int, int]:
    """Return the summaries, number to message, that hold something of a message, those of summaries among them."""
    found: dict[int, int] = {}
    waiting = [seq]
    while waiting:
        for number, summing in sql.summaries_over(connection, conversation_id, waiting.pop()):
            if number not in found:
                found[number] = summing
                waiting.append(summing)
    return found


def _digests(row: MessageRow) -> list[bytes]:
    return [digest for document in (row.parts, row.extra) if document is not None for digest in blob_digests(document)]


def _calls(
    connection: Connection, conversation_id: UUID, gone: Sequence[MessageRow]
) -> tuple[list[tuple[UUID, int]], list[tuple[UUID, int]], set[UUID]]:
    """Return the calls whose request held one of these messages, those that may have told of it, and the turns of both kinds.

    A request holds messages up to its question, and what came of its own turn since: so no call of an earlier turn is read.
    """
    own = {each.turn_id for each in gone if each.turn_id is not None}
    firsts = [sql.first_question(connection, conversation_id, turn_id) for turn_id in own]
    first = min([*(each.seq for each in gone), *(seq for seq in firsts if seq is not None)])
    salted, told, turn_ids = [], [], set(own)
    for call in sql.calls(connection, conversation_id, first):
        sent = any(low <= each.seq <= high for low, high in json.loads(call.manifest)["window"] for each in gone)
        if sent and call.salted:
            salted.append((call.turn_id, call.number))
        if (call.turn_id in own and call.told) or (sent and call.failed):
            told.append((call.turn_id, call.number))
            turn_ids.add(call.turn_id)
    return salted, told, turn_ids


def _traces(
    connection: Connection, conversation_id: UUID, rows: Sequence[MessageRow], binaries: Sequence[bytes]
) -> list[bytes]:
    texts = [each for row in rows for each in (row.content, row.refusal, row.name) if each]
    documents = [each for row in rows for each in (row.parts, row.tool_calls, row.extra) if each]
    salts = [bytes(row.salt) for row in rows if row.salt is not None]
    found = blobs.read_blobs(connection, conversation_id, binaries[:_SAMPLE]) if binaries else {}
    starts = [each.data[:64] for each in found.values() if len(each.data) >= 64]
    return traces(texts=texts, documents=documents, binaries=[*salts, *starts])[:MOST_TRACES]


def _sampled(connection: Connection, row: ConversationRow) -> list[bytes]:
    """Return pieces of the conversation's first and last messages, and of what is said of it."""
    ends = {*range(1, _SAMPLE + 1), *range(row.last_seq - _SAMPLE + 1, row.last_seq + 1)}
    rows = messages.read_many(connection, row.id, sorted(ends))
    said = traces(
        texts=[each for each in (row.subject, row.title) if each],
        documents=[each for each in (row.metadata, row.settings) if each],
        binaries=[],
    )
    found: list[bytes] = []
    for each in rows:
        found += _traces(connection, row.id, [each], _digests(each))[: MOST_TRACES // len(rows)]
    return [*said[: MOST_TRACES // 4], *found][:MOST_TRACES]


def _enter(connection: Connection, row: ConversationRow, order: Order, refs: Sequence[str]) -> None:
    """Write a removal, and the entry that commits to it, for each ref."""
    rows = [
        RemovalRow(number, ref, order.author, order.reason, chains.new_salt(), order.at)
        for number, ref in enumerate(refs, row.last_entry + 1)
    ]
    entries = chains.extend_chain(row.last_entry, row.chain_hash, [each.hash_input() for each in rows])
    removal_records.insert_removals(connection, row.id, rows)
    chain.append_entries(connection, row.id, entries)
    moved = replace(row, last_entry=entries[-1].number, chain_hash=entries[-1].hash)
    moved_on = conversations.advance(connection, row, moved, None)
    assert moved_on  # it is locked
