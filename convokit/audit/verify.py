"""Verifying a conversation's chain against its rows.

Every entry is linked to the one before it, and commits to a row as it was when it became final. So an altered, missing,
inserted or reordered row shows, with the first place that differs. What it cannot show alone is a history that was cut off or
rewritten whole by someone who can write every table: that needs a head kept elsewhere.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection

from convokit.domain import chain as chains
from convokit.domain.conversation import ConversationRow, Verified
from convokit.domain.message import MessageRow
from convokit.domain.removal import RemovalRow
from convokit.errors import ChainBroken
from convokit.store import chain, conversations, messages, removals, turns


def verify(connection: Connection, tenant: str, conversation_id: UUID) -> Verified | None:
    """Return what was found whole, or None when there is no such conversation. Raises: ChainBroken."""
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    found = [each for batch in removals.pages(connection, row.id) for each in batch]
    removed: dict[str | int, RemovalRow] = {each.ref: each for each in found} | {each.number: each for each in found}
    previous, last, counted = chains.genesis(row.id), 0, {"message": 0, "completion": 0}
    for batch in chain.pages(connection, row.id):
        rows = _messages_of(connection, row.id, batch)
        for entry in batch:
            last += 1
            _check_link(row.id, entry, last, previous)
            _check_row(connection, row.id, entry, rows, removed)
            counted[entry.kind] = counted.get(entry.kind, 0) + 1
            previous = entry.hash
    _check_end(connection, row, last, previous, counted)
    return Verified(conversation_id=row.id, entries=last, rows=sum(counted.values()), head=previous.hex())


def _messages_of(connection: Connection, conversation_id: UUID, batch: list[chains.Entry]) -> dict[str, MessageRow]:
    seqs = [int(entry.ref) for entry in batch if entry.kind == "message" and entry.ref.isdigit()]
    return {str(row.seq): row for row in messages.among(connection, conversation_id, seqs)}


def _check_link(conversation_id: UUID, entry: chains.Entry, expected: int, previous: bytes) -> None:
    if entry.number != expected:
        raise ChainBroken(conversation_id, expected, entry.ref, f"entry {expected} is missing (next is {entry.number})")
    linked = chains.link(previous, entry.number, entry.kind, entry.ref, entry.commitment)
    if linked != bytes(entry.hash):
        raise ChainBroken(conversation_id, entry.number, entry.ref, "the entry was altered, or one before it")


def _check_row(
    connection: Connection,
    conversation_id: UUID,
    entry: chains.Entry,
    rows: dict[str, MessageRow],
    removed: dict[str | int, RemovalRow],
) -> None:
    if entry.kind == "message":
        stored = rows.get(entry.ref)
        found = None if stored is None or stored.salt is None else stored.leaf()
    elif entry.kind == "completion":
        turn_id, _, number = entry.ref.rpartition(":")
        call = turns.call(connection, conversation_id, UUID(turn_id), int(number))
        found = None if call is None or call.salt is None else call.leaf()
    elif entry.kind in ("redaction", "erasure"):
        named = removed.get(entry.number)
        found = None if named is None else named.leaf()
    else:
        return
    if found is None:
        everything = removed.get("*")
        if f"{entry.kind}:{entry.ref}" in removed or (everything is not None and entry.number < everything.number):
            return
    what = f"{entry.kind} {entry.ref}"
    if found is None:
        raise ChainBroken(conversation_id, entry.number, entry.ref, f"{what} is missing")
    if found.commitment != bytes(entry.commitment):
        raise ChainBroken(conversation_id, entry.number, entry.ref, f"{what} is not what was written")


def _check_end(
    connection: Connection, row: ConversationRow, last: int, previous: bytes, counted: dict[str, int]
) -> None:
    if last != row.last_entry or previous != bytes(row.chain_hash):
        problem = f"the chain ends at entry {last}, the conversation says {row.last_entry}"
        raise ChainBroken(row.id, last, "head", problem)
    stored = messages.count(connection, row.id)
    if stored != counted["message"]:
        problem = f"{stored} messages are stored, {counted['message']} were entered"
        raise ChainBroken(row.id, last, "messages", problem)
    if row.last_seq != stored:
        raise ChainBroken(row.id, last, "last_seq", f"last_seq is {row.last_seq}, {stored} messages are stored")
    ended = turns.count_ended_calls(connection, row.id)
    if ended != counted["completion"]:
        problem = f"{ended} ended API calls are stored, {counted['completion']} were entered"
        raise ChainBroken(row.id, last, "completions", problem)
