"""Update and finish turns.

Each write compares the epoch of the turn. A worker that lost its turn updates no row and gets TurnLost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Executable, bindparam, update

from convokit.domain import hashchain
from convokit.domain.content import Blob
from convokit.domain.conversation import ConversationRow, SummaryRow
from convokit.domain.message import MessageRow, shift_rows
from convokit.domain.stored_request import Manifest
from convokit.domain.turn import CallRow, ToolCallRow
from convokit.store import (
    anchors,
    api_calls,
    blobs,
    chunks,
    conversations,
    messages,
    removal_records,
    search_index,
    summaries,
    tool_calls,
    turns,
    write_batch,
)
from convokit.store.schema import turn
from convokit.store.turn_start import Written, find_stored_number

_UPDATE_METADATA = (
    update(turn)
    .where(turn.c.conversation_id == bindparam("b_id"), turn.c.id == bindparam("b_turn"))
    .values(metadata=bindparam("new_metadata"))
)


@dataclass(slots=True, repr=False, kw_only=True)
class _TurnWrite:
    """The fields that every write of a running turn has. `conversation` is the row that `rows` were placed behind."""

    conversation: ConversationRow
    branch: int
    turn_id: UUID
    at: int
    rows: list[MessageRow]
    call: CallRow | None
    """The call that ended; its outcome enters the hash chain."""
    moves_head: bool = True
    """False where later messages follow the question already: the reply is then a branch of its own."""
    blobs: Sequence[Blob] = ()
    prompts: Sequence[tuple[bytes, str]] = ()
    """Developer prompt and tool set of the call that follows, after their digests."""
    search_keys: Sequence[set[str]] | None = None
    """The keys of each row's words; None computes them in the transaction."""

    def build_search_keys(self) -> None:
        """Split the texts into words for the search index, while no transaction is open."""
        self.search_keys = search_index.build_search_keys(self.rows)

    def _advance(
        self, connection: Connection, guard: tuple[Executable, Mapping[str, Any]] | None = None
    ) -> write_batch.WriteBatch:
        """Advance the conversation and return the rows to write. Raises: TurnLost.

        If another branch wrote since, the rows get higher seqs: a paid reply must not starve.
        """
        batch = self._build_batch(self.conversation)
        if not write_batch.advance(connection, batch, guard):
            was = self.conversation
            row = conversations.lock_and_find(connection, was.tenant, was.id)
            assert row is not None, "a conversation is deleted with its turns"
            batch = self._build_batch(row)
            is_advanced = write_batch.advance(connection, batch)
            assert is_advanced  # nobody else can advance a locked conversation
        return batch

    def _build_batch(self, row: ConversationRow) -> write_batch.WriteBatch:
        """Return the rows and chain entries to be written behind the last message of `row`."""
        rows = shift_rows(self.rows, row.last_seq - self.conversation.last_seq)
        call = [self.call.hash_input()] if self.call is not None else []
        entries = hashchain.extend_chain(row.last_entry, row.chain_hash, [*(each.hash_input() for each in rows), *call])
        head = _new_head(rows) if rows and self.moves_head and rows[0].status != "late" else None
        last = rows[-1].seq if rows else row.last_seq
        moved = write_batch.advance_row(row, self.branch, head, last, entries, self.at)
        batch = write_batch.WriteBatch(row, moved, self.branch, head, entries, rows)
        batch.search_keys, batch.prompts = self.search_keys, self.prompts
        return batch

    @contextmanager
    def _write(self, connection: Connection, batch: write_batch.WriteBatch) -> Iterator[Connection]:
        """Write the rows and their binaries, with the statements of the block."""
        # Perhaps no row is kept of a reply that broke off.
        referenced = "".join(each.extra or "" for each in batch.messages)
        with write_batch.write(connection, batch) as sending:
            blobs.insert_blobs(sending, batch.row.id, [each for each in self.blobs if each.url in referenced])
            yield sending

    def _find_rows(self, connection: Connection) -> list[MessageRow]:
        """Return the messages that an earlier try of this write committed."""
        row = self.conversation
        return messages.list_turn_messages(connection, row.id, self.turn_id, after=row.last_seq, limit=len(self.rows))

    def _reread(self, connection: Connection, rows: list[MessageRow]) -> Written | None:
        fresh = conversations.find(connection, self.conversation.tenant, self.conversation.id)
        return None if fresh is None else Written(fresh, rows)


