"""A turn: save the question, ask the model, save the reply.

Read the window, build and digest the body with no transaction open; `begin` makes question, turn and call durable; the API is
called; `settle` closes the turn, starting with a compare-and-swap on its epoch. However the call ends, what came of the reply
is kept and the conversation can go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from convokit.completion import call as calls
from convokit.completion.effects import Flow, Stopped, write
from convokit.completion.options import Options
from convokit.completion.prepare import Prepared, look, prepare
from convokit.completion.recover import OnBusy, clear_the_way
from convokit.completion.result import Outcome, RowsFor, reply_of, rows_of, sounds_of
from convokit.completion.scope import Scope, Target, missing
from convokit.completion.tools import run_round, wanted
from convokit.domain import chain
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import new_id
from convokit.domain.message import MessageRow
from convokit.domain.parts import Content, checked_content
from convokit.domain.text import compact_json
from convokit.domain.turn import Key, Reply
from convokit.errors import ConversationBusy, ModelError, SettingsError
from convokit.settings import Timeouts, Unset
from convokit.store import steps

_REBUILDS = 3


def send(
    scope: Scope,
    target: Target,
    given: object,
    call: Options,
    *,
    stream: bool,
    on_busy: OnBusy = "raise",
    key: Key | None = None,
) -> Flow[Reply]:
    """Send text, or content parts, and return the saved reply. Raises: every ConvokitError there is.

    Raises steps.Conflict when a turn under the same idempotency `key` came between.
    """
    content = checked_content(given, scope.limits)
    check_on_busy(on_busy)
    deadline = scope.clock.monotonic() + timeouts_of(scope, target, call).busy_s
    rebuilds = 0
    while rebuilds <= _REBUILDS:
        seen = yield from look(scope, target, call, content)
        if seen.open_turn is not None:
            yield from clear_the_way(scope, target, call, seen, on_busy, deadline)
            continue
        prepared = prepare(scope, target, call, seen, content, stream=stream)
        check_api_key(scope, prepared)
        with held(scope, new_id()) as turn_id:
            try:
                running = yield from _begin(scope, target, prepared, content, turn_id, key)
            except steps.Conflict:
                if key is not None:
                    raise
                if rebuilds and seen.conversation is None:  # the id is taken, and not by anything this tenant can see
                    raise missing(target) from None
                rebuilds += 1
                continue
            return (yield from answer(scope, running))
    raise ConversationBusy(target.name, "several", None)


def check_on_busy(on_busy: str) -> None:
    """Raise: SettingsError unless it is one of the three."""
    if on_busy not in ("raise", "wait", "supersede"):
        raise SettingsError("on_busy", f'must be "raise", "wait" or "supersede", not {on_busy!r}')


def timeouts_of(scope: Scope, target: Target, call: Options) -> Timeouts:
    """Return the timeouts that hold before the conversation is read: a chat stores none."""
    given = call.over(target.options).over(scope.options).timeouts
    return Timeouts() if isinstance(given, Unset) else given


@contextmanager
def held(scope: Scope, turn_id: UUID) -> Iterator[UUID]:
    """Count a turn as run by this process for as long as the block lasts."""
    scope.running.add(turn_id)
    try:
        yield turn_id
    finally:
        scope.running.discard(turn_id)


def check_api_key(scope: Scope, prepared: Prepared) -> None:
    """Raise: SettingsError when the host wants a key and there is none."""
    key = scope.api_key()
    if prepared.plan.profile.needs_key and not key:
        raise SettingsError("api_key", f"{scope.base_url} wants a key: pass api_key=... or set OPENAI_API_KEY")


def _begin(
    scope: Scope, target: Target, prepared: Prepared, content: Content, turn_id: UUID, key: Key | None
) -> Flow[calls.Call]:
    now = scope.clock.now_us()
    seen = prepared.seen.conversation
    row = seen if seen is not None else _new_conversation(scope, target, now)
    described = seen is not None and _describe(row, target)
    completion = calls.new_row(prepared, turn_id, now)
    question = _question(prepared, content, turn_id, now)
    timeouts = prepared.plan.timeouts
    conversation = yield from write(
        steps.begin,
        steps.Beginning(
            conversation=row,
            created=seen is None,
            branch=target.branch,
            question=question,
            completion=completion,
            owner=scope.owner(),
            lease_us=calls.lease_us(calls.silence_s(prepared)),
            at=now,
            prompts=prepared.prompts,
            blobs=content.blobs,
            key=key,
            described=described,
        ),
    )
    deadline = scope.clock.monotonic() + timeouts.total_s
    return calls.Call(
        prepared, conversation, completion, target.branch, question, epoch=1, deadline=deadline, stream=prepared.stream
    )


def _new_conversation(scope: Scope, target: Target, now: int) -> ConversationRow:
    assert target.id is not None
    return ConversationRow(
        id=target.id,
        tenant=scope.tenant,
        key=target.key,
        subject=target.subject,
        title=target.title,
        metadata=target.metadata,
        settings=target.options.to_json(),
        head_seq=None,
        last_seq=0,
        last_entry=0,
        chain_hash=chain.genesis(target.id),
        created_at=now,
        updated_at=now,
        archived_at=None,
    )


def _describe(row: ConversationRow, target: Target) -> bool:
    """Put what was newly set on the chat into the row. Return whether anything changed."""
    before = (row.settings, row.subject, row.title, row.metadata)
    row.settings = target.options.over(Options.from_json(row.settings)).to_json()
    row.subject = target.subject if target.subject is not None else row.subject
    row.title = target.title if target.title is not None else row.title
    row.metadata = target.metadata if target.metadata is not None else row.metadata
    return (row.settings, row.subject, row.title, row.metadata) != before


def _question(prepared: Prepared, content: Content, turn_id: UUID, now: int) -> MessageRow:
    rows, seen = prepared.seen.path.rows, prepared.seen.conversation
    head = rows[-1] if rows else None
    seq = seen.last_seq + 1 if seen is not None else 1
    follows = head is not None and head.seq == seq - 1
    tokens = prepared.items[-1].tokens
    return MessageRow(
        seq=seq,
        parent_seq=None if head is None else head.seq,
        run_start_seq=head.run_start_seq if head is not None and follows else seq,
        turn_id=turn_id,
        role="user",
        content=content.text,
        parts=None if content.parts is None else compact_json(content.parts),
        status="complete",
        tokens=tokens,
        counter=prepared.plan.counter.name,
        path_tokens=(head.path_tokens if head is not None else 0) + tokens,
        created_at=now,
        salt=chain.new_salt(),
    )


def answer(scope: Scope, running: calls.Call) -> Flow[Reply]:
    """Make the call of an open turn, run the tools it asks for, close the turn however it ends, and return the reply."""
    rounds = 0
    try:
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
        yield from _settle(scope, running, outcome)
        raise
    except Exception as error:
        partial = bool(running.text)
        outcome = Outcome("interrupted" if partial else "failed", "partial", error)
        if not isinstance(error, calls.TurnLost):
            yield from _settle(scope, running, outcome)
        if isinstance(error, ModelError):
            error.turn_id = str(running.row.turn_id)
        raise
    settled = yield from _settle(scope, running, Outcome("completed", "complete"))
    if settled is None:
        yield from _keep_late(scope, running)
        raise calls.TurnLost(
            "this turn was closed by someone else; its reply is kept off the path", partial=running.text
        )
    return reply_of(running, settled)


def _keep_late(scope: Scope, running: calls.Call) -> Flow[None]:
    """Keep a paid-for reply whose turn was taken over, superseded or cancelled meanwhile."""
    now = scope.clock.now_us()
    running.row.number += 1000  # beside the call's own row, which whoever closed the turn has ended
    settlement = _settlement(running, Outcome("completed", "late"), rows_of(running, Outcome("ok", "late"), now), now)
    yield from write(steps.append_late, settlement)


def _settle(scope: Scope, running: calls.Call, outcome: Outcome) -> Flow[steps.Settled | None]:
    """Close the turn with this outcome and whatever came of the reply."""
    now = scope.clock.now_us()
    rows = _no_rows if running.recorded else rows_of(running, outcome, now)
    return (yield from write(steps.settle, _settlement(running, outcome, rows, now)))


def _no_rows(row: ConversationRow) -> list[MessageRow]:
    return []


def _settlement(running: calls.Call, outcome: Outcome, rows: RowsFor, now: int) -> steps.Settlement:
    return steps.Settlement(
        conversation=running.conversation,
        branch=running.branch,
        turn_id=running.row.turn_id,
        epoch=running.epoch,
        state=outcome.state,
        rows=rows,
        completion=None if running.recorded else running.row,
        at=now,
        error=compact_json(calls.describe(outcome.error)) if outcome.error is not None else None,
        first_token_at=running.first_token_at,
        moves_head=running.moves_head,
        pieces=running.pieces > 0 or running.made > 1 or running.row.number > 1,
        tools_from_seq=running.parent.seq if running.recorded else None,
        blobs=sounds_of(running),
    )
