"""A reply from the bytes of an answer, streamed or not.

What it is decides its first byte, not its header: `{`, `[` and `<` begin a whole body even where a stream was asked for. A
stream is complete when every choice has its finish reason, with or without `[DONE]`; a stream that ends before is Interrupted
with its text, an answer that is something else a BadReply with an excerpt. Errors inside a stream are raised as they come.
"""

from __future__ import annotations

from convokit.domain.events import StreamEvent
from convokit.domain.reply import ParsedReply
from convokit.errors import BadReply, Interrupted, ModelError
from convokit.settings import Limits
from convokit.wire import error_body
from convokit.wire.accumulate import ReplyParser
from convokit.wire.sse import SseDecoder
from convokit.wire.template import Template
from convokit.wire.values import parse_json

_BLANK = b"\xef\xbb\xbf \t\r\n"
_EXCERPT_BYTES = 1024


class ReplyReader:
    """Read one answer: `feed` its bytes, then `end`, then take `completion()`.

    `finished` says that nothing more is worth waiting for, `content_seen` that the last feed carried data and not only
    keep-alives. After a failure `text` still holds what came of choice 0. Every ModelError carries it as `partial`.
    """

    def __init__(self, *, content_type: str, streaming: bool, limits: Limits) -> None:
        self.content_seen = False
        self._content_type = content_type.partition(";")[0].strip().lower()
        self._limit = limits.reply_bytes
        self._accumulator = ReplyParser()
        self._template = Template()
        self._decoder = SseDecoder(limits.event_bytes)
        self._body: bytearray | None = None if streaming else bytearray()
        self._undecided = streaming
        self._read_any = False
        self._head = b""
        self._bytes = 0
        self._ended = False
        self._whole: ParsedReply | None = None

    @property
    def finished(self) -> bool:
        """Whether the answer is complete: `[DONE]` came after every finish reason, or `end` found everything there."""
        return self._decoder.done or self._ended

    @property
    def text(self) -> str:
        """The text of choice 0 so far."""
        return self._accumulator.text

    @property
    def text_chars(self) -> int:
        """How many characters `text` has, without making it."""
        return self._accumulator.text_chars

    def text_after(self, chars: int) -> str:
        """Return `text` without its first `chars` characters, at the cost of what is returned."""
        return self._accumulator.text_after(chars)

    def build_reply(self) -> ParsedReply:
        """Return the completion as far as it came."""
        if not self.finished:
            return self._accumulator.build_reply()
        if self._whole is None:
            self._whole = self._accumulator.build_reply()
        return self._whole

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Take the next bytes and say what they brought.

        Raises: the ModelError that a stream carries; BadReply for what is no stream; Interrupted past `Limits.reply_bytes`.
        """
        self.content_seen = False
        if self._undecided:
            data = data.lstrip(_BLANK)  # keep-alives before the first event, and a byte order mark
            if not data:
                return []
            self._undecided = False
            if data[:1] in (b"{", b"[", b"<"):
                self._body = bytearray()
        if self._body is not None:
            return self._collect(self._body, data)
        if not self._read_any and len(self._head) < _EXCERPT_BYTES:
            self._head += data[:_EXCERPT_BYTES]
        self._bytes += len(data)
        try:
            events = self._read(self._decoder.feed(data))
            if self._decoder.done:
                self._judge()
            return events
        except ModelError as error:
            self._tell(error)
            raise

    def end(self) -> list[StreamEvent]:
        """Say that no more bytes come, and take what only the end completes: a whole body, or a last event without its blank
        line.

        Raises: Interrupted when the reply broke off, BadReply when it is none, and what `feed` raises.
        """
        if self._ended:
            return []
        try:
            events = self._end_stream() if self._body is None else self._end_body(bytes(self._body))
        except ModelError as error:
            self._tell(error)
            raise
        self._ended = True
        return events

    def _collect(self, body: bytearray, data: bytes) -> list[StreamEvent]:
        if len(body) + len(data) > self._limit:
            raise BadReply(f"the answer is over the limit of {self._limit:,} bytes (Limits.reply_bytes)", status=200)
        body += data
        self.content_seen = bool(data.strip())
        return []

    def _read(self, payloads: list[str]) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        accumulator, template = self._accumulator, self._template
        for payload in payloads:
            text = template.read(payload)
            if text is None:
                chunk = parse_json(payload)
                events += accumulator.feed(chunk)
                template.learn(payload, chunk)
                self._read_any = True
            else:
                events += accumulator.feed_text(text, template.index)
        if payloads:
            self.content_seen = True
            if (
                self._bytes > self._limit and accumulator.size_chars > self._limit
            ):  # what is held is less than what came
                raise Interrupted(f"the reply is over the limit of {self._limit:,} bytes (Limits.reply_bytes)")
        if self._decoder.too_large:
            raise self._decoder.refusal()
        return events

    def _end_stream(self) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for payload in self._decoder.end():
            try:
                chunk = parse_json(payload)
            except BadReply:
                if not self._read_any and not payload.startswith("{"):
                    raise
                continue  # the stream was cut inside its last event: what is missing is judged below
            self._read_any = True
            events += self._accumulator.feed(chunk)
        self._judge()
        return events

    def _judge(self) -> None:
        """Raise unless the stream, which has ended, was a whole reply."""
        choices = self._accumulator.choices
        if self._accumulator.done:
            return
        if self._decoder.done and not choices:
            raise BadReply(
                "the stream ended without a reply; some servers do so when the request holds too many tokens"
            )
        if (
            not self._read_any
            and self._head.strip()
            and not self._head.lstrip().startswith((b":", b"data", b"event", b"id"))
        ):
            raise BadReply(f"the answer is {self._what()} and no stream: {_shown(self._head)}")
        came = "before its finish reason" if choices else "before anything came"
        raise Interrupted(f"the stream ended {came}")

    def _end_body(self, body: bytes) -> list[StreamEvent]:
        text = body.decode("utf-8-sig", "replace").strip()
        if not text:
            raise BadReply(f"the answer is empty ({self._what()})")
        if text[0] not in "{[":
            raise BadReply(f"the answer is {self._what()} and not a completion: {_shown(body)}")
        try:
            value = parse_json(text)
        except BadReply:
            if text[-1] in "}]":
                raise
            raise Interrupted(f"the answer broke off after {len(body):,} bytes: {_shown(body)}") from None
        if isinstance(value, list) and len(value) == 1:
            value = value[0]  # some gateways wrap an error so
        events = self._accumulator.feed(value)
        if not self._accumulator.choices:
            raise BadReply(f"the answer holds no choices: {_shown(body)}")
        return events

    def _what(self) -> str:
        return self._content_type or "of no content type"

    def _tell(self, error: ModelError) -> None:
        """Add what only the reader knows. Where a stream had begun, trying again is the caller's decision alone."""
        error.partial = error.partial or self.text
        error.status = error.status or 200
        if self._body is None:
            error.should_retry = False


def _shown(body: bytes) -> str:
    return error_body.parse_error_body(body[: 4 * _EXCERPT_BYTES]).message
