"""Read the answers of httpx, each wait within its time.

The client that sends requests is in `http_client.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

import httpx

from convokit.completion.effects import ResponseHead
from convokit.errors import ModelError
from convokit.runtime.http_errors import raise_model_error
from convokit.wire.content_decoder import ContentDecoder, find_decoder


class Answer(Protocol):
    """An answer whose body is not read yet."""

    head: ResponseHead

    def read(self, timeout_s: float) -> bytes: ...
    def close(self) -> None: ...


class AsyncAnswer(Protocol):
    """As `Answer`, awaited."""

    head: ResponseHead

    async def read(self, timeout_s: float) -> bytes: ...
    async def close(self) -> None: ...


class Deadline(float):
    """The end of a wait, in place of httpcore's timeout in seconds.

    httpcore waits that long for each read of a socket. So a head that comes byte by byte has no end.
    """

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def count_left(self) -> float:
        """Return the seconds that are left. Raises: TimeoutError."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class HttpxAnswer:
    def __init__(
        self, response: httpx.Response, timeout: dict[str, float], done: Callable[[], None], *, own: bool
    ) -> None:
        self.head = _read_head(response)
        self._response = response
        self._timeout = timeout
        self._done = done
        self._own = own
        self._chunks: Iterator[bytes] | None = None
        self._deadline = Deadline(0.0)
        self._decoder: ContentDecoder | None = None

    def read(self, timeout_s: float) -> bytes:
        """Return the next bytes of the body; empty at its end. Raises: ModelError."""
        self._deadline.end = time.monotonic() + timeout_s
        try:
            if self._chunks is None:
                # httpcore reads the timeout once, when the body starts.
                self._timeout["read"] = self._deadline = Deadline(timeout_s)
                kept = _get_kept_body(self._response)
                self._decoder = find_decoder(self.head.headers.get("content-encoding", "")) if kept is None else None
                self._chunks = self._response.iter_raw() if kept is None else iter([kept])
            while True:
                if self._decoder is not None and (data := self._decoder.take()):
                    return data
                data = next(self._chunks, b"")
                if self._decoder is None or not data:
                    return data
                self._decoder.feed(data)
        except ModelError:
            raise
        except Exception as error:
            raise_model_error(error, body_started=True, fresh=True, own=self._own)

    def close(self) -> None:
        """Release the connection. A connection with an unread answer is closed."""
        try:
            self._response.close()
        finally:
            self._done()


class AsyncHttpxAnswer:
    def __init__(
        self, response: httpx.Response, timeout: dict[str, float], done: Callable[[], None], *, own: bool
    ) -> None:
        self.head = _read_head(response)
        self._response = response
        self._timeout = timeout
        self._done = done
        self._own = own
        self._chunks: AsyncIterator[bytes] | None = None
        self._decoder: ContentDecoder | None = None

    async def read(self, timeout_s: float) -> bytes:
        """Return the next bytes of the body; empty at its end. Raises: ModelError."""
        try:
            if self._chunks is None:
                kept = _get_kept_body(self._response)
                self._decoder = find_decoder(self.head.headers.get("content-encoding", "")) if kept is None else None
                self._chunks = self._response.aiter_raw() if kept is None else _iterate_once(kept)
                self._timeout["read"] = timeout_s
            async with asyncio.timeout(timeout_s):
                while True:
                    if self._decoder is not None and (data := self._decoder.take()):
                        return data
                    data = await anext(self._chunks, b"")
                    if self._decoder is None or not data:
                        return data
                    self._decoder.feed(data)
        except ModelError:
            raise
        except Exception as error:
            raise_model_error(error, body_started=True, fresh=True, own=self._own)

    async def close(self) -> None:
        """Release the connection. A connection with an unread answer is closed."""
        try:
            await self._response.aclose()
        finally:
            self._done()


def _get_kept_body(response: httpx.Response) -> bytes | None:
    """Return the decoded body if a hook or a mock read it, or closed the answer; None if it is still to come."""
    if not response.is_stream_consumed and not response.is_closed:
        return None
    try:
        return response.content
    except httpx.ResponseNotRead:
        return b""


async def _iterate_once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _read_head(response: httpx.Response) -> ResponseHead:
    return ResponseHead(response.status_code, {name.lower(): value for name, value in response.headers.items()})
