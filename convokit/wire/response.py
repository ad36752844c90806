"""Read a response body, streamed or whole, into a reply.

The first byte decides what a body is, because content types are often wrong: `{`, `[` and `<` start a whole body even where a
stream was requested. A stream is complete when every choice has its finish reason, with or without `[DONE]`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from convokit.domain.events import StreamEvent
from convokit.domain.reply import ParsedReply
from convokit.errors import BadReply, Interrupted, ModelError
from convokit.settings import Limits
from convokit.wire.error_body import parse_error_body
from convokit.wire.json_text import parse_json
from convokit.wire.reply_parser import ReplyParser
from convokit.wire.sse import SseDecoder

_BLANK = b"\xef\xbb\xbf \t\r\n"
_EXCERPT_BYTES = 1024
_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)


class ReplyReader:
    """Read one response: `feed` its bytes, call `end`, then `build_reply`.

    `content_seen` is true if the last `feed` brought data, and not only keep-alive comments or blanks. After an error, `text`
    is what was received of choice 0. Every ModelError carries it as `partial`.

    Args:
        content_type: The response's content type, for error messages.
        streaming: Whether the request asked for a stream.
        limits: `reply_bytes` bounds the reply in memory, `event_bytes` one event of a stream.
        taken_ids: The ids of the tool calls in the request. A call of the reply with one of them gets a new id.
    """

    def __init__(self, *, content_type: str, streaming: bool, limits: Limits, taken_ids: Collection[str] = ()) -> None:
        self.content_seen = False
        self._content_type = content_type.partition(";")[0].strip().lower()
        self._charset = _parse_charset(content_type)
        self._limits = limits
        self._parser = ReplyParser(taken_ids)
        self._decoder = SseDecoder(limits.event_bytes)
        self._body: bytearray | None = None if streaming else bytearray()
        self._first_byte_missing = streaming
        self._parsed_any = False
        self._has_events = False
        self._head = b""
        self._stream_bytes = 0
        self._ended = False
        self._reply: ParsedReply | None = None

    @property
    def finished(self) -> bool:
        """Whether the reply is complete: `[DONE]` followed every finish reason, or `end` returned."""
        return self._decoder.done or self._ended

    @property
    def is_whole(self) -> bool:
        """Whether every choice of the stream has its finish reason, although the body has not ended yet."""
        return self._body is None and self._parser.done

    @property
    def text(self) -> str:
        """The content of choice 0 so far."""
        return self._parser.text

    @property
    def text_chars(self) -> int:
        """The length of `text`, without joining it."""
        return self._parser.text_chars

    def text_after(self, chars: int) -> str:
        """Return `text` without its first `chars` characters, without joining what precedes them."""
        return self._parser.text_after(chars)

    def build_reply(self) -> ParsedReply:
        """Return the reply as far as it was received."""
        if not self.finished:
            return self._parser.build_reply()
        if self._reply is None:
            self._reply = self._parser.build_reply()
        return self._reply

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Read the next bytes and return the events in them. A whole body has its events in `end`.

        Raises: the ModelError that a stream reports; BadReply if the bytes are not a reply; Interrupted if the stream ends too
            early, or exceeds `Limits.reply_bytes`.
        """
        self.content_seen = False
        if self._first_byte_missing:
            data = data.lstrip(_BLANK)  # some servers send blanks as keep-alive before the first event
            if not data:
                return []
            self._first_byte_missing = False
            if data[:1] in (b"{", b"[", b"<"):
                self._body = bytearray()
        try:
            return self._feed_stream(data) if self._body is None else self._feed_body(self._body, data)
        except ModelError as error:
            self._complete_error(error)
            raise

    def end(self) -> list[StreamEvent]:
        """Read the end of the body. Return the events of a whole body, or of a last event without its blank line.

        Raises: Interrupted if the body ends too early, BadReply if it is not a reply, and all errors of `feed`.
        """
        if self._ended:
            return []
        try:
            events = self._end_stream() if self._body is None else self._end_body(bytes(self._body))
        except ModelError as error:
            self._complete_error(error)
            raise
        self._ended = True
        return events

    def _feed_stream(self, data: bytes) -> list[StreamEvent]:
        if not self._parsed_any and len(self._head) < _EXCERPT_BYTES:
            self._head += data[:_EXCERPT_BYTES]
        self._stream_bytes += len(data)
        events: list[StreamEvent] = []
        payloads = self._decoder.feed(data)
        for payload in payloads:
            events += self._parser.feed(parse_json(payload))
            self._parsed_any = True
            self._has_events = self._has_events or bool(events)
        if payloads:
            self.content_seen = True
            # The parser counts content, not JSON, so it is asked only when the stream itself is over the limit.
            if self._stream_bytes > self._limits.reply_bytes and self._parser.size_chars > self._limits.reply_bytes:
                raise Interrupted(
                    f"the reply is over the limit of {self._limits.reply_bytes:,} bytes (Limits.reply_bytes)"
                )
        if self._decoder.too_large:
            limit = f"{self._limits.event_bytes:,} bytes (Limits.event_bytes)"
            raise BadReply(f"an event of the stream is over the limit of {limit}")
        if self._decoder.done:
            self._check_complete()
        return events

    def _end_stream(self) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for payload in self._decoder.end():
            try:
                chunk = parse_json(payload)
            except BadReply:
                if not self._parsed_any and not payload.startswith("{"):
                    raise
                continue  # the stream was cut inside its last event; _check_complete decides whether that matters
            self._parsed_any = True
            events += self._parser.feed(chunk)
        self._check_complete()
        return events

    def _check_complete(self) -> None:
        """Raise an error if a stream that has ended is not a whole reply."""
        if self._parser.done:
            return
        if self._decoder.done and not self._parser.choices:
            # LM Studio does this.
            raise BadReply("the stream ended without a choice; some servers do this if the request has too many tokens")
        is_stream = self._parsed_any or self._head.lstrip().startswith((b":", b"data", b"event", b"id"))
        if not is_stream and self._head.strip():
            raise BadReply(f"expected an event stream, got {self._describe_type()}: {_extract_message(self._head)}")
        missing = "its finish reason" if self._parser.choices else "the first chunk"
        raise Interrupted(f"the stream ended before {missing}")

    def _feed_body(self, body: bytearray, data: bytes) -> list[StreamEvent]:
        if len(body) + len(data) > self._limits.reply_bytes:
            message = f"the response body is over the limit of {self._limits.reply_bytes:,} bytes (Limits.reply_bytes)"
            raise BadReply(message, status=200)
        body += data
        self.content_seen = bool(data.strip())
        return []

    def _end_body(self, body: bytes) -> list[StreamEvent]:
        text = self._decode_body(body).strip()
        if not text:
            raise BadReply(f"the response body is empty ({self._describe_type()})")
        if text[0] not in "{[":
            raise BadReply(f"expected a JSON reply, got {self._describe_type()}: {_extract_message(body)}")
        try:
            value = parse_json(text)
        except BadReply:
            if text[-1] in "}]":
                raise
            message = f"the response body ended too early, after {len(body):,} bytes: {_extract_message(body)}"
            raise Interrupted(message) from None
        if isinstance(value, list) and len(value) == 1:
            value = value[0]  # some gateways wrap an error in a list
        events = self._parser.feed(value)
        if not self._parser.choices:
            raise BadReply(f"the reply has no choices: {_extract_message(body)}")
        return events

    def _decode_body(self, body: bytes) -> str:
        """Return the text of a body: UTF-8 as JSON must be, else the encoding that the content type names."""
        try:
            return body.decode("utf-8-sig")
        except UnicodeDecodeError:
            pass
        try:
            return body.decode(self._charset)
        except (LookupError, ValueError):
            return body.decode("utf-8-sig", "replace")

    def _describe_type(self) -> str:
        return self._content_type or "a body without a content type"

    def _complete_error(self, error: ModelError) -> None:
        error.partial = error.partial or self.text
        error.status = error.status or 200
        if self._has_events:
            error.should_retry = False  # chunks of the stream may be shown already, so only the caller can decide


def _parse_charset(content_type: str) -> str:
    match = _CHARSET.search(content_type)
    return match[1] if match else "utf-8"


def _extract_message(body: bytes) -> str:
    return parse_error_body(body[: 4 * _EXCERPT_BYTES]).message
