"""One choice of a reply from its pieces.

Said once: role, ids, names. Joined: content, refusal, reasoning, audio, lists. Everything else: the last value that is not
null, and a key nobody knows is kept. A finish reason may change after it came (Azure's filter answers late). Content that
was never sent is None, sent empty is "". A whole reply is one piece.

Joining what cannot simply be appended: base64 whose pieces were encoded one by one, and OpenRouter's reasoning blocks.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

from convokit.domain.events import AudioDelta, Finished, ReasoningDelta, RefusalDelta, StreamEvent, TextDelta
from convokit.domain.reply import ReplyChoice
from convokit.wire.tool_calls import PartialToolCall, PartialToolCalls
from convokit.wire.values import count_chars, repair_json, repair_surrogates

_ENCODED = re.compile(r"[^=]+=*")
_JOINED_KEYS = ("text", "summary", "data")
REASONING_KEYS = ("reasoning_content", "reasoning")


def join_base64(text: str) -> str:
    """Return one valid base64 text for pieces that were laid end to end, some of them padded in the middle."""
    if "=" not in text.rstrip("="):
        return text
    try:
        data = b"".join(base64.b64decode(piece, validate=True) for piece in _ENCODED.findall(text))
    except (binascii.Error, ValueError):
        return text  # not what it should be: kept as it came
    return base64.b64encode(data).decode("ascii")


def join_details(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return OpenRouter's `reasoning_details` from their pieces: those of one block share `index` and `type`.

    Each piece carries `whole`, true for one of a reply that was not streamed and has nothing to be joined with.
    """
    blocks: list[dict[str, Any]] = []
    texts: list[dict[str, list[str]]] = []
    latest: dict[Any, int] = {}
    for piece in pieces:
        index, kind = piece.get("index"), piece.get("type")
        at = None if piece["whole"] or not isinstance(index, int) else latest.get(index)
        if at is None or blocks[at].get("type") != kind:
            at = len(blocks)
            blocks.append({})
            texts.append({})
            if isinstance(index, int):
                latest[index] = at
        for key, value in piece.items():
            if key in _JOINED_KEYS and isinstance(value, str):
                texts[at].setdefault(key, []).append(value)
            elif key != "whole" and (value is not None or key not in blocks[at]):
                blocks[at][key] = value
    return [
        {**block, **{key: "".join(parts) for key, parts in text.items()}}
        for block, text in zip(blocks, texts, strict=True)
    ]


