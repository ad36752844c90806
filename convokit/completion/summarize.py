"""Summarize the messages that fall out of the window.

The summary is made by an API call of its own when the window's start moves. The turn starts with that call. Its
question is stored first. The summary is stored together with the call that follows it, and only then is it sent. A
summary call that fails changes nothing: the turn goes on with the summary that exists, or with none. The next one is
made when the start moves again (ADR 0025).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from convokit.completion.call import ActiveCall, call_with_retries_flow
from convokit.completion.call_rows import lease_us, longest_silence_s, new_call_row
from convokit.completion.effects import Flow, read_flow
from convokit.completion.options import Options
from convokit.completion.prepare import (
    PreparedRequest,
    SummaryRequest,
    prepare_summary,
    replace_summaries,
    shift_request,
)
from convokit.completion.resolved_options import ResolvedOptions, resolve
from convokit.completion.result import Outcome, record_outcome
from convokit.completion.state import ChatRef, KitState, merge_options
from convokit.completion.summary_state import find_last_before, is_due, pick_stored
from convokit.completion.write_retry import SAVE_S, update_turn_flow
from convokit.context.report import Part
from convokit.context.scale import TokenScale, compute_scale
from convokit.context.summary import add_heading, cut_at_sentence, format_for_transcript, format_transcript
from convokit.domain import hashchain
from convokit.domain.conversation import StoredSummary, SummaryRow
from convokit.domain.message import NOTE, PASSAGE, SUMMARY, USER, MessageRow
from convokit.domain.params import RequestParams
from convokit.domain.text import repair_text
from convokit.errors import BadReply, ContextOverflow, ModelError
from convokit.settings import Summary
from convokit.store import messages
from convokit.store.turn_end import TurnUpdate
from convokit.tokens.counter import count_message, find_first_factor
from convokit.wire.request import CAPS

_INHERITED_PARAMS = ("user", "safety_identifier", "extra_headers")
"""Parameters that say who asks, not how to answer."""
_MAX_SHARE = 0.5
"""The share of `Timeouts.total_s` that the call may take with its retries. The turn needs the rest."""
_SEPARATOR_TOKENS = 2
"""Tokens between two messages of a transcript."""


def plan_summary_flow(
    kit: KitState, chat: ChatRef, call_options: Options, request: PreparedRequest
) -> Flow[PreparedRequest]:
    """Return the request with the summary request that is to be made before it, if one is due."""
    options, snapshot, start = request.options, request.snapshot, request.context.report.start
    if not is_due(options, snapshot, request.context):
        return request
    assert options.summary is not None
    assert snapshot.conversation is not None
    assert start is not None
    merged = merge_options(kit, chat, call_options, snapshot.conversation)
    own = resolve(_summary_options(options.summary, merged), kit.base_url)
    covered = pick_stored(options, snapshot, start)
    stored = next((each for each in snapshot.summaries if covered and each.message.seq == covered.item.key), None)
    before = [stored.message] if stored is not None else []
    scale = _find_scale(options, own, snapshot.path.rows)
    available = int(_count_available(own, before, scale) / scale.text)
    after = 0 if covered is None else covered.last

    counts: dict[int, int] = {}

    def count(row: MessageRow) -> int:
        if row.seq not in counts:
            counts[row.seq] = _count_text(own, row)
        return counts[row.seq]

    def rows_needed(rows: list[MessageRow]) -> int:
        return 0 if rows[-1].seq <= after or sum(map(count, rows)) > available else len(rows)

    last = find_last_before(snapshot.path.rows, start)
    path = yield from read_flow(messages.read_backwards, snapshot.conversation.id, last, rows_needed)
    fallen = [row for row in path.rows if row.seq > after]
    sources = _select_newest(fallen, available, count)
    while sources:
        try:
            summary_request = prepare_summary(kit, request, own, [*before, *sources], scale)
        except ContextOverflow:  # a text may cost more than the sum of its messages
            sources = sources[len(sources) // 10 + 1 :]
            continue
        is_whole = path.complete and len(sources) == sum(count(row) > 0 for row in fallen)
        first = fallen[0] if is_whole else sources[0]
        from_seq = first.seq if stored is None else stored.row.from_seq
        return replace(request, summary_request=SummaryRequest(summary_request, from_seq, fallen[-1]))
    return request


def _summary_options(summary: Summary, chat: Options) -> Options:
    """Return the options of the summary call: the chat's, without those that shape an answer."""
    params: dict[str, Any] = {name: value for name, value in chat.params.items() if name in _INHERITED_PARAMS}
    if not any(name in CAPS for name in summary.params):
        params["max_output_tokens"] = summary.max_tokens
    own = Options(
        model=chat.model if summary.model is None else summary.model,
        developer_prompt=summary.prompt,
        params=cast("RequestParams", {**params, **summary.params}),
    )
    budget = chat.budget if summary.budget is None else summary.budget
    rest = Options(budget=budget, retry=chat.retry, timeouts=chat.timeouts, profile=chat.profile, counter=chat.counter)
    return own.over(replace(rest, mode=chat.mode))


def _find_scale(options: ResolvedOptions, own: ResolvedOptions, path: Sequence[MessageRow]) -> TokenScale:
    """Return the scale of new text for the summary's call: the chat's, if both are counted by the same counter."""
    known = compute_scale(path, options.window_rule, options.counter)
    factor = known.text if own.counter.name == options.counter.name else find_first_factor(own.counter)
    return TokenScale(known.source, factor, factor, factor)


