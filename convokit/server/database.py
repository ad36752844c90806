"""Run the SQL of API keys and anchors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from convokit.async_kit import AsyncConvokit
from convokit.completion.effects import read_flow, read_once_flow, write_once_flow
from convokit.completion.state import check_schema_flow
from convokit.server import matching
from convokit.store import anchors
from convokit.store.anchors import AnchorRow
from convokit.store.keys import has_keys

Result = TypeVar("Result")
_BATCH = 256
"""Digests of one query. The longest prefixes are looked up first: nearly always one of the last has an anchor."""


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
        return matching.compute_digests(await self.read_secret(), scope, messages)

    async def find_anchors(self, digests: Sequence[bytes]) -> list[AnchorRow]:
        """Return the newest anchors of the longest of these prefixes, in all conversations of the tenant."""
        return await self._find(digests, anchors.find_anchors, self._kit._state.tenant)

    async def find_conversation_anchors(self, conversation_id: UUID, digests: Sequence[bytes]) -> list[AnchorRow]:
        """Return the anchors of the longest of these prefixes in one conversation."""
        return await self._find(digests, anchors.find_conversation_anchors, conversation_id)

    async def _find(
        self, digests: Sequence[bytes], find: Callable[..., list[AnchorRow]], owner: str | UUID
    ) -> list[AnchorRow]:
        last = len(digests)
        size = 8
        while last > 0:
            rows = await self.read(find, owner, digests[max(last - size, 0) : last])
            if rows:
                return rows
            last, size = last - size, _BATCH
        return []
