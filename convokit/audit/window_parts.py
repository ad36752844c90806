"""Find what a past call sent, and why the rest stayed out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import takewhile
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit.call_selection import CallSelector, find_selected_call, select_call
from convokit.completion.effects import Flow, read_flow
from convokit.completion.options import Options
from convokit.completion.saved_reply import TurnLike
from convokit.completion.state import ChatRef, KitState, identify_flow, not_found, resolve_options
from convokit.context.report import make_excerpt
from convokit.domain.conversation import ConversationRow, SummaryRow
from convokit.domain.message import ASSISTANT, SUMMARY, MessageRow, extract_row_text
from convokit.domain.paging import validate_limit
from convokit.domain.past_window import LeftOutReason, PastPart, PastWindow, SentReason
from convokit.domain.stored_request import Manifest
from convokit.domain.turn import CallRow, TurnRow
from convokit.errors import NotFound, SettingsError
from convokit.store import blobs, conversations, messages, summaries
from convokit.tokens.counter import Counter, choose_counter, count_message, count_tools

_BEFORE = 50
"""Messages before the first that was sent."""
_BETWEEN = 16
"""Messages that are expected to stay out between those that were sent. More than that take one more statement."""
_LIMITS = ("max_output_tokens", "max_completion_tokens", "max_tokens")


@dataclass(slots=True)
class _WindowRows:
    """What a window is made of."""

    conversation: ConversationRow
    turn: TurnRow
    call: CallRow
    manifest: Manifest
    sent: list[int]
    """The seqs of the messages that were sent, in the order of the request."""
    limit: int
    """The number of messages of the path that are read."""
    path: list[MessageRow] = field(default_factory=list)
    others: list[MessageRow] = field(default_factory=list)
    """Messages that were sent from before the window: pins, and a summary."""
    unread_tokens: int = 0
    """Tokens of the messages of the window that are not read."""
    has_earlier: bool = False
    summary: SummaryRow | None = None
    reply: MessageRow | None = None
    """The message that the call brought."""
    prompts: dict[bytes, str] = field(default_factory=dict)

    @property
    def start(self) -> int | None:
        """The seq at which the window starts."""
        return self.manifest.start if self.manifest.start is not None else next(iter(self.sent), None)


def read_window_flow(
    kit: KitState, chat: ChatRef, turn: TurnLike | None, call: int | None, limit: int
) -> Flow[PastWindow]:
    """Return what the model saw in a call; without `turn`, of the branch's newest turn. Raises: InvalidInput, NotFound."""
    selector = select_call(turn, call)
    validate_limit(limit)
    conversation_id = yield from identify_flow(kit, chat)
    rows = yield from read_flow(_read_rows, kit.tenant, conversation_id, chat.branch, selector, limit)
    if rows is None:
        raise not_found(chat)
    counter = choose_counter(rows.manifest.profile)
    return _build(rows, counter, _find_context_tokens(kit, chat, rows))


def _read_rows(
    connection: Connection, tenant: str, conversation_id: UUID, branch: int, selector: CallSelector, limit: int
) -> _WindowRows | None:
    conversation = conversations.find(connection, tenant, conversation_id)
    if conversation is None:
        return None
    turn, call = find_selected_call(connection, conversation, branch, selector)
    try:
        manifest = Manifest.from_json(call.manifest)
        sent = manifest.list_seqs(conversation.last_seq)
    except ValueError as error:
        raise NotFound("window", f"of call {call.number}", f"its manifest cannot be read: {error}") from None
    rows = _WindowRows(conversation, turn, call, manifest, sent, limit)
    digests = [digest for digest in (manifest.prompt, manifest.tools) if digest is not None]
    if digests:
        rows.prompts = blobs.find_prompts(connection, tenant, digests)
    if sent:
        _read_path(connection, rows)
        _read_others(connection, rows)
    return rows


def _read_path(connection: Connection, rows: _WindowRows) -> None:
    """Read the path to the last message that was sent, back to some messages before the window."""
    start = rows.start or 0

    def count_missing(found: list[MessageRow]) -> int:
        room = rows.limit - len(found)
        if found[-1].seq >= start:
            return min(len(found) + _BEFORE, room)
        return max(min(_BEFORE - sum(row.seq < start for row in found), room), 0)

    expected = min(sum(seq >= start for seq in rows.sent) + _BETWEEN + _BEFORE, rows.limit)
    path = messages.read_backwards(
        connection, rows.conversation.id, rows.sent[-1], count_missing, first_page=expected, crosses_runs=True
    )
    before = [row for row in path.rows if row.seq < start]
    rows.path = [*before[-_BEFORE:], *path.rows[len(before) :]]


