"""A fast Chat Completions server in a process of its own: its answers are made beforehand, so it is never what is measured."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PROMPT, _TOTAL = 111111111, 222222222
"""Stand for the prompt tokens and the total in answers that are made beforehand. The counts get the same width."""
_TOKENS_PER_BYTE = 0.22
"""Of a request's body with English text, in o200k_base. Counting it exactly would take longer than the answer."""


def chunk_events(count: int) -> list[bytes]:
    """Return the events of a streamed reply of `count` pieces, as OpenAI sends them."""
    base = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
    events = []
    for number in range(count):
        choice = {"index": 0, "delta": {"content": f" word{number % 100}"}, "logprobs": None, "finish_reason": None}
        events.append({**base, "choices": [choice]})
    events.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = {"prompt_tokens": _PROMPT, "completion_tokens": count, "total_tokens": _TOTAL}
    events.append({**base, "choices": [], "usage": usage})
    return [b"data: " + json.dumps(each).encode() + b"\n\n" for each in events] + [b"data: [DONE]\n\n"]


def _chunked(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class _Server(asyncio.Protocol):
    plain = b""
    streamed = b""
    chunks = 0
    delay_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(rest) < length:
                return
            body, self.buffer = rest[:length], rest[length:]
            streamed = b'"stream":true' in body.replace(b" ", b"")
            prompt = int(len(body) * _TOKENS_PER_BYTE)
            total = prompt + (self.chunks if streamed else REPLY_TOKENS)
            answer = self.streamed if streamed else self.plain
            answer = answer.replace(b"%d" % _PROMPT, b"%9d" % prompt).replace(b"%d" % _TOTAL, b"%9d" % total)
            if self.delay_s:
                asyncio.get_running_loop().call_later(self.delay_s, self.transport.write, answer)
            else:
                self.transport.write(answer)


REPLY = "A reply as long as one is on average, made of the words that people use most of the time. " * 6
REPLY_TOKENS = 133


def main(chunks: int, delay_s: float) -> None:
    """Serve until the parent goes."""
    message = {"role": "assistant", "content": REPLY}
    reply = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": _PROMPT, "completion_tokens": REPLY_TOKENS, "total_tokens": _TOTAL},
    }
    body = json.dumps(reply).encode()
    _Server.chunks, _Server.delay_s = chunks, delay_s
    _Server.plain = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    _Server.streamed = head + _chunked(chunk_events(chunks))

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Server, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.read)

    asyncio.run(serve())


@contextmanager
def running(chunks: int, delay_s: float = 0.0) -> Iterator[str]:
    """Start the server, whose answers take so long; yield its base URL."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.server", str(chunks), str(delay_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield f"http://127.0.0.1:{child.stdout.readline().strip()}/v1"
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