class ChoiceParser:
    """One choice on its way. `chars` counts its content, `size` is about how much it holds besides, so that someone can stop
    it. `half` is the first half of a surrogate pair, waiting for the other."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish_reason = ""
        self.other_chars = 256
        self.content_chars = 0
        self.content: list[str] | None = None
        self._begun = False
        self.half = ""
        self._refusal: list[str] | None = None
        self._reasoning: list[str] | None = None
        self._reasoning_key = ""
        self._calls = PartialToolCalls()
        self._function_call: PartialToolCall | None = None
        self._audio: dict[str, list[Any]] = {}
        self._annotations: list[dict[str, Any]] = []
        self._details: list[dict[str, Any]] | None = None
        self._logprobs: dict[str, Any] | None = None
        self._joined: dict[str, list[str]] = {}
        self._other: dict[str, Any] = {}

    def feed(self, choice: dict[str, Any]) -> list[StreamEvent]:
        """Take one piece (with `delta`) or the whole (with `message`), and say what it brought."""
        events: list[StreamEvent] = []
        delta, whole = choice.get("delta"), False
        if not isinstance(delta, dict) and not self._begun:  # a message after deltas only sums them up
            delta, whole = choice.get("message"), True
        if isinstance(delta, dict):
            self._begun = True
            for key, value in delta.items():
                if value is not None:
                    self._take(key, value, events, whole=whole)
        for key, value in choice.items():
            if value is not None and key not in ("index", "delta", "message"):
                self._take_outer(key, value, events)
        return events

    def build_choice(self, new_id: Callable[[], str]) -> ReplyChoice:
        """Return what the pieces make so far; `new_id` names the tool calls that their server did not."""
        extra = {key: repair_surrogates("".join(parts)) for key, parts in self._joined.items()} | repair_json(
            self._other
        )
        if self._details is not None:
            extra["reasoning_details"] = repair_json(join_details(self._details))
        if self._function_call is not None:
            extra["function_call"] = self._function_call.build_function()
        return ReplyChoice(
            index=self.index,
            content=None if self.content is None else "".join(self.content) + ("\ufffd" if self.half else ""),
            refusal=_text(self._refusal),
            reasoning=_text(self._reasoning),
            tool_calls=[call.build(new_id) for call in self._calls.all],
            audio=self._spoken(),
            annotations=repair_json(self._annotations),
            finish_reason=repair_surrogates(self.finish_reason) or None,
            logprobs=repair_json(self._logprobs),
            extra=extra,
        )

    def _take(self, key: str, value: Any, events: list[StreamEvent], *, whole: bool) -> None:
        if key == "content":
            self._take_content(value, events)
        elif key == "refusal" and isinstance(value, str):
            self._refusal = self._add(self._refusal, value)
            if value:
                events.append(RefusalDelta(repair_surrogates(value), self.index))
        elif key == "tool_calls" and isinstance(value, list):
            self.other_chars += count_chars(value)
            pieces = [piece for piece in value if isinstance(piece, dict)]
            events += [self._calls.feed(piece, self.index, whole=whole) for piece in pieces]
        elif key == "function_call" and isinstance(value, dict):
            self.other_chars += count_chars(value)
            self._function_call = self._function_call or PartialToolCall(0)
            self._function_call.add_function(value)
        elif key == "audio" and isinstance(value, dict):
            self._take_audio(value, events)
        elif key == "reasoning_details" and isinstance(value, list):
            self.other_chars += count_chars(value)
            self._details = self._details if self._details is not None else []
            self._details += [{**piece, "whole": whole} for piece in value if isinstance(piece, dict)]
        elif key != "role":
            self._take_unknown(key, value, events)

    def _take_content(self, value: Any, events: list[StreamEvent]) -> None:
        if isinstance(value, str):
            self.content = self.content if self.content is not None else []
            text = value if value.isascii() and not self.half else self._whole_characters(value)
            if text:
                self.content.append(text)
                self.content_chars += len(text)
                events.append(TextDelta(text, self.index))
        elif isinstance(value, list):  # Mistral's reasoning models send parts
            for part in value:
                if isinstance(part, dict) and part.get("type") == "thinking":
                    self._take_reasoning(_part_text(part.get("thinking")), events)
                else:
                    self._take_content(_part_text(part), events)
        else:
            self._keep("content", value)

    def _whole_characters(self, text: str) -> str:
        """Keep back the first half of a surrogate pair until the other half comes with the next piece."""
        text = self.half + text
        self.half = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            self.half = text[-1]
            text = text[:-1]
        return repair_surrogates(text)

    def _take_reasoning(self, text: str, events: list[StreamEvent]) -> None:
        self._reasoning = self._add(self._reasoning, text)
        if text:
            events.append(ReasoningDelta(repair_surrogates(text), self.index))

    def _take_audio(self, value: dict[str, Any], events: list[StreamEvent]) -> None:
        self.other_chars += count_chars(value)
        for key, item in value.items():
            parts = self._audio.setdefault(key, [])
            if item is not None and (not parts or (key in ("data", "transcript") and isinstance(item, str))):
                parts.append(item)
        data, transcript = value.get("data"), value.get("transcript")
        if data or transcript:
            spoken = repair_surrogates(transcript) if isinstance(transcript, str) else ""
            events.append(AudioDelta(data if isinstance(data, str) else "", spoken, self.index))

    def _spoken(self) -> dict[str, Any] | None:
        audio = {key: repair_json(parts[0]) if parts else None for key, parts in self._audio.items()}
        for key in ("data", "transcript"):
            if isinstance(audio.get(key), str):
                text = "".join(part for part in self._audio[key] if isinstance(part, str))
                audio[key] = join_base64(text) if key == "data" else repair_surrogates(text)
        return audio or None

    def _take_unknown(self, key: str, value: Any, events: list[StreamEvent]) -> None:
        if isinstance(value, str):
            self._joined[key] = self._add(self._joined.get(key), value)
            if key in REASONING_KEYS:  # a server that sends both says the same twice
                self._reasoning_key = self._reasoning_key or (key if value else "")
                self._take_reasoning(value if key == self._reasoning_key else "", events)
        elif key == "annotations" and isinstance(value, list):
            self.other_chars += count_chars(value)
            self._annotations += [item for item in value if isinstance(item, dict)]
        else:
            self._keep(key, value)

    def _take_outer(self, key: str, value: Any, events: list[StreamEvent]) -> None:
        if key == "finish_reason":
            if isinstance(value, str) and value and value != self.finish_reason:
                if self.half:  # the other half will not come any more
                    self.half = ""
                    self._take_content("\ufffd", events)
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
        elif isinstance(value, dict) and isinstance(self._other.get(key), dict):
            self._keep(key, {**self._other[key], **value})
        else:
            self._keep(key, value)

    def _keep(self, key: str, value: Any) -> None:
        old = self._other.get(key)
        if old != value:
            self.other_chars += count_chars(value) - count_chars(old)
            self._other[key] = value

    def _add(self, parts: list[str] | None, text: str) -> list[str]:
        self.other_chars += len(text)
        if parts is None:
            return [text]
        parts.append(text)
        return parts


def _text(parts: list[str] | None) -> str | None:
    return None if parts is None else repair_surrogates("".join(parts))


def _part_text(value: Any) -> str:
    """Return the text of a content part, or of a list of them; empty for any other part."""
    if isinstance(value, list):
        return "".join(_part_text(part) for part in value if not isinstance(part, list))
    if isinstance(value, dict):
        value = value.get("text")
    return value if isinstance(value, str) else ""