def _read_others(connection: Connection, rows: _WindowRows) -> None:
    """Read what was sent from before the path that was read, and the reply of the call."""
    not_read = set(rows.sent) - {row.seq for row in rows.path}
    unread = [seq for seq in _list_window(rows) if seq in not_read]
    if unread:
        rows.unread_tokens = messages.sum_tokens(connection, rows.conversation.id, unread)
    missing = not_read.difference(unread)
    last = rows.sent[-1]
    replies = {last + 1} if rows.turn.reply_seq is None else {last + 1, rows.turn.reply_seq}
    found = messages.read_many(connection, rows.conversation.id, sorted(missing | replies))
    for row in sorted(found, key=lambda row: row.seq):
        if row.seq in missing:
            rows.others.append(row)
        elif row.parent_seq == last and row.turn_id == rows.turn.id and row.role == ASSISTANT:
            rows.reply = rows.reply or row
    rows.has_earlier = bool(rows.path) and rows.path[0].parent_seq is not None
    # A redacted summary looks like a redacted passage.
    summary_seqs = [row.seq for row in rows.others if row.status == SUMMARY or row.is_passage]
    if summary_seqs:
        rows.summary = next(iter(summaries.find_of_messages(connection, rows.conversation.id, summary_seqs)), None)


def _list_window(rows: _WindowRows) -> list[int]:
    """Return the seqs that were sent from the start of the window on.

    They ascend. Pins and summaries come before them in the request, and a summary may have a higher seq.
    """
    start, found = rows.start or 0, rows.sent[-1:]
    for seq in reversed(rows.sent[:-1]):
        if not start <= seq < found[-1]:
            break
        found.append(seq)
    return found[::-1]


def _build(rows: _WindowRows, counter: Counter, context_tokens: int | None) -> PastWindow:
    manifest, call = rows.manifest, rows.call
    start, sent = rows.start, set(rows.sent)
    own = _list_own_passages(rows)
    read = [*rows.others, *rows.path]
    parts = [_build_part(rows, row, own, is_sent=row.seq in sent) for row in read]
    tools = None if manifest.tools is None else rows.prompts.get(manifest.tools)
    prompt = None if manifest.prompt is None else rows.prompts.get(manifest.prompt)
    return PastWindow.model_construct(
        turn_id=call.turn_id,
        call=call.number,
        model=call.requested_model,
        start=None if manifest.transcript else start,
        parts=parts,
        has_earlier=rows.has_earlier,
        sent_messages=len(sent),
        sent_tokens=rows.unread_tokens + sum(row.tokens for row in read if row.seq in sent),
        is_summary_request=manifest.transcript,
        prompt=None if manifest.prompt is None else manifest.prompt.hex(),
        tools=None if manifest.tools is None else manifest.tools.hex(),
        prompt_tokens=None if prompt is None else count_message(counter, {"role": "system", "content": prompt}),
        tools_tokens=None if tools is None else count_tools(counter, json.loads(tools)),
        stable_tokens=manifest.stable,
        usage=call.usage,
        counted_tokens=rows.reply.window_counted if rows.reply is not None and call.state == "ok" else None,
        reply_limit=next((_to_int(manifest.params.get(name)) for name in _LIMITS if name in manifest.params), None),
        context_tokens=context_tokens,
    )


def _to_int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _list_own_passages(rows: _WindowRows) -> set[int]:
    """Return the passages of the path that belong to the question of the call's turn: those right before it."""
    before = (row for row in reversed(rows.path) if row.seq < rows.turn.question_seq)
    return {row.seq for row in takewhile(lambda row: row.is_passage, before)}


def _build_part(rows: _WindowRows, row: MessageRow, own: set[int], *, is_sent: bool) -> PastPart:
    reason = _explain_sent(rows, row) if is_sent else _explain_left_out(rows, row, own)
    summary = rows.summary if reason == "summary" else None
    return PastPart.model_construct(
        seq=row.seq,
        role=row.role,
        status=row.status,
        tokens=row.tokens,
        included=is_sent,
        reason=reason,
        excerpt=make_excerpt(extract_row_text(row.content, row.parts, row.refusal)),
        stands_for=None if summary is None else (summary.from_seq, summary.to_seq),
    )


def _explain_sent(rows: _WindowRows, row: MessageRow) -> SentReason:
    if row.status == SUMMARY or (rows.summary is not None and rows.summary.message_seq == row.seq):
        return "summary"
    if row.is_passage:
        return "passage"
    return "pinned" if row.seq < (rows.start or 0) else "window"


def _explain_left_out(rows: _WindowRows, row: MessageRow, own: set[int]) -> LeftOutReason:
    """Return the reason that the rows tell. Nothing else about it is stored."""
    if row.is_note:
        return "note"
    if row.is_passage:
        return "unknown" if row.seq in own else "passage_of_other_turn"
    if row.status == "late":
        return "late"
    if row.seq < (rows.start or 0):
        summary = rows.summary
        is_summarized = summary is not None and summary.from_seq <= row.seq <= summary.to_seq
        return "summarized" if is_summarized else "before_window"
    if row.status == "redacted":
        return "redacted"
    if row.status == "partial" and rows.manifest.partial == "leave_out":
        return "partial_left_out"
    return "unknown"


def _find_context_tokens(kit: KitState, chat: ChatRef, rows: _WindowRows) -> int | None:
    try:
        options = resolve_options(kit, chat, Options(model=rows.call.requested_model), rows.conversation)
    except SettingsError:
        return None
    return options.builder.budget.context_tokens or options.profile.window_tokens
