"""Run a turn: save the question, call the model, save the reply.

The request is built with no transaction open. `start_turn_flow` commits question, turn and call. Then the API is
called. The end of the turn is committed by comparing the turn's epoch. However the call ends, the text that came is
kept and the conversation goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from convokit.completion import summarize
from convokit.completion.begin import start_when_free_flow
from convokit.completion.call import ActiveCall, LeaseLost, call_with_retries_flow
from convokit.completion.effects import CloseResponse, Emit, Flow, Stopped, read_flow
from convokit.completion.observed_turn import ObservedTurn
from convokit.completion.on_busy import OnBusy, join_line, make_busy_policy, wait_in_line_flow
from convokit.completion.options import Options
from convokit.completion.reply_anchors import compute_reply_anchor
from convokit.completion.result import Outcome, end_error, list_audio_blobs, make_reply, make_reply_rows
from convokit.completion.retry import describe_error
from convokit.completion.saved_reply import Reply
from convokit.completion.start_point import NO_DETAILS, StartPoint, TurnDetails
from convokit.completion.state import ChatRef, KitState, find_timeouts, identify_flow
from convokit.completion.summary_state import find_gaps
from convokit.completion.tool_rounds import list_tool_calls_to_run, run_round_flow
from convokit.completion.write_retry import LEAVING_S, SAVE_S, update_turn_flow
from convokit.domain.content import Content
from convokit.domain.events import HistoryGap, Started
from convokit.domain.ids import new_id
from convokit.domain.text import dump_json
from convokit.domain.turn import IdempotencyKey
from convokit.errors import Interrupted, ModelError, StoreError, StoreUnavailable
from convokit.store import turns
from convokit.store.turn_end import LateReply, TurnEnd
from convokit.store.turn_start import Written

log = logging.getLogger("convokit.completion")
_TURN_IS_GONE = (
    "the database does not have this turn any more: it was erased, or a failover to a standby lost it; "
    "`partial` has the only copy of the reply"
)


def ask_flow(
    kit: KitState,
    chat: ChatRef,
    content: Content | None,
    call_options: Options,
    *,
    stream: bool,
    on_busy: OnBusy = "raise",
    key: IdempotencyKey | None = None,
    start_point: StartPoint | None = None,
    details: TurnDetails = NO_DETAILS,
) -> Flow[Reply]:
    """Answer a question: `content` behind the branch head or at `start_point`, or with None the question that is stored there.

    Raises: every ConvokitError. Conflict if a turn under the same `key` was started meanwhile, or if the branch left
    the head that `start_point` was found for.
    """
    policy = make_busy_policy(kit, on_busy, find_timeouts(kit, chat, call_options).busy_s)
    turn_id = new_id()
    with running_turn(kit, turn_id):
        yield from identify_flow(kit, chat)
        with join_line(kit, chat, policy) as position:
            yield from wait_in_line_flow(kit, chat, policy, position)
            call = yield from start_when_free_flow(
                kit,
                chat,
                content,
                call_options,
                turn_id,
                policy,
                stream=stream,
                key=key,
                start_point=start_point,
                details=details,
            )
        return (yield from run_turn_flow(kit, call))


@contextmanager
def running_turn(kit: KitState, turn_id: UUID) -> Iterator[None]:
    """Count a turn as run by this process while the block runs."""
    kit.running.add(turn_id)
    try:
        yield
    finally:
        kit.running.remove(turn_id)


def run_turn_flow(kit: KitState, call: ActiveCall) -> Flow[Reply]:
    """Make the calls of an open turn, run the tools that the model calls, finish the turn, and return the reply."""
    if kit.notifier is None:
        return (yield from _answer_flow(kit, call))
    turn_id = call.row.turn_id
    call.observed = ObservedTurn(kit, kit.notifier, call.conversation, call.branch, turn_id, call.epoch, call.request)
    with call.observed:
        call.observed.start()
        return (yield from _answer_flow(kit, call))


def _answer_flow(kit: KitState, call: ActiveCall) -> Flow[Reply]:
    rounds = 0
    try:
        if call.stream:
            yield Emit([Started(call.row.turn_id)])
        if call.request.summary_request is not None:
            yield from summarize.make_summary_flow(kit, call)
        yield from _warn_of_gaps_flow(call)
        while True:
            yield from call_with_retries_flow(kit, call)
            tool_calls = list_tool_calls_to_run(call)
            if not tool_calls:
                break
            rounds += 1
            yield from run_round_flow(kit, call, tool_calls, rounds)
    except Stopped:
        is_whole = call.reader is not None and call.parse_reply().done and not list_tool_calls_to_run(call)
        outcome = Outcome("completed", "complete") if is_whole else Outcome("interrupted", "partial")
        yield from _finish_or_keep_flow(kit, call, outcome, patience_s=LEAVING_S)
        raise
    except LeaseLost:
        yield CloseResponse()
        raise (yield from _lose_turn_flow(kit, call)) from None
    except Exception as error:
        outcome = Outcome("interrupted" if call.text else "failed", "partial", error)
        patience_s = LEAVING_S if isinstance(error, StoreUnavailable) else SAVE_S
        try:
            yield from _finish_or_keep_flow(kit, call, outcome, patience_s=patience_s)
        except Stopped:  # the caller left before the text was saved
            yield from _finish_or_keep_flow(kit, call, outcome, patience_s=LEAVING_S)
            raise
        if isinstance(error, ModelError):
            error.turn_id = str(call.row.turn_id)
        raise
    try:
        written = yield from _finish_flow(kit, call, Outcome("completed", "complete"))
    except Stopped:  # the caller left right before the reply was saved: it is whole, and paid for
        yield from _finish_or_keep_flow(kit, call, Outcome("completed", "complete"), patience_s=LEAVING_S)
        raise
    if written is None:
        raise (yield from _lose_turn_flow(kit, call))
    return make_reply(call, written)


def _warn_of_gaps_flow(call: ActiveCall) -> Flow[None]:
    """Tell the log and a stream's reader about messages that are in neither the window nor the summary."""
    request = call.request
    for first, last in find_gaps(request.options, request.snapshot, request.context):
        where = f"messages {first} to {last} of conversation {request.conversation_id}"
        log.warning("%s are in neither the window nor a summary", where)
        if call.stream:
            yield Emit([HistoryGap(first, last)])


