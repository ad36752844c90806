"""Start and reopen turns.

A turn starts in one transaction: the question, the turn and its first call are committed before a byte is sent to the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from convokit.domain import hashchain
from convokit.domain.content import Blob
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow, shift_rows
from convokit.domain.stored_request import Manifest
from convokit.domain.turn import CallRow, IdempotencyKey, TurnRow
from convokit.store import (
    anchors,
    api_calls,
    blobs,
    conversations,
    message_tree,
    messages,
    removal_records,
    search_index,
    turns,
    write_batch,
)
from convokit.store.pipeline import pipeline
from convokit.store.write_batch import Conflict


@dataclass(slots=True, repr=False)
class Written:
    """The conversation after a write, and the new messages under the seqs they got."""

    conversation: ConversationRow
    rows: list[MessageRow]


@dataclass(slots=True, repr=False)
class TurnStart:
    """A turn with its question and its first call. `conversation` is the row that the request was built from."""

    conversation: ConversationRow
    branch: int
    head: int | None
    """The branch head when it was read."""
    question: MessageRow
    """The message that the reply follows: the question, or the last of the tool results."""
    rows: list[MessageRow]
    """The new messages in order: the caller's messages, tool results, passages, the question. Results may come first.

    Empty where the question is stored already.
    """
    call: CallRow
    manifest: Manifest
    owner: str
    lease_us: int
    at: int
    created: bool = False
    """Whether the conversation itself is new."""
    redescribed: bool = False
    """Whether settings, subject, title or metadata of the conversation changed."""
    movable: bool = True
    """Whether the turn may start behind messages that other branches wrote since the conversation was read."""
    key: IdempotencyKey | None = None
    question_seq: int | None = None
    """The stored question that tool results without a new question belong to; None where the reply follows its question."""
    added: int = 0
    """The number of `rows` before the turn's own: messages that the caller gave."""
    metadata: str | None = None
    """JSON: a value of the application that is kept with the turn."""
    anchor: bytes | None = None
    """A digest under which the question is found."""
    prompts: Sequence[tuple[bytes, str]] = ()
    blobs: Sequence[Blob] = ()
    search_keys: Sequence[set[str]] | None = None
    """The keys of each row's words; None computes them in the transaction."""

    def build_search_keys(self) -> None:
        """Split the texts into words for the search index, while no transaction is open."""
        self.search_keys = search_index.build_search_keys(self.rows)

    def write(self, connection: Connection) -> Written:
        """Write the turn. Raises: Conflict.

        A conflict means that the branch moved, that another turn is open on it, or that another process created the
        conversation.
        """
        batch = self._build_batch(self.conversation)
        try:
            if not write_batch.advance(connection, batch):
                batch = self._build_batch(self._read_moved(connection))
                is_advanced = write_batch.advance(connection, batch)
                assert is_advanced  # nobody else can advance a locked conversation
            with write_batch.write(connection, batch) as sending:
                blobs.insert_blobs(sending, batch.row.id, self.blobs)
                if self.anchor is not None:
                    anchors.insert_anchor(sending, batch.row, batch.messages[-1], self.anchor)
        except IntegrityError:  # a unique index: an open turn on the branch, the idempotency key, the conversation's id
            raise Conflict from None
        if self.redescribed:
            conversations.fill_description(connection, batch.moved)
        return Written(batch.moved, batch.messages)

    def _read_moved(self, connection: Connection) -> ConversationRow:
        """Lock the conversation and return its row, if the path that the request was built from is still the same.

        The turn is then written behind messages of other branches.
        """
        was = self.conversation
        row = conversations.lock_and_find(connection, was.tenant, was.id) if self.movable else None
        if row is None:
            raise Conflict
        path = row.settings, row.pins, message_tree.read_head(connection, row, self.branch)
        changed = path != (was.settings, was.pins, self.head)
        if changed or turns.find_open(connection, row.id, self.branch) is not None:
            raise Conflict
        if removal_records.has_removals_since(connection, row.id, was.last_entry):
            raise Conflict
        return row

    def _build_batch(self, row: ConversationRow) -> write_batch.WriteBatch:
        """Return the rows to be written behind the last message of `row`."""
        by = row.last_seq - self.conversation.last_seq
        rows, call = shift_rows(self.rows, by), self.call
        if by:
            call = replace(call, manifest=self.manifest.shift(self.conversation.last_seq, by).to_json())
        question = rows[-1] if rows else self.question
        entries = hashchain.extend_chain(row.last_entry, row.chain_hash, [each.hash_input() for each in rows])
        last = question.seq if rows else row.last_seq
        moved = write_batch.advance_row(row, self.branch, question.seq, last, entries, self.at)
        opened = turns.build_open_values(
            call.turn_id,
            branch=self.branch,
            question_seq=self.question_seq or question.seq,
            owner=self.owner,
            lease_us=self.lease_us,
            at=self.at,
            key=self.key,
            after=None if rows and self.question_seq is None else replace(row, last_seq=row.last_seq + self.added),
            metadata=self.metadata,
        )
        batch = write_batch.WriteBatch(row, moved, self.branch, question.seq, entries, rows, was=self.head)
        batch.created, batch.opened, batch.begun_call = self.created, opened, call
        batch.unarchives, moved.archived_at = True, None
        batch.search_keys, batch.prompts = self.search_keys, self.prompts
        return batch

    def find_written(self, connection: Connection) -> Written | None:
        """Return what an earlier `write` committed, None if it committed nothing."""
        row = self.conversation
        if turns.find(connection, row.id, self.call.turn_id) is None:
            return None
        fresh = conversations.find(connection, row.tenant, row.id)
        if fresh is None:
            return None
        own = [each for each in self.rows if each.turn_id == self.call.turn_id]
        found = messages.list_turn_messages(connection, row.id, self.call.turn_id, after=row.last_seq, limit=len(own))
        # All of them got seqs that follow each other, so the first of the turn's own tells the others.
        return Written(fresh, shift_rows(self.rows, found[0].seq - own[0].seq) if found else [])


