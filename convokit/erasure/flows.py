"""Redact a message, erase conversations, purge erased conversations.

Each conversation is one transaction, whatever its length. A second one deletes unused prompts, and a third checks the rows.
Every flow can be repeated: it skips what is already gone, and completes what an earlier run left (a busy conversation, a log
that a reader had open).
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.begin import check_subject
from convokit.completion.effects import Flow, read_flow, thread_flow, write_once_flow
from convokit.completion.recovery import close_turn_flow, is_worker_gone, resolve_counter
from convokit.completion.start_point import resolve_seq_flow
from convokit.completion.state import (
    ChatRef,
    KitState,
    check_schema_flow,
    identify_flow,
    not_found,
)
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import Message, to_datetime
from convokit.domain.paging import Progress
from convokit.domain.removal import Action, BytesState, Receipt
from convokit.domain.text import validate_text
from convokit.domain.turn import OpenTurn
from convokit.erasure import residue, sql
from convokit.erasure.removals import (
    ErasureRequest,
    RemovalResult,
    check_removal,
    erase_conversation,
    redact_message,
)
from convokit.errors import ConversationBusy, InvalidInput
from convokit.store import conversations, search_index, turns

PAGE = 100


@dataclass(slots=True, repr=False)
class ReceiptBuilder:
    """Sums up the results of all conversations of one request."""

    action: Action
    request: ErasureRequest
    conversations: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    remaining: int = 0
    chain: str = "whole"
    prompts: Counter[bytes] = field(default_factory=Counter)
    """Prompts that may be unused now, and how many of these conversations used them."""
    all_prompts: bool = False
    """Whether any prompt of the tenant may be unused."""
    samples: list[bytes] = field(default_factory=list)
    skipped: list[UUID] = field(default_factory=list)

    def add(self, result: RemovalResult) -> None:
        self.conversations += 1
        self.counts.update(result.counts)
        self.entries += result.entries
        self.samples += result.samples[: residue.MAX_SAMPLES - len(self.samples)]
        self.all_prompts |= result.prompts is None
        if self.request.dry_run or not self.all_prompts:
            self.prompts.update(result.prompts or ())

    def add_check(self, remaining: int, chain: str) -> None:
        self.remaining += remaining
        self.chain = self.chain if chain == "whole" else chain

    def build(self, bytes_state: BytesState, searched: int) -> Receipt:
        request = self.request
        is_checked = not request.dry_run and self.action != "purge"
        return Receipt(
            action=self.action,
            dry_run=request.dry_run,
            conversations=self.conversations,
            removed={name: count for name, count in sorted(self.counts.items()) if count},
            entries=self.entries,
            author=request.author,
            reason=request.reason,
            at=to_datetime(request.at),
            remaining=self.remaining if is_checked else None,
            chain=self.chain if is_checked else None,
            bytes=bytes_state,
            searched=searched,
            skipped=tuple(self.skipped),
        )


def redact_flow(
    state: KitState,
    ref: ChatRef,
    message: Message | str | int,
    *,
    reason: str | None,
    author: str | None,
    dry_run: bool,
) -> Flow[Receipt]:
    """Remove the text of one message. Raises: NotFound, InvalidInput, ConversationBusy."""
    request = _make_request(state, reason, author, dry_run=dry_run)
    seq = yield from resolve_seq_flow(state, ref, message)
    receipt = ReceiptBuilder("redact", replace(request, seq=seq))
    return (yield from _remove_one_flow(state, ref, receipt))


def erase_flow(
    state: KitState, ref: ChatRef, *, reason: str | None, author: str | None, dry_run: bool
) -> Flow[Receipt]:
    """Remove all text of one conversation. Raises: NotFound, InvalidInput, ConversationBusy."""
    receipt = ReceiptBuilder("erase", _make_request(state, reason, author, dry_run=dry_run))
    yield from identify_flow(state, ref)
    return (yield from _remove_one_flow(state, ref, receipt))


def erase_many_flow(
    state: KitState,
    *,
    subject: str | None,
    older_than: timedelta | None,
    reason: str | None,
    author: str | None,
    dry_run: bool,
    progress: Progress | None,
) -> Flow[Receipt]:
    """Erase the tenant's conversations of a subject, those unused for some time, or those that are both.

    Raises:
        InvalidInput: Neither is given, or a value is invalid.
    """
    if subject is None and older_than is None:
        raise InvalidInput("subject", "pass a subject, older_than, or both")
    request = _make_request(state, reason, author, dry_run=dry_run)
    if subject is not None:
        validate_text("subject", subject, limit=state.limits.key_chars * 4, setting="Limits.key_chars")
    which = sql.ConversationFilter(erased=False, subject=subject, unused_since=_subtract_age(request, older_than))
    # An earlier run may have been killed before it deleted prompts, so all of the tenant's prompts are checked.
    receipt = ReceiptBuilder("erase", request, all_prompts=True)

    def erase_one_flow(conversation_id: UUID) -> Flow[None]:
        try:
            removed = yield from _remove_flow(state, conversation_id, receipt)
            if removed is not None and not dry_run:
                receipt.add_check(*(yield from read_flow(check_removal, state.tenant, conversation_id, None)))
        except ConversationBusy:
            receipt.skipped.append(conversation_id)

    yield from _for_each_flow(state, which, erase_one_flow, progress)
    return (yield from _finish_flow(state, receipt))


def purge_flow(
    state: KitState, *, older_than: timedelta | None, dry_run: bool, progress: Progress | None
) -> Flow[Receipt]:
    """Delete all rows of the tenant's erased conversations. Raises: InvalidInput."""
    request = _make_request(state, None, None, dry_run=dry_run)
    receipt = ReceiptBuilder("purge", request, all_prompts=True)
    which = sql.ConversationFilter(erased=True, unused_since=_subtract_age(request, older_than))

    def purge_one_flow(conversation_id: UUID) -> Flow[None]:
        if dry_run or (yield from write_once_flow(sql.delete_conversation, state.tenant, conversation_id)):
            receipt.add(RemovalResult(Counter(conversation=1)))

    yield from _for_each_flow(state, which, purge_one_flow, progress)
    return (yield from _finish_flow(state, receipt))