def _finish_flow(
    kit: KitState, call: ActiveCall, outcome: Outcome, *, patience_s: float = SAVE_S
) -> Flow[Written | None]:
    """Finish the turn with its outcome and the reply so far; None when another worker has closed it."""
    now = kit.clock.now_us()
    rows = [] if call.recorded else make_reply_rows(call, outcome, now)
    anchor = call.request.options.anchor
    end = TurnEnd(
        conversation=call.conversation,
        branch=call.branch,
        turn_id=call.row.turn_id,
        at=now,
        rows=rows,
        call=None if call.recorded else call.row,
        moves_head=call.moves_head,
        blobs=list_audio_blobs(call),
        epoch=call.epoch,
        state=outcome.state,
        error=dump_json(describe_error(outcome.error)) if outcome.error is not None else None,
        first_token_at=call.first_token_at,
        has_chunks=call.chunks > 0 or call.may_have_stored or call.attempts > 1 or call.row.number > 1,
        tools_from_seq=call.parent.seq if call.recorded else None,
        anchor=compute_reply_anchor(anchor, rows) if rows and anchor is not None else None,
    )
    written = yield from _save_flow(kit, call, end, patience_s)
    if written is not None and call.observed is not None:
        call.observed.end(outcome.state, outcome.error)
    return written


def _save_flow(kit: KitState, call: ActiveCall, step: TurnEnd | LateReply, patience_s: float) -> Flow[Written | None]:
    """Write a step that saves the reply. An error carries its text as `unsaved`: no other copy exists."""
    try:
        return (yield from update_turn_flow(kit, step, patience_s=patience_s))
    except StoreError as error:
        error.unsaved = call.text
        raise


def _finish_or_keep_flow(kit: KitState, call: ActiveCall, outcome: Outcome, *, patience_s: float) -> Flow[None]:
    """Finish the turn. If another worker has closed it, keep the reply off the path."""
    if (yield from _finish_flow(kit, call, outcome, patience_s=patience_s)) is None:
        yield from _keep_late_flow(kit, call, outcome.error, patience_s=patience_s)


def _lose_turn_flow(kit: KitState, call: ActiveCall) -> Flow[Interrupted]:
    """Keep the reply so far, and return the error that says how another worker closed the turn."""
    error = Interrupted("another worker took this turn over", code="abandoned", partial=call.text)
    error.turn_id = str(call.row.turn_id)
    late_error = None if call.reader is not None and call.reader.finished else error
    try:
        yield from _keep_late_flow(kit, call, late_error)
    except Stopped:  # the caller left before the late reply was saved
        yield from _keep_late_flow(kit, call, late_error, patience_s=LEAVING_S)
        raise
    turn = yield from read_flow(turns.find, call.conversation.id, call.row.turn_id)
    if turn is None:
        error.args = (_TURN_IS_GONE,)
        return error
    kept = "; the reply so far is kept off the path" if call.text else ""
    if turn.state in ("cancelled", "superseded"):
        return end_error(turn, call.text, kept)
    error.args = (f"{error}{kept}",)
    return error


def _keep_late_flow(
    kit: KitState, call: ActiveCall, error: Exception | None, *, patience_s: float = SAVE_S
) -> Flow[None]:
    """Store a paid reply whose turn was taken over, superseded or cancelled meanwhile."""
    if call.observed is not None:
        call.observed.is_taken_over = True
    if call.recorded or not (call.text or (error is None and call.reader is not None)):
        return
    now = kit.clock.now_us()
    late = LateReply(
        conversation=call.conversation,
        branch=call.branch,
        turn_id=call.row.turn_id,
        at=now,
        rows=make_reply_rows(call, Outcome("completed", "late", error), now),
        call=call.row,
        moves_head=call.moves_head,
        blobs=list_audio_blobs(call),
    )
    yield from _save_flow(kit, call, late, patience_s)
