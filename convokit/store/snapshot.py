"""Read all data that a turn needs in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection

from convokit.domain.content import Blob, find_blob_digests
from convokit.domain.conversation import ConversationRow, StoredSummary
from convokit.domain.message import MessageRow
from convokit.domain.turn import OpenTurn
from convokit.store import blobs, conversations, message_tree, messages, summaries, turns


@dataclass(slots=True, repr=False)
class Snapshot:
    """The data that a turn reads, from one transaction."""

    conversation: ConversationRow | None
    head: int | None = None
    path: messages.MessagePath = field(default_factory=lambda: messages.MessagePath([], complete=True))
    open_turn: OpenTurn | None = None
    blobs: dict[bytes, Blob] = field(default_factory=dict)
    """The binaries that the messages of the path refer to."""
    pinned: list[MessageRow] = field(default_factory=list)
    """Pinned messages of the path, from before the rows that were read."""
    summaries: list[StoredSummary] = field(default_factory=list)
    """The path's summaries, the newest first, if they were asked for."""


def read_snapshot(
    connection: Connection,
    tenant: str,
    conversation_id: UUID,
    branch: int,
    rows_needed: Callable[[ConversationRow, list[MessageRow]], int],
    at: int | None = None,
    *,
    with_summaries: bool = False,
) -> Snapshot:
    """Read the conversation, the end of its path, and the turn that is open on the branch.

    `rows_needed` is shown the rows read so far, newest first, and returns how many more to read; 0 ends the reading.
    `at` reads the path that ends with that seq instead of the branch's own; 0 is the path before every message.
    """
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return Snapshot(None)
    head = message_tree.read_head(connection, row, branch)
    end = head if at is None else at or None
    path = messages.read_backwards(connection, row.id, end, lambda rows: rows_needed(row, rows))
    pinned = _read_pinned(connection, row, path)
    wanted = {
        digest for each in (*pinned, *path.rows) if each.parts is not None for digest in find_blob_digests(each.parts)
    }
    found_blobs = blobs.read_blobs(connection, row.id, wanted) if wanted else {}
    stored = summaries.list_path_summaries(connection, row.id, end) if with_summaries else []
    return Snapshot(row, head, path, turns.find_open(connection, row.id, branch), found_blobs, pinned, stored)


def _read_pinned(connection: Connection, row: ConversationRow, path: messages.MessagePath) -> list[MessageRow]:
    """Return the pinned messages that lie on the path before its first row that was read."""
    if row.pins is None or path.complete:
        return []
    earlier = [seq for seq in row.pinned_seqs if seq < path.rows[0].seq]
    if not earlier:
        return []
    there = messages.filter_on_path(connection, row.id, path.rows[0].parent_seq, earlier)
    return sorted(messages.read_many(connection, row.id, there), key=lambda each: each.seq)
