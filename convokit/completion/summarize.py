"""The rolling summary: what falls out of a window is summed up, in an API call of its own, when the window's start moves.

The turn begins with that call: its question is stored first, the summary is stored together with the call that follows it, and
only then is it sent. A call that fails changes nothing: the turn goes on with the summary that was there, or with none, and the
next one is made when the start moves again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from convokit.completion import call as calls
from convokit.completion import items
from convokit.completion.begin import renumbered
from convokit.completion.effects import Flow, read_flow
from convokit.completion.options import Options, ResolvedOptions, settle
from convokit.completion.prepare import PreparedRequest, SummaryRequest, last_reply, summing_up, with_summaries
from convokit.completion.result import Outcome, close
from convokit.completion.state import ChatRef, KitState, options_for
from convokit.context.arrange import prompt_role
from convokit.context.report import Context, Part
from convokit.context.summary import CountedSummary, add_heading, format_for_transcript, format_transcript, pick_summary
from convokit.domain import hashchain
from convokit.domain.conversation import ConversationRow, StoredSummary, SummaryRow
from convokit.domain.message import PASSAGE, SUMMARY, USER, MessageRow
from convokit.domain.params import RequestParams
from convokit.domain.reply import ParsedReply
from convokit.domain.text import repair_text
from convokit.errors import BadReply, ContextOverflow, ModelError
from convokit.settings import Summary
from convokit.store import messages, snapshot, turn_changes
from convokit.tokens.counter import REPLY_PRIMER, count_message
from convokit.wire.request import CAPS

_INHERITED = ("user", "safety_identifier", "extra_headers")
"""Parameters that say who asks, not how to answer."""
_SHARE = 0.5
"""What of `Timeouts.total_s` the call may take with its retries: the turn needs the rest."""
_BETWEEN = 2
"""Tokens between two messages of a transcript."""


def is_due(plan: ResolvedOptions, seen: snapshot.Snapshot, context: Context) -> bool:
    """Whether the window's start has moved since the last turn began, past messages that no summary of the path stands for."""
    start, rows = context.report.start, seen.path.rows
    if plan.summary is None or start is None or not rows:
        return False
    last = last_reply(reversed(rows))
    begun = next(
        (row for row in rows if last is not None and row.turn_id == last.turn_id and row.window_from_seq), None
    )
    if begun is not None and begun.window_from_seq is not None and begun.window_from_seq >= start:
        return False
    before, earlier = _before(rows, start), _earlier(plan, seen, start)
    return before is not None and (earlier is None or earlier.last < before)


def _before(rows: Sequence[MessageRow], start: int) -> int | None:
    """Return the seq of the last message before the window."""
    inside = next((row for row in rows if row.seq >= start), None)
    return rows[-1].seq if inside is None else inside.parent_seq


def _earlier(plan: ResolvedOptions, seen: snapshot.Snapshot, start: int) -> CountedSummary | None:
    return pick_summary(items.summaries(plan, seen), start)


def announced(plan: ResolvedOptions, seen: snapshot.Snapshot, context: Context) -> Context:
    """Return the context with a word in its report on the summary that a turn would make first."""
    if not is_due(plan, seen, context):
        return context
    why = "would be made first: the window's start moves"
    return context.noted(Part("summary", USER, None, plan.kept_free, included=False, rule=why))


