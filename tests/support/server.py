"""A Chat Completions server on a loopback port, in a thread of its own, that does what a test tells it to.

By default it echoes: the reply to "hello" is "echo: hello", plain or streamed word by word. A script replaces the next answers.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Script:
    """One answer: its pieces are written one by one; a float waits that long, None breaks the connection."""

    pieces: list[bytes | float | None]
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    chunked: bool = True
    delay_s: float = 0.0
    """How long the head takes."""


@dataclass
class Request:
    """What arrived."""

    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes


def completion(
    text: str | None, *, model: str = "loop-1", usage: dict[str, Any] | None = None, **message: Any
) -> Script:
    """Return a plain answer."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
        ],
        "usage": usage or {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }
    return Script([json.dumps(body).encode()])


def event(value: Any) -> bytes:
    """Return one server-sent event."""
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, **extra: Any) -> bytes:
    """Return the event of one chunk."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event(
        {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "loop-1", "choices": [choice], **extra}
    )


def stream(words: Iterable[str], *, pause_s: float = 0.0, finish: str | None = "stop", done: bool = True) -> Script:
    """Return a streamed answer, a piece a word."""
    pieces: list[bytes | float | None] = [chunk({"role": "assistant", "content": ""})]
    for word in words:
        pieces.append(chunk({"content": word}))
        if pause_s:
            pieces.append(pause_s)
    if finish is not None:
        pieces.append(chunk({}, finish))
    if done:
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
        pieces += [event({"id": "chatcmpl-1", "model": "loop-1", "choices": [], "usage": usage}), event(b"[DONE]")]
    return Script(pieces, headers={"content-type": "text/event-stream"})


def failure(status: int, message: str = "no", **fields: Any) -> Script:
    """Return an error answer in OpenAI's envelope; `headers` sets headers."""
    headers = {"content-type": "application/json", **fields.pop("headers", {})}
    error = {"message": message, "type": "error", "param": None, "code": None, **fields}
    return Script([json.dumps({"error": error}).encode()], status=status, headers=headers)


def echo(body: Any) -> Script:
    """Answer with the last message."""
    content = body["messages"][-1]["content"]
    text = f"echo: {content if isinstance(content, str) else 'parts'}"
    if body.get("stream"):
        words = text.split(" ")
        return stream([words[0], *(f" {word}" for word in words[1:])])
    return completion(text)


class LoopbackServer:
    """The server. `requests` holds what arrived; `script(...)` sets the next answers; `answer` decides all others."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Any], Script] = echo
        self._scripted: list[Script] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    def script(self, *answers: Script) -> None:
        """Set the next answers, in order."""
        self._scripted += answers

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> LoopbackServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0.05))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        body = json.loads(raw) if raw else None
        self.requests.append(Request(first.split(" ")[1], headers, body, raw))
        script = self._scripted.pop(0) if self._scripted else self.answer(body)
        return await _write(writer, script)


async def _write(writer: asyncio.StreamWriter, script: Script) -> bool:
    await asyncio.sleep(script.delay_s)
    headers = dict(script.headers)
    if script.chunked:
        headers["transfer-encoding"] = "chunked"
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {script.status} X\r\n{head}\r\n".encode())
    for piece in script.pieces:
        if piece is None:
            await writer.drain()
            return False
        if isinstance(piece, int | float):
            await writer.drain()
            await asyncio.sleep(piece)
        elif script.chunked:
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        else:
            writer.write(piece)
    if script.chunked:
        writer.write(b"0\r\n\r\n")
    await writer.drain()
    return script.chunked or "content-length" in script.headers
