"""A turn: save the question, ask the model, save the reply.

Read the window, build and digest the body with no transaction open; `begin` makes question, turn and call durable; the API is
called; `settle` closes the turn, starting with a compare-and-swap on its epoch. However the call ends, what came of the reply
is kept and the conversation can go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from convokit.completion import call as calls
from convokit.completion import summarize
from convokit.completion.anchor import TurnAnchor
from convokit.completion.begin import begin
from convokit.completion.effects import CloseResponse, Emit, Flow, Sleep, Stopped, read_flow
from convokit.completion.options import Options
from convokit.completion.prepare import PreparedRequest, look, prepare, prepare_again
from convokit.completion.recovery import OnBusy, wait_or_take_over_flow
from convokit.completion.result import Outcome, RowsFor, ended, reply_of, rows_of, sounds_of
from convokit.completion.state import ChatRef, KitState, given, not_found
from convokit.completion.tool_rounds import run_round, wanted
from convokit.completion.write_once import LEAVING_S, SAVE_S, sure
from convokit.domain.content import Content, validate_question
from convokit.domain.conversation import ConversationRow
from convokit.domain.events import Started
from convokit.domain.ids import new_id
from convokit.domain.message import MessageRow
from convokit.domain.text import dump_json
from convokit.domain.turn import LATE_CALL_OFFSET, IdempotencyKey, Reply
from convokit.errors import ConversationBusy, Interrupted, ModelError, SettingsError, StoreUnavailable
from convokit.settings import UNSET, Timeouts
from convokit.store import committed, turn_changes, turn_writes, turns

_REBUILDS = 3
_YIELD_S = 0.05


def send(
    scope: KitState,
    target: ChatRef,
    given: object,
    call: Options,
    *,
    stream: bool,
    on_busy: OnBusy = "raise",
    key: IdempotencyKey | None = None,
    context: Sequence[str] = (),
    place: TurnAnchor | None = None,
) -> Flow[Reply]:
    """Send text, or content parts, and return the saved reply. Raises: every ConvokitError there is.

    Raises steps.Conflict when a turn under the same idempotency `key` came between.
    """
    content = validate_question(given, context, scope.limits)
    return (yield from ask(scope, target, content, call, stream=stream, on_busy=on_busy, key=key, place=place))


def ask(
    scope: KitState,
    target: ChatRef,
    content: Content | None,
    call: Options,
    *,
    stream: bool,
    on_busy: OnBusy = "raise",
    key: IdempotencyKey | None = None,
    place: TurnAnchor | None = None,
) -> Flow[Reply]:
    """Have a question answered: `content` behind the branch's head or at `place`, or with None the question that is there.

    Raises: steps.Conflict also when the branch moved away from the head that `place` was found for.
    """
    check_on_busy(on_busy)
    deadline = scope.clock.monotonic() + timeouts_of(scope, target, call).busy_s
    heads: set[int | None] = set()
    conflicts = 0
    while len(heads) <= _REBUILDS:
        at = None if place is None else place.seq
        seen = yield from look(scope, target, call, content or Content(""), at)
        if seen.conversation is None and (target.must_exist or target.branch or place is not None):
            raise not_found(target)
        if seen.open_turn is not None:
            yield from wait_or_take_over_flow(scope, target, call, seen, on_busy, deadline)
            continue
        if place is not None and place.head not in (None, seen.head):
            raise turn_changes.Conflict
        if content is None:
            prepared = prepare_again(scope, target, call, seen, stream=stream)
        else:
            prepared = prepare(scope, target, call, seen, content, stream=stream)
        prepared = yield from summarize.planned(scope, target, call, prepared)
        check_api_key(scope, prepared)
        with held(scope, new_id()) as turn_id:
            try:
                running = yield from begin(scope, target, prepared, content, turn_id, key)
            except turn_changes.Conflict:
                assert target.id is not None
                if (
                    key is not None
                    and (yield from read_flow(turns.find_by_idempotency_key, scope.tenant, target.id, key.hash))
                    is not None
                ):
                    raise
                if conflicts and seen.conversation is None:  # the id is taken, and not by anything this tenant can see
                    raise not_found(target) from None
                conflicts += 1
                if on_busy == "raise":
                    heads.add(seen.head)  # other branches may move as often as they like
                if scope.clock.monotonic() >= deadline:
                    break
                if len(heads) < conflicts:
                    yield Sleep(_YIELD_S * scope.clock.random())
                continue
            return (yield from answer(scope, running))
    raise ConversationBusy(target.name, "several", None)


def check_on_busy(on_busy: str) -> None:
    """Raise: SettingsError unless it is one of the three."""
    if on_busy not in ("raise", "wait", "supersede"):
        raise SettingsError("on_busy", f'must be "raise", "wait" or "supersede", not {on_busy!r}')


def timeouts_of(scope: KitState, target: ChatRef, call: Options) -> Timeouts:
    """Return the timeouts that hold before the conversation is read: a chat stores none."""
    found = given(scope, target, call, "timeouts")
    return Timeouts() if found is UNSET else found


@contextmanager
def held(scope: KitState, turn_id: UUID) -> Iterator[UUID]:
    """Count a turn as run by this process for as long as the block lasts."""
    scope.running.add(turn_id)
    try:
        yield turn_id
    finally:
        scope.running.discard(turn_id)


def check_api_key(scope: KitState, prepared: PreparedRequest) -> None:
    """Raise: SettingsError when the host wants a key and there is none."""
    key = scope.api_key()
    if prepared.plan.profile.needs_key and not key:
        raise SettingsError("api_key", f"{scope.base_url} wants a key: pass api_key=... or set OPENAI_API_KEY")


def answer(scope: KitState, running: calls.ActiveCall) -> Flow[Reply]:
    """Make the call of an open turn, run the tools it asks for, close the turn however it ends, and return the reply."""
    rounds = 0
    try:
        if running.stream:
            yield Emit([Started(running.row.turn_id)])
        if running.prepared.summarising is not None:
            yield from summarize.make(scope, running)
        while True:
            yield from calls.make(scope, running)
            asked = wanted(running)
            if not asked:
                break
            rounds += 1
            yield from run_round(scope, running, asked, rounds)
    except Stopped:
        whole = running.reader is not None and running.reader.completion().done and not wanted(running)
        outcome = Outcome("completed", "complete") if whole else Outcome("interrupted", "partial")
        yield from _closed(scope, running, outcome, patience_s=LEAVING_S)
        raise
    except calls.LeaseLost:
        yield CloseResponse()
        raise (yield from _lost(scope, running)) from None
    except Exception as error:
        outcome = Outcome("interrupted" if running.text else "failed", "partial", error)
        patience_s = LEAVING_S if isinstance(error, StoreUnavailable) else SAVE_S
        yield from _closed(scope, running, outcome, patience_s=patience_s)
        if isinstance(error, ModelError):
            error.turn_id = str(running.row.turn_id)
        raise
    try:
        settled = yield from _settle(scope, running, Outcome("completed", "complete"))
    except Stopped:  # right before it was saved: the reply is whole, and paid for
        yield from _settle(scope, running, Outcome("completed", "complete"), patience_s=LEAVING_S)
        raise
    if settled is None:
        raise (yield from _lost(scope, running))
    return reply_of(running, settled)


def _closed(scope: KitState, running: calls.ActiveCall, outcome: Outcome, *, patience_s: float) -> Flow[None]:
    """Close the turn; where someone else has closed it, keep what came of the reply off the path."""
    if (yield from _settle(scope, running, outcome, patience_s=patience_s)) is None:
        yield from _keep_late(scope, running, outcome.error, patience_s=patience_s)


def _lost(scope: KitState, running: calls.ActiveCall) -> Flow[Interrupted]:
    """Keep what came of the reply, and return the error that says how the turn ended without its worker."""
    taken = Interrupted("another worker took this turn over", code="abandoned", partial=running.text)
    taken.turn_id = str(running.row.turn_id)
    whole = running.reader is not None and running.reader.finished
    yield from _keep_late(scope, running, None if whole else taken)
    found = yield from read_flow(turns.find, running.conversation.id, running.row.turn_id)
    kept = "; what came of its reply is kept off the path" if running.text else ""
    if found is not None and found.state in ("cancelled", "superseded"):
        return ended(found, running.text, kept)
    taken.args = (f"{taken}{kept}",)
    return taken


def _keep_late(
    scope: KitState, running: calls.ActiveCall, error: Exception | None, *, patience_s: float = SAVE_S
) -> Flow[turn_changes.Written | None]:
    """Keep a reply, paid for, whose turn was taken over, superseded or cancelled meanwhile."""
    if running.recorded or not (running.text or (error is None and running.reader is not None)):
        return None
    now = scope.clock.now_us()
    running.row.number += LATE_CALL_OFFSET  # beside the call's own row, which whoever closed the turn has ended
    outcome = Outcome("completed", "late", error)
    settlement = _settlement(running, outcome, rows_of(running, outcome, now), now)
    return (yield from sure(scope, turn_writes.append_late, committed.kept_late, settlement, patience_s=patience_s))


def _settle(
    scope: KitState, running: calls.ActiveCall, outcome: Outcome, *, patience_s: float = SAVE_S
) -> Flow[turn_changes.Written | None]:
    """Close the turn with this outcome and whatever came of the reply; None when someone else has closed it."""
    now = scope.clock.now_us()
    rows = _no_rows if running.recorded else rows_of(running, outcome, now)
    settlement = _settlement(running, outcome, rows, now)
    try:
        return (yield from sure(scope, turn_writes.settle, committed.settled, settlement, patience_s=patience_s))
    except StoreUnavailable as error:
        error.unsaved = running.text
        raise


def _no_rows(row: ConversationRow) -> list[MessageRow]:
    return []


def _settlement(running: calls.ActiveCall, outcome: Outcome, rows: RowsFor, now: int) -> turn_changes.TurnEnd:
    return turn_changes.TurnEnd(
        conversation=running.conversation,
        branch=running.branch,
        turn_id=running.row.turn_id,
        epoch=running.epoch,
        state=outcome.state,
        rows=rows,
        completion=None if running.recorded else running.row,
        at=now,
        error=dump_json(calls.describe(outcome.error)) if outcome.error is not None else None,
        first_token_at=running.first_token_at,
        moves_head=running.moves_head,
        pieces=running.pieces > 0 or running.unsure or running.made > 1 or running.row.number > 1,
        tools_from_seq=running.parent.seq if running.recorded else None,
        blobs=sounds_of(running),
    )
