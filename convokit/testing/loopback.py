"""Serve a scripted model over HTTP on a loopback port."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus

from convokit.testing.script import RenderedAnswer

_BACKLOG = 1024
"""Connections that may wait: hundreds of clients of a test start at once."""
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
"""The answer to what is no request with a `Content-Length`. The connection ends, as its next request cannot be found."""
Respond = Callable[[str, str, Mapping[str, str], bytes], RenderedAnswer]
"""Takes method, URL, headers and body of a request."""


@contextmanager
def serve_loopback(respond: Respond) -> Iterator[str]:
    """Serve in a thread until the block ends. Yields the address, without a path."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    loop = asyncio.new_event_loop()
    stopped = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await _answer_request(respond, address, reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the block ended
        except (ValueError, asyncio.LimitOverrunError):
            writer.write(_BAD_REQUEST)
        finally:
            writer.close()

    async def serve_until_stopped() -> None:
        server = await asyncio.start_server(serve, sock=listener, backlog=_BACKLOG)
        await stopped.wait()
        server.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # its end cancels the requests that still run
            runner.run(serve_until_stopped())

    thread = threading.Thread(target=run, name="convokit-scripted-model", daemon=True)
    thread.start()
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()


async def _answer_request(
    respond: Respond, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Answer one request. Return whether the connection can take another one."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if "transfer-encoding" in headers:
        raise ValueError("the body has no content-length")
    data = await reader.readexactly(int(headers.get("content-length", "0")))
    answer = respond(method, address + path, headers, data)
    await asyncio.sleep(answer.delay_s)
    sent = {**answer.headers, "transfer-encoding": "chunked"}
    shown = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    writer.write(f"HTTP/1.1 {answer.status} {_find_phrase(answer.status)}\r\n{shown}\r\n".encode("latin-1"))
    for part in answer.parts:
        await writer.drain()
        if part is None:
            return False
        if isinstance(part, bytes):
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        else:
            await asyncio.sleep(part)
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def _find_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