@dataclass(slots=True, repr=False, kw_only=True)
class TurnEnd(_TurnWrite):
    """The end of a turn: its state, its reply and the call that made the reply."""

    epoch: int
    state: str
    error: str | None = None
    first_token_at: int | None = None
    takeover: bool = False
    has_chunks: bool = True
    """Whether chunks of the reply may be stored."""
    tools_from_seq: int | None = None
    """The seq from which the turn's tool calls start, when some may have been interrupted while they ran."""
    anchor: bytes | None = None
    """A digest under which the reply is found."""

    def write(self, connection: Connection) -> Written:
        """Finish the turn. Raises: TurnLost when it is no longer open under this epoch."""
        reply_seq = self.rows[0].seq if self.rows else None
        ended = turns.build_end_values(
            self.conversation.id,
            self.turn_id,
            self.epoch,
            state=self.state,
            reply_seq=reply_seq,
            error=self.error,
            first_token_at=self.first_token_at,
            at=self.at,
            takeover=self.takeover,
        )
        batch = self._advance(connection, (turns.END_TURN, ended))
        batch.ended_call = self.call
        with self._write(connection, batch) as sending:
            if self.tools_from_seq is not None:
                tool_calls.close_interrupted(sending, batch.row.id, self.turn_id, self.tools_from_seq, self.at)
            if self.has_chunks:
                chunks.delete_chunks(sending, batch.row.id, self.turn_id)
            if batch.messages and batch.messages[0].seq != reply_seq:
                turns.correct_reply_seq(sending, batch.row.id, self.turn_id, batch.messages[0].seq)
            if self.anchor is not None:
                anchors.insert_anchor(sending, batch.row, batch.messages[0], self.anchor)
        return Written(batch.moved, batch.messages)

    def find_written(self, connection: Connection) -> Written | None:
        """Return what an earlier `write` committed. A turn that another worker closed has another epoch."""
        found = turns.find(connection, self.conversation.id, self.turn_id)
        if found is None or found.state == "open" or found.epoch != self.epoch + self.takeover:
            return None
        return self._reread(connection, self._find_rows(connection))


@dataclass(slots=True, repr=False, kw_only=True)
class TurnUpdate(_TurnWrite):
    """A step of a turn that stays open: how a call ended, the messages it made, and the call that follows."""

    epoch: int
    lease_us: int
    next_call: CallRow | None = None
    next_manifest: Manifest | None = None
    """The manifest of `next_call`, which names the messages of `rows`."""
    started_tools: Sequence[ToolCallRow] = ()
    """Tool calls that are about to run; `rows` holds the message that asks for them."""
    finished_tools: Sequence[ToolCallRow] = ()
    """Tool calls that ran; `rows` holds their results in the same order."""
    summary: SummaryRow | None = None
    """The messages that the one message of `rows` summarizes."""

    def write(self, connection: Connection) -> Written:
        """Write the step. Raises: TurnLost when the turn is no longer ours."""
        renewed = turns.build_lease_values(
            self.conversation.id, self.turn_id, self.epoch, lease_us=self.lease_us, first_token_at=None
        )
        batch = self._advance(connection, (turns.RENEW_LEASE, renewed))
        batch.ended_call = self.call
        row, rows = batch.row, batch.messages
        if self.next_call is not None:
            self.next_call.number = api_calls.next_number(connection, row.id, self.turn_id)
            batch.begun_call = self._shift_next_call(self.next_call, row.last_seq - self.conversation.last_seq)
        with self._write(connection, batch) as sending:
            if self.call is not None:
                chunks.delete_chunks(sending, row.id, self.turn_id)
            for tool_call in self._numbered_tools(rows):
                tool_calls.insert_tool_call(sending, row.id, self.turn_id, tool_call)
            for tool_call, result in zip(self.finished_tools, rows, strict=False):
                tool_call.result_seq = result.seq
                tool_calls.finish_tool_call(sending, row.id, tool_call)
        if self.summary is not None:
            self.summary.message_seq = rows[0].seq
            summaries.insert_summary(connection, row.id, self.summary)
        return Written(batch.moved, rows)

    def _shift_next_call(self, call: CallRow, by: int) -> CallRow:
        """Return the next call with a manifest that names the new messages under the seqs they got."""
        if not by or self.next_manifest is None:
            return call
        return replace(call, manifest=self.next_manifest.shift(self.conversation.last_seq, by).to_json())

    def find_written(self, connection: Connection) -> Written | None:
        """Return what an earlier `write` committed, None if it committed nothing."""
        rows, call = self._find_rows(connection), self.next_call
        is_written = bool(rows) if call is None else find_stored_number(connection, self.conversation, call) is not None
        if not is_written:
            return None
        self._numbered_tools(rows)
        return self._reread(connection, rows)

    def _numbered_tools(self, rows: Sequence[MessageRow]) -> Sequence[ToolCallRow]:
        """Return the tool calls that are about to run, with the seq of the asking message and their position in it."""
        for position, tool_call in enumerate(self.started_tools):
            tool_call.message_seq, tool_call.position = rows[0].seq, position
        return self.started_tools


