"""Read the hash chain of a conversation, verify it, and list removals."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from convokit import ChainEntry, Checkpoint, Conversation, Verified
from convokit.errors import ChainBroken, CheckpointError, SettingsError
from convokit.viewer.forms import read_form
from convokit.viewer.page_request import PageRequest
from convokit.viewer.pages.conversation_page import read_conversation

_ENTRIES = 100
_MAX_KEPT = 1_000
_MAX_CHECKPOINT_BYTES = 32 * 1024 * 1024
"""About 100,000 conversations."""


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """The result of a verification that this process ran."""

    at: datetime
    by: str
    """The name of the viewer who asked for it."""
    last_entry: int
    """The last entry of the chain when it ran."""
    verified: Verified | None
    """None: the chain is broken."""
    problem: str | None = None
    """The first row that differs. None: the chain is whole."""
    compared: bool = False
    """Whether the chain was compared with a checkpoint."""


class ChainChecks:
    """The last check of each conversation. They are kept in memory, and run one at a time."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, UUID], ChainCheck] = OrderedDict()
        self._lock = asyncio.Lock()

    def find(self, page: PageRequest) -> ChainCheck | None:
        """Return the last check of the conversation in the path, or None."""
        return self._kept.get((page.viewer.tenant, page.conversation_id))

    async def run(
        self,
        page: PageRequest,
        progress: Callable[[int, int], object] | None = None,
        *,
        against: Checkpoint | None = None,
        key: str | None = None,
    ) -> ChainCheck:
        """Verify the conversation in the path, and keep the result. Raises: NotFound, StoreError, CheckpointError."""
        conversation = await read_conversation(page)
        async with self._lock:  # each check takes a core
            verified, problem = None, None
            try:
                verified = await page.open_chat().verify(against=against, key=key, progress=progress)
            except ChainBroken as error:
                problem = str(error)
        at, by = datetime.now(UTC), page.viewer.name
        check = ChainCheck(at, by, conversation.last_entry, verified, problem, compared=against is not None)
        place = page.viewer.tenant, page.conversation_id
        self._kept[place] = check
        self._kept.move_to_end(place)
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return check


@dataclass(frozen=True, slots=True)
class ProofPage:
    """Entries of the hash chain, and the last check."""

    conversation: Conversation
    entries: list[ChainEntry]
    check: ChainCheck | None
    refusal: str | None = None
    """Why the chain was not compared with the checkpoint that was sent."""


@dataclass(frozen=True, slots=True)
class RemovalsPage:
    """The redactions and erasures of a conversation."""

    conversation: Conversation
    removals: list[ChainEntry]


async def read_proof(page: PageRequest) -> ProofPage:
    """Read entries of the hash chain."""
    conversation = await read_conversation(page)
    entries = await page.open_chat().entries(limit=_ENTRIES, before=page.read_number("before"))
    return ProofPage(conversation, entries, page.checks.find(page))


async def verify(page: PageRequest) -> ProofPage:
    """Verify the conversation, and read the newest entries of its chain."""
    check = await page.checks.run(page)
    return ProofPage(await read_conversation(page), await page.open_chat().entries(limit=_ENTRIES), check)


async def compare(page: PageRequest) -> ProofPage:
    """Verify the conversation against a checkpoint that is sent in a form. Neither it nor its key is kept."""
    form = await read_form(page.request, _MAX_CHECKPOINT_BYTES)
    try:
        checkpoint = Checkpoint.from_text(form.get("checkpoint", ""))
        await page.checks.run(page, against=checkpoint, key=form.get("key", "").strip())
    except (CheckpointError, SettingsError) as error:
        return replace(await read_proof(page), refusal=str(error))
    return await read_proof(page)


async def read_removals(page: PageRequest) -> RemovalsPage:
    """Read the redactions and erasures of a conversation."""
    conversation = await read_conversation(page)
    return RemovalsPage(
        conversation, await page.open_chat().removals(limit=_ENTRIES, before=page.read_number("before"))
    )
