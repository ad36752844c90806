"""Send requests over httpx.

Only the modules `http_*.py` of this package import httpx (ADR 0003), and the counter in `tokenizer.py`.

Clients are sharded: the pool of one httpx client walks all its connections at the start and end of every request, so
hundreds of requests at once make it slow (measured: 59 requests a second through one client, 1,129 through fifty).
Redirects are never followed: an API key must not reach another host.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import ssl
import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx

from convokit.completion.effects import OpenRequest
from convokit.errors import SettingsError
from convokit.runtime import process
from convokit.runtime.http_answer import Answer, AsyncAnswer, AsyncHttpxAnswer, Deadline, HttpxAnswer
from convokit.runtime.http_environment import is_loopback, make_in_environment, make_tls_context
from convokit.runtime.http_errors import raise_model_error
from convokit.wire.content_decoder import ACCEPTED_ENCODINGS

PER_SHARD = 8
"""The number of requests at once on one httpx client."""
KEEPALIVE_S = 4.0
"""Shorter than servers keep idle connections, so that the client closes first."""
_CONNECTED = ("connect_tcp.complete", "connect_unix_socket.complete", "start_tls.complete")
"""Events of httpcore that bring a new connection, directly or through a proxy."""
_WRITE_BYTES = 256 * 1024


_parents: list[object] = []
"""Clients of the parent process. They must not be collected: that would close the parent's TLS sessions."""


class Client(Protocol):
    """Sends requests. Raises: ModelError."""

    def open(self, request: OpenRequest) -> Answer: ...
    def close(self) -> None: ...


class AsyncClient(Protocol):
    """As `Client`, awaited."""

    async def open(self, request: OpenRequest) -> AsyncAnswer: ...
    async def close(self) -> None: ...


Pooled = TypeVar("Pooled")


def validate_client(given: Any, other: type) -> Any:
    """Return a client that was passed in.

    Raises: SettingsError if it has no `open` and `close`, or serves the other API, as the class `other` does.
    """
    if given is None:
        return None
    methods = [getattr(given, name, None) for name in ("open", "close")]
    if all(map(callable, methods)):
        is_async_api = other is HttpxClient
        right = "AsyncHttpxClient" if is_async_api else "HttpxClient"
        if isinstance(given, other):
            raise SettingsError("http_client", f"must be {right} here, not {other.__name__}")
        if all(inspect.iscoroutinefunction(each) != is_async_api for each in methods):
            raise SettingsError("http_client", f"must be a client like {right} here, not {type(given).__name__}")
        return given
    name = "AsyncHttpxClient" if isinstance(given, httpx.AsyncClient) else "HttpxClient"
    raise SettingsError("http_client", f"must have `open` and `close`; wrap it: convokit.{name}(...)")


def _check_wrapped(given: object, wanted: type) -> None:
    if given is not None and not isinstance(given, wanted):
        kind = type(given)
        raise SettingsError("http_client", f"must be httpx.{wanted.__name__}, not {kind.__module__}.{kind.__name__}")


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


class _Tls:
    """One TLS context for all shards: loading the certificates takes longer than a request."""

    def __init__(self) -> None:
        self.context: ssl.SSLContext | None = None

    def verify(self, url: str) -> ssl.SSLContext | bool:
        if urlsplit(url).scheme == "http":
            return False
        if self.context is None:
            self.context = make_tls_context()
        return self.context