def _make_request(state: KitState, reason: str | None, author: str | None, *, dry_run: bool) -> ErasureRequest:
    for name, value in (("reason", reason), ("author", author)):
        if value is not None:
            validate_text(name, value, limit=state.limits.metadata_bytes, setting="Limits.metadata_bytes")
    return ErasureRequest(author, reason, state.clock.now_us(), dry_run)


def _subtract_age(request: ErasureRequest, older_than: timedelta | None) -> int | None:
    if older_than is None:
        return None
    if not isinstance(older_than, timedelta) or older_than < timedelta(0):
        raise InvalidInput("older_than", f"must be a timedelta of 0 or more, not {older_than!r}")
    return request.at - older_than // timedelta(microseconds=1)


def _for_each_flow(
    state: KitState,
    which: sql.ConversationFilter,
    remove_flow: Callable[[UUID], Flow[None]],
    progress: Progress | None,
) -> Flow[None]:
    """Run `remove_flow` for each conversation of the tenant that matches, longest unused first."""
    yield from check_schema_flow(state)
    total = done = 0
    if progress is not None:
        total = yield from read_flow(sql.count_matching, state.tenant, which)
        progress(0, total)
    last: tuple[int, UUID] | None = None
    while True:
        page = yield from read_flow(sql.list_matching, state.tenant, which, after=last, limit=PAGE)
        for last in page:
            yield from remove_flow(last[1])
            done += 1
            if progress is not None:
                progress(done, max(total, done))
        if len(page) < PAGE:
            return


def _remove_one_flow(state: KitState, ref: ChatRef, receipt: ReceiptBuilder) -> Flow[Receipt]:
    assert ref.id is not None
    removed = yield from _remove_flow(state, ref.id, receipt, ref)
    if removed is None:
        raise not_found(ref)
    seqs = None if receipt.request.seq is None else removed.seqs
    return (yield from _finish_flow(state, receipt, check=(ref.id, seqs)))


def _remove_flow(
    state: KitState, conversation_id: UUID, receipt: ReceiptBuilder, ref: ChatRef | None = None
) -> Flow[RemovalResult | None]:
    """Remove text of one conversation in one transaction. Return None if there is no such conversation.

    `ref` may state a subject, which is compared. Raises: ConversationBusy, InvalidInput.
    """
    request = receipt.request
    run_flow = read_flow if request.dry_run else write_once_flow
    try:
        result = yield from run_flow(_remove, state.tenant, conversation_id, request, ref)
    except ConversationBusy:
        yield from _close_abandoned_turns_flow(state, conversation_id, dry_run=request.dry_run)
        result = yield from run_flow(_remove, state.tenant, conversation_id, request, ref)
    if result is not None:
        receipt.add(result)
    return result


