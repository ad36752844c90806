"""Redacting, erasing and purging: one transaction a conversation, then the checks, then the receipt.

Each may be repeated: what is gone already is passed over, and what an earlier try left undone (a busy conversation, a log that
somebody read) is done. What is removed and how it is verified comes from the audit, as functions over a connection.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.anchor import resolve_seq_flow
from convokit.completion.effects import Flow, read_flow, thread_flow, write_once_flow
from convokit.completion.recovery import close_turn_flow, is_worker_gone, resolve_counter
from convokit.completion.state import ChatRef, KitState, check_schema_flow, identify_flow, not_found
from convokit.domain.message import Message, to_datetime
from convokit.domain.paging import Progress
from convokit.domain.removal import MOST_TRACES, Action, Bytes, Order, Receipt, Removed
from convokit.domain.text import validate_text
from convokit.erasure import residue, sql
from convokit.errors import ConversationBusy, InvalidInput
from convokit.store import conversations, search_index, turns

PAGE = 100


@dataclass(frozen=True, slots=True)
class Work:
    """What removes, and what checks it: functions of the audit over a connection."""

    remove: Callable[[Connection, str, UUID, Order], Removed | None]
    check: Callable[[Connection, str, UUID, Sequence[int] | None], tuple[int, str]]


@dataclass(slots=True, repr=False)
class _Account:
    """What a receipt will say."""

    action: Action
    order: Order
    conversations: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    remaining: int = 0
    chain: str = "whole"
    prompts: set[bytes] | None = field(default_factory=set)
    traces: list[bytes] = field(default_factory=list)
    skipped: list[UUID] = field(default_factory=list)
    ids: set[UUID] = field(default_factory=set)

    def add(self, conversation_id: UUID, removed: Removed) -> None:
        self.conversations += 1
        self.counts.update(removed.counts)
        self.entries += removed.entries
        self.traces += removed.traces[: MOST_TRACES - len(self.traces)]
        self.ids.add(conversation_id)
        if removed.prompts is None or self.prompts is None:
            self.prompts = None
        else:
            self.prompts |= removed.prompts


def redact(
    scope: KitState,
    target: ChatRef,
    work: Work,
    message: Message | str | int,
    *,
    reason: str | None,
    author: str | None,
    dry_run: bool,
) -> Flow[Receipt]:
    """Remove one message's text from everywhere. Raises: NotFound, InvalidInput, ConversationBusy."""
    order = _order(scope, reason, author, dry_run=dry_run)
    seq = yield from resolve_seq_flow(scope, target, message)
    return (yield from _one(scope, target, work, _Account("redact", replace(order, seq=seq))))


def erase(
    scope: KitState, target: ChatRef, work: Work, *, reason: str | None, author: str | None, dry_run: bool
) -> Flow[Receipt]:
    """Remove every text of a conversation. Raises: NotFound, InvalidInput, ConversationBusy."""
    order = _order(scope, reason, author, dry_run=dry_run)
    yield from identify_flow(scope, target)
    return (yield from _one(scope, target, work, _Account("erase", order)))


def _one(scope: KitState, target: ChatRef, work: Work, account: _Account) -> Flow[Receipt]:
    assert target.id is not None
    if not (yield from _removed(scope, target.id, work, account)):
        raise not_found(target)
    return (yield from _finished(scope, account))


def erase_many(
    scope: KitState,
    work: Work,
    *,
    subject: str | None,
    older_than: timedelta | None,
    reason: str | None,
    author: str | None,
    dry_run: bool,
    progress: Progress | None,
) -> Flow[Receipt]:
    """Erase the tenant's conversations of a subject, or not used for some time. Raises: InvalidInput."""
    if subject is None and older_than is None:
        raise InvalidInput("subject", "name whose conversations to erase, or from what age on (older_than)")
    order = _order(scope, reason, author, dry_run=dry_run)
    if subject is not None:
        validate_text("subject", subject, limit=scope.limits.key_chars * 4, setting="Limits.key_chars")
    before = _before(order, older_than)
    account = _Account("erase", order, prompts=None)

    def each(conversation_id: UUID) -> Flow[None]:
        try:
            yield from _removed(scope, conversation_id, work, account)
        except ConversationBusy:
            account.skipped.append(conversation_id)

    yield from _over(scope, each, subject=subject, before=before, erased=False, progress=progress)
    return (yield from _finished(scope, account))


def purge(scope: KitState, *, older_than: timedelta | None, dry_run: bool, progress: Progress | None) -> Flow[Receipt]:
    """Delete the tenant's erased conversations, tombstones and all. Raises: InvalidInput."""
    order = _order(scope, None, None, dry_run=dry_run)
    account = _Account("purge", order, prompts=None)

    def each(conversation_id: UUID) -> Flow[None]:
        if dry_run or (yield from write_once_flow(sql.purge, scope.tenant, conversation_id)):
            account.add(conversation_id, Removed(Counter(conversation=1)))

    before = _before(order, older_than)
    yield from _over(scope, each, subject=None, before=before, erased=True, progress=progress)
    return (yield from _finished(scope, account))


