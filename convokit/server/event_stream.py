"""Write server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Send

PING = b": ping\n\n"
"""A comment, which every client skips."""
DONE = b"data: [DONE]\n\n"
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""The second one keeps nginx from collecting the stream."""


def dump_event(value: Mapping[str, Any], name: str | None = None) -> bytes:
    """Return an event with a JSON value."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    prefix = f"event: {name}\n" if name is not None else ""
    return f"{prefix}data: {data}\n\n".encode("utf-8", "replace")


class EventStreamResponse(StreamingResponse):
    """A stream of events. A reader that takes nothing for some seconds is disconnected."""

    def __init__(self, content: AsyncIterator[bytes], headers: Mapping[str, str], write_timeout_s: float) -> None:
        super().__init__(content, media_type="text/event-stream", headers={**headers, **_HEADERS})
        self._write_timeout_s = write_timeout_s

    async def stream_response(self, send: Send) -> None:
        """Send the events. Without its last message, the server closes the connection."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self.body_iterator:
            try:
                async with asyncio.timeout(self._write_timeout_s):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except TimeoutError:
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
