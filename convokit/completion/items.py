"""Count the messages of a path as items of a context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convokit.completion.resolved_options import ResolvedOptions
from convokit.context.arrange import as_sent
from convokit.context.strategy import Item
from convokit.context.summary import CountedSummary
from convokit.context.validity import mark_partial
from convokit.domain.content import Content
from convokit.domain.message import INSTRUCTION_ROLES, PASSAGE, TOOL, USER, MessageRow
from convokit.store.snapshot import Snapshot
from convokit.tokens.counter import count_message


def history_items(options: ResolvedOptions, snapshot: Snapshot) -> list[Item]:
    """Return the path for a new question: without passages, which belonged to earlier questions."""
    rows = [row for row in snapshot.path.rows if not row.is_passage]
    return [to_item(options, row) for row in rows]


def turn_items(options: ResolvedOptions, snapshot: Snapshot) -> list[Item]:
    """Return the path for its last question, with the passages that came with it."""
    rows = snapshot.path.rows
    question = next((row for row in reversed(rows) if row.role == USER and not row.is_passage), None)
    turn_id = None if question is None else question.turn_id
    rows = [row for row in rows if not row.is_passage or row.turn_id == turn_id]
    return [to_item(options, row) for row in rows]


def start_items(options: ResolvedOptions, snapshot: Snapshot, content: Content) -> list[Item]:
    """Return the path that a new turn starts from, and what the turn adds to it.

    Passages belong to one question: those of the last one are sent again with tool results, but not with a new question.
    """
    before = history_items(options, snapshot) if content.has_question else turn_items(options, snapshot)
    return [*before, *_new_items(options, snapshot, content)]


def _new_items(options: ResolvedOptions, snapshot: Snapshot, content: Content) -> list[Item]:
    """Return tool results, passages and the question of a new turn, under the seqs that they are expected to get."""
    last_seq = 0 if snapshot.conversation is None else snapshot.conversation.last_seq
    first = last_seq + len(snapshot.added) + 1
    before = snapshot.path.rows[-1].path_tokens if snapshot.path.rows else 0
    items: list[Item] = []
    for result in content.results:
        body = result.text if result.parts is None else result.parts
        shape: dict[str, Any] = {"role": TOOL, "tool_call_id": result.call_id, "content": body}
        items.append(Item(first + len(items), shape, count_message(options.counter, shape), before))
        before += items[-1].tokens
    for text in content.passages:
        shape = {"role": USER, "content": text}
        items.append(Item(first + len(items), shape, count_message(options.counter, shape), before, PASSAGE))
    if content.has_question:
        items.append(Item(first + len(items), _question_shape(content), count_question(options, content), before))
    return items


def pinned_items(options: ResolvedOptions, snapshot: Snapshot, items: Sequence[Item]) -> list[Item]:
    """Return the pinned messages of the path: from before the rows that were read, and among `items`."""
    if snapshot.conversation is None or not snapshot.conversation.pins:
        return []
    pins = set(snapshot.conversation.pinned_seqs)
    return [*(to_item(options, row) for row in snapshot.pinned), *(item for item in items if item.key in pins)]


def count_summaries(options: ResolvedOptions, snapshot: Snapshot) -> list[CountedSummary]:
    """Return the summaries of the path, the newest first."""
    if options.summary is None:
        return []
    return [
        CountedSummary(to_item(options, each.message), each.row.from_seq, each.row.to_seq)
        for each in snapshot.summaries
    ]


def to_item(options: ResolvedOptions, row: MessageRow) -> Item:
    """Return a stored message as an item. The stored count is used if this counter made it."""
    shape, is_counted = row.as_wire(), row.counter == options.counter.name
    if row.status == "partial" and options.builder.partial == "mark":
        shape, is_counted = mark_partial(shape), False
    sent = as_sent(shape, options.profile) if row.role in INSTRUCTION_ROLES else shape
    tokens = row.tokens if is_counted and sent is shape else count_message(options.counter, sent)
    before = row.path_tokens - (row.tokens if row.status != PASSAGE else 0)  # a redacted passage has 0 tokens
    return Item(row.seq, shape, tokens, before, row.status_in_context)


def count_question(options: ResolvedOptions, content: Content) -> int:
    """Return the tokens of a question. They are counted once for each counter: reading and building both need them."""
    if not content.has_question:
        return 0
    tokens = content.tokens.get(options.counter.name)
    if tokens is None:
        tokens = count_message(options.counter, _question_shape(content))
        content.tokens[options.counter.name] = tokens
    return tokens


def _question_shape(content: Content) -> dict[str, Any]:
    return {"role": USER, "content": content.parts if content.parts is not None else content.text}
