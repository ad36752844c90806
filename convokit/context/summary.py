"""The summary of what fell out of the window: which one is sent, what room is kept for it, and what one is made of.

Room is kept from the moment that anything stays out, whether a summary is there already or not: so making one does not move
the window's start, and the start goes on depending on the path alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from convokit.context.strategy import Item, Sent, Strategy, View, selected, within
from convokit.domain.message import USER, extract_text
from convokit.errors import ContextOverflow
from convokit.tokens.counter import Counter, count_message

HEADING = "Summary of the earlier part of this conversation:"
MOST_CHARS = 8000
"""How much of one message a summary is made of: a tool may have returned a book."""
_CUT = " […]"
_PARTS = {"image_url": "[image]", "input_audio": "[audio]", "file": "[file]"}


@dataclass(frozen=True, slots=True)
class CountedSummary:
    """A stored summary as a counted message, and the keys of the first and last message it stands for."""

    item: Item
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is sent of a path, chosen from `view`, with the summary beside it; `unfit` is the one that found no room."""

    sent: Sent
    view: View
    summary: CountedSummary | None = None
    unfit: CountedSummary | None = None


def add_heading(text: str) -> str:
    """Return a summary's text as it is stored and sent."""
    return f"{HEADING}\n\n{text}"


def summary_reserve(counter: Counter, max_tokens: int) -> int:
    """Return the tokens that are kept free for a summary of `max_tokens`."""
    return count_message(counter, {"role": USER, "content": add_heading("")}) + max_tokens


def choose(
    strategy: Strategy,
    view: View,
    pinned: Sequence[Item],
    available: int,
    passages: int,
    summaries: Sequence[CountedSummary],
    kept_free: int,
) -> Chosen:
    """Return what is sent. With `kept_free` tokens for a summary, wherever the path does not fit whole without one.

    A summary gives way to the current turn and to pins. Raises: ContextOverflow, from the last turn alone.
    """
    selection = selected(strategy, view, pinned)
    if not kept_free or (view.complete and selection.start == 0):
        return Chosen(within(selection, view, pinned, available, passages), view)
    while True:
        narrower = replace(view, available=view.available - kept_free)
        selection = selected(strategy, narrower, pinned)
        sent = within(selection, view, pinned, available, passages)
        found = pick_summary(summaries, view.items[sent.start].key)
        if found is None or found.item.tokens <= kept_free:
            break
        kept_free = found.item.tokens
    if found is None:
        return Chosen(sent, narrower)
    try:
        beside = within(selection, view, pinned, available - found.item.tokens, passages)
    except ContextOverflow:
        return Chosen(sent, narrower, unfit=found)
    if {item.key for item in sent.also} - {item.key for item in beside.also}:
        return Chosen(sent, narrower, unfit=found)
    return Chosen(beside, narrower, summary=found)


def pick_summary(summaries: Sequence[CountedSummary], start: int) -> CountedSummary | None:
    """Return the summary for a window from key `start` on: the newest of what lies before it, else the one that ends first.

    `summaries` are the path's, the newest first. One made on another branch may reach into this one's window: it stays out, so
    that branches that are used in turns do not change each other's prompts.
    """
    before = next((each for each in summaries if each.last < start), None)
    return before or min(summaries, key=lambda each: each.last, default=None)


def format_transcript(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return messages as the one text that a summary is made of; the earlier summary, if there is one, is the first of them."""
    return "\n\n".join(filter(None, (format_for_transcript(message) for message in messages)))


def format_for_transcript(message: Mapping[str, Any]) -> str:
    """Return what a message said, after its role; empty where it said nothing. A summary speaks for itself."""
    content = message.get("content")
    words = [extract_text(content) or message.get("refusal") or (message.get("audio") or {}).get("transcript") or ""]
    if isinstance(content, list):
        words += [_PARTS[part["type"]] for part in content if part.get("type") in _PARTS]
    words += [f"[calls {_called(call)}]" for call in message.get("tool_calls") or ()]
    text = " ".join(filter(None, words)).strip()
    if len(text) > MOST_CHARS:
        text = text[:MOST_CHARS] + _CUT
    if not text or text.startswith(f"{HEADING}\n"):
        return text
    return f"{message.get('role')}: {text}"


def _called(call: Mapping[str, Any]) -> str:
    body = call.get("custom" if call.get("type") == "custom" else "function") or {}
    return f"{body.get('name')}({body.get('arguments') or body.get('input') or ''})"