@dataclass(slots=True, repr=False, kw_only=True)
class LateReply(_TurnWrite):
    """A paid reply whose turn was closed by another worker. It is stored off the path; no turn, claim or head changes."""

    def write(self, connection: Connection) -> Written | None:
        """Store the reply. Return None, and write nothing, when its question was erased, or lost in a failover."""
        fresh = conversations.lock_and_find(connection, self.conversation.tenant, self.conversation.id)
        turn = None if fresh is None else turns.find(connection, fresh.id, self.turn_id)
        if fresh is None or turn is None:
            return None  # the seq of the question may be that of another message now
        if removal_records.has_removals_since(connection, fresh.id, self.conversation.last_entry):
            question = messages.find(connection, fresh.id, turn.question_seq)
            if question is None or question.status == "redacted":
                return None
            if self.call is not None:
                self.call.body_salt = None  # the request may have held removed text: its digest must prove nothing
        if self.call is not None:
            # The call's own row is final: the worker that closed the turn has ended it.
            self.call.number = api_calls.next_number(connection, fresh.id, self.turn_id)
        self.rows = shift_rows(self.rows, fresh.last_seq - self.conversation.last_seq)
        self.conversation = fresh
        batch = self._advance(connection)
        batch.begun_call = self.call
        with self._write(connection, batch):
            pass
        return Written(batch.moved, batch.messages)

    def find_written(self, connection: Connection) -> Written | None:
        """Return what an earlier `write` committed, None if it committed nothing."""
        if self.call is None or find_stored_number(connection, self.conversation, self.call) is None:
            return None
        return self._reread(connection, self._find_rows(connection))


def save_chunk(
    connection: Connection,
    conversation_id: UUID,
    call: CallRow,
    epoch: int,
    chunk: chunks.ChunkRow | None,
    *,
    lease_us: int,
    first_token_at: int,
) -> bool:
    """Store a chunk of the reply and renew the lease. Return False when the turn is no longer ours: stop reading then."""
    turn_id = call.turn_id
    if not turns.renew_lease(
        connection, conversation_id, turn_id, epoch, lease_us=lease_us, first_token_at=first_token_at
    ):
        return False
    if chunk is not None:
        chunks.append_chunk(connection, conversation_id, turn_id, call.number, chunk)
    return True


def update_metadata(connection: Connection, conversation_id: UUID, turn_id: UUID, metadata: str | None) -> bool:
    """Replace the application's metadata of a turn, and return whether the turn exists."""
    values = {"b_id": conversation_id, "b_turn": turn_id, "new_metadata": metadata}
    return connection.execute(_UPDATE_METADATA, values).rowcount == 1


def _new_head(rows: Sequence[MessageRow]) -> int:
    """Return the new branch head: the first of several choices, the last of messages that follow each other."""
    are_choices = rows[-1].parent_seq == rows[0].parent_seq
    return rows[0].seq if are_choices else rows[-1].seq
