"""Server-sent events from bytes, as servers really send them.

Lines end in LF, CRLF or CR wherever the packets were cut, and at nothing else: U+2028 or U+0085 inside an event is text.
Comments and blocks without data are skipped, the last event counts even without its blank line, and nothing after `[DONE]`
is read. The buffer holds one unfinished event at most, never more than its limit.
"""

from __future__ import annotations

import json

from convokit.errors import BadReply
from convokit.wire.values import parse_json

_BOM = b"\xef\xbb\xbf"
_LF = 10
_CR = 13


class SseDecoder:
    """Cut a stream of bytes into the payloads of its events; `done` says that `[DONE]` came.

    An event over `max_event_bytes` raises BadReply, after the events before it were handed out (`too_large` is set then).
    """

    __slots__ = ("_after_cr", "_at_start", "_buffer", "_limit", "done", "too_large")

    def __init__(self, max_event_bytes: int) -> None:
        self._buffer = bytearray()
        self._limit = max_event_bytes
        self._at_start = True
        self._after_cr = False
        self.done = False
        self.too_large = False

    def feed(self, data: bytes) -> list[str]:
        """Return the payloads that are complete with this piece."""
        if self.done or not data:
            return []
        if self._at_start or self._after_cr or _CR in data:
            data = self._line_feeds(data)
        buffer = self._buffer
        if not buffer and data[-2:] == b"\n\n":
            head = data[:-2]
        else:
            searched = max(len(buffer) - 1, 0)
            buffer += data
            cut = buffer.rfind(b"\n\n", searched)
            if cut < 0:
                self._check(len(buffer), [])
                return []
            head = bytes(buffer[:cut])
            del buffer[: cut + 2]
        if len(head) > self._limit or len(buffer) > self._limit:
            return self._within_limit(head)
        return self._payloads(head)

    def end(self) -> list[str]:
        """Return what is left at the end of the stream: an event that lacks its blank line."""
        head = bytes(self._buffer)
        self._buffer.clear()
        return [] if self.done else self._payloads(head)

    def _line_feeds(self, data: bytes) -> bytes:
        """Turn every line end into LF. The LF of a CRLF cut in two is dropped when it arrives, so no event waits for it."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._at_start:
            data = bytes(self._buffer) + data
            self._buffer.clear()
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._buffer += data  # perhaps a byte order mark, perhaps not: wait for the rest of it
                return b""
            data = data.removeprefix(_BOM)
            self._at_start = False
        return data

    def _payloads(self, head: bytes) -> list[str]:
        """Return the payloads of whole events. Searching for one line feed is several times cheaper than for two, so the usual
        forms, one event or lines that alternate with blank ones, are told by that."""
        if _LF not in head and head.startswith(b"data: {"):
            return [head[6:].decode("utf-8", "replace")]
        text = head.decode("utf-8", "replace")
        lines = text.split("\n")
        if any(lines[1::2]):
            lines = text.split("\n\n")
        else:
            del lines[1::2]
        return self._read_blocks(lines)

    def _read_blocks(self, blocks: list[str]) -> list[str]:
        out: list[str] = []
        for block in blocks:
            if block.startswith("data: {") and "\n" not in block:
                out.append(block[6:])
            elif block:
                self._read_block(block, out)
                if self.done:
                    self._buffer.clear()
                    break
        return out

    def _read_block(self, block: str, out: list[str]) -> None:
        lines: list[str] = []
        event = ""
        for line in block.split("\n"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                lines.append(value)
            elif field == "event":
                event = value
            elif field == "error":  # llama.cpp up to 2025-09 sends errors as a field of this name
                out.append(_as_error(value))
        payload = "\n".join(lines)
        bare = payload.strip()
        if bare == "[DONE]":
            self.done = True
        elif bare:
            out.append(_as_error(payload) if event == "error" else payload)

    def _within_limit(self, head: bytes) -> list[str]:
        out: list[str] = []
        for block in head.split(b"\n\n"):
            self._check(len(block), out)
            if self.too_large or self.done:
                return out
            out += self._payloads(block)
        self._check(len(self._buffer), out)
        return out

    def _check(self, size: int, before: list[str]) -> None:
        if size <= self._limit or self.done:
            return
        self.too_large = True
        self._buffer.clear()
        if not before:
            raise self.refusal()

    def refusal(self) -> BadReply:
        """Say that an event is over the limit."""
        return BadReply(f"an event of the stream is over the limit of {self._limit:,} bytes (Limits.event_bytes)")


def _as_error(value: str) -> str:
    """Return an error that came outside of `data` in the form of one that came inside."""
    try:
        parsed = parse_json(value)
    except BadReply:
        parsed = value
    if isinstance(parsed, dict) and parsed.get("error"):
        return value
    return json.dumps({"error": parsed or "an error without a text"})
