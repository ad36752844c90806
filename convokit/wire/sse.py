"""Parse server-sent events.

The format is the "text/event-stream" of the HTML standard, section 9.2. Line ends are LF, CRLF or CR and nothing else: U+2028
and U+0085 are text. Two rules differ from the standard: the last event counts without its blank line, and `[DONE]` ends the
stream.
"""

from __future__ import annotations

import json

from convokit.errors import BadReply
from convokit.wire.json_text import parse_json

_BOM = b"\xef\xbb\xbf"
_STATUS_COMMENT = "HTTP_STATUS/"  # DashScope sends the status of an error in a comment
_LF = 10
_CR = 13


class SseDecoder:
    """Decode bytes into the payloads (`data`) of events.

    `done` is true after `[DONE]`, `too_large` after an event over `max_event_bytes`. Nothing behind either is decoded. The
    buffer never holds more than one unfinished event.
    """

    __slots__ = ("_after_cr", "_at_start", "_buffer", "_max_event_bytes", "done", "too_large")

    def __init__(self, max_event_bytes: int) -> None:
        self._buffer = bytearray()
        self._max_event_bytes = max_event_bytes
        self._at_start = True
        self._after_cr = False
        self.too_large = False
        self.done = False

    def feed(self, data: bytes) -> list[str]:
        """Return the payloads of the events that these bytes complete, also of those in front of one that is too large."""
        if self.done or self.too_large or not data:
            return []
        if self._at_start or self._after_cr or _CR in data:
            data = self._normalize_line_ends(data)
        buffer = self._buffer
        if not buffer and data[-2:] == b"\n\n":
            head = data[:-2]
        else:
            # The search starts where the last one ended, so a long event costs no more than its length.
            searched = max(len(buffer) - 1, 0)
            buffer += data
            cut = buffer.rfind(b"\n\n", searched)
            if cut < 0:
                self._check_limit(len(buffer))
                return []
            head = bytes(buffer[:cut])
            del buffer[: cut + 2]
        if len(head) > self._max_event_bytes or len(buffer) > self._max_event_bytes:
            return self._parse_events_within_limit(head)
        return self._parse_events(head)

    def end(self) -> list[str]:
        """Return the payload of a last event without its blank line."""
        head = bytes(self._buffer)
        self._buffer.clear()
        return [] if self.done else self._parse_events(head)

    def _normalize_line_ends(self, data: bytes) -> bytes:
        # A CR at the end of the data counts at once, so its event need not wait. An LF that follows it is dropped.
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
                self._buffer += data  # possibly the start of a byte order mark: wait for the rest
                return b""
            data = data.removeprefix(_BOM)
            self._at_start = False
        return data

    def _parse_events(self, head: bytes) -> list[str]:
        # Fast paths for one event, and for single lines with a blank line after each: a search for one LF is several times
        # cheaper than a search for two.
        if _LF not in head and head.startswith(b"data: {"):
            return [head[6:].decode("utf-8", "replace")]
        text = head.decode("utf-8", "replace")
        events = text.split("\n")
        if any(events[1::2]):
            events = text.split("\n\n")
        else:
            del events[1::2]
        payloads: list[str] = []
        for event in events:
            if event.startswith("data: {") and "\n" not in event:
                payloads.append(event[6:])
            elif event:
                self._parse_event(event, payloads)
                if self.done:
                    self._buffer.clear()
                    break
        return payloads

    def _parse_event(self, event: str, payloads: list[str]) -> None:
        data: list[str] = []
        name, status = "", ""
        for line in event.split("\n"):
            field, _, value = line.partition(":")
            if not field and value.startswith(_STATUS_COMMENT):
                status = value.removeprefix(_STATUS_COMMENT).strip()
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "event":
                name = value
            elif field == "error":  # llama.cpp up to 2025-09 sends errors in a field of this name
                payloads.append(_format_error(value))
        payload = "\n".join(data)
        bare = payload.strip()
        if bare == "[DONE]":
            self.done = True
        elif bare:
            is_error = name == "error" or status[:1] in ("4", "5")
            payloads.append(_format_error(payload, status) if is_error else payload)

    def _parse_events_within_limit(self, head: bytes) -> list[str]:
        payloads: list[str] = []
        for event in head.split(b"\n\n"):
            self._check_limit(len(event))
            if self.too_large or self.done:
                return payloads
            payloads += self._parse_events(event)
        self._check_limit(len(self._buffer))
        return payloads

    def _check_limit(self, size_bytes: int) -> None:
        if size_bytes > self._max_event_bytes and not self.done:
            self.too_large = True
            self._buffer.clear()


def _format_error(value: str, status: str = "") -> str:
    """Return an error from outside `data` in the form that errors have inside it. `status` is a comment before it."""
    try:
        parsed = parse_json(value)
    except BadReply:
        parsed = value
    if not isinstance(parsed, dict) or not parsed.get("error"):
        parsed = {"error": parsed or "an error without a text"}
    elif not status:
        return value
    return json.dumps({"http_status": status, **parsed} if status else parsed)
