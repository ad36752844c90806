"""Copy the path to a message into a conversation of its own.

The copy has new seqs, new salts and a chain of its own, whose first entry names the source and the head of the source's
chain. Rows are read and written in batches, so memory does not grow with the path. All of it is one transaction.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain as concat
from itertools import islice
from uuid import UUID

from sqlalchemy import Connection, bindparam, literal, select
from sqlalchemy.exc import IntegrityError

from convokit.completion.begin import check_subject
from convokit.completion.effects import Flow
from convokit.completion.start_point import MessageLike, find_path_end, resolve_seq_flow
from convokit.completion.state import ChatRef, KitState, identify_flow, not_found
from convokit.completion.write_retry import START_S, write_with_retry_flow
from convokit.domain import hashchain
from convokit.domain.content import find_blob_digests
from convokit.domain.conversation import ConversationRow, SummaryRow
from convokit.domain.message import MessageRow
from convokit.domain.removal import RemovalRow
from convokit.errors import InvalidInput, NotFound
from convokit.store import chain, conversations, message_tree, messages, removal_records, summaries
from convokit.store.dialects import dialect_of
from convokit.store.schema import blob

BATCH = 500
_REASON = "redacted in the conversation that this is a copy of"


@dataclass(frozen=True, slots=True)
class NewConversation:
    """The conversation that a copy makes; its path ends with the copy of message `head_seq`."""

    id: UUID
    key: str | None
    subject: str | None
    title: str | None
    head_seq: int
    at: int


def copy_flow(kit: KitState, chat: ChatRef, message: MessageLike | None, into: ChatRef) -> Flow[ChatRef]:
    """Copy the path to a message into a conversation of its own, and return a chat on it. Raises: NotFound, InvalidInput."""
    conversation_id = yield from identify_flow(kit, chat)
    seq = None if message is None else (yield from resolve_seq_flow(kit, chat, message))
    new_id = yield from identify_flow(kit, into)
    at = kit.clock.now_us()

    def write(connection: Connection) -> bool:
        conversations.lock(connection, conversation_id)  # an erasure at the same time must not be copied half
        row = conversations.find(connection, kit.tenant, conversation_id)
        if row is None:
            return False
        check_subject(row, chat)
        head = message_tree.read_head(connection, row, chat.branch) if seq is None else seq
        if head is None:
            raise NotFound("message", "to copy", "the conversation has no message yet")
        find_path_end(connection, conversation_id, head)
        new = NewConversation(new_id, into.key, into.subject or row.subject, into.title or row.title, head, at)
        if not write_copy(connection, row, new):
            raise InvalidInput("key", f"there is a conversation under {into.key!r} already: use another key")
        return True

    found = yield from write_with_retry_flow(
        kit,
        conversation_id,
        write,
        lambda connection: find_copy(connection, kit.tenant, conversation_id, new_id, at),
        patience_s=START_S,
        only_transient=True,
    )
    if not found:
        raise not_found(chat)
    return into


class _SeqMap:
    """Maps the seqs of a path to 1, 2, 3 … in the copy, by the runs of the path: its size does not grow with the messages."""

    def __init__(self, runs: Sequence[tuple[int, int]]) -> None:
        self._runs = runs
        self._firsts = [first for first, _ in runs]
        self._before: list[int] = [0]
        for first, last in runs:
            self._before.append(self._before[-1] + last - first + 1)

    def find(self, seq: int | None) -> int | None:
        """Return the seq of a message's copy, None if the message is not on the path."""
        if seq is None:
            return None
        run = bisect_right(self._firsts, seq) - 1
        if run < 0 or seq > self._runs[run][1]:
            return None
        return self._before[run] + seq - self._firsts[run] + 1

    def list_old(self) -> Iterator[int]:
        """Yield the seqs of the path."""
        return concat.from_iterable(range(first, last + 1) for first, last in self._runs)


