"""Send requests over httpx.

Only this module and `http_errors.py` import httpx (ADR 0003).

Clients are sharded: the pool of one httpx client walks all its connections at the start and end of every request, so
hundreds of requests at once make it slow (measured: 59 requests a second through one client, 1,129 through fifty).
Redirects are never followed: an API key must not reach another host.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx

from convokit.completion.effects import OpenRequest, ResponseHead
from convokit.errors import SettingsError
from convokit.runtime import process
from convokit.runtime.http_errors import head_timeout_error, raise_model_error

PER_SHARD = 8
"""The number of requests at once on one httpx client."""
KEEPALIVE_S = 4.0
"""Shorter than servers keep idle connections, so that the client closes first."""


_parents: list[object] = []
"""Clients of the parent process. They must not be collected: that would close the parent's TLS sessions."""


class Answer(Protocol):
    """An answer whose body is not read yet."""

    head: ResponseHead

    def read(self, timeout_s: float) -> bytes: ...
    def close(self) -> None: ...


class Client(Protocol):
    """Sends requests. Raises: ModelError."""

    def open(self, request: OpenRequest) -> Answer: ...
    def close(self) -> None: ...


class AsyncAnswer(Protocol):
    """As `Answer`, awaited."""

    head: ResponseHead

    async def read(self, timeout_s: float) -> bytes: ...
    async def close(self) -> None: ...


class AsyncClient(Protocol):
    """As `Client`, awaited."""

    async def open(self, request: OpenRequest) -> AsyncAnswer: ...
    async def close(self) -> None: ...


Pooled = TypeVar("Pooled")


def validate_client(given: Any) -> Any:
    """Return a client that was passed in. Raises: SettingsError if it has no `open` and `close`."""
    if given is not None and not (callable(getattr(given, "open", None)) and callable(getattr(given, "close", None))):
        name = "AsyncHttpxClient" if isinstance(given, httpx.AsyncClient) else "HttpxClient"
        raise SettingsError("http_client", f"must have `open` and `close`; wrap it: convokit.{name}(...)")
    return given


class _Shards(Generic[Pooled]):
    """A pool of httpx clients, each with a few requests at once."""

    def __init__(self, make: Callable[[], Pooled]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self.load: dict[Pooled, int] = {}

    def take(self) -> Pooled:
        with self._lock:
            for client, running in self.load.items():
                if running < PER_SHARD:
                    self.load[client] = running + 1
                    return client
            client = self._make()
            self.load[client] = 1
            return client

    def release(self, client: Pooled) -> None:
        with self._lock:
            if client in self.load:
                self.load[client] -= 1


def _limits() -> dict[str, Any]:
    limits = httpx.Limits(max_connections=PER_SHARD, max_keepalive_connections=PER_SHARD, keepalive_expiry=KEEPALIVE_S)
    return {"limits": limits, "follow_redirects": False, "timeout": None}


def _is_loopback(url: str) -> bool:
    """Return whether the host is this machine: no proxy of the environment is used for it."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


class _Tls:
    """One TLS context for all shards: loading the certificates takes longer than a request."""

    def __init__(self) -> None:
        self.context: ssl.SSLContext | None = None

    def verify(self, url: str) -> ssl.SSLContext | bool:
        if urlsplit(url).scheme == "http":
            return False
        if self.context is None:
            self.context = httpx.create_ssl_context()
        return self.context


class _ConnectionTrace:
    """Records whether a request opened its connection. A kept connection may have been closed by the server unseen."""

    def __init__(self) -> None:
        self.fresh = False

    def note(self, event: str, info: object) -> None:
        if event.startswith("connection.connect"):
            self.fresh = True

    async def anote(self, event: str, info: object) -> None:
        self.note(event, info)


class HttpxClient:
    """Sends requests with httpx. `client` is an `httpx.Client` of your own, for proxies or certificates; default: new ones."""

    def __init__(self, client: httpx.Client | None = None) -> None:
        self._tls = _Tls()
        self._own = client is None
        self._given = client
        self._shards: dict[tuple[str, bool], _Shards[httpx.Client]] = {}
        process.watch(self)

    def after_fork(self) -> None:
        """Leave the parent's connections alone, in a child process."""
        _parents.append(self._shards)
        self._shards = {}

    def open(self, request: OpenRequest) -> Answer:
        """Send the request and wait for the head of the answer. Raises: ModelError."""
        shards = self._for(request.url)
        client = shards.take()
        trace = _ConnectionTrace()
        timeout = _timeout(request)
        try:
            built = _build_request(request, client, own=self._own, timeout=timeout, trace=trace.note)
            response = client.send(built, stream=True, follow_redirects=False, auth=None)
        except httpx.HTTPError as error:
            shards.release(client)
            raise_model_error(error, body_started=False, fresh=trace.fresh, url=request.url)
        except BaseException:
            shards.release(client)
            raise
        return _HttpxAnswer(response, timeout, lambda: shards.release(client))

    def _for(self, url: str) -> _Shards[httpx.Client]:
        kind = (urlsplit(url).scheme, _is_loopback(url))
        if kind not in self._shards:
            verify, given = self._tls.verify(url), self._given
            self._shards[kind] = _Shards(
                lambda: given or httpx.Client(verify=verify, trust_env=not kind[1], **_limits())
            )
        return self._shards[kind]

    def close(self) -> None:
        """Close the connections. A client of your own stays open."""
        for shards in self._shards.values():
            for client in shards.load:
                if self._own:
                    client.close()
        self._shards.clear()


class AsyncHttpxClient:
    """Sends requests with httpx, asynchronously. `client` is an `httpx.AsyncClient` of your own; default: new ones."""

    def __init__(self, client: httpx.AsyncClient | None = None) -> None:
        self._tls = _Tls()
        self._own = client is None
        self._given = client
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, bool], _Shards[httpx.AsyncClient]]]
        self._loops = WeakKeyDictionary()  # a connection belongs to the event loop that made it
        process.watch(self)

    def after_fork(self) -> None:
        """Leave the parent's connections alone, in a child process."""
        _parents.append(self._loops)
        self._loops = WeakKeyDictionary()

    async def open(self, request: OpenRequest) -> AsyncAnswer:
        """Send the request and wait for the head of the answer. Raises: ModelError."""
        shards = self._for(request.url)
        client = shards.take()
        trace = _ConnectionTrace()
        timeout = _timeout(request)
        try:
            built = _build_request(request, client, own=self._own, timeout=timeout, trace=trace.anote)
            async with asyncio.timeout(request.first_byte_s):  # httpx limits each read of the head, not the whole head
                response = await client.send(built, stream=True, follow_redirects=False, auth=None)
        except TimeoutError:
            shards.release(client)
            raise head_timeout_error() from None
        except httpx.HTTPError as error:
            shards.release(client)
            raise_model_error(error, body_started=False, fresh=trace.fresh, url=request.url)
        except BaseException:
            shards.release(client)
            raise
        return _AsyncHttpxAnswer(response, timeout, lambda: shards.release(client))

    def _for(self, url: str) -> _Shards[httpx.AsyncClient]:
        kinds = self._loops.setdefault(asyncio.get_running_loop(), {})
        kind = (urlsplit(url).scheme, _is_loopback(url))
        if kind not in kinds:
            verify, given = self._tls.verify(url), self._given
            kinds[kind] = _Shards(lambda: given or httpx.AsyncClient(verify=verify, trust_env=not kind[1], **_limits()))
        return kinds[kind]

    async def close(self) -> None:
        """Close the connections. A client of your own stays open."""
        for shards in self._loops.pop(asyncio.get_running_loop(), {}).values():
            for client in shards.load:
                if self._own:
                    await client.aclose()
        self._loops.clear()


