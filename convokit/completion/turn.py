"""Run a turn: save the question, call the model, save the reply.

The request is built with no transaction open. `start_turn_flow` commits question, turn and call. Then the API is
called. The end of the turn is committed by comparing the turn's epoch. However the call ends, the text that came is
kept and the conversation goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from convokit.completion import summarize
from convokit.completion.anchor import TurnAnchor
from convokit.completion.begin import start_turn_flow
from convokit.completion.call import ActiveCall, LeaseLost, call_with_retries_flow, describe_error
from convokit.completion.effects import CloseResponse, Emit, Flow, Sleep, Stopped, read_flow
from convokit.completion.options import Options
from convokit.completion.prepare import PreparedRequest, prepare, prepare_stored
from convokit.completion.read_path import read_snapshot_flow
from convokit.completion.recovery import OnBusy, wait_or_take_over_flow
from convokit.completion.result import Outcome, end_error, list_audio_blobs, make_reply, make_reply_rows
from convokit.completion.state import ChatRef, KitState, find_option, not_found
from convokit.completion.tool_rounds import list_tool_calls_to_run, run_round_flow
from convokit.completion.write_retry import LEAVING_S, SAVE_S, write_step_flow
from convokit.domain.content import Content
from convokit.domain.events import Started
from convokit.domain.ids import new_id
from convokit.domain.text import dump_json
from convokit.domain.turn import LATE_CALL_OFFSET, IdempotencyKey, Reply
from convokit.errors import ConversationBusy, Interrupted, ModelError, SettingsError, StoreUnavailable
from convokit.settings import UNSET, Timeouts
from convokit.store import turns
from convokit.store.turn_end import LateReply, TurnEnd
from convokit.store.turn_start import Conflict, Written

_MAX_REBUILDS = 3
_YIELD_S = 0.05
_DEFAULT_TIMEOUTS = Timeouts()


def ask_flow(
    kit: KitState,
    chat: ChatRef,
    content: Content | None,
    call_options: Options,
    *,
    stream: bool,
    on_busy: OnBusy = "raise",
    key: IdempotencyKey | None = None,
    anchor: TurnAnchor | None = None,
) -> Flow[Reply]:
    """Answer a question: `content` behind the branch head or at `anchor`, or with None the question that is stored there.

    Raises: every ConvokitError. Conflict if a turn under the same `key` was started meanwhile, or if the branch left
    the head that `anchor` was found for.
    """
    check_on_busy(on_busy)
    deadline = kit.clock.monotonic() + find_timeouts(kit, chat, call_options).busy_s
    heads: set[int | None] = set()
    conflicts = 0
    while len(heads) <= _MAX_REBUILDS:
        at = None if anchor is None else anchor.seq
        snapshot = yield from read_snapshot_flow(kit, chat, call_options, content or Content(""), at)
        if snapshot.conversation is None and (chat.must_exist or chat.branch or anchor is not None):
            raise not_found(chat)
        if snapshot.open_turn is not None:
            yield from wait_or_take_over_flow(kit, chat, call_options, snapshot, on_busy, deadline)
            continue
        if anchor is not None and anchor.head not in (None, snapshot.head):
            raise Conflict
        if content is None:
            request = prepare_stored(kit, chat, call_options, snapshot, stream=stream)
        else:
            request = prepare(kit, chat, call_options, snapshot, content, stream=stream)
        request = yield from summarize.plan_summary_flow(kit, chat, call_options, request)
        check_api_key(kit, request)
        with running_turn(kit, new_id()) as turn_id:
            try:
                call = yield from start_turn_flow(kit, chat, request, content, turn_id, key)
            except Conflict:
                assert chat.id is not None
                if (
                    key is not None
                    and (yield from read_flow(turns.find_by_idempotency_key, kit.tenant, chat.id, key.hash)) is not None
                ):
                    raise
                if conflicts and snapshot.conversation is None:  # another tenant has this id
                    raise not_found(chat) from None
                conflicts += 1
                if on_busy == "raise":
                    heads.add(snapshot.head)  # only this branch's own moves count: other branches may move as they like
                if kit.clock.monotonic() >= deadline:
                    break
                if len(heads) < conflicts:
                    yield Sleep(_YIELD_S * kit.clock.random())
                continue
            return (yield from run_turn_flow(kit, call))
    raise ConversationBusy(chat.name, "several", None)


def check_on_busy(on_busy: str) -> None:
    """Raise SettingsError unless `on_busy` is "raise", "wait" or "supersede"."""
    if on_busy not in ("raise", "wait", "supersede"):
        raise SettingsError("on_busy", f'must be "raise", "wait" or "supersede", not {on_busy!r}')


def find_timeouts(kit: KitState, chat: ChatRef, call_options: Options) -> Timeouts:
    """Return the timeouts that apply before the conversation is read: a conversation stores none."""
    timeouts = find_option(kit, chat, call_options, "timeouts")
    return _DEFAULT_TIMEOUTS if timeouts is UNSET else timeouts


@contextmanager
def running_turn(kit: KitState, turn_id: UUID) -> Iterator[UUID]:
    """Count a turn as run by this process while the block runs."""
    kit.running.add(turn_id)
    try:
        yield turn_id
    finally:
        kit.running.discard(turn_id)


def check_api_key(kit: KitState, request: PreparedRequest) -> None:
    """Raise SettingsError if the server needs an API key and there is none."""
    key = kit.api_key()  # asked for in any case: a bad key raises before anything is written
    if request.options.profile.needs_key and not key:
        raise SettingsError("api_key", f"{kit.base_url} needs a key: pass api_key=... or set OPENAI_API_KEY")


def run_turn_flow(kit: KitState, call: ActiveCall) -> Flow[Reply]:
    """Make the calls of an open turn, run the tools that the model calls, finish the turn, and return the reply."""
    rounds = 0
    try:
        if call.stream:
            yield Emit([Started(call.row.turn_id)])
        if call.request.summary_request is not None:
            yield from summarize.make_summary_flow(kit, call)
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
        yield from _finish_or_keep_flow(kit, call, outcome, patience_s=patience_s)
        if isinstance(error, ModelError):
            error.turn_id = str(call.row.turn_id)
        raise
    try:
        written = yield from _finish_flow(kit, call, Outcome("completed", "complete"))
    except Stopped:  # the caller left right before the reply was saved: it is whole, and paid for
        yield from _finish_flow(kit, call, Outcome("completed", "complete"), patience_s=LEAVING_S)
        raise
    if written is None:
        raise (yield from _lose_turn_flow(kit, call))
    return make_reply(call, written)


def _finish_flow(
    kit: KitState, call: ActiveCall, outcome: Outcome, *, patience_s: float = SAVE_S
) -> Flow[Written | None]:
    """Finish the turn with its outcome and the reply so far; None when another worker has closed it."""
    now = kit.clock.now_us()
    rows = [] if call.recorded else make_reply_rows(call, outcome, now)
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
    )
    try:
        return (yield from write_step_flow(kit, end, patience_s=patience_s))
    except StoreUnavailable as error:
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
    is_whole = call.reader is not None and call.reader.finished
    yield from _keep_late_flow(kit, call, None if is_whole else error)
    turn = yield from read_flow(turns.find, call.conversation.id, call.row.turn_id)
    kept = "; the reply so far is kept off the path" if call.text else ""
    if turn is not None and turn.state in ("cancelled", "superseded"):
        return end_error(turn, call.text, kept)
    error.args = (f"{error}{kept}",)
    return error


def _keep_late_flow(
    kit: KitState, call: ActiveCall, error: Exception | None, *, patience_s: float = SAVE_S
) -> Flow[Written | None]:
    """Store a paid reply whose turn was taken over, superseded or cancelled meanwhile."""
    if call.recorded or not (call.text or (error is None and call.reader is not None)):
        return None
    now = kit.clock.now_us()
    call.row.number += LATE_CALL_OFFSET  # the call's own row was ended by the worker that closed the turn
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
    return (yield from write_step_flow(kit, late, patience_s=patience_s))
