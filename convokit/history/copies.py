"""A path written again as a conversation of its own: new places, fresh salts, its own chain, the same words.

The chain begins with an entry that names the conversation, and the head of its chain, that it was copied from. Rows are read
and written in batches, so memory does not grow with the path; the transaction is one.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain as joined
from itertools import islice
from uuid import UUID

from sqlalchemy import Connection, bindparam, literal, select
from sqlalchemy.exc import IntegrityError

from convokit.domain import hashchain as chains
from convokit.domain.content import blob_digests
from convokit.domain.conversation import ConversationRow, SummaryRow
from convokit.domain.message import MessageRow
from convokit.domain.removal import RemovalRow
from convokit.store import chain, conversations, messages, removal_records, summaries
from convokit.store.dialects import dialect_of
from convokit.store.schema import blob
from convokit.transfer import sql as transfer_sql

BATCH = 500
_COPIED = "redacted in the conversation this is a copy of"


@dataclass(frozen=True, slots=True)
class Copy:
    """A conversation to be: under which id and key, and with which message its path ends in the old one."""

    id: UUID
    key: str | None
    subject: str | None
    title: str | None
    head_seq: int
    at: int


class _Places:
    """Which place a message of the path has in the copy: 1, 2, 3 … by the path's runs, however many messages there are."""

    def __init__(self, runs: Sequence[tuple[int, int]]) -> None:
        self._runs = runs
        self._firsts = [first for first, _ in runs]
        self._before: list[int] = [0]
        for first, last in runs:
            self._before.append(self._before[-1] + last - first + 1)

    def of(self, seq: int | None) -> int | None:
        """Return the new place of a message, None where it is not on the path."""
        if seq is None:
            return None
        run = bisect_right(self._firsts, seq) - 1
        if run < 0 or seq > self._runs[run][1]:
            return None
        return self._before[run] + seq - self._firsts[run] + 1

    def old(self) -> Iterator[int]:
        """Yield the path's messages by their old place."""
        return joined.from_iterable(range(first, last + 1) for first, last in self._runs)


def write(connection: Connection, row: ConversationRow, copy: Copy) -> bool:
    """Write the copy; False, and nothing written, when there is a conversation under its id already."""
    if conversations.find(connection, row.tenant, copy.id) is not None:
        return False
    places = _Places(messages.list_runs(connection, row.id, copy.head_seq))
    made = _conversation(row, copy, places)
    try:
        conversations.create(connection, made)
    except IntegrityError:  # by another process, since we looked
        return False
    ref = f"{row.id}:{row.last_entry}:{bytes(row.chain_hash).hex()}"
    entries = chains.extend_chain(
        0, made.chain_hash, [chains.HashInput("import", ref, chains.compute_commitment(b"", [ref]))]
    )
    seq = 0
    tombs: list[int] = []
    left = places.old()
    while batch := list(islice(left, BATCH)):
        rows = [_again(each, places) for each in sorted(messages.read_many(connection, row.id, batch), key=_seq)]
        leaves = [each.hash_input() for each in rows]
        for each in rows:
            if each.status == "redacted":
                each.salt = None
                tombs.append(each.seq)
        _keep_blobs(connection, row.id, copy.id, rows)
        chain.append_entries(connection, copy.id, entries)
        messages.append(connection, copy.id, rows)
        entries = chains.extend_chain(entries[-1].number, entries[-1].hash, leaves)
        seq = rows[-1].seq
    chain.append_entries(connection, copy.id, entries)
    entries = _bury(connection, copy, entries[-1], tombs) or entries
    summing = _sum_up(connection, row.id, copy, places, seq)
    if summing:
        entries = chains.extend_chain(entries[-1].number, entries[-1].hash, [each.hash_input() for each in summing])
        chain.append_entries(connection, copy.id, entries)
    last = seq + len(summing)
    moved = replace(made, last_seq=last, last_entry=entries[-1].number, chain_hash=entries[-1].hash)
    return conversations.advance(connection, made, moved, seq)


def _sum_up(connection: Connection, source: UUID, copy: Copy, places: _Places, last: int) -> list[MessageRow]:
    """Write the path's summaries again behind its messages, where the window leaves out what they stand for here, too."""
    made: list[MessageRow] = []
    for each in reversed(summaries.list_path_summaries(connection, source, copy.head_seq)):
        first, end = places.of(each.row.from_seq), places.of(each.row.to_seq)
        if first is not None and end is not None:
            seq = last + len(made) + 1
            text = replace(each.message, seq=seq, parent_seq=end, run_start_seq=seq, salt=chains.new_salt())
            messages.append(connection, copy.id, [text])
            summaries.insert_summary(connection, copy.id, SummaryRow(first, end, each.row.created_at, message_seq=seq))
            made.append(text)
    return made


def written(connection: Connection, tenant: str, source: UUID, copy: UUID, at: int) -> bool | None:
    """Return True if the copy that `write` was to write is there: of this source, and of this very microsecond."""
    row = conversations.find(connection, tenant, copy)
    if row is None or row.created_at != at:
        return None
    first = transfer_sql.entry_at(connection, copy, 1)
    return True if first is not None and first[0] == "import" and first[1].startswith(f"{source}:") else None


def _bury(connection: Connection, copy: Copy, last: chains.Entry, seqs: Sequence[int]) -> list[chains.Entry]:
    """Enter what was redacted in the source as redacted here, too: a tombstone without its removal proves nothing."""
    if not seqs:
        return []
    found = [
        RemovalRow(number, f"message:{seq}", None, _COPIED, chains.new_salt(), copy.at)
        for number, seq in enumerate(seqs, last.number + 1)
    ]
    entries = chains.extend_chain(last.number, last.hash, [each.leaf() for each in found])
    removal_records.insert_removals(connection, copy.id, found)
    chain.append_entries(connection, copy.id, entries)
    return entries


def _seq(row: MessageRow) -> int:
    return row.seq


def _conversation(row: ConversationRow, copy: Copy, places: _Places) -> ConversationRow:
    pins = [place for seq in row.pinned if (place := places.of(seq)) is not None]
    return replace(
        row,
        id=copy.id,
        key=copy.key,
        subject=copy.subject,
        title=copy.title,
        head_seq=None,
        last_seq=0,
        last_entry=0,
        chain_hash=chains.genesis_hash(copy.id),
        created_at=copy.at,
        updated_at=max(copy.at, row.updated_at),
        archived_at=None,
        pins=json.dumps(pins) if pins else None,
    )


def _again(row: MessageRow, places: _Places) -> MessageRow:
    seq = places.of(row.seq)
    assert seq is not None
    parent, window = seq - 1 or None, places.of(row.window_from_seq)
    return replace(row, seq=seq, parent_seq=parent, run_start_seq=1, window_from_seq=window, salt=chains.new_salt())


def _keep_blobs(connection: Connection, source: UUID, copy: UUID, rows: Sequence[MessageRow]) -> None:
    """Give the copy the binaries that these messages refer to, without bringing them here."""
    wanted = {
        digest for row in rows for text in (row.parts, row.extra) if text is not None for digest in blob_digests(text)
    }
    if wanted:
        statement = (
            dialect_of(connection)
            .insert_or_ignore(blob)
            .from_select(
                ["conversation_id", "digest", "media_type", "data"],
                select(literal(copy, blob.c.conversation_id.type), blob.c.digest, blob.c.media_type, blob.c.data).where(
                    blob.c.conversation_id == bindparam("source"), blob.c.digest.in_(list(wanted))
                ),
            )
        )
        connection.execute(statement, {"source": source})