def _order(scope: KitState, reason: str | None, author: str | None, *, dry_run: bool) -> Order:
    for name, said in (("reason", reason), ("author", author)):
        if said is not None:
            validate_text(name, said, limit=scope.limits.metadata_bytes, setting="Limits.metadata_bytes")
    return Order(author, reason, scope.clock.now_us(), dry_run)


def _before(order: Order, older_than: timedelta | None) -> int | None:
    if older_than is None:
        return None
    if not isinstance(older_than, timedelta) or older_than < timedelta(0):
        raise InvalidInput("older_than", f"must be a timedelta, of 0 or more, not {older_than!r}")
    return order.at - older_than // timedelta(microseconds=1)


def _over(
    scope: KitState,
    each: Callable[[UUID], Flow[None]],
    *,
    subject: str | None,
    before: int | None,
    erased: bool,
    progress: Progress | None,
) -> Flow[None]:
    """Do `each` for the tenant's conversations that fit, the longest unused first."""
    yield from check_schema_flow(scope)
    which = {"subject": subject, "before": before, "erased": erased}
    total = done = 0
    if progress is not None:
        total = yield from read_flow(lambda connection: sql.count_selected(connection, scope.tenant, **which))  # type: ignore[arg-type]
        progress(0, total)
    after: tuple[int, UUID] | None = None
    while True:
        place = after
        found = yield from read_flow(
            lambda connection, place=place: sql.selected(  # type: ignore[misc]
                connection, scope.tenant, subject=subject, before=before, erased=erased, after=place, limit=PAGE
            )
        )
        for after in found:
            yield from each(after[1])
            done += 1
            if progress is not None:
                progress(done, max(total, done))
        if len(found) < PAGE:
            return


def _removed(scope: KitState, conversation_id: UUID, work: Work, account: _Account) -> Flow[bool]:
    """Remove from one conversation, and check it. Return False when it is not there. Raises: ConversationBusy."""
    yield from _close_left(scope, conversation_id, dry_run=account.order.dry_run)
    run = read_flow if account.order.dry_run else write_once_flow
    removed = yield from run(work.remove, scope.tenant, conversation_id, account.order)
    if removed is None:
        return False
    account.add(conversation_id, removed)
    if not account.order.dry_run:
        seqs = removed.seqs if account.action == "redact" else None
        left, chain = yield from read_flow(work.check, scope.tenant, conversation_id, seqs)
        account.remaining += left
        account.chain = account.chain if chain == "whole" else chain
    return True


def _close_left(scope: KitState, conversation_id: UUID, *, dry_run: bool) -> Flow[None]:
    """Close the turns whose worker is gone. Raises: ConversationBusy when one is open whose worker is not."""
    conversation = yield from read_flow(conversations.find, scope.tenant, conversation_id)
    if conversation is None:
        return
    for branch in (yield from read_flow(sql.open_branches, conversation_id)):
        held = yield from read_flow(turns.find_open, conversation_id, branch)
        if held is None:
            continue
        if not is_worker_gone(scope, held):
            name = conversation.key if conversation.key is not None else conversation_id
            raise ConversationBusy(name, held.id, held.age_us / 1_000_000)
        if not dry_run:
            yield from close_turn_flow(
                scope, conversation, branch, held, resolve_counter(scope, conversation), "abandoned"
            )
            conversation = yield from read_flow(conversations.find, scope.tenant, conversation_id)
            assert conversation is not None


def _finished(scope: KitState, account: _Account) -> Flow[Receipt]:
    """Delete the prompts that nobody refers to any more, look for what is left in the file, and write the receipt."""
    order = account.order
    if account.action != "redact":
        without = account.ids if order.dry_run else set()
        unused = yield from read_flow(residue.unreferenced, scope.tenant, account.prompts, without)
        if unused and not order.dry_run:
            account.counts["prompt"] += yield from write_once_flow(residue.drop_prompts, scope.tenant, unused)
        else:
            account.counts["prompt"] += len(unused)
    state: Bytes = "unchecked"
    searched = 0
    if not order.dry_run:
        if account.counts["message"]:
            yield from write_once_flow(search_index.optimize)
        state, searched = yield from _scrubbed(account.traces)
    erased = not order.dry_run and account.action != "purge"
    return Receipt(
        action=account.action,
        dry_run=order.dry_run,
        conversations=account.conversations,
        removed={name: count for name, count in sorted(account.counts.items()) if count},
        entries=account.entries,
        author=order.author,
        reason=order.reason,
        at=to_datetime(order.at),
        remaining=account.remaining if erased else None,
        chain=account.chain if erased else None,
        bytes=state,
        searched=searched,
        skipped=tuple(account.skipped),
    )


def _scrubbed(traces: Sequence[bytes]) -> Flow[tuple[Bytes, int]]:
    """Truncate a SQLite file's log, and search both for what was removed. What another row says as well is that row's own."""
    path = yield from read_flow(residue.file_of)
    if path is None:
        return "server", 0
    try:
        found = yield from thread_flow(residue.scrub, path=path, pieces=traces)
    except (sqlite3.Error, OSError):
        return "unchecked", 0
    if found is None:
        return "pending", 0
    for piece in found:
        if not (yield from read_flow(residue.stands_elsewhere, piece)):
            return "found", len(traces)
    return "gone", len(traces)