def write_copy(connection: Connection, row: ConversationRow, new: NewConversation) -> bool:
    """Write the copy. Return False, and write nothing, if a conversation with its id exists."""
    if conversations.find(connection, row.tenant, new.id) is not None:
        return False
    seqs = _SeqMap(messages.list_runs(connection, row.id, new.head_seq))
    created = _new_row(row, new, seqs)
    try:
        conversations.create(connection, created)
    except IntegrityError:  # another process created it since we looked
        return False
    ref = f"{row.id}:{row.last_entry}:{bytes(row.chain_hash).hex()}"
    source = hashchain.HashInput("import", ref, hashchain.compute_commitment(b"", [ref]))
    entries = hashchain.extend_chain(0, created.chain_hash, [source])
    last_seq = 0
    redacted: list[int] = []
    left = seqs.list_old()
    while batch := list(islice(left, BATCH)):
        old = sorted(messages.read_many(connection, row.id, batch, with_items=True), key=lambda each: each.seq)
        rows = [_copy_row(each, seqs) for each in old]
        inputs = [each.hash_input() for each in rows]
        for each in rows:
            if each.status == "redacted":
                each.salt = None
                redacted.append(each.seq)
        _copy_blobs(connection, row.id, new.id, rows)
        chain.append_entries(connection, new.id, entries)
        messages.append(connection, new.id, rows)
        entries = hashchain.extend_chain(entries[-1].number, entries[-1].hash, inputs)
        last_seq = rows[-1].seq
    chain.append_entries(connection, new.id, entries)
    entries = _write_removals(connection, new, entries[-1], redacted) or entries
    copied = _copy_summaries(connection, row.id, new, seqs, last_seq)
    if copied:
        entries = hashchain.extend_chain(entries[-1].number, entries[-1].hash, [each.hash_input() for each in copied])
        chain.append_entries(connection, new.id, entries)
    last = last_seq + len(copied)
    moved = replace(created, last_seq=last, last_entry=entries[-1].number, chain_hash=entries[-1].hash)
    return conversations.advance(connection, created, moved, last_seq)


def _copy_summaries(
    connection: Connection, source: UUID, new: NewConversation, seqs: _SeqMap, last_seq: int
) -> list[MessageRow]:
    """Copy the path's summaries behind its messages."""
    copied: list[MessageRow] = []
    for each in reversed(summaries.list_path_summaries(connection, source, new.head_seq)):
        first, end = seqs.find(each.row.from_seq), seqs.find(each.row.to_seq)
        if first is not None and end is not None:
            seq = last_seq + len(copied) + 1
            row = replace(each.message, seq=seq, parent_seq=end, run_start_seq=seq, salt=hashchain.new_salt())
            messages.append(connection, new.id, [row])
            summaries.insert_summary(connection, new.id, SummaryRow(first, end, each.row.created_at, message_seq=seq))
            copied.append(row)
    return copied


def find_copy(connection: Connection, tenant: str, source: UUID, copy: UUID, at: int) -> bool | None:
    """Return True if `write_copy` wrote this copy: of this source, in this very microsecond. Else None."""
    row = conversations.find(connection, tenant, copy)
    if row is None or row.created_at != at:
        return None
    first = chain.find_entry(connection, copy, 1)
    return True if first is not None and first.kind == "import" and first.ref.startswith(f"{source}:") else None


def _write_removals(
    connection: Connection, new: NewConversation, last: hashchain.Entry, seqs: Sequence[int]
) -> list[hashchain.Entry]:
    """Record the redactions of the source: a redacted row without its removal would look like tampering."""
    if not seqs:
        return []
    rows = [
        RemovalRow(number, f"message:{seq}", None, _REASON, hashchain.new_salt(), new.at)
        for number, seq in enumerate(seqs, last.number + 1)
    ]
    entries = hashchain.extend_chain(last.number, last.hash, [each.hash_input() for each in rows])
    removal_records.insert_removals(connection, new.id, rows)
    chain.append_entries(connection, new.id, entries)
    return entries


def _new_row(row: ConversationRow, new: NewConversation, seqs: _SeqMap) -> ConversationRow:
    pins = [seq for pin in row.pinned_seqs if (seq := seqs.find(pin)) is not None]
    return replace(
        row,
        id=new.id,
        key=new.key,
        subject=new.subject,
        title=new.title,
        head_seq=None,
        last_seq=0,
        last_entry=0,
        chain_hash=hashchain.genesis_hash(new.id),
        created_at=new.at,
        updated_at=max(new.at, row.updated_at),
        archived_at=None,
        pins=json.dumps(pins) if pins else None,
    )


def _copy_row(row: MessageRow, seqs: _SeqMap) -> MessageRow:
    seq = seqs.find(row.seq)
    assert seq is not None
    parent, window = seq - 1 or None, seqs.find(row.window_from_seq)
    return replace(row, seq=seq, parent_seq=parent, run_start_seq=1, window_from_seq=window, salt=hashchain.new_salt())


def _copy_blobs(connection: Connection, source: UUID, copy: UUID, rows: Sequence[MessageRow]) -> None:
    """Copy the blobs that these messages refer to inside the database."""
    digests = {
        digest
        for row in rows
        for text in (row.parts, row.extra)
        if text is not None
        for digest in find_blob_digests(text)
    }
    if digests:
        statement = (
            dialect_of(connection)
            .insert_or_ignore(blob)
            .from_select(
                ["conversation_id", "digest", "media_type", "data"],
                select(literal(copy, blob.c.conversation_id.type), blob.c.digest, blob.c.media_type, blob.c.data).where(
                    blob.c.conversation_id == bindparam("source"), blob.c.digest.in_(list(digests))
                ),
            )
        )
        connection.execute(statement, {"source": source})
