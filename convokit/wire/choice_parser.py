"""Parse the chunks of one choice of a reply."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from convokit.domain.events import AudioDelta, Finished, ReasoningDelta, RefusalDelta, StreamEvent, TextDelta
from convokit.domain.finish_reason import choose_finish_reason, classify_finish_reason, is_finish_reason
from convokit.domain.reply import ReplyChoice
from convokit.wire.error_body import describe_finish_failure, find_choice_error
from convokit.wire.growing_message import GrowingMessage
from convokit.wire.json_text import count_chars, repair_json, repair_surrogates
from convokit.wire.reassembly import JOINED_AUDIO_KEYS, join_audio, join_objects, join_reasoning_details
from convokit.wire.tool_call_parser import PartialToolCall, PartialToolCalls

REASONING_KEYS = ("reasoning_content", "reasoning")
_EMPTY_CHARS = 256  # an empty choice has a size too


class ChoiceParser:
    """Merge the chunks of one choice. `other_chars` is about how many characters it holds besides its content."""

    def __init__(self, index: int, taken_ids: Collection[str] = ()) -> None:
        self.index = index
        self.finish_reason = ""
        self.failure: dict[str, Any] | None = None
        """The error that the server reported inside of the choice, as the payload of an error."""
        self.content: list[str] | None = None
        self.content_chars = 0
        self.other_chars = _EMPTY_CHARS
        self._message: dict[str, Any] | None = None
        self._messages: GrowingMessage | None = None
        self._half = ""  # first half of a surrogate pair whose second half comes with the next chunk
        self._refusal: list[str] | None = None
        self._reasoning: list[str] | None = None
        self._reasoning_key = ""
        self._reasoning_details: list[dict[str, Any]] | None = None
        self._tool_calls = PartialToolCalls(taken_ids)
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
        if not delta and "message" in raw_choice:
            delta, whole = self._read_message(raw_choice["message"]), True
        if isinstance(delta, dict):
            for key, value in delta.items():
                if value is not None:
                    self._merge_delta_key(key, value, events, whole=whole)
        for key, value in raw_choice.items():
            if value is not None and key not in ("index", "delta", "message"):
                self._merge_choice_key(key, value, events)
        return events

    def _read_message(self, message: Any) -> dict[str, Any] | None:
        """Return a message as a delta; None for a message that follows deltas, because it repeats them."""
        if not isinstance(message, dict):
            return None
        if self._message is None:
            if self.content_chars or self.other_chars > _EMPTY_CHARS:
                return None
            self._message = message
            return message
        self._messages = self._messages or GrowingMessage(self._message)
        return self._messages.read_added(message)

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
            "finish_reason": choose_finish_reason(
                self.finish_reason or None, self._unknown.get("native_finish_reason")
            ),
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
        elif key == "tool_calls" and isinstance(value, (list, dict)):
            self.other_chars += count_chars(value)
            for position, call in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(call, dict):
                    events.append(self._tool_calls.feed(call, self.index, position=position if whole else None))
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
        elif key == "error" and (error := find_choice_error(value)) is not None:
            self.failure = error
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
            self._join_unknown(key, value)
            return
        self._unknown_texts[key] = self._append(self._unknown_texts.get(key), value)
        if key in REASONING_KEYS:
            # A server that sends both keys sends the same text twice: only the first key that has text counts.
            self._reasoning_key = self._reasoning_key or (key if value else "")
            self._merge_reasoning(value if key == self._reasoning_key else "", events)

    def _merge_choice_key(self, key: str, value: Any, events: list[StreamEvent]) -> None:
        if key == "finish_reason":
            # Azure's filter answers late, so a finish reason may change after it came.
            if is_finish_reason(value) and value != self.finish_reason:
                if self._half:  # no second half follows any more
                    self._half = ""
                    self._merge_content("\ufffd", events)
                self.finish_reason = value
                self._check_finish_reason(value)
                events.append(Finished(repair_surrogates(value), self.index))
        elif key == "logprobs" and isinstance(value, dict):
            self.other_chars += count_chars(value)
            merged = self._logprobs = self._logprobs if self._logprobs is not None else {}
            for name, items in value.items():
                if isinstance(items, list) and isinstance(merged.get(name), list):
                    merged[name] += items
                elif items is not None or name not in merged:
                    merged[name] = list(items) if isinstance(items, list) else items
        elif key == "error" and (error := find_choice_error(value)) is not None:
            self.failure = error
        else:
            if key == "native_finish_reason" and isinstance(value, str):
                self._check_finish_reason(value)
            self._join_unknown(key, value)

    def _check_finish_reason(self, reason: str) -> None:
        if classify_finish_reason(reason) == "failed" and self.failure is None:
            self.failure = describe_finish_failure(reason)

    def _join_unknown(self, key: str, value: Any) -> None:
        """Merge a value that is no text: lists and objects are joined, and of other values the last one counts."""
        old = self._unknown.get(key)
        if isinstance(value, list) and isinstance(old, list) and value[: len(old)] != old:
            self.other_chars += count_chars(value)
            old += value
        elif isinstance(value, dict) and isinstance(old, dict):
            self._keep_last(key, join_objects(old, value))
        else:
            self._keep_last(key, list(value) if isinstance(value, list) else value)

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
