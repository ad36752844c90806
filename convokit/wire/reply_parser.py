"""Parse the chunks of a reply into a ParsedReply.

A whole reply is parsed as one chunk whose choices have a `message` in place of a `delta`, so streaming changes nothing in
what is stored. The chunks are merged by these rules:

- Content, refusal, reasoning, audio, lists and unknown texts are joined.
- `id`, `model` and `created` keep the first value that is not empty.
- All other keys, known or not, keep the last value that is not null.

Missing, null and empty values are accepted everywhere. Content that was never sent is None, content sent empty is "".
"""

from __future__ import annotations

from typing import Any

from convokit.domain.events import AudioDelta, Finished, ReasoningDelta, RefusalDelta, StreamEvent, TextDelta
from convokit.domain.reply import ParsedReply, ReplyChoice
from convokit.errors import BadReply, ModelError
from convokit.wire.error_body import is_error_payload
from convokit.wire.error_mapping import build_payload_error
from convokit.wire.json_text import count_chars, describe_json, repair_json, repair_surrogates
from convokit.wire.reassembly import JOINED_AUDIO_KEYS, join_audio, join_reasoning_details
from convokit.wire.token_usage import parse_count, parse_usage
from convokit.wire.tool_calls import PartialToolCall, PartialToolCalls

MAX_CHOICES = 1024  # OpenAI's limit is 128; this one bounds memory
REASONING_KEYS = ("reasoning_content", "reasoning")
_FIRST_VALUE_KEYS = frozenset({"id", "model", "created"})
_LAST_VALUE_KEYS = frozenset({"service_tier", "system_fingerprint"})
_DROPPED_KEYS = frozenset({"object", "error"})
_FINISHED_IN_ERROR = {"error": {"message": "the server ended the reply with finish_reason 'error'"}}


class ReplyParser:
    """Merge chunks into a reply: `feed` each chunk, then call `build_reply`."""

    def __init__(self) -> None:
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
        return ParsedReply(
            choices=[self.choices[index].build_choice() for index in sorted(self.choices)],
            response_id=_text_or_none(facts.get("id")),
            model=_text_or_none(facts.get("model")),
            created=parse_count(facts.get("created")),
            usage=parse_usage(usage, extra.get("timings")),
            usage_details=usage,
            service_tier=_text_or_none(facts.get("service_tier")),
            system_fingerprint=_text_or_none(facts.get("system_fingerprint")),
            done=self.done,
            extra=extra,
        )

    def _merge(self, chunk: Any) -> list[StreamEvent]:
        if not isinstance(chunk, dict):
            raise BadReply(f"expected a JSON object as chunk of the reply, got {describe_json(chunk)}")
        choices = chunk.get("choices")
        events: list[StreamEvent] = []
        failed = False
        if isinstance(choices, list):
            for position, raw_choice in enumerate(choices):
                if isinstance(raw_choice, dict):
                    choice = self._find_choice(raw_choice, position)
                    events += choice.feed(raw_choice)
                    failed = failed or choice.finish_reason == "error"
        if failed:
            raise build_payload_error(chunk if is_error_payload(chunk) else _FINISHED_IN_ERROR, partial=self.text)
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
            choice = self.choices[number] = ChoiceParser(number)
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


