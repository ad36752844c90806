"""Send binaries and exports."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any, cast
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from convokit.errors import InvalidInput
from convokit.viewer.page_request import PageRequest
from convokit.viewer.pages.conversation_page import read_conversation

_SHOWN: dict[str, tuple[bytes, ...]] = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
    "audio/wav": (b"RIFF",),
    "audio/mpeg": (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xfa"),
}
"""The types that a browser shows, with the first bytes of their files. Everything else is for download."""
_FORMS = {"image/webp": b"WEBP", "audio/wav": b"WAVE"}
"""The bytes 8 to 12 of a RIFF file."""
_MAX_IMAGE_BYTES = 5 * 1024 * 1024
"""A page shows the alternative text of a larger picture. The text is a link to the file."""
_BLOB_POLICY = "default-src 'none'; sandbox"
_FORMATS = {"jsonl": "jsonl", "md": "markdown", "openai.jsonl": "openai"}
_QUEUE_CHUNKS = 8
_CHUNK_CHARS = 64 * 1024
_WRITE_S = 60.0


async def answer_blob(page: PageRequest) -> Response:
    """Return a binary of the conversation: a picture or sound to show, anything else for download."""
    blob = await page.open_chat().blob(page.request.path_params["digest"])
    # Browsers name what asks for the file. Sound needs no limit: it is loaded when the reader starts it.
    if page.request.headers.get("sec-fetch-dest") == "image" and len(blob.data) > _MAX_IMAGE_BYTES:
        return Response(b"", 413)
    # No cache: a later erasure should reach the binary.
    headers = {"content-security-policy": _BLOB_POLICY}
    if is_shown(blob.media_type, blob.data):
        return Response(blob.data, media_type=blob.media_type, headers=headers)
    headers["content-disposition"] = f'attachment; filename="{blob.digest[:16]}.bin"'
    return Response(blob.data, media_type="application/octet-stream", headers=headers)


def is_shown(media_type: str, data: bytes) -> bool:
    """Return whether a browser may show a binary: its type is harmless, and its first bytes are of that type."""
    form = _FORMS.get(media_type)
    return data.startswith(_SHOWN.get(media_type, ())) and (form is None or data[8:12] == form)


async def export_conversation(page: PageRequest) -> Response:
    """Send the conversation with all its branches as a file."""
    conversation = await read_conversation(page)
    name = conversation.key or conversation.title or str(conversation.id)
    return _answer_export(page, name, conversations=[conversation.id])


async def export_all(page: PageRequest) -> Response:
    """Send all conversations of the tenant, or those of a subject, as a file."""
    subject = page.read_text("subject")
    return _answer_export(page, subject or page.viewer.tenant, subject=subject)


def _answer_export(page: PageRequest, name: str, **selection: Any) -> Response:
    suffix = page.path.rpartition("/")[2].partition(".")[2]
    if suffix not in _FORMATS:
        raise InvalidInput("format", f"must be one of {', '.join(_FORMATS)}, not {suffix!r}")
    media_type = "text/markdown; charset=utf-8" if suffix == "md" else "application/jsonl; charset=utf-8"
    disposition = f"attachment; filename=\"convokit.{suffix}\"; filename*=UTF-8''{quote(f'{name}.{suffix}', safe='')}"
    chunks = _export(page, _FORMATS[suffix], selection)
    return StreamingResponse(chunks, media_type=media_type, headers={"content-disposition": disposition})


async def _export(page: PageRequest, form: str, selection: dict[str, Any]) -> AsyncIterator[bytes]:
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE_CHUNKS)
    file = _QueueFile(queue, asyncio.get_running_loop())

    async def write() -> None:
        try:
            await page.kit.export(cast("Any", file), format=cast("Any", form), **selection)
            await queue.put(file.take().encode("utf-8", "replace"))
        finally:
            await queue.put(None)

    task = asyncio.ensure_future(write())
    try:
        while (chunk := await queue.get()) is not None:
            yield chunk
        await task
    finally:
        file.is_closed = True
        while not queue.empty():
            queue.get_nowait()
        task.cancel()


class _QueueFile(io.TextIOBase):
    """A text file whose content goes into a queue of the event loop. A full queue lets the writing thread wait."""

    def __init__(self, queue: asyncio.Queue[bytes | None], loop: asyncio.AbstractEventLoop) -> None:
        self._queue = queue
        self._loop = loop
        self._parts: list[str] = []
        self._chars = 0
        self.is_closed = False

    def write(self, text: str) -> int:
        """Write text. Raises: OSError if the reader has left."""
        if self.is_closed:
            raise BrokenPipeError(32, "the reader has left")
        self._parts.append(text)
        self._chars += len(text)
        if self._chars >= _CHUNK_CHARS:
            put = asyncio.run_coroutine_threadsafe(self._queue.put(self.take().encode("utf-8", "replace")), self._loop)
            put.result(_WRITE_S)
        return len(text)

    def take(self) -> str:
        """Return what was written since the last chunk."""
        text, self._parts, self._chars = "".join(self._parts), [], 0
        return text