@dataclass(slots=True, repr=False)
class TurnReopen:
    """Another call of a turn that ended without a whole reply."""

    conversation: ConversationRow
    turn: TurnRow
    call: CallRow
    owner: str
    lease_us: int
    prompts: Sequence[tuple[bytes, str]] = ()

    def build_search_keys(self) -> None:
        """Do nothing: this step writes no message."""

    def write(self, connection: Connection) -> bool:
        """Open the turn again. Raises: Conflict if another process did, or if another turn is open on the branch."""
        row, turn = self.conversation, self.turn
        values = turns.build_reopen_values(row.id, turn.id, turn.epoch, owner=self.owner, lease_us=self.lease_us)
        try:
            with pipeline(connection) as sending:
                conversations.lock(sending, row.id)
                removed = sending.execute(*removal_records.build_newer_query(row.id, row.last_entry))
                reopened = sending.execute(turns.REOPEN, values)
                number = sending.execute(*api_calls.build_last_number_query(row.id, turn.id))
        except IntegrityError:  # the index on open turns
            raise Conflict from None
        if removed.first() is not None or reopened.rowcount != 1:  # the request holds text that is removed now
            raise Conflict
        self.call.number = number.scalar_one() + 1
        api_calls.insert_call(connection, row.id, self.call)
        blobs.insert_prompts(connection, row.tenant, row.id, self.prompts)
        return True

    def find_written(self, connection: Connection) -> bool | None:
        """Return True if an earlier `write` was committed, else None."""
        return True if find_stored_number(connection, self.conversation, self.call) is not None else None


def find_stored_number(connection: Connection, row: ConversationRow, call: CallRow) -> int | None:
    """Return the number under which this very call is stored, as a late one or not; None if it is not stored."""
    # The digest identifies the call, and is as random as its salt. The salt itself may be gone after a redaction.
    stored = (each for each in api_calls.list_calls(connection, row.id, call.turn_id) if each.is_late == call.is_late)
    return next((each.number for each in stored if each.body_digest == call.body_digest), None)
