"""The flows of proof: verifying one history or all of them, alone or against a checkpoint; making a checkpoint.

One conversation is one reading transaction, a page of heads is another: a tenant of any size takes time, not memory. Files are
read and written as functions of their own, off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit import sql
from convokit.completion.effects import Flow, read_flow, thread_flow
from convokit.completion.state import ChatRef, KitState, check_schema_flow, identify_flow, not_found
from convokit.domain.verification import Checkpoint, CheckpointHead, Verified, VerifiedAll
from convokit.errors import ChainBroken

PAGE = 1000
Result = TypeVar("Result")
Progress = Callable[[int, int], object]
"""Called with how many are done, and how many there are."""
Verify = Callable[[Connection, str, UUID, CheckpointHead | None], Verified | None]


class Known(Protocol):
    """A checkpoint, as it is read."""

    created_at: str

    def find(self, database_id: UUID, tenant: str, conversation_id: UUID | None) -> CheckpointHead | None: ...
    def more(self, database_id: UUID, tenant: str) -> list[CheckpointHead]: ...


class Signing(Protocol):
    """A checkpoint, as it is written."""

    def begin(self, database_id: UUID, tenant: str) -> None: ...
    def add(self, heads: Sequence[CheckpointHead]) -> None: ...
    def finish(self) -> Checkpoint: ...
    def close(self) -> None: ...


def one(scope: KitState, target: ChatRef, verify: Verify, known: Known | None) -> Flow[Verified]:
    """Verify a chat's history. Raises: ChainBroken, CheckpointError, NotFound."""
    database_id = yield from check_schema_flow(scope)
    conversation_id = yield from identify_flow(scope, target)
    head = None
    if known is not None:
        wanted = {"database_id": database_id, "tenant": scope.tenant, "conversation_id": conversation_id}
        head = yield from thread_flow(known.find, **wanted)
    found = yield from read_flow(verify, scope.tenant, conversation_id, head)
    if found is not None:
        return found
    raise not_found(target) if head is None else _gone(head)


def _gone(head: CheckpointHead) -> ChainBroken:
    problem = (
        f"is missing: the checkpoint of {head.made_at} knows it with {head.entries} entries; it was deleted, or purged"
    )
    return ChainBroken(head.conversation_id, 0, "conversation", problem)


class _Heads:
    """The heads of a checkpoint, in the order of their ids, read as they are needed."""

    def __init__(self, known: Known, database_id: UUID, tenant: str) -> None:
        self._known = known
        self._whose = {"database_id": database_id, "tenant": tenant}
        self._read: list[CheckpointHead] = []
        self._ended = False

    def before(self, conversation_id: UUID | None) -> Flow[list[CheckpointHead]]:
        """Take the next heads of lower ids, a page of them at most; with None, of any. Empty when there is none left."""
        if not self._read and not self._ended:
            self._read = (yield from thread_flow(self._known.more, **self._whose))[::-1]
            self._ended = not self._read
        taken = []
        while self._read and (conversation_id is None or self._read[-1].conversation_id.int < conversation_id.int):
            taken.append(self._read.pop())
        return taken

    def of(self, conversation_id: UUID) -> CheckpointHead | None:
        """Take the head of this conversation, once those before it are taken."""
        mine = bool(self._read) and self._read[-1].conversation_id == conversation_id
        return self._read.pop() if mine else None


def every(
    scope: KitState,
    verify: Verify,
    known: Known | None,
    broken: Callable[[ChainBroken], object] | None,
    progress: Progress | None,
) -> Flow[VerifiedAll]:
    """Verify the tenant's histories in the order of their ids. Raises: ChainBroken at the first, unless `broken` takes it."""
    database_id = yield from check_schema_flow(scope)
    heads = None
    if known is not None:
        yield from thread_flow(known.find, database_id=database_id, tenant=scope.tenant, conversation_id=None)
        heads = _Heads(known, database_id, scope.tenant)
    total = yield from read_flow(sql.count_conversations, scope.tenant)
    done, entries, rows, failed = 0, 0, 0, 0

    def tell(error: ChainBroken) -> None:
        nonlocal failed
        if broken is None:
            raise error
        failed += 1
        broken(error)

    after = UUID(int=0)
    while True:
        page = yield from read_flow(sql.heads, scope.tenant, after, PAGE)
        for each in page:
            head = None
            if heads is not None:
                while gone := (yield from heads.before(each.conversation_id)):
                    for lost in gone:
                        tell(_gone(lost))
                head = heads.of(each.conversation_id)
            try:
                found = yield from read_flow(verify, scope.tenant, each.conversation_id, head)
                if found is None and head is not None:
                    raise _gone(head)
                if found is not None:
                    entries, rows = entries + found.entries, rows + found.rows
            except ChainBroken as error:
                tell(error)
            done += 1
            if progress is not None:
                progress(done, max(total, done))
        if len(page) < PAGE:
            break
        after = page[-1].conversation_id
    while heads is not None and (gone := (yield from heads.before(None))):
        for lost in gone:
            tell(_gone(lost))
    return VerifiedAll(conversations=done, entries=entries, rows=rows, broken=failed)


def checkpoint(scope: KitState, signing: Signing) -> Flow[Checkpoint]:
    """Write and sign the heads of the tenant's conversations. Raises: CheckpointError when the file cannot be written."""
    database_id = yield from check_schema_flow(scope)
    try:
        yield from thread_flow(signing.begin, database_id=database_id, tenant=scope.tenant)
        after = UUID(int=0)
        while True:
            page = yield from read_flow(sql.heads, scope.tenant, after, PAGE)
            yield from thread_flow(signing.add, heads=page)
            if len(page) < PAGE:
                return (yield from thread_flow(signing.finish))
            after = page[-1].conversation_id
    finally:
        signing.close()