def _remove(
    connection: Connection, tenant: str, conversation_id: UUID, request: ErasureRequest, ref: ChatRef | None
) -> RemovalResult | None:
    if ref is not None and ref.subject is not None:
        conversation = conversations.find(connection, tenant, conversation_id)
        if conversation is not None:
            check_subject(conversation, ref)
    remove = erase_conversation if request.seq is None else redact_message
    return remove(connection, tenant, conversation_id, request)


def _close_abandoned_turns_flow(state: KitState, conversation_id: UUID, *, dry_run: bool) -> Flow[None]:
    """Close open turns whose worker is gone. Raises: ConversationBusy if the worker of an open turn is alive."""
    conversation, open_turns = yield from read_flow(_read_open_turns, state.tenant, conversation_id)
    for branch, turn in open_turns:
        assert conversation is not None
        if not is_worker_gone(state, turn):
            name = conversation.key if conversation.key is not None else conversation_id
            raise ConversationBusy(name, turn.id, turn.age_us / 1_000_000)
        if not dry_run:
            counter = resolve_counter(state, conversation)
            yield from close_turn_flow(state, conversation, branch, turn, counter, "abandoned")
            conversation = yield from read_flow(conversations.find, state.tenant, conversation_id)


def _read_open_turns(
    connection: Connection, tenant: str, conversation_id: UUID
) -> tuple[ConversationRow | None, list[tuple[int, OpenTurn]]]:
    conversation = conversations.find(connection, tenant, conversation_id)
    if conversation is None:
        return None, []
    branches = sql.list_open_branches(connection, conversation_id)
    open_turns = [(branch, turns.find_open(connection, conversation_id, branch)) for branch in branches]
    return conversation, [(branch, turn) for branch, turn in open_turns if turn is not None]


def _finish_flow(
    state: KitState, receipt: ReceiptBuilder, check: tuple[UUID, Sequence[int] | None] | None = None
) -> Flow[Receipt]:
    """Delete unused prompts, search the database file, check one conversation, and build the receipt."""
    if receipt.request.dry_run:
        if receipt.action != "redact":
            among = None if receipt.all_prompts else receipt.prompts
            receipt.counts["prompt"] += yield from read_flow(
                residue.count_unused_prompts, state.tenant, among, receipt.prompts
            )
        return receipt.build("unchecked", searched=0)
    path, count = yield from write_once_flow(_tidy, state.tenant, receipt)
    receipt.counts["prompt"] += count
    bytes_state, found = yield from _search_file_flow(path, receipt.samples)
    if check is not None or found:
        checked, are_explained = yield from read_flow(_check, state.tenant, check, found)
        if checked is not None:
            receipt.add_check(*checked)
        if not are_explained:
            bytes_state = "found"
    return receipt.build(bytes_state, searched=len(receipt.samples) if bytes_state in ("gone", "found") else 0)


def _tidy(connection: Connection, tenant: str, receipt: ReceiptBuilder) -> tuple[str | None, int]:
    """Delete unused prompts and removed words. Return the path of a SQLite database and the number of prompts."""
    count = 0
    if receipt.action != "redact":
        among = None if receipt.all_prompts else receipt.prompts
        count = residue.delete_unused_prompts(connection, tenant, among)
    if receipt.counts["message"]:
        search_index.optimize(connection)
    return residue.find_database_file(connection), count


def _check(
    connection: Connection, tenant: str, check: tuple[UUID, Sequence[int] | None] | None, samples: Sequence[bytes]
) -> tuple[tuple[int, str] | None, bool]:
    """Check the rows of a conversation, and whether rows of any tables contain all `samples`, which the file contains."""
    checked = None if check is None else check_removal(connection, tenant, *check)
    return checked, residue.are_in_other_rows(connection, samples)


def _search_file_flow(path: str | None, samples: Sequence[bytes]) -> Flow[tuple[BytesState, Sequence[bytes]]]:
    """Truncate the write-ahead log of SQLite, search the file for samples, and return those that it contains."""
    if path is None:
        return "server", ()
    try:
        found = yield from thread_flow(residue.truncate_and_search, path=path, samples=samples)
    except (sqlite3.Error, OSError):
        return "unchecked", ()
    return ("pending", ()) if found is None else ("gone", found)