class ChoiceParser:
    """Merge the chunks of one choice. `other_chars` is about how many characters it holds besides its content."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish_reason = ""
        self.content: list[str] | None = None
        self.content_chars = 0
        self.other_chars = 256  # an empty choice has a size too
        self._started = False
        self._half = ""  # first half of a surrogate pair whose second half comes with the next chunk
        self._refusal: list[str] | None = None
        self._reasoning: list[str] | None = None
        self._reasoning_key = ""
        self._reasoning_details: list[dict[str, Any]] | None = None
        self._tool_calls = PartialToolCalls()
        self._function_call: PartialToolCall | None = None
        self._audio: dict[str, list[Any]] = {}
        self._annotations: list[dict[str, Any]] = []
        self._logprobs: dict[str, Any] | None = None
        self._unknown_texts: dict[str, list[str]] = {}
        self._unknown: dict[str, Any] = {}

    def feed(self, raw_choice: dict[str, Any]) -> list[StreamEvent]:
        """Merge the choice of one chunk (with `delta`) or of a whole reply (with `message`)."""
        events: list[StreamEvent] = []
        delta, whole = raw_choice.get("delta"), False
        if not isinstance(delta, dict) and not self._started:  # a message after deltas repeats them
            delta, whole = raw_choice.get("message"), True
        if isinstance(delta, dict):
            self._started = True
            for key, value in delta.items():
                if value is not None:
                    self._merge_delta_key(key, value, events, whole=whole)
        for key, value in raw_choice.items():
            if value is not None and key not in ("index", "delta", "message"):
                self._merge_choice_key(key, value, events)
        return events

    def build_choice(self) -> ReplyChoice:
        """Return the choice as far as it was received."""
        extra = {key: "".join(parts) for key, parts in self._unknown_texts.items()} | self._unknown
        if self._reasoning_details is not None:
            extra["reasoning_details"] = join_reasoning_details(self._reasoning_details)
        if self._function_call is not None:
            extra["function_call"] = self._function_call.build_function()
        fields = {
            "refusal": _join_or_none(self._refusal),
            "reasoning": _join_or_none(self._reasoning),
            "tool_calls": [call.build() for call in self._tool_calls.all],
            "audio": join_audio(self._audio) if self._audio else None,
            "annotations": self._annotations,
            "finish_reason": self.finish_reason or None,
            "logprobs": self._logprobs,
            "extra": extra,
        }
        content = None if self.content is None else "".join(self.content) + ("\ufffd" if self._half else "")
        # Texts are repaired here, after they were joined: a chunk may end inside a surrogate pair.
        return ReplyChoice(index=self.index, content=content, **repair_json(fields))

    def _merge_delta_key(self, key: str, value: Any, events: list[StreamEvent], *, whole: bool) -> None:
        if key == "content":
            self._merge_content(value, events)
        elif key == "refusal" and isinstance(value, str):
            self._refusal = self._append(self._refusal, value)
            if value:
                events.append(RefusalDelta(repair_surrogates(value), self.index))
        elif key == "tool_calls" and isinstance(value, list):
            self.other_chars += count_chars(value)
            deltas = [delta for delta in value if isinstance(delta, dict)]
            events += [self._tool_calls.feed(delta, self.index, whole=whole) for delta in deltas]
        elif key == "function_call" and isinstance(value, dict):
            self.other_chars += count_chars(value)
            self._function_call = self._function_call or PartialToolCall(0)
            self._function_call.merge_function(value)
        elif key == "audio" and isinstance(value, dict):
            self._merge_audio(value, events)
        elif key == "reasoning_details" and isinstance(value, list):
            self.other_chars += count_chars(value)
            self._reasoning_details = self._reasoning_details if self._reasoning_details is not None else []
            self._reasoning_details += [{**chunk, "whole": whole} for chunk in value if isinstance(chunk, dict)]
        elif key == "annotations" and isinstance(value, list):
            self.other_chars += count_chars(value)
            self._annotations += [item for item in value if isinstance(item, dict)]
        elif key != "role":
            self._merge_unknown_key(key, value, events)

    def _merge_content(self, value: Any, events: list[StreamEvent]) -> None:
        if isinstance(value, str):
            self.content = self.content if self.content is not None else []
            text = value if value.isascii() and not self._half else self._join_surrogates(value)
            if text:
                self.content.append(text)
                self.content_chars += len(text)
                events.append(TextDelta(text, self.index))
        elif isinstance(value, list):  # Mistral's reasoning models send parts
            for part in value:
                if isinstance(part, dict) and part.get("type") == "thinking":
                    self._merge_reasoning(_extract_part_text(part.get("thinking")), events)
                else:
                    self._merge_content(_extract_part_text(part), events)
        else:
            self._keep_last("content", value)

    def _join_surrogates(self, text: str) -> str:
        text = self._half + text
        self._half = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._half = text[-1]
            text = text[:-1]
        return repair_surrogates(text)

    def _merge_reasoning(self, text: str, events: list[StreamEvent]) -> None:
        self._reasoning = self._append(self._reasoning, text)
        if text:
            events.append(ReasoningDelta(repair_surrogates(text), self.index))

    def _merge_audio(self, value: dict[str, Any], events: list[StreamEvent]) -> None:
        self.other_chars += count_chars(value)
        for key, item in value.items():
            chunks = self._audio.setdefault(key, [])
            if item is not None and (not chunks or (key in JOINED_AUDIO_KEYS and isinstance(item, str))):
                chunks.append(item)
        data, transcript = value.get("data"), value.get("transcript")
        if data or transcript:
            spoken = repair_surrogates(transcript) if isinstance(transcript, str) else ""
            events.append(AudioDelta(data if isinstance(data, str) else "", spoken, self.index))

    def _merge_unknown_key(self, key: str, value: Any, events: list[StreamEvent]) -> None:
        if not isinstance(value, str):
            self._keep_last(key, value)
            return
        self._unknown_texts[key] = self._append(self._unknown_texts.get(key), value)
        if key in REASONING_KEYS:
            # A server that sends both keys sends the same text twice: only the first key that has text counts.
            self._reasoning_key = self._reasoning_key or (key if value else "")
            self._merge_reasoning(value if key == self._reasoning_key else "", events)

    def _merge_choice_key(self, key: str, value: Any, events: list[StreamEvent]) -> None:
        if key == "finish_reason":
            # Azure's filter answers late, so a finish reason may change after it came.
            if isinstance(value, str) and value and value != self.finish_reason:
                if self._half:  # no second half follows any more
                    self._half = ""
                    self._merge_content("\ufffd", events)
                self.finish_reason = value
                events.append(Finished(repair_surrogates(value), self.index))
        elif key == "logprobs" and isinstance(value, dict):
            self.other_chars += count_chars(value)
            merged = self._logprobs = self._logprobs if self._logprobs is not None else {}
            for name, items in value.items():
                if isinstance(items, list) and isinstance(merged.get(name), list):
                    merged[name] += items
                elif items is not None or name not in merged:
                    merged[name] = list(items) if isinstance(items, list) else items
        elif isinstance(value, dict) and isinstance(self._unknown.get(key), dict):
            self._keep_last(key, {**self._unknown[key], **value})  # Azure sends each filter's result apart
        else:
            self._keep_last(key, value)

    def _keep_last(self, key: str, value: Any) -> None:
        old = self._unknown.get(key)
        if old != value:
            self.other_chars += count_chars(value) - count_chars(old)
            self._unknown[key] = value

    def _append(self, parts: list[str] | None, text: str) -> list[str]:
        self.other_chars += len(text)
        if parts is None:
            return [text]
        parts.append(text)
        return parts


def _extract_part_text(value: Any) -> str:
    """Return the text of a content part, or of a list of them; empty for any other part."""
    if isinstance(value, list):
        return "".join(_extract_part_text(part) for part in value if not isinstance(part, list))
    if isinstance(value, dict):
        value = value.get("text")
    return value if isinstance(value, str) else ""


def _join_or_none(parts: list[str] | None) -> str | None:
    return None if parts is None else "".join(parts)


def _text_or_none(value: Any) -> str | None:
    return value or None if isinstance(value, str) else None
