"""Parse the chunks of a reply into a ParsedReply.

A whole reply is parsed as one chunk whose choices have a `message` in place of a `delta`, so streaming changes nothing in
what is stored. The chunks are merged by these rules:

- Content, refusal, reasoning, audio, lists and unknown texts are joined.
- `id`, `model` and `created` keep the first value that is not empty.
- All other keys, known or not, keep the last value that is not null.

Missing, null and empty values are accepted everywhere. Content that was never sent is None, content sent empty is "".
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from convokit.domain.events import StreamEvent
from convokit.domain.reply import ParsedReply
from convokit.errors import BadReply, ModelError
from convokit.wire.choice_parser import ChoiceParser
from convokit.wire.error_body import is_error_payload
from convokit.wire.error_mapping import build_payload_error
from convokit.wire.json_text import count_chars, describe_json, repair_json
from convokit.wire.token_usage import parse_count, parse_usage

MAX_CHOICES = 1024  # OpenAI's limit is 128; this one bounds memory
_FIRST_VALUE_KEYS = frozenset({"id", "model", "created"})
_LAST_VALUE_KEYS = frozenset({"service_tier", "system_fingerprint"})
_DROPPED_KEYS = frozenset({"object", "error"})


class ReplyParser:
    """Merge chunks into a reply: `feed` each chunk, then call `build_reply`.

    `taken_ids` are the ids of the tool calls in the request. A call of the reply with one of them gets a new id.
    """

    def __init__(self, taken_ids: Collection[str] = ()) -> None:
        self._taken_ids = taken_ids
        self.choices: dict[int, ChoiceParser] = {}
        self._last_top: dict[str, Any] = {}
        self._facts: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._extra: dict[str, Any] = {}
        self._extra_chars = 0

    @property
    def text(self) -> str:
        """The content of choice 0 so far."""
        return self.text_after(0)

    @property
    def text_chars(self) -> int:
        """The length of `text`, without joining it."""
        first = self.choices.get(0)
        return first.content_chars if first is not None else 0

    def text_after(self, chars: int) -> str:
        """Return `text` without its first `chars` characters, without joining what precedes them."""
        first = self.choices.get(0)
        if first is None or not first.content or chars >= first.content_chars:
            return ""
        at, start = len(first.content), first.content_chars
        while start > chars:
            at -= 1
            start -= len(first.content[at])
        return "".join(first.content[at:])[chars - start :]

    @property
    def size_chars(self) -> int:
        """About how many characters are in memory."""
        return self._extra_chars + sum(choice.content_chars + choice.other_chars for choice in self.choices.values())

    @property
    def done(self) -> bool:
        """Whether every choice has its finish reason."""
        return bool(self.choices) and all(choice.finish_reason for choice in self.choices.values())

    def feed(self, chunk: Any) -> list[StreamEvent]:
        """Merge a chunk and return its events.

        Raises: the ModelError or ContextOverflow that the chunk reports; BadReply if it is not a chunk.
        """
        try:
            return self._merge(chunk)
        except ModelError as error:
            error.partial = error.partial or self.text
            raise

    def build_reply(self) -> ParsedReply:
        """Return the reply as far as it was received."""
        facts, extra, usage = repair_json([self._facts, self._extra, self._usage])
        choices = [self.choices[index].build_choice() for index in sorted(self.choices)]
        return ParsedReply(
            choices=choices,
            response_id=_text_or_none(facts.get("id")),
            model=_text_or_none(facts.get("model")),
            created=parse_count(facts.get("created")),
            usage=parse_usage(usage, extra.get("timings")),
            usage_details=usage,
            service_tier=_text_or_none(facts.get("service_tier")),
            system_fingerprint=_text_or_none(facts.get("system_fingerprint")),
            done=self.done and choices[0].finish_kind != "filtered",
            extra=extra,
        )

    def _merge(self, chunk: Any) -> list[StreamEvent]:
        if not isinstance(chunk, dict):
            raise BadReply(f"expected a JSON object as chunk of the reply, got {describe_json(chunk)}")
        choices = chunk.get("choices")
        events: list[StreamEvent] = []
        failure: dict[str, Any] | None = None
        if isinstance(choices, list):
            for position, raw_choice in enumerate(choices):
                if isinstance(raw_choice, dict):
                    choice = self._find_choice(raw_choice, position)
                    events += choice.feed(raw_choice)
                    if choice.failure is not None:
                        failure = failure or choice.failure
        if failure is not None:
            raise build_payload_error(chunk if is_error_payload(chunk) else failure, partial=self.text)
        top = {**chunk, "choices": None, "obfuscation": None}  # obfuscation is padding
        # Most chunks differ only in their choices. Merging the other keys again would double the time of a chunk.
        if top != self._last_top or not isinstance(choices, list):
            if is_error_payload(chunk):
                raise build_payload_error(chunk, partial=self.text)
            count_chars(top, depth=-1)  # raises if a value is nested too deeply to be compared with the next one
            for key, value in top.items():
                if value is not None and key not in _DROPPED_KEYS:
                    self._merge_top_key(key, value)
            self._last_top = top
        return events

    def _find_choice(self, raw_choice: dict[str, Any], position: int) -> ChoiceParser:
        index = raw_choice.get("index")
        number = index if isinstance(index, int) and not isinstance(index, bool) else position
        choice = self.choices.get(number)
        if choice is None:
            if len(self.choices) >= MAX_CHOICES:
                raise BadReply(f"the server sent more than {MAX_CHOICES:,} choices")
            choice = self.choices[number] = ChoiceParser(number, self._taken_ids)
        return choice

    def _merge_top_key(self, key: str, value: Any) -> None:
        if key in _FIRST_VALUE_KEYS or key in _LAST_VALUE_KEYS:
            # Azure sends these keys empty in its first chunk: an empty value does not count as the first.
            if isinstance(value, (str, int, float)) and (key in _LAST_VALUE_KEYS or not self._facts.get(key)):
                self._facts[key] = value
        elif key == "usage" and isinstance(value, dict):
            self._usage = value
        elif self._extra.get(key) != value:
            self._extra_chars += count_chars(value) - count_chars(self._extra.get(key))
            self._extra[key] = value


def _text_or_none(value: Any) -> str | None:
    return value or None if isinstance(value, str) else None