class _HttpxAnswer:
    def __init__(self, response: httpx.Response, timeout: dict[str, float], done: Callable[[], None]) -> None:
        self.head = _read_head(response)
        self._response = response
        self._timeout = timeout
        self._done = done
        self._chunks: Iterator[bytes] | None = None

    def read(self, timeout_s: float) -> bytes:
        """Return the next bytes of the body; empty at its end. Raises: ModelError."""
        if self._chunks is None:
            self._timeout["read"] = timeout_s  # httpcore reads the timeout once, when the body starts
            encoded = "content-encoding" in self.head.headers
            self._chunks = self._response.iter_bytes() if encoded else self._response.iter_raw()
        try:
            return next(self._chunks, b"")
        except httpx.HTTPError as error:
            raise_model_error(error, body_started=True, fresh=True)

    def close(self) -> None:
        """Release the connection. A connection with an unread answer is closed."""
        try:
            self._response.close()
        finally:
            self._done()


class _AsyncHttpxAnswer:
    def __init__(self, response: httpx.Response, timeout: dict[str, float], done: Callable[[], None]) -> None:
        self.head = _read_head(response)
        self._response = response
        self._timeout = timeout
        self._done = done
        self._chunks: AsyncIterator[bytes] | None = None

    async def read(self, timeout_s: float) -> bytes:
        """Return the next bytes of the body; empty at its end. Raises: ModelError."""
        if self._chunks is None:
            self._timeout["read"] = timeout_s
            encoded = "content-encoding" in self.head.headers
            self._chunks = self._response.aiter_bytes() if encoded else self._response.aiter_raw()
        try:
            return await anext(self._chunks, b"")
        except httpx.HTTPError as error:
            raise_model_error(error, body_started=True, fresh=True)

    async def close(self) -> None:
        """Release the connection. A connection with an unread answer is closed."""
        try:
            await self._response.aclose()
        finally:
            self._done()


def _timeout(request: OpenRequest) -> dict[str, float]:
    first, connect = request.first_byte_s, min(request.connect_s, request.first_byte_s)
    return {"connect": connect, "read": first, "write": first, "pool": first}


def _build_request(
    request: OpenRequest,
    client: httpx.Client | httpx.AsyncClient,
    *,
    own: bool,
    timeout: dict[str, float],
    trace: Callable[[str, object], object],
) -> httpx.Request:
    """Return the request for httpx. A client of the user's own adds its headers and cookies; ours has only defaults."""
    more = {"timeout": timeout, "trace": trace}
    if not own:
        made = client.build_request("POST", request.url, content=request.data, headers=request.headers)
        made.extensions = more
        return made
    headers = {"Accept-Encoding": client.headers["Accept-Encoding"], "Connection": "keep-alive", **request.headers}
    return httpx.Request("POST", _parse_url(request.url), headers=headers, content=request.data, extensions=more)


@functools.lru_cache(maxsize=64)
def _parse_url(url: str) -> httpx.URL:
    return httpx.URL(url)


def _read_head(response: httpx.Response) -> ResponseHead:
    return ResponseHead(response.status_code, {name.lower(): value for name, value in response.headers.items()})
