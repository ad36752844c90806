"""Append messages of other code to a branch, without a model.

One transaction locks the conversation, checks the branch and writes everything, so that no other writer comes between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from convokit.completion.begin import check_subject, fill_description, make_conversation_row
from convokit.completion.effects import Flow
from convokit.completion.on_busy import (
    BusyPolicy,
    OnBusy,
    join_line,
    make_busy_policy,
    wait_in_line_flow,
    wait_or_take_over_flow,
)
from convokit.completion.options import NO_OPTIONS
from convokit.completion.recovery import resolve_counter
from convokit.completion.resume import MAX_TRIES
from convokit.completion.start_point import MessageLike, find_path_end, resolve_seq_flow
from convokit.completion.state import ChatRef, KitState, find_timeouts, identify_flow, not_found
from convokit.completion.write_retry import START_S, write_step_flow
from convokit.context.new_messages import NewMessages, make_rows, place_new_rows, validate_messages
from convokit.domain import hashchain
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import Message, MessageRow
from convokit.errors import ConversationBusy, HeadMoved, NotFound
from convokit.store import blobs, conversations, message_tree, messages, search_index, turns, write_batch
from convokit.store.snapshot import Snapshot
from convokit.store.turn_start import Written
from convokit.store.write_batch import Conflict
from convokit.tokens.counter import Counter

_COMPARED = (
    "turn_id", "status", "role", "content", "parts", "tool_calls", "tool_call_id", "name", "refusal", "kind", "item",
)  # fmt: skip
"""The columns that a repeated append has in common with the first. The rest are times, counts and positions."""


@dataclass(slots=True, repr=False)
class MessageAppend:
    """The write of an append. `conversation` is the row that it creates for a new key."""

    kit: KitState
    chat: ChatRef
    conversation: ConversationRow
    new: NewMessages
    counter: Counter
    """The counter that the conversation probably has: it is known for sure in the transaction only."""
    after: int | None
    expect: int | None
    rows: list[MessageRow] = field(init=False)
    """The messages without their positions."""
    placed: list[MessageRow] = field(default_factory=list)
    """The messages that the last attempt wrote."""
    search_keys: Sequence[set[str]] | None = None

    def __post_init__(self) -> None:
        self.rows = make_rows(self.new, self.counter, self.conversation.created_at)

    def build_search_keys(self) -> None:
        """Split the texts into words for the search index, while no transaction is open."""
        self.search_keys = search_index.build_search_keys(self.rows)

    def write(self, connection: Connection) -> Written | Snapshot | None:
        """Write the messages. Return the open turn of the branch if there is one; None if there is no conversation to write to.

        Raises: Conflict if another process created the conversation; HeadMoved, NotFound, InvalidInput.
        """
        self.placed = []
        row = conversations.lock_and_find(connection, self.kit.tenant, self.conversation.id)
        if row is None:
            return self._write_first(connection)
        check_subject(row, self.chat)
        open_turn = turns.find_open(connection, row.id, self.chat.branch)
        if open_turn is not None:
            return Snapshot(row, open_turn=open_turn)
        head = message_tree.read_head(connection, row, self.chat.branch)
        if self.expect is not None and self.expect != (head or 0):
            return Written(row, self._find_repeated(connection, row, head))
        if not self.rows:
            if self.after is not None:
                self._find_parent(connection, row, self.after)
                message_tree.set_head(connection, row, self.chat.branch, self.after or None)
            return Written(row, [])
        return self._write_rows(connection, row, head, created=False)

    def _write_first(self, connection: Connection) -> Written | None:
        if self.chat.must_exist or self.chat.branch:
            return None
        if self.expect:
            raise HeadMoved(self.chat.name, self.chat.branch, self.expect, 0)
        if self.after:
            raise NotFound("message", self.after)
        if self.rows:
            return self._write_rows(connection, self.conversation, None, created=True)
        if self.after is None and self.expect is None:
            try:
                conversations.create(connection, self.conversation)
            except IntegrityError:  # another process created the conversation, or the id is another tenant's
                raise Conflict from None
        return Written(self.conversation, [])

    def _write_rows(self, connection: Connection, row: ConversationRow, head: int | None, *, created: bool) -> Written:
        counter = resolve_counter(self.kit, row, self.chat)
        if counter.name != self.counter.name:  # the conversation stores another model than this handle has
            self.counter = counter
            self.rows = make_rows(self.new, counter, self.conversation.created_at)
        parent = self._find_parent(connection, row, head or 0 if self.after is None else self.after)
        self.placed = rows = place_new_rows(self.rows, row.last_seq, parent)
        redescribed = not created and fill_description(row, self.chat)
        entries = hashchain.extend_chain(row.last_entry, row.chain_hash, [each.hash_input() for each in rows])
        last = rows[-1].seq
        moved = write_batch.advance_row(row, self.chat.branch, last, last, entries, self.conversation.created_at)
        batch = write_batch.WriteBatch(row, moved, self.chat.branch, last, entries, rows, created=created)
        batch.search_keys, batch.unarchives, moved.archived_at = self.search_keys, True, None
        try:
            if not write_batch.advance(connection, batch):
                raise Conflict
            with write_batch.write(connection, batch) as sending:
                blobs.insert_blobs(sending, row.id, self.new.blobs)
        except IntegrityError:  # another process created the conversation, or the id is another tenant's
            raise Conflict from None
        if redescribed:
            conversations.fill_description(connection, moved)
        return Written(moved, rows)

    def _find_parent(self, connection: Connection, row: ConversationRow, seq: int) -> MessageRow | None:
        """Return the message that the first new one follows; None before the first message."""
        return find_path_end(connection, row.id, seq) if seq else None

    def _find_repeated(self, connection: Connection, row: ConversationRow, head: int | None) -> list[MessageRow]:
        """Return the messages that an earlier append of the same messages wrote. Raises: HeadMoved if there are none."""
        assert self.expect is not None
        start, count = self.expect if self.after is None else self.after, len(self.rows)

        def count_missing(rows: list[MessageRow]) -> int:
            return max(count - len(rows), 0)

        path = messages.read_backwards(connection, row.id, head, count_missing, with_items=True).rows
        found = path[-count:] if count else []
        first_parent = found[0].parent_seq if found else head
        if len(found) < count or (first_parent or 0) != start or not all(map(_is_same, found, self.rows)):
            raise HeadMoved(self.chat.name, self.chat.branch, self.expect, head or 0)
        return found

    def find_written(self, connection: Connection) -> Written | None:
        """Return what an earlier `write` committed, None if it committed nothing."""
        if not self.placed:
            return None
        last = messages.find(connection, self.conversation.id, self.placed[-1].seq)
        if last is None or last.salt is None or bytes(last.salt) != self.placed[-1].salt:
            return None
        row = conversations.find(connection, self.kit.tenant, self.conversation.id)
        return None if row is None else Written(row, self.placed)


def _is_same(stored: MessageRow, given: MessageRow) -> bool:
    return all(getattr(stored, name) == getattr(given, name) for name in _COMPARED)


def append_flow(
    kit: KitState,
    chat: ChatRef,
    given: object,
    *,
    after: MessageLike | None,
    expect: MessageLike | None,
    on_busy: OnBusy,
) -> Flow[list[Message]]:
    """Write messages behind the branch head, or behind `after`, and return them. Raises: see `Chat.append`."""
    new = validate_messages(given, kit.limits)
    policy = make_busy_policy(kit, on_busy, find_timeouts(kit, chat, NO_OPTIONS).busy_s)
    conversation_id = yield from identify_flow(kit, chat)
    after_seq = None if after is None else (yield from resolve_seq_flow(kit, chat, after))
    expect_seq = None if expect is None else (yield from resolve_seq_flow(kit, chat, expect))
    with join_line(kit, chat, policy) as position:
        yield from wait_in_line_flow(kit, chat, policy, position)
        written = yield from _write_when_free_flow(kit, chat, new, after_seq, expect_seq, policy)
    return Message.from_rows(conversation_id, written.rows)


def _write_when_free_flow(
    kit: KitState, chat: ChatRef, new: NewMessages, after: int | None, expect: int | None, policy: BusyPolicy
) -> Flow[Written]:
    """Write as soon as no turn is open on the branch. Raises: see `Chat.append`."""
    conflicts, was_missing = 0, False
    while conflicts < MAX_TRIES:
        conversation = make_conversation_row(kit, chat, kit.clock.now_us())
        step = MessageAppend(kit, chat, conversation, new, resolve_counter(kit, None, chat), after, expect)
        try:
            written = yield from write_step_flow(kit, step, patience_s=START_S, only_transient=True)
        except Conflict:
            conflicts += 1
            was_missing = bool(step.placed) and step.placed[0].seq == 1
            continue
        if written is None:
            raise not_found(chat)
        if isinstance(written, Written):
            return written
        yield from wait_or_take_over_flow(kit, chat, NO_OPTIONS, written, policy)
    if was_missing:  # each time: another tenant has the id
        raise not_found(chat)
    raise ConversationBusy(chat.name, "several", None)
