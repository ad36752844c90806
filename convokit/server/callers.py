"""Authenticate callers by API keys, and count their requests."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

from starlette.requests import Request

from convokit.server.database import Database
from convokit.server.gateway_settings import Caller
from convokit.server.refusals import NO_RETRY, Refusal
from convokit.store import keys
from convokit.store.keys import ApiKeyRow

_KNOWN_S = 5.0
"""How long a key is known without asking the database: a revoked key is refused after this time at the latest."""
_MAX_KNOWN = 10_000
_MINUTE_S = 60
_LEASES = 20
"""A process takes so many parts of a minute's requests at once: 0.05 of them may stay unused, and most cost no statement."""
_REQUESTS = "requests"


def read_key(request: Request) -> str | None:
    """Return the API key of a request: the one place that reads one."""
    given = request.headers.get("authorization", "")
    scheme, _, value = given.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return request.headers.get("api-key") or None


class KeyAuthentication:
    """Finds the caller of an API key. Keys are looked up by their digest alone."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[bytes, tuple[float, Caller | None]] = OrderedDict()

    async def __call__(self, request: Request) -> Caller | None:
        """Return the caller; None without a key, and for one that is unknown, revoked or expired."""
        key = read_key(request)
        if key is None:
            return None
        return await self.find_caller(keys.digest_key(key))

    async def find_caller(self, digest: bytes) -> Caller | None:
        """Return the caller of a key's digest; None for one that is unknown, revoked or expired."""
        until, caller = self._known.get(digest, (0.0, None))
        if time.monotonic() >= until:
            row = await self._database.read(keys.find_key, digest)
            caller = None if row is None else _make_caller(row)
            self._known[digest] = time.monotonic() + _KNOWN_S, caller
            self._known.move_to_end(digest)
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        return caller


def _make_caller(row: ApiKeyRow) -> Caller | None:
    ends = [at for at in (row.revoked_at, row.expires_at) if at is not None]
    if ends and min(ends) <= time.time() * 1_000_000:
        return None
    return Caller(
        row.tenant,
        row.digest.hex(),
        frozenset(row.scopes),
        None if row.models is None else frozenset(row.models),
        row.requests_per_minute,
        row.digest,
        row.name,
    )


class RequestLimits:
    """Counts the requests of API keys in windows of one minute. All processes on the database share the limits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._permits: dict[bytes, tuple[int, int, bool]] = {}
        """By the digest of a key: the minute, the requests that this process may still serve in it, and if more may be left."""
        self._locks: dict[bytes, asyncio.Lock] = {}

    async def count(self, caller: Caller) -> None:
        """Count a request. Raises: Refusal for one too many."""
        digest, limit = caller.key_digest, caller.requests_per_minute
        if digest is None or limit is None:
            return
        async with self._locks.setdefault(digest, asyncio.Lock()):
            minute = int(time.time()) // _MINUTE_S
            window, permits, has_more = self._permits.get(digest, (minute, 0, True))
            if window != minute or (permits == 0 and has_more):
                wanted = max(1, limit // _LEASES)
                permits = await self._database.write(keys.take_permits, digest, _REQUESTS, minute, wanted, limit)
                has_more = permits == wanted  # fewer are the last ones of the minute
            self._permits[digest] = minute, max(permits - 1, 0), has_more
        if permits == 0:
            wait_s = _MINUTE_S - int(time.time()) % _MINUTE_S
            raise Refusal(
                f"Rate limit reached: {limit} requests per minute. Try again in {wait_s} s.",
                status=429,
                code="rate_limit_exceeded",
                type="rate_limit_error",
                headers={"retry-after": str(wait_s), **(NO_RETRY if wait_s > 20 else {})},
            )
