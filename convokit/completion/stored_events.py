"""Store the events of a running reply, and read them again.

A chunk of a reply has its text as plain text. Where a call brings more than text, the chunk also has the order of all of it: a
JSON array of `["text", <characters>]`, `["reasoning", <text>]`, `["refusal", <text>]` and
`["tool_call", <position>, <id>, <name>, <arguments>]`. Events of one kind that follow each other are joined. Only the first
choice is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from convokit.domain.events import ReasoningDelta, RefusalDelta, StreamEvent, TextDelta, ToolCallDelta
from convokit.domain.message import MessageRow
from convokit.domain.text import dump_json, repair_text
from convokit.store.chunks import ChunkRow
from convokit.wire.choice_parser import REASONING_KEYS

ReplyEvent = TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta
"""The events that are stored."""


def make_chunk(number: int, text: str, events: Iterable[StreamEvent]) -> ChunkRow | None:
    """Return the chunk that stores `text` and the other events; None if there is nothing to store."""
    order = _encode_events(events)
    return ChunkRow(number, repair_text(text), order) if text or order else None


def _encode_events(events: Iterable[StreamEvent]) -> str | None:
    """Return the order of events as JSON; None where there is text alone."""
    items: list[list[Any]] = []
    for event in events:
        if isinstance(event, ReplyEvent) and not event.index:
            item = _encode_event(event)
            if items and items[-1][:-1] == item[:-1]:
                items[-1][-1] += item[-1]
            else:
                items.append(item)
    return dump_json(items) if any(item[0] != "text" for item in items) else None


def _encode_event(event: ReplyEvent) -> list[Any]:
    if isinstance(event, TextDelta):
        return ["text", len(event.text)]
    if isinstance(event, ReasoningDelta):
        return ["reasoning", repair_text(event.reasoning)]
    if isinstance(event, RefusalDelta):
        return ["refusal", repair_text(event.refusal)]
    return ["tool_call", event.position, repair_text(event.id), repair_text(event.name), repair_text(event.arguments)]


def list_chunk_events(chunk: ChunkRow) -> Iterator[ReplyEvent]:
    """Yield the events of a stored chunk."""
    items: list[list[Any]] = [["text", len(chunk.text)]] if chunk.events is None else json.loads(chunk.events)
    start = 0
    for kind, *values in items:
        if kind == "text":
            yield TextDelta(chunk.text[start : start + values[0]])
            start += values[0]
        elif kind == "reasoning":
            yield ReasoningDelta(values[0])
        elif kind == "refusal":
            yield RefusalDelta(values[0])
        elif kind == "tool_call":
            yield ToolCallDelta(*values)


def list_reply_events(row: MessageRow) -> Iterator[ReplyEvent]:
    """Yield the events of a stored reply, in the order in which a model usually sends them."""
    keys = {} if row.extra is None else json.loads(row.extra).get("keys", {})
    reasoning = next((keys[key] for key in REASONING_KEYS if isinstance(keys.get(key), str) and keys[key]), "")
    if reasoning:
        yield ReasoningDelta(reasoning)
    if row.content:
        yield TextDelta(row.content)
    if row.refusal:
        yield RefusalDelta(row.refusal)
    calls: Sequence[dict[str, Any]] = json.loads(row.tool_calls or "[]")
    for position, call in enumerate(calls):
        body = call.get("function") or call.get("custom") or {}
        arguments = body.get("arguments") if "arguments" in body else body.get("input")
        yield ToolCallDelta(position, call.get("id") or "", body.get("name") or "", arguments or "")