def planned(scope: KitState, target: ChatRef, call: Options, prepared: PreparedRequest) -> Flow[PreparedRequest]:
    """Return the request with the call that sums up what falls out of its window, if one is due."""
    plan, seen, start = prepared.plan, prepared.seen, prepared.context.report.start
    if not is_due(plan, seen, prepared.context):
        return prepared
    assert plan.summary is not None
    assert seen.conversation is not None
    assert start is not None
    own = settle(_options(plan.summary, options_for(scope, target, call, seen.conversation)), scope.base_url)
    earlier = _earlier(plan, seen, start)
    stored = next((each for each in seen.summaries if earlier and each.message.seq == earlier.item.key), None)
    before = [stored.message] if stored is not None else []
    prompt = {"role": prompt_role(own.profile), "content": own.instructions}
    fixed = count_message(own.counter, prompt) + REPLY_PRIMER + _BETWEEN
    fixed += count_message(own.counter, {"role": USER, "content": format_transcript([row.as_wire() for row in before])})
    room = own.builder.available(fixed, own.reply_tokens)
    after = 0 if earlier is None else earlier.last

    def enough(rows: list[MessageRow]) -> int:
        return 0 if rows[-1].seq <= after or sum(_cost(own, row) for row in rows) > room else len(rows)

    path = yield from read_flow(messages.read_backwards, seen.conversation.id, _before(seen.path.rows, start), enough)
    fallen = [row for row in path.rows if row.seq > after]
    sources = _fitting(own, fallen, room)
    while sources:
        made_of = [*before, *sources]
        try:
            request = summing_up(scope, prepared, own, made_of)
        except ContextOverflow:  # a text may cost more than its parts
            sources = sources[len(sources) // 10 + 1 :]
            continue
        from_seq = sources[0].seq if stored is None else stored.row.from_seq
        return replace(prepared, summarising=SummaryRequest(request, from_seq, fallen[-1]))
    return prepared


def _options(summary: Summary, chat: Options) -> Options:
    """Return the options of the call: the chat's, but for what asks for an answer."""
    params: dict[str, Any] = {name: value for name, value in chat.params.items() if name in _INHERITED}
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


def _cost(plan: ResolvedOptions, row: MessageRow) -> int:
    text = "" if row.status in (PASSAGE, "redacted") else format_for_transcript(row.as_wire())
    return plan.counter.count(text) + _BETWEEN if text else 0


def _fitting(plan: ResolvedOptions, fallen: Sequence[MessageRow], room: int) -> list[MessageRow]:
    """Return those that say something, as many of the newest as one call takes."""
    found: list[MessageRow] = []
    for row in reversed(fallen):
        cost = _cost(plan, row)
        if cost > room:
            break
        room -= cost
        if cost:
            found.insert(0, row)
    return found


def make(scope: KitState, running: calls.ActiveCall) -> Flow[None]:
    """Make the summary's call, record what came of it together with the turn's next call, and turn to that one."""
    work = running.prepared.summarising
    assert work is not None
    until = scope.clock.monotonic() + work.prepared.plan.timeouts.total_s * _SHARE
    call = calls.ActiveCall(
        work.prepared,
        running.conversation,
        running.row,
        running.branch,
        running.parent,
        epoch=running.epoch,
        deadline=min(running.deadline, until),
        stream=False,
        moves_head=False,
    )
    text, error = "", None
    try:
        yield from calls.make(scope, call)
        text = _text(call)
    except (ModelError, ContextOverflow) as failed:
        error = failed
    finally:
        running.conversation, running.row, running.made = call.conversation, call.row, call.made
    yield from _recorded(scope, running, call, work, text, error)


def _text(call: calls.ActiveCall) -> str:
    """Return the summary that came. Raises: BadReply when it is none."""
    assert call.reader is not None
    answers = call.reader.build_reply().choices
    text = repair_text(answers[0].content or "").strip() if answers and not answers[0].refusal else ""
    if not text:
        raise BadReply("the model refused to sum up" if answers and answers[0].refusal else "the summary is empty")
    return text


def _recorded(
    scope: KitState,
    running: calls.ActiveCall,
    call: calls.ActiveCall,
    work: SummaryRequest,
    text: str,
    error: ModelError | ContextOverflow | None,
) -> Flow[None]:
    now = scope.clock.now_us()
    completion = call.reader.build_reply() if call.reader is not None else ParsedReply([])
    close(call, completion, Outcome("open", "complete" if error is None else "partial", error), now)
    draft = _draft(running, work, text, now)
    summary = SummaryRow(work.from_seq, work.parent.seq, now, message_seq=draft.seq)
    prepared = replace(running.prepared, summarising=None)
    if error is None:
        prepared = with_summaries(scope, prepared, [StoredSummary(summary, draft), *prepared.seen.summaries])
    else:
        why = f"could not be made ({type(error).__name__})"
        note = Part("summary", USER, None, prepared.plan.kept_free, included=False, rule=why)
        prepared = with_summaries(scope, prepared, prepared.seen.summaries, note)
    following = calls.new_row(prepared, running.row.turn_id, now, number=running.row.number + 1)
    expected = [draft.seq]

    def rows(conversation: ConversationRow) -> list[MessageRow]:
        if error is not None:
            return []
        draft.seq = draft.run_start_seq = conversation.last_seq + 1
        following.manifest = renumbered(prepared, expected, [draft]).manifest.text
        return [draft]

    recording = turn_changes.TurnUpdate(
        conversation=running.conversation,
        branch=running.branch,
        turn_id=running.row.turn_id,
        epoch=running.epoch,
        lease_us=calls.lease_us(calls.silence_s(prepared)),
        at=now,
        rows=rows,
        ended=running.row,
        following=following,
        moves_head=False,
        prompts=prepared.manifest.prompts,
        summary=summary if error is None else None,
    )
    recorded = yield from calls.record(scope, recording)
    if recorded is not None and recorded.rows:
        draft.seq = recorded.rows[0].seq
        prepared = renumbered(prepared, expected, [draft])
        following.manifest = prepared.manifest.text
    calls.follow(running, recorded, prepared, following)


def _draft(running: calls.ActiveCall, work: SummaryRequest, text: str, now: int) -> MessageRow:
    """Return the row of the summary, a child of the last message that it stands for: on no path, and of any that holds it."""
    content = add_heading(text)
    counter, seq = running.prepared.plan.counter, running.conversation.last_seq + 1
    return MessageRow(
        seq=seq,
        parent_seq=work.parent.seq,
        run_start_seq=seq,
        turn_id=running.row.turn_id,
        role=USER,
        content=content,
        status=SUMMARY,
        tokens=count_message(counter, {"role": USER, "content": content}),
        counter=counter.name,
        path_tokens=work.parent.path_tokens,
        created_at=now,
        salt=hashchain.new_salt(),
    )
