"""Read all data that a turn needs in one transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from convokit.domain.content import Blob, find_blob_digests
from convokit.domain.conversation import ConversationRow, StoredSummary
from convokit.domain.message import ASSISTANT, TOOL, MessageRow
from convokit.domain.turn import OpenTurn
from convokit.store import blobs, conversations, message_tree, messages, summaries, turns


@dataclass(slots=True, repr=False)
class Snapshot:
    """The data that a turn reads, from one transaction."""

    conversation: ConversationRow | None
    head: int | None = None
    path: messages.MessagePath = field(default_factory=lambda: messages.MessagePath([], complete=True))
    open_turn: OpenTurn | None = None
    open_calls: list[dict[str, Any]] = field(default_factory=list)
    """The tool calls at the end of the path that wait for results from the caller."""
    blobs: dict[bytes, Blob] = field(default_factory=dict)
    """The binaries that the messages of the path refer to."""
    pinned: list[MessageRow] = field(default_factory=list)
    """Pinned messages of the path, from before the rows that were read."""
    summaries: list[StoredSummary] = field(default_factory=list)
    """The path's summaries, the newest first, if they were asked for."""
    added: list[MessageRow] = field(default_factory=list)
    """The last messages of `path` that are not stored yet: the turn writes them before its own."""

    def add_messages(self, rows: Sequence[MessageRow], added_blobs: Sequence[Blob]) -> Snapshot:
        """Return the snapshot with new messages at the end of its path."""
        path = messages.MessagePath([*self.path.rows, *rows], self.path.complete)
        asking = find_asking(path.rows)
        is_new = asking is not None and any(row is asking for row in rows)
        answered = {row.tool_call_id for row in rows}
        if asking is None:
            open_calls = []
        elif is_new:
            open_calls = _list_open_calls(path.rows, asking)
        else:
            open_calls = [call for call in self.open_calls if call.get("id") not in answered]
        return replace(
            self,
            path=path,
            open_calls=open_calls,
            blobs={**self.blobs, **{blob.digest: blob for blob in added_blobs}},
            added=[*self.added, *rows],
        )


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
    # The run of a new branch is short: one statement also reads what lies before it.
    path = messages.read_backwards(
        connection, row.id, end, lambda rows: rows_needed(row, rows), crosses_runs=bool(branch)
    )
    pinned = _read_pinned(connection, row, path)
    wanted = {
        digest for each in (*pinned, *path.rows) if each.parts is not None for digest in find_blob_digests(each.parts)
    }
    found_blobs = blobs.read_blobs(connection, row.id, wanted) if wanted else {}
    stored = summaries.list_path_summaries(connection, row.id, end) if with_summaries else []
    open_turn, open_calls = _read_open(connection, row, branch, path.rows)
    return Snapshot(row, head, path, open_turn, open_calls, found_blobs, pinned, stored)


def read_open_calls(
    connection: Connection, tenant: str, conversation_id: UUID, branch: int
) -> list[dict[str, Any]] | None:
    """Return the tool calls at a branch's end that wait for results; None if the conversation does not exist."""

    def count_missing(rows: list[MessageRow]) -> int:
        return len(rows) if all(each.role == TOOL for each in rows) else 0

    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    head = message_tree.read_head(connection, row, branch)
    path = messages.read_backwards(connection, row.id, head, count_missing)
    return _read_open(connection, row, branch, path.rows)[1]


def _read_open(
    connection: Connection, row: ConversationRow, branch: int, path: Sequence[MessageRow]
) -> tuple[OpenTurn | None, list[dict[str, Any]]]:
    """Return the turn that is open on the branch, and the tool calls at the end of the path that wait for results.

    Calls that a turn runs, or was running when its worker died, are not the caller's.
    """
    asking = find_asking(path)
    if asking is None:
        return turns.find_open(connection, row.id, branch), []
    open_turn, is_recorded = turns.find_open_and_recorded(connection, row.id, branch, asking.seq)
    return open_turn, [] if is_recorded else _list_open_calls(path, asking)


def find_asking(path: Sequence[MessageRow]) -> MessageRow | None:
    """Return the reply with tool calls that a path ends with, None for another end. Results may stand behind the reply."""
    row = next((row for row in reversed(path) if row.role != TOOL), None)
    is_asking = row is not None and row.role == ASSISTANT and row.status == "complete" and row.tool_calls is not None
    return row if is_asking else None


def _list_open_calls(path: Sequence[MessageRow], asking: MessageRow) -> list[dict[str, Any]]:
    """Return the calls of the reply `asking` that none of the messages behind it answers, in the API's shape."""
    answered = {row.tool_call_id for row in path if row.seq > asking.seq}
    return [call for call in json.loads(asking.tool_calls or "[]") if call.get("id") not in answered]


def _read_pinned(connection: Connection, row: ConversationRow, path: messages.MessagePath) -> list[MessageRow]:
    """Return the pinned messages that lie on the path before its first row that was read."""
    if row.pins is None or path.complete:
        return []
    earlier = [seq for seq in row.pinned_seqs if seq < path.rows[0].seq]
    if not earlier:
        return []
    there = messages.filter_on_path(connection, row.id, path.rows[0].parent_seq, earlier)
    return sorted(messages.read_many(connection, row.id, there), key=lambda each: each.seq)
