"""Decide whether a summary is due, and find uncovered messages."""

from __future__ import annotations

from collections.abc import Sequence

from convokit.completion.items import count_summaries
from convokit.completion.read_path import find_last_reply
from convokit.completion.resolved_options import ResolvedOptions
from convokit.context.report import Context, Part
from convokit.context.summary import CountedSummary, pick_summary
from convokit.domain.message import ASSISTANT, USER, MessageRow
from convokit.store.snapshot import Snapshot


def is_due(options: ResolvedOptions, snapshot: Snapshot, context: Context) -> bool:
    """Return whether the window's start moved since the last turn, past messages that no summary of the path covers."""
    start, rows = context.report.start, snapshot.path.rows
    if options.summary is None or start is None or not rows:
        return False
    reply = find_last_reply(reversed(rows))
    if reply is not None:
        of_turn = (
            row for row in rows if row.turn_id == reply.turn_id and row.role == ASSISTANT and row.window_from_seq
        )
        first = next(of_turn, None)
        if first is not None and first.window_from_seq is not None and first.window_from_seq >= start:
            return False
    last, summary = find_last_before(rows, start), pick_stored(options, snapshot, start)
    return last is not None and (summary is None or summary.last < last)


def find_last_before(rows: Sequence[MessageRow], start: int) -> int | None:
    """Return the seq of the last message before the window."""
    inside = next((row for row in rows if row.seq >= start), None)
    if inside is None:
        return rows[-1].seq if rows else None
    return inside.parent_seq


def pick_stored(options: ResolvedOptions, snapshot: Snapshot, start: int) -> CountedSummary | None:
    """Return the summary of the path for a window from `start` on."""
    return pick_summary(count_summaries(options, snapshot), start)


def find_gaps(options: ResolvedOptions, snapshot: Snapshot, context: Context) -> list[tuple[int, int]]:
    """Return the ranges of seqs whose messages are in neither the window nor the summary.

    A conversation without a rolling summary is expected to forget. It has no gap.
    """
    start, rows = context.report.start, snapshot.path.rows
    last = None if options.summary is None or start is None else find_last_before(rows, start)
    if last is None:
        return []
    sent = {part.key for part in context.report.parts if part.kind == "summary" and part.included}
    covered = next((each.row for each in snapshot.summaries if each.message.seq in sent), None)
    if covered is None:
        return [(1, last)]
    # A summary takes as much as one call holds, the newest first.
    has_older = covered.from_seq not in (1, rows[0].run_start_seq)
    older = [(1, covered.from_seq - 1)] if has_older else []
    return [*older, (covered.to_seq + 1, last)] if covered.to_seq < last else older


def announce_summary(options: ResolvedOptions, snapshot: Snapshot, context: Context) -> Context:
    """Return the context with a line in its report about the summary that a turn would make first, or about a gap."""
    if not is_due(options, snapshot, context):
        return add_gaps(options, snapshot, context)
    rule = "would be made first: the window's start moves"
    return context.with_part(Part("summary", USER, None, options.summary_reserve, included=False, rule=rule))


def add_gaps(options: ResolvedOptions, snapshot: Snapshot, context: Context) -> Context:
    """Return the context with a line in its report for each range of messages that the model does not know."""
    for first, last in find_gaps(options, snapshot, context):
        rule = f"messages {first} to {last} are in neither the window nor a summary"
        context = context.with_part(Part("summary", USER, None, 0, included=False, rule=rule))
    return context
