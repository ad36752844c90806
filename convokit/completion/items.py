"""What is stored of a path, and the question behind it, as counted messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convokit.completion.options import ResolvedOptions
from convokit.context.arrange import as_sent
from convokit.context.strategy import Item
from convokit.context.summary import CountedSummary
from convokit.context.validity import mark_partial
from convokit.domain.content import Content
from convokit.domain.message import PASSAGE, USER, MessageRow
from convokit.store import snapshot
from convokit.tokens.counter import count_message


def pinned(plan: ResolvedOptions, seen: snapshot.Snapshot, items: Sequence[Item]) -> list[Item]:
    """Return the pinned messages of the path, from before what was read and in it."""
    if seen.conversation is None or not seen.conversation.pins:
        return []
    pins = set(seen.conversation.pinned_seqs)
    return [*(item(plan, row) for row in seen.pinned), *(each for each in items if each.key in pins)]


def summaries(plan: ResolvedOptions, seen: snapshot.Snapshot) -> list[CountedSummary]:
    """Return the path's summaries, as counted messages, the newest first."""
    if plan.summary is None:
        return []
    return [CountedSummary(item(plan, each.message), each.row.from_seq, each.row.to_seq) for each in seen.summaries]


def history(plan: ResolvedOptions, seen: snapshot.Snapshot) -> list[Item]:
    """Return the path that was read, as counted messages: what a new question follows, so that no passage counts any more."""
    return [item(plan, row) for row in seen.path.rows if not row.is_passage]


def current(plan: ResolvedOptions, seen: snapshot.Snapshot) -> list[Item]:
    """Return the path that was read, as counted messages, its last question with the passages that came with it."""
    newest = next((row for row in reversed(seen.path.rows) if row.role == USER and not row.is_passage), None)
    turn_id = None if newest is None else newest.turn_id
    return [item(plan, row) for row in seen.path.rows if not row.is_passage or row.turn_id == turn_id]


def asked(plan: ResolvedOptions, seen: snapshot.Snapshot, content: Content) -> list[Item]:
    """Return the question as the counted message it will be, its passages before it."""
    seq = seen.conversation.last_seq + 1 if seen.conversation is not None else 1
    before = seen.path.rows[-1].path_tokens if seen.path.rows else 0
    shapes = [*({"role": USER, "content": text} for text in content.passages), question_shape(content)]
    tokens = [*(count_message(plan.counter, shape) for shape in shapes[:-1]), question_tokens(plan, content)]
    items = [Item(seq + number, shape, tokens[number], before, PASSAGE) for number, shape in enumerate(shapes)]
    items[-1].status = "complete"
    return items


def question_shape(content: Content) -> dict[str, Any]:
    return {"role": USER, "content": content.parts if content.parts is not None else content.text}


def question_tokens(plan: ResolvedOptions, content: Content) -> int:
    """Return what the question costs. It is counted once for each counter: what is read depends on it, and what is sent."""
    found = content.tokens.get(plan.counter.name)
    if found is None:
        found = content.tokens[plan.counter.name] = count_message(plan.counter, question_shape(content))
    return found


def item(plan: ResolvedOptions, row: MessageRow) -> Item:
    shape, own = row.as_wire(), row.counter == plan.counter.name
    if row.status == "partial" and plan.builder.partial == "mark":
        shape, own = mark_partial(shape), False
    sent = as_sent(shape, plan.profile)
    tokens = row.tokens if own and sent is shape else count_message(plan.counter, sent)
    before = row.path_tokens - (row.tokens if not row.is_passage else 0)
    return Item(row.seq, shape, tokens, before, row.status)
