"""Verify one conversation or all conversations of a tenant, and make checkpoints.

Each conversation is verified in one read transaction, and each page of heads is read in another. So a large tenant takes
more time, and the same memory; only the list of moved heads grows. Files are read and written in a thread, to keep an event
loop free.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO
from uuid import UUID

from convokit.audit import sql
from convokit.audit.checkpoint import CheckpointReader, CheckpointSource, CheckpointWriter, open_checkpoint
from convokit.audit.verify import verify_conversation
from convokit.completion.effects import Flow, read_flow, thread_flow
from convokit.completion.state import ChatRef, KitState, check_schema_flow, identify_flow, not_found
from convokit.domain.verification import Checkpoint, CheckpointHead, MovedHead, Verified, VerifiedAll
from convokit.errors import ChainBroken

PAGE = 1000


def verify_flow(
    kit: KitState,
    chat: ChatRef,
    *,
    against: CheckpointSource | None,
    key: str | bytes | None,
    progress: Callable[[int, int], object] | None = None,
) -> Flow[Verified]:
    """Verify one conversation. Raises: ChainBroken, CheckpointError, NotFound, SettingsError.

    `progress` is called with the number of checked chain entries and the number of all.
    """
    checkpoint = open_checkpoint(against, key)
    database_id = yield from check_schema_flow(kit)
    conversation_id = yield from identify_flow(kit, chat)
    head = None
    if checkpoint is not None:
        wanted = {"database_id": database_id, "tenant": kit.tenant, "conversation_id": conversation_id}
        head = yield from thread_flow(checkpoint.find_head, **wanted)
    verified = yield from read_flow(verify_conversation, kit.tenant, conversation_id, head, progress=progress)
    if verified is None:
        raise not_found(chat) if head is None else _missing_conversation(head)
    return verified


def verify_all_flow(
    kit: KitState,
    *,
    against: CheckpointSource | None,
    key: str | bytes | None,
    broken: Callable[[ChainBroken], object] | None,
    progress: Callable[[int, int], object] | None,
) -> Flow[VerifiedAll]:
    """Verify the tenant's conversations in the order of their ids.

    `broken` is called with each failure; without it, the first failure raises ChainBroken. `progress` is called with the
    number of verified conversations and the number of all. Raises: CheckpointError, SettingsError.
    """
    checkpoint = open_checkpoint(against, key)
    database_id = yield from check_schema_flow(kit)
    heads = _HeadCursor(checkpoint, database_id, kit.tenant)
    yield from heads.check_flow()
    total = yield from read_flow(sql.count_conversations, kit.tenant)
    conversations, entries, rows, failures, unreachable = 0, 0, 0, 0, 0
    moved: list[MovedHead] = []

    def report(error: ChainBroken) -> None:
        nonlocal failures
        if broken is None:
            raise error
        failures += 1
        broken(error)

    after = UUID(int=0)
    while True:
        page = yield from read_flow(sql.read_heads, kit.tenant, after, PAGE)
        for each in page:
            after = each.conversation_id
            while missing := (yield from heads.take_before_flow(after)):
                for head in missing:
                    report(_missing_conversation(head))
            known = heads.take(after)
            try:
                verified = yield from read_flow(verify_conversation, kit.tenant, after, known)
                if verified is None and known is not None:  # deleted after the page was read
                    raise _missing_conversation(known)
                if verified is not None:
                    entries, rows = entries + verified.entries, rows + verified.rows
                    unreachable += verified.unreachable_messages
                    moved.extend(verified.moved_heads)
            except ChainBroken as error:
                report(error)
            conversations += 1
            if progress is not None:  # conversations may have been created since they were counted
                progress(conversations, max(total, conversations))
        if len(page) < PAGE:
            break
    while missing := (yield from heads.take_before_flow(None)):
        for head in missing:
            report(_missing_conversation(head))
    return VerifiedAll(
        conversations=conversations,
        entries=entries,
        rows=rows,
        broken=failures,
        unreachable_messages=unreachable,
        moved_heads=tuple(moved),
    )


def _missing_conversation(head: CheckpointHead) -> ChainBroken:
    problem = (
        f"the conversation is missing: the checkpoint of {head.checkpoint_created_at} has it with {head.entries} entries; "
        "it was deleted or purged"
    )
    return ChainBroken(head.conversation_id, 0, "conversation", problem)


class _HeadCursor:
    """Reads the heads of a checkpoint in the order of the conversations' ids. Without a checkpoint there are none."""

    def __init__(self, checkpoint: CheckpointReader | None, database_id: UUID, tenant: str) -> None:
        self._checkpoint = checkpoint
        self._owner = {"database_id": database_id, "tenant": tenant}
        self._page: list[CheckpointHead] = []
        """The heads that were read and not taken, last first."""
        self._at_end = checkpoint is None

    def check_flow(self) -> Flow[None]:
        """Check the whole checkpoint. Raises: CheckpointError."""
        # The signature is the last line, so all lines are read before the first head is compared.
        if self._checkpoint is not None:
            yield from thread_flow(self._checkpoint.check, **self._owner)

    def take_before_flow(self, conversation_id: UUID | None) -> Flow[list[CheckpointHead]]:
        """Take the next heads with lower ids, at most a page; all ids for None. Empty when no such head is left."""
        if not self._page and not self._at_end and self._checkpoint is not None:
            self._page = (yield from thread_flow(self._checkpoint.read_page, **self._owner))[::-1]
            self._at_end = not self._page
        taken = []
        while self._page and (conversation_id is None or self._page[-1].conversation_id.int < conversation_id.int):
            taken.append(self._page.pop())
        return taken

    def take(self, conversation_id: UUID) -> CheckpointHead | None:
        """Take the head of this conversation. Call it after all heads with lower ids were taken."""
        matches = bool(self._page) and self._page[-1].conversation_id == conversation_id
        return self._page.pop() if matches else None


def checkpoint_flow(kit: KitState, *, key: str | bytes, to: str | Path | IO[str] | None) -> Flow[Checkpoint]:
    """Write and sign the heads of the tenant's conversations. Raises: CheckpointError, SettingsError."""
    writer = CheckpointWriter(key, to)
    database_id = yield from check_schema_flow(kit)
    try:
        yield from thread_flow(writer.start, database_id=database_id, tenant=kit.tenant)
        after = UUID(int=0)
        while True:
            page = yield from read_flow(sql.read_heads, kit.tenant, after, PAGE)
            yield from thread_flow(writer.add, heads=page)
            if len(page) < PAGE:
                return (yield from thread_flow(writer.finish))
            after = page[-1].conversation_id
    finally:
        writer.close()
