"""Run the SQL of API keys and anchors."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from convokit.async_kit import AsyncConvokit
from convokit.completion.effects import read_flow, read_once_flow, write_once_flow
from convokit.completion.state import check_schema_flow
from convokit.domain.ids import derive_conversation_id
from convokit.server import matching
from convokit.store import anchors
from convokit.store.anchors import AnchoredConversation
from convokit.store.keys import has_keys

Result = TypeVar("Result")
_MANY = 300
"""A history of so many messages takes about 10 ms to compare."""
_FIRST_BATCH, _BATCH = 8, 256
"""Digests of one query."""


class Database:
    """The tables of the gateway in the database of a kit, for the kit's tenant."""

    # No method of a kit runs SQL of a caller's own, so this class uses the kit's connections directly.

    def __init__(self, kit: AsyncConvokit) -> None:
        self._kit = kit

    async def read(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run a store function in a reading transaction. Raises: StoreError."""
        return await self._kit._runtime.run(read_flow(function, *args))

    async def write(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run a store function in a writing transaction, once. Raises: StoreError."""
        return await self._kit._runtime.run(write_once_flow(function, *args))

    async def check(self) -> UUID:
        """Return the id of the database, after checking that it answers and that its tables fit. Raises: StoreError."""
        return await self._kit._runtime.run(check_schema_flow(self._kit._state))

    async def ping(self) -> None:
        """Read from the database. Raises: StoreError."""
        await self.check()
        await self._kit._runtime.run(read_once_flow(has_keys))

    async def read_secret(self) -> bytes:
        """Return the key of the digests. All processes on the database have the same."""
        return hashlib.sha256(b"convokit anchors" + (await self.check()).bytes).digest()

    async def compute_digests(self, scope: str, messages: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Return a digest for each prefix of the messages; number 0 is the empty one."""
        secret = await self.read_secret()
        if len(messages) < _MANY:
            return matching.compute_digests(secret, scope, messages)
        return await asyncio.to_thread(matching.compute_digests, secret, scope, messages)  # other requests go on

    async def identify(self, key: str) -> UUID:
        """Return the id of the conversation under a key, which need not exist."""
        return derive_conversation_id(await self.check(), self._kit._state.tenant, key)

    async def find_conversation(self, conversation_id: UUID, digests: Sequence[bytes]) -> AnchoredConversation | None:
        """Return a conversation of the tenant with the anchors of the longest of these prefixes, or None."""
        found = None
        for some in _batch(digests):
            found = await self.read(anchors.find_conversation, self._kit._state.tenant, conversation_id, some)
            if found is None or found.anchors:
                break
        return found

    async def find_conversations(self, digests: Sequence[bytes]) -> list[AnchoredConversation]:
        """Return the newest conversations of the tenant that have an anchor of the longest of these prefixes."""
        for some in _batch(digests):
            found = await self.read(anchors.find_conversations, self._kit._state.tenant, some)
            if found:
                return found
        return []


def _batch(digests: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Yield the digests of the longest prefixes first. Nearly always one of the last few has an anchor."""
    last, size = len(digests), _FIRST_BATCH
    yield digests[max(last - size, 0) :]
    while (last := last - size) > 0:
        size = _BATCH
        yield digests[max(last - size, 0) : last]