def _count_available(options: ResolvedOptions, before: Sequence[MessageRow], scale: TokenScale) -> int:
    """Return the tokens that a transcript may take beside the prompt and the earlier summary."""
    earlier = {"role": USER, "content": format_transcript([row.as_wire() for row in before])}
    fixed = options.fixed.tokens + _SEPARATOR_TOKENS + count_message(options.counter, earlier)
    return options.builder.available(scale.scale_fixed(fixed), options.reply_tokens)


def _count_text(options: ResolvedOptions, row: MessageRow) -> int:
    text = "" if row.status_in_context in (NOTE, PASSAGE, "redacted") else format_for_transcript(row.as_wire())
    return options.counter.count(text) + _SEPARATOR_TOKENS if text else 0


def _select_newest(rows: Sequence[MessageRow], available: int, count: Callable[[MessageRow], int]) -> list[MessageRow]:
    """Return the messages that have text, as many of the newest as one call takes."""
    selected: list[MessageRow] = []
    for row in reversed(rows):
        tokens = count(row)
        if tokens > available:
            break
        available -= tokens
        if tokens:
            selected.insert(0, row)
    return selected


def make_summary_flow(kit: KitState, call: ActiveCall) -> Flow[None]:
    """Make the summary call, store its outcome together with the turn's next call, and become that call."""
    work = call.request.summary_request
    assert work is not None
    share_s = work.request.options.timeouts.total_s * _MAX_SHARE
    summary_call = ActiveCall(
        work.request,
        call.conversation,
        call.row,
        call.branch,
        call.parent,
        epoch=call.epoch,
        deadline=min(call.deadline, kit.clock.monotonic() + share_s),
        stream=False,
        moves_head=False,
        observed=call.observed,
    )
    text, error = "", None
    try:
        yield from call_with_retries_flow(kit, summary_call)
        text = _read_summary(summary_call)
    except (ModelError, ContextOverflow) as failed:
        error = failed
    finally:
        call.conversation, call.row, call.attempts = summary_call.conversation, summary_call.row, summary_call.attempts
    now = kit.clock.now_us()
    outcome = Outcome("open", "complete" if error is None else "partial", error)
    record_outcome(summary_call, summary_call.parse_reply(), outcome, now)
    yield from _record_summary_flow(kit, call, work, text, error, now)


def _read_summary(call: ActiveCall) -> str:
    """Return the text of the summary. Raises: BadReply if there is none."""
    choices = call.parse_reply().choices
    text = repair_text(choices[0].content or "").strip() if choices and not choices[0].refusal else ""
    if not text:
        refused = choices and choices[0].refusal
        raise BadReply("the model refused to write a summary" if refused else "the model's summary is empty")
    return text


def _record_summary_flow(
    kit: KitState,
    call: ActiveCall,
    work: SummaryRequest,
    text: str,
    error: ModelError | ContextOverflow | None,
    now: int,
) -> Flow[None]:
    row = _make_summary_row(call, work, _cut_to_reserve(call, text), now)
    summary = SummaryRow(work.from_seq, work.parent.seq, now, message_seq=row.seq)
    request = replace(call.request, summary_request=None)
    if error is None:
        stored = [StoredSummary(summary, row), *request.snapshot.summaries]
        request = replace_summaries(kit, request, stored)
    else:
        rule = f"could not be made ({type(error).__name__})"
        note = Part("summary", USER, None, request.options.summary_reserve, included=False, rule=rule)
        request = replace_summaries(kit, request, request.snapshot.summaries, note)
    next_call = new_call_row(request, call.row.turn_id, now, number=call.row.number + 1)
    update = TurnUpdate(
        conversation=call.conversation,
        branch=call.branch,
        turn_id=call.row.turn_id,
        at=now,
        rows=[row] if error is None else [],
        call=call.row,
        moves_head=False,
        epoch=call.epoch,
        lease_us=lease_us(longest_silence_s(request)),
        next_call=next_call,
        next_manifest=request.record.manifest,
        prompts=request.record.prompts,
        summary=summary if error is None else None,
    )
    written = yield from update_turn_flow(kit, update, patience_s=SAVE_S)
    if written is not None and call.observed is not None:
        call.observed.end_call()
    if written is not None and written.rows and written.rows[0].seq != row.seq:
        request = shift_request(request, update.conversation.last_seq, written.rows[0].seq - row.seq)
        row.seq = row.run_start_seq = written.rows[0].seq  # later requests of this turn name the summary by it
        next_call.manifest = request.record.manifest.to_json()
    call.advance(written, request, next_call)


def _cut_to_reserve(call: ActiveCall, text: str) -> str:
    """Return the summary without the sentences at its end that are over the tokens that the window keeps free for it.

    A model may write more than it was asked for. Without the cut, the summary would take the place of the history.
    """
    options, path = call.request.options, call.request.snapshot.path.rows
    factor = compute_scale(path, options.window_rule, options.counter).text

    def fits(start: str) -> bool:
        tokens = count_message(options.counter, {"role": USER, "content": add_heading(start)})
        return tokens * factor <= options.summary_reserve

    return cut_at_sentence(text, fits)


def _make_summary_row(call: ActiveCall, work: SummaryRequest, text: str, now: int) -> MessageRow:
    """Return the row of the summary: a child of the last message that it summarizes, on no path itself."""
    content = add_heading(text)
    counter, seq = call.request.options.counter, call.conversation.last_seq + 1
    return MessageRow(
        seq=seq,
        parent_seq=work.parent.seq,
        run_start_seq=seq,
        turn_id=call.row.turn_id,
        role=USER,
        content=content,
        status=SUMMARY,
        tokens=count_message(counter, {"role": USER, "content": content}),
        counter=counter.name,
        path_tokens=work.parent.path_tokens,
        created_at=now,
        salt=hashchain.new_salt(),
    )
