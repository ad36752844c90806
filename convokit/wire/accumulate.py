"""A reply from its chunks, and from one piece: the same code reads both, so that streaming changes nothing in what is kept.

Said once: id, model, created. The last value that is not null: usage, service tier, fingerprint, and keys nobody knows. Null,
empty and missing are tolerated everywhere; an error inside a chunk is raised with the text that came before it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from convokit.domain.events import StreamEvent, TextDelta
from convokit.domain.reply import ParsedReply
from convokit.errors import BadReply, ModelError
from convokit.wire import errors
from convokit.wire.choice import ChoiceParser
from convokit.wire.values import count_chars, describe_json, parse_count, parse_usage, repair_json, repair_surrogates

MAX_CHOICES = 1024
_SAID_ONCE = ("id", "model", "created")
_LAST = ("service_tier", "system_fingerprint")
_ENDED_IN_ERROR = {"error": {"message": "the server ended the reply with finish_reason 'error'"}}
_DROPPED = frozenset({"choices", "object", "obfuscation", "error"})  # obfuscation is padding


def call_id() -> str:
    """Name a tool call that its server did not name."""
    return f"call_{uuid.uuid4().hex}"


class ReplyParser:
    """Chunks in, stream events out, and the completion they make. `size` is about how many characters are held."""

    def __init__(self, *, new_id: Callable[[], str] = call_id) -> None:
        self.choices: dict[int, ChoiceParser] = {}
        self._new_id = new_id
        self._known: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._extra: dict[str, Any] = {}
        self._size = 0

    @property
    def text(self) -> str:
        """The text of choice 0 so far."""
        return self.text_after(0)

    @property
    def text_chars(self) -> int:
        """How many characters `text` has, without making it."""
        first = self.choices.get(0)
        return first.content_chars if first is not None else 0

    def text_after(self, chars: int) -> str:
        """Return the text of choice 0 without its first `chars` characters, at the cost of what is returned."""
        first = self.choices.get(0)
        if first is None or not first.content or chars >= first.content_chars:
            return ""
        parts = first.content
        at, begins = len(parts), first.content_chars
        while begins > chars:
            at -= 1
            begins -= len(parts[at])
        return "".join(parts[at:])[chars - begins :]

    @property
    def size_chars(self) -> int:
        """About how many characters are held."""
        return self._size + sum(choice.other_chars + choice.content_chars for choice in self.choices.values())

    @property
    def done(self) -> bool:
        """Whether every choice has its finish reason."""
        return bool(self.choices) and all(choice.finish_reason for choice in self.choices.values())

    def feed(self, chunk: Any) -> list[StreamEvent]:
        """Take a chunk and say what it brought.

        Raises: the ModelError (or ContextOverflow) that the chunk carries; BadReply when it is not a chunk at all.
        """
        try:
            return self._feed(chunk)
        except ModelError as error:
            error.partial = error.partial or self.text
            raise

    def feed_text(self, text: str, index: int) -> list[StreamEvent]:
        """Take a piece of content that is all a chunk has, for a choice that has had some."""
        choice = self.choices[index]
        if choice.content is None or choice.half or not text.isascii():
            return choice.feed({"delta": {"content": text}})
        choice.content.append(text)
        choice.content_chars += len(text)
        return [TextDelta(text, index)]

    def build_reply(self) -> ParsedReply:
        """Return what the chunks make so far."""
        known = self._known
        extra: dict[str, Any] = repair_json(self._extra)
        return ParsedReply(
            choices=[self.choices[index].build_choice(self._new_id) for index in sorted(self.choices)],
            response_id=_text(known.get("id")),
            model=_text(known.get("model")),
            created=parse_count(known.get("created")),
            usage=parse_usage(self._usage, extra.get("timings")),
            usage_details=repair_json(self._usage),
            service_tier=_text(known.get("service_tier")),
            system_fingerprint=_text(known.get("system_fingerprint")),
            done=self.done,
            extra=extra,
        )

    def _feed(self, chunk: Any) -> list[StreamEvent]:
        if not isinstance(chunk, dict):
            raise BadReply(f"the server sent something that is not a chunk of a reply: {describe_json(chunk)}")
        choices = chunk.get("choices")
        events: list[StreamEvent] = []
        failed = False
        if isinstance(choices, list):
            for position, piece in enumerate(choices):
                if isinstance(piece, dict):
                    choice = self._choice(piece, position)
                    events += choice.feed(piece)
                    failed = failed or choice.finish_reason == "error"
        if errors.is_error(chunk):
            raise errors.build_payload_error(chunk, partial=self.text)
        if failed:
            raise errors.build_payload_error(_ENDED_IN_ERROR, partial=self.text)
        known = self._known
        for key, value in chunk.items():
            if value is not None and key not in _DROPPED and known.get(key) != value:
                self._take(key, value)
        return events

    def _choice(self, choice: dict[str, Any], position: int) -> ChoiceParser:
        index = choice.get("index")
        number = index if isinstance(index, int) and not isinstance(index, bool) else position
        known = self.choices.get(number)
        if known is None:
            if len(self.choices) >= MAX_CHOICES:
                raise BadReply(f"the server sent more than {MAX_CHOICES:,} choices")
            known = self.choices[number] = ChoiceParser(number)
        return known

    def _take(self, key: str, value: Any) -> None:
        if key in _SAID_ONCE or key in _LAST:
            if isinstance(value, (str, int, float)) and (key in _LAST or not self._known.get(key)):
                self._known[key] = value  # Azure's first chunk has them empty, so empty is not yet said
        elif key == "usage" and isinstance(value, dict):
            count_chars(value)
            self._usage = value
        else:
            old = self._extra.get(key)
            if old != value:
                self._size += count_chars(value) - count_chars(old)
                self._extra[key] = value


def parse_completion(body: Any, *, new_id: Callable[[], str] = call_id) -> ParsedReply:
    """Return the completion in the body of a reply that was not streamed.

    Raises: the ModelError or ContextOverflow that the body carries; BadReply when there is no choice in it.
    """
    accumulator = ReplyParser(new_id=new_id)
    accumulator.feed(body)
    if not accumulator.choices:
        raise BadReply(f"the answer holds no choices: {describe_json(body)}")
    return accumulator.build_reply()


def _text(value: Any) -> str | None:
    return repair_surrogates(value) or None if isinstance(value, str) else None
