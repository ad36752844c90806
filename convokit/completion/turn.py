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
from convokit.completion.recover import clear_the_way
from convokit.completion.result import Outcome, reply_of, rows_of, sounds_of
from convokit.completion.scope import Scope, Target
from convokit.completion.tools import run_round, wanted
from convokit.domain import chain
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import new_id
from convokit.domain.message import MessageRow
from convokit.domain.parts import Content, checked_content
from convokit.domain.text import compact_json
from convokit.domain.turn import Reply
from convokit.errors import ConversationBusy, ModelError, SettingsError
from convokit.store import steps

_REBUILDS = 3


def send(scope: Scope, target: Target, given: object, call: Options, *, stream: bool) -> Flow[Reply]:
    """Send text, or content parts, and return the saved reply. Raises: every ConvokitError there is."""
    content = checked_content(given, scope.limits)
    for _ in range(_REBUILDS + 1):
        seen = yield from look(scope, target, call, content)
        if seen.open_turn is not None:
            yield from clear_the_way(scope, target, call, seen)
            continue
        prepared = prepare(scope, target, call, seen, content, stream=stream)
        _check_key(scope, prepared)
        with _held(scope) as turn_id:
            try:
                running = yield from _begin(scope, target, prepared, content, turn_id)
            except steps.Conflict:
                continue
            return (yield from _answer(scope, running))
    raise ConversationBusy(target.name, "several", None)


@contextmanager
def _held(scope: Scope) -> Iterator[UUID]:
    """Draw a turn's id, which counts as run by this process for as long as the block lasts."""
    turn_id = new_id()
    scope.running.add(turn_id)
    try:
        yield turn_id
    finally:
        scope.running.discard(turn_id)


def _check_key(scope: Scope, prepared: Prepared) -> None:
    if prepared.plan.profile.needs_key and not scope.api_key():
        raise SettingsError("api_key", f"{scope.base_url} wants a key: pass api_key=... or set OPENAI_API_KEY")


def _begin(scope: Scope, target: Target, prepared: Prepared, content: Content, turn_id: UUID) -> Flow[calls.Call]:
    now = scope.clock.now_us()
    seen = prepared.seen.conversation
    row = seen if seen is not None else _new_conversation(scope, target, now)
    described = seen is not None and _describe(row, target)
    completion = calls.new_row(prepared, turn_id, now)
    question = _question(prepared, content, turn_id, now)
    timeouts = prepared.plan.timeouts
    silence = timeouts.first_byte_s if prepared.stream else timeouts.total_s
    conversation = yield from write(
        steps.begin,
        steps.Beginning(
            conversation=row,
            created=seen is None,
            branch=target.branch,
            question=question,
            completion=completion,
            owner=scope.owner(),
            lease_us=calls.lease_us(silence),
            at=now,
            prompts=prepared.prompts,
            blobs=content.blobs,
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
    before = (row.settings, row.subject, row.title)
    row.settings = target.options.over(Options.from_json(row.settings)).to_json()
    row.subject = target.subject if target.subject is not None else row.subject
    row.title = target.title if target.title is not None else row.title
    return (row.settings, row.subject, row.title) != before


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


def _answer(scope: Scope, running: calls.Call) -> Flow[Reply]:
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
        yield from _settle(scope, running, Outcome("interrupted", "partial"))
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
        raise calls.TurnLost("another worker took this turn over", partial=running.text)
    return reply_of(running, settled)


def _settle(scope: Scope, running: calls.Call, outcome: Outcome) -> Flow[steps.Settled | None]:
    """Close the turn with this outcome and whatever came of the reply."""
    now = scope.clock.now_us()
    make_rows = rows_of(running, outcome, now)
    return (
        yield from write(
            steps.settle,
            steps.Settlement(
                conversation=running.conversation,
                branch=running.branch,
                turn_id=running.row.turn_id,
                epoch=running.epoch,
                state=outcome.state,
                rows=make_rows,
                completion=running.row,
                at=now,
                error=running.row.error,
                first_token_at=running.first_token_at,
                blobs=sounds_of(running),
            ),
        )
    )
