"""Read the part of a conversation that a turn needs.

One transaction reads all of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from convokit.completion.effects import Flow, read_flow
from convokit.completion.items import count_question
from convokit.completion.options import Options
from convokit.completion.resolved_options import ResolvedOptions
from convokit.completion.state import ChatRef, KitState, find_option, identify_flow, resolve_options
from convokit.context.report import PreviousRequest
from convokit.context.scale import compute_scale
from convokit.context.strategy import StepWindow
from convokit.domain.content import Content
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import ASSISTANT, USER, MessageRow
from convokit.settings import Summary
from convokit.store.snapshot import Snapshot, read_snapshot
from convokit.tokens.counter import count_message

_SPARE_ROWS = 8
"""Rows that a page has beyond the estimate, so that a small error does not take another statement."""
_MAX_GROWTH = 8
"""A page has at most this many times the rows that were read: if earlier messages are longer, fewer of them are needed."""


def read_snapshot_flow(
    kit: KitState, chat: ChatRef, call_options: Options, content: Content, at: int | None = None
) -> Flow[Snapshot]:
    """Read the conversation, and the end of its path (or of the path to `at`) as far as the window needs it."""
    conversation_id = yield from identify_flow(kit, chat)
    with_summaries = isinstance(find_option(kit, chat, call_options, "summary"), Summary)
    rows_needed = _RowsNeeded(kit, chat, call_options, content)
    return (
        yield from read_flow(
            read_snapshot, kit.tenant, conversation_id, chat.branch, rows_needed, at, with_summaries=with_summaries
        )
    )


class _RowsNeeded:
    """Tells the store how many more rows the window may need.

    The rows needed are those back to the start of the last window, or until the budget is full. They depend on the
    settings that the conversation stores, which are read in the same transaction.
    """

    def __init__(self, kit: KitState, chat: ChatRef, call_options: Options, content: Content) -> None:
        self._arguments = kit, chat, call_options
        self._content = content
        self._options: ResolvedOptions | None = None
        self._room = self._question_tokens = 0

    def __call__(self, conversation: ConversationRow, rows: list[MessageRow]) -> int:
        """Return how many more rows to read; `rows` are those that were read, newest first."""
        if self._options is None:
            self._options = resolve_options(*self._arguments, conversation)
            self._room = self._options.builder.available(0, self._options.reply_tokens)
            self._question_tokens = count_question(self._options, self._content)
        options, oldest = self._options, rows[-1]
        if options.exact_start is not None:
            return max(oldest.seq - options.exact_start, 0)
        if _ends_among_passages(rows):
            return len(rows)
        strategy = options.builder.strategy
        start = held_start(options, rows) if isinstance(strategy, StepWindow) else None
        if start is not None:
            return max(oldest.seq - start, 0)
        questions = sum(row.role == USER and not row.is_passage for row in rows)
        if strategy.most_turns is not None and questions >= strategy.most_turns:
            return 0
        scale = compute_scale(rows[::-1], options.window_rule, options.counter)
        in_rows = _count_rows(options, rows)
        free = self._room - (options.fixed.tokens + self._question_tokens + in_rows) * scale.sent
        return 0 if free < 0 else _estimate_rows(len(rows), in_rows * scale.sent, free)


def _estimate_rows(count: int, tokens: float, free: float) -> int:
    """Return the number of rows that fill the `free` tokens, if they are as long as the `count` rows with `tokens` tokens."""
    return min(int(1.1 * free * count / max(tokens, 1)) + _SPARE_ROWS, count * _MAX_GROWTH)


def _ends_among_passages(rows: list[MessageRow]) -> bool:
    """Return whether `rows`, newest first, may end among the passages of the newest turn, which lie before its question.

    The turn may be resumed with all of its passages, so they must be read.
    """
    oldest = rows[-1]
    askers = [row.turn_id for row in rows if row.role == USER and not row.is_passage]
    turn_id = askers[0] if askers else None
    return turn_id is not None and oldest.turn_id == turn_id and oldest.role == USER and askers.count(turn_id) == 1


def _count_rows(options: ResolvedOptions, rows: list[MessageRow]) -> int:
    """Return the tokens of the rows. Passages count nothing once their turn is over.

    Messages that cannot be sent do count: otherwise a long stretch of them would be read in every turn.
    """
    counter = options.counter
    return sum(
        row.tokens if row.counter == counter.name else count_message(counter, row.as_wire())
        for row in rows
        if not row.is_passage
    )


def find_last_reply(newest_first: Iterable[MessageRow]) -> MessageRow | None:
    """Return the newest message that a call brought: its row knows where the window of its request started."""
    return next((row for row in newest_first if row.role == ASSISTANT and row.window_from_seq is not None), None)


def held_start(options: ResolvedOptions, newest_first: Iterable[MessageRow]) -> int | None:
    """Return the start of the last window that was chosen, if model, counter, step and strategy are still the same.

    The question's row has it too. So a turn that brought no reply does not make the next one choose again.
    """
    row = next((row for row in newest_first if row.window_from_seq is not None), None)
    return row.window_from_seq if row is not None and row.window_rule == options.window_rule else None


def previous_request(options: ResolvedOptions, newest_first: Iterable[MessageRow]) -> PreviousRequest | None:
    """Return what the path's last request sent: from the start of its window to the message that its reply follows."""
    reply = find_last_reply(newest_first)
    if reply is None or reply.window_rule != options.window_rule:
        return None
    if reply.window_from_seq is None or reply.parent_seq is None:
        return None
    return PreviousRequest(reply.window_from_seq, reply.parent_seq)