def _limit_stream(stream: Any) -> None:
    """Make a connection of httpcore obey a `Deadline`. Other timeouts stay as they are."""
    read, write = stream.read, stream.write

    def read_in_time(max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = read(max_bytes, timeout.count_left() if isinstance(timeout, Deadline) else timeout)
        return data

    def write_in_time(buffer: bytes, timeout: float | None = None) -> None:
        for at in range(0, len(buffer), _WRITE_BYTES):
            left = timeout.count_left() if isinstance(timeout, Deadline) else timeout
            write(buffer[at : at + _WRITE_BYTES], left)

    stream.read, stream.write = read_in_time, write_in_time


class _ConnectionTrace:
    """Records whether a request opened its connection. A kept connection may have been closed by the server unseen."""

    def __init__(self) -> None:
        self.fresh = False

    def note(self, event: str, info: dict[str, Any]) -> None:
        if event.startswith("connection.connect"):
            self.fresh = True
        if event.endswith(_CONNECTED):
            _limit_stream(info["return_value"])

    async def anote(self, event: str, info: object) -> None:
        if event.startswith("connection.connect"):
            self.fresh = True


class HttpxClient:
    """Sends requests with httpx. `client` is an `httpx.Client` of your own, for proxies or certificates; default: new ones."""

    def __init__(self, client: httpx.Client | None = None) -> None:
        _check_wrapped(client, httpx.Client)
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
        """Send the request and wait for the head of the answer. Raises: ModelError, SettingsError."""
        shards = self._for(request.url)
        client = shards.take()
        trace = _ConnectionTrace()
        timeout = _timeout(request)
        try:
            built = _build_request(request, client, own=self._own, timeout=timeout, trace=trace.note)
            auth = _find_auth(request, own=self._own)
            response = client.send(built, stream=True, follow_redirects=False, auth=auth)
        except httpx.HTTPStatusError as error:  # a hook of the user's own client calls raise_for_status()
            response = error.response
        except Exception as error:
            shards.release(client)
            raise_model_error(error, body_started=False, fresh=trace.fresh, own=self._own, url=request.url)
        except BaseException:
            shards.release(client)
            raise
        return HttpxAnswer(response, timeout, lambda: shards.release(client), own=self._own)

    def _for(self, url: str) -> _Shards[httpx.Client]:
        kind = (urlsplit(url).scheme, is_loopback(url))
        if kind not in self._shards:
            given = self._given
            verify = given is not None or self._tls.verify(url)
            self._shards[kind] = _Shards(
                lambda: (
                    given
                    or make_in_environment(lambda: httpx.Client(verify=verify, trust_env=not kind[1], **_limits()))
                )
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
        _check_wrapped(client, httpx.AsyncClient)
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
        """Send the request and wait for the head of the answer. Raises: ModelError, SettingsError."""
        shards = self._for(request.url)
        client = shards.take()
        trace = _ConnectionTrace()
        timeout = _timeout(request)
        try:
            built = _build_request(request, client, own=self._own, timeout=timeout, trace=trace.anote)
            auth = _find_auth(request, own=self._own)
            async with asyncio.timeout(request.first_byte_s):  # httpx limits each read of the head, not the whole head
                response = await client.send(built, stream=True, follow_redirects=False, auth=auth)
        except httpx.HTTPStatusError as error:  # a hook of the user's own client calls raise_for_status()
            response = error.response
        except Exception as error:
            shards.release(client)
            raise_model_error(error, body_started=False, fresh=trace.fresh, own=self._own, url=request.url)
        except BaseException:
            shards.release(client)
            raise
        return AsyncHttpxAnswer(response, timeout, lambda: shards.release(client), own=self._own)

    def _for(self, url: str) -> _Shards[httpx.AsyncClient]:
        kinds = self._loops.setdefault(asyncio.get_running_loop(), {})
        kind = (urlsplit(url).scheme, is_loopback(url))
        if kind not in kinds:
            given = self._given
            verify = given is not None or self._tls.verify(url)
            kinds[kind] = _Shards(
                lambda: (
                    given
                    or make_in_environment(lambda: httpx.AsyncClient(verify=verify, trust_env=not kind[1], **_limits()))
                )
            )
        return kinds[kind]

    async def close(self) -> None:
        """Close the connections. A client of your own stays open."""
        for shards in self._loops.pop(asyncio.get_running_loop(), {}).values():
            for client in shards.load:
                if self._own:
                    await client.aclose()
        self._loops.clear()


def _timeout(request: OpenRequest) -> dict[str, float]:
    first = Deadline(request.first_byte_s)
    return {"connect": min(request.connect_s, first), "read": first, "write": first, "pool": request.first_byte_s}


def _find_auth(request: OpenRequest, *, own: bool) -> Any:
    """Return how httpx authorizes the request: as the user's own client does it, if the request has no key."""
    is_authorized = request.has_key or any(name.lower() == "authorization" for name in request.headers)
    return None if own or is_authorized else httpx.USE_CLIENT_DEFAULT


def _build_request(
    request: OpenRequest,
    client: httpx.Client | httpx.AsyncClient,
    *,
    own: bool,
    timeout: dict[str, float],
    trace: Callable[[str, Any], object],
) -> httpx.Request:
    """Return the request for httpx. A client of the user's own adds its headers and cookies; ours has only defaults."""
    more = {"timeout": timeout, "trace": trace}
    if not own:
        headers = {"Accept-Encoding": ACCEPTED_ENCODINGS, **request.headers}
        made = client.build_request("POST", request.url, content=request.data, headers=headers)
        made.extensions = more
        return made
    headers = {"Accept-Encoding": ACCEPTED_ENCODINGS, "Connection": "keep-alive", **request.headers}
    return httpx.Request("POST", _parse_url(request.url), headers=headers, content=request.data, extensions=more)


@functools.lru_cache(maxsize=64)
def _parse_url(url: str) -> httpx.URL:
    return httpx.URL(url)
