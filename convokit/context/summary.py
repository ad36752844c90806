"""Choose a summary for a context, and format the next transcript."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convokit.context.strategy import Item
from convokit.domain.message import USER, extract_text
from convokit.tokens.counter import Counter, count_message

HEADING = "Summary of the earlier part of this conversation:"
MAX_MESSAGE_CHARS = 8000
"""How much of one message goes into a transcript: a tool may have returned a book."""
_CUT = " […]"
_SENTENCE_END = re.compile(r"[.!?…][\"')\]]*(?=\s)|[。！？…．][」』）]*|\n")
_PLACEHOLDERS = {"image_url": "[image]", "input_audio": "[audio]", "file": "[file]"}


@dataclass(frozen=True, slots=True)
class CountedSummary:
    """A stored summary as a counted message, and the keys of the first and the last message that it summarizes."""

    item: Item
    first: int
    last: int


def add_heading(text: str) -> str:
    """Return a summary's text as it is stored and sent."""
    return f"{HEADING}\n\n{text}"


def remove_heading(text: str) -> str:
    """Return a stored summary's text without its heading."""
    return text.removeprefix(add_heading(""))


def summary_reserve(counter: Counter, max_tokens: int) -> int:
    """Return the tokens that are kept free for a summary of `max_tokens`."""
    return count_message(counter, {"role": USER, "content": add_heading("")}) + max_tokens


def cut_at_sentence(text: str, fits: Callable[[str], bool]) -> str:
    """Return the longest beginning of a text that fits and ends with a sentence, or else within one.

    >>> from convokit.context.summary import cut_at_sentence
    >>> cut_at_sentence("東京です。晴れです。", lambda text: len(text) <= 7)
    '東京です。'
    """
    if fits(text):
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    count = bisect_left(ends, True, key=lambda end: not fits(text[:end].rstrip()))
    if count:
        return text[: ends[count - 1]].rstrip()
    length = bisect_left(range(1, len(text)), True, key=lambda end: not fits(text[:end] + _CUT))
    return text[:length] + _CUT if length else ""


def pick_summary(summaries: Sequence[CountedSummary], start: int) -> CountedSummary | None:
    """Return the summary for a window from key `start` on: the newest of the messages before it, else the one that ends first.

    `summaries` are the path's, the newest first. A summary made on another branch may reach into this window. It stays out, so
    that branches used in turns do not change each other's prompts.
    """
    before = next((each for each in summaries if each.last < start), None)
    return before or min(summaries, key=lambda each: each.last, default=None)


def format_transcript(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return messages as the one text that a summary is made from; an earlier summary is the first of them."""
    return "\n\n".join(filter(None, (format_for_transcript(message) for message in messages)))


def format_for_transcript(message: Mapping[str, Any]) -> str:
    """Return one message as text after its role; empty if it has no text. A summary stands without its role."""
    content = message.get("content")
    texts = [extract_text(content) or message.get("refusal") or (message.get("audio") or {}).get("transcript") or ""]
    if isinstance(content, list):
        texts += [_PLACEHOLDERS[part["type"]] for part in content if part.get("type") in _PLACEHOLDERS]
    texts += [f"[calls {_format_call(call)}]" for call in message.get("tool_calls") or ()]
    text = " ".join(filter(None, texts)).strip()
    if len(text) > MAX_MESSAGE_CHARS:
        text = text[:MAX_MESSAGE_CHARS] + _CUT
    if not text or text.startswith(f"{HEADING}\n"):
        return text
    return f"{message.get('role')}: {text}"


def _format_call(call: Mapping[str, Any]) -> str:
    body = call.get("custom" if call.get("type") == "custom" else "function") or {}
    return f"{body.get('name')}({body.get('arguments') or body.get('input') or ''})"
