"""Coming back to a turn: a send that is repeated under its idempotency key, and a turn that is resumed.

However often a key is sent, by whomever: one question, at most one whole reply, and every caller that returns has the same one.
A turn that ended without a whole reply is opened again for another API call; its question is not asked twice, and tool
results that are recorded are not made twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from convokit.completion import anchor, follow, summarize, turn
from convokit.completion import call as calls
from convokit.completion.anchor import TurnAnchor
from convokit.completion.effects import Emit, Flow, Sleep, read_flow
from convokit.completion.options import Options
from convokit.completion.prepare import PreparedRequest, look, prepare_again
from convokit.completion.recovery import POLL_S, OnBusy, is_worker_gone, wait_or_take_over_flow
from convokit.completion.result import ended, stored_reply
from convokit.completion.state import ChatRef, KitState, identify_flow, not_found
from convokit.completion.write_once import BEGIN_S, sure
from convokit.domain.content import Content, validate_question
from convokit.domain.events import Started, TextDelta
from convokit.domain.message import ASSISTANT, MessageRow
from convokit.domain.text import validate_text
from convokit.domain.turn import IdempotencyKey, Reply, TurnRow
from convokit.errors import ConversationBusy, IdempotencyConflict, Interrupted, InvalidInput, NotFound, Redacted
from convokit.store import committed, conversations, messages, snapshot, turn_changes, turn_writes, turns

_TRIES = 8


@dataclass(frozen=True, slots=True, repr=False)
class Asked:
    """A question as its caller passed it: unchecked, with what holds for this call."""

    content: object
    context: Sequence[str]
    call: Options
    on_busy: OnBusy
    key: str | None = None


def send(
    scope: KitState, target: ChatRef, asked: Asked, *, stream: bool, place: TurnAnchor | None = None
) -> Flow[Reply]:
    """Send, under an idempotency key if there is one."""
    if asked.key is not None:
        return _send_once(scope, target, asked, asked.key, stream=stream, place=place)
    return _send(scope, target, asked, None, stream=stream, place=place)


def _send(
    scope: KitState,
    target: ChatRef,
    asked: Asked,
    key: IdempotencyKey | None,
    *,
    stream: bool,
    place: TurnAnchor | None,
) -> Flow[Reply]:
    return turn.send(
        scope,
        target,
        asked.content,
        asked.call,
        stream=stream,
        on_busy=asked.on_busy,
        key=key,
        context=asked.context,
        place=place,
    )


def _send_once(
    scope: KitState, target: ChatRef, asked: Asked, key: str, *, stream: bool, place: TurnAnchor | None
) -> Flow[Reply]:
    """Send under an idempotency key: the first time a turn, ever after that turn. Raises: IdempotencyConflict, Redacted."""
    call, on_busy = asked.call, asked.on_busy
    if key == "":
        raise InvalidInput("idempotency_key", "is empty")
    validate_text("idempotency_key", key, limit=scope.limits.key_chars * 4, setting="Limits.key_chars")
    request = _canonical(validate_question(asked.content, asked.context, scope.limits), call, place)
    stored_key = IdempotencyKey.of(key, request)
    conversation_id = yield from identify_flow(scope, target)
    for _ in range(_TRIES):
        found = yield from read_flow(turns.find_by_idempotency_key, scope.tenant, conversation_id, stored_key.hash)
        if found is not None:
            if found.fingerprint_salt is None:  # it went with the question, or with what came along with it
                raise Redacted(conversation_id, f"the question of turn {found.id}")
            if not found.was_sent_with(request):
                raise IdempotencyConflict(target.name, found.id)
            return (yield from come_back(scope, target, call, found, stream=stream, on_busy=on_busy))
        try:
            return (yield from _send(scope, target, asked, stored_key, stream=stream, place=place))
        except turn_changes.Conflict:
            continue
        except ConversationBusy:  # by a turn under this very key, perhaps, that began since we looked
            if (
                yield from read_flow(turns.find_by_idempotency_key, scope.tenant, conversation_id, stored_key.hash)
            ) is None:
                raise
    raise ConversationBusy(target.name, "several", None)


def _canonical(content: Content, call: Options, place: TurnAnchor | None) -> str:
    """Return what makes a request the same request: its content, its passages, what was set for this call, and its place."""
    passages = [content.passages] if content.passages else []
    behind = [{"behind": place.seq}] if place is not None else []
    return json.dumps([content.text, content.parts, call.to_json(), *passages, *behind], ensure_ascii=False)


def resume(scope: KitState, target: ChatRef, call: Options, *, on_busy: OnBusy = "raise") -> Flow[Reply]:
    """Finish the chat's last turn: return its reply, or ask for it again if it has none that is whole.

    A question whose turn belongs to another branch, or has its reply on another path, is answered in a turn of its own.
    """
    conversation_id = yield from identify_flow(scope, target)
    for _ in range(_TRIES):
        found = yield from read_flow(anchor.find_branch_end, scope.tenant, conversation_id, target.branch)
        if found is None:
            raise not_found(target)
        if found.turn is not None:
            return (yield from come_back(scope, target, call, found.turn, stream=False, on_busy=on_busy))
        if found.place is None:
            raise NotFound("turn", "to resume", "the last message belongs to none of this branch")
        try:
            return (yield from turn.ask(scope, target, None, call, stream=False, on_busy=on_busy, place=found.place))
        except turn_changes.Conflict:
            continue
    raise ConversationBusy(target.name, "several", None)


def come_back(
    scope: KitState, target: ChatRef, call: Options, found: TurnRow, *, stream: bool, on_busy: OnBusy
) -> Flow[Reply]:
    """Return the turn's reply: the stored one, the one that is on its way, or a new one, on the branch it was sent to."""
    target = target if target.branch == found.branch else replace(target, branch=found.branch)
    assert target.id is not None
    deadline = scope.clock.monotonic() + turn.timeouts_of(scope, target, call).total_s
    for _ in range(_TRIES):
        if stream and (yield from _is_running(scope, target.id, found)):
            try:
                return (yield from _attached(scope, target, found))
            except Interrupted as error:
                if error.partial:  # its reader has that much of it already: a second reply would come on top
                    raise
                found = yield from _fresh(target.id, found)
        found = yield from _closed(scope, target, call, found, deadline)
        if found.state == "completed":
            reply = yield from read_flow(stored_reply, target.id, found)
            yield Emit([Started(found.id), TextDelta(reply.text)])
            return reply
        if found.state == "superseded":
            raise ended(found)
        try:
            return (yield from _open_again(scope, target, call, found, stream=stream, on_busy=on_busy))
        except turn_changes.Conflict:
            found = yield from _fresh(target.id, found)
    raise ConversationBusy(target.name, found.id, None)


def _is_running(scope: KitState, conversation_id: UUID, found: TurnRow) -> Flow[bool]:
    if found.state != "open":
        return False
    held = yield from read_flow(turns.find_open, conversation_id, found.branch)
    return held is not None and held.id == found.id and not is_worker_gone(scope, held)


def _attached(scope: KitState, target: ChatRef, found: TurnRow) -> Flow[Reply]:
    """Read along with whoever runs the turn."""
    assert target.id is not None
    conversation = yield from read_flow(conversations.find, scope.tenant, target.id)
    if conversation is None:
        raise not_found(target)
    return (yield from follow.attach_flow(scope, conversation, found.id, 0))


def _closed(scope: KitState, target: ChatRef, call: Options, found: TurnRow, deadline: float) -> Flow[TurnRow]:
    """Wait until the turn is closed, and close it if its worker is gone."""
    assert target.id is not None
    while found.state == "open":
        seen = yield from look(scope, target, call, Content(""))
        if seen.open_turn is not None and seen.open_turn.id == found.id:
            yield from wait_or_take_over_flow(scope, target, call, seen, "wait", deadline)
        else:
            yield Sleep(POLL_S)
        found = yield from _fresh(target.id, found)
    return found


def _fresh(conversation_id: UUID, found: TurnRow) -> Flow[TurnRow]:
    row = yield from read_flow(turns.find, conversation_id, found.id)
    return found if row is None else row


def _open_again(
    scope: KitState, target: ChatRef, call: Options, found: TurnRow, *, stream: bool, on_busy: OnBusy
) -> Flow[Reply]:
    seen = yield from _ready(scope, target, call, found, on_busy)
    assert seen.conversation is not None
    asked = yield from read_flow(messages.find, seen.conversation.id, found.question_seq)
    if asked is None or asked.status == "redacted":
        raise Redacted(seen.conversation.id, f"the question of turn {found.id}")
    end = seen.path.rows[-1] if seen.path.rows else None
    last = end is not None and (end.turn_id == found.id or end.seq == found.question_seq)
    tail = _tail(seen.path.rows, found)
    if not last:
        end_seq = yield from read_flow(
            messages.find_last_seq_of_turn, seen.conversation.id, found.id, found.question_seq, found.from_seq
        )
        seen = yield from look(scope, target, call, Content(""), at=end_seq)
        assert seen.conversation is not None
        tail = seen.path.rows
    seen.path.rows = tail
    prepared = prepare_again(scope, target, call, seen, stream=stream)
    prepared = yield from summarize.planned(scope, target, call, prepared)
    turn.check_api_key(scope, prepared)
    with turn.held(scope, found.id):
        running = yield from _reopened(scope, prepared, found, moves_head=last)
        return (yield from turn.answer(scope, running))


def _ready(scope: KitState, target: ChatRef, call: Options, found: TurnRow, on_busy: OnBusy) -> Flow[snapshot.Snapshot]:
    """Return what a turn needs once no other turn is open on its branch."""
    deadline = scope.clock.monotonic() + turn.timeouts_of(scope, target, call).busy_s
    while True:
        seen = yield from look(scope, target, call, Content(""))
        if seen.open_turn is None or seen.open_turn.id == found.id:
            return seen
        yield from wait_or_take_over_flow(scope, target, call, seen, on_busy, deadline)


def _tail(rows: list[MessageRow], found: TurnRow) -> list[MessageRow]:
    """Return the path up to where a new reply of the turn belongs: without what broke off."""
    end = len(rows)
    while end and rows[end - 1].turn_id == found.id and _broke_off(rows[end - 1]):
        end -= 1
    return rows[:end]


def _broke_off(row: MessageRow) -> bool:
    return row.status in ("partial", "late") or (row.status == "redacted" and row.role == ASSISTANT)


def _reopened(
    scope: KitState, prepared: PreparedRequest, found: TurnRow, *, moves_head: bool
) -> Flow[calls.ActiveCall]:
    timeouts, seen = prepared.plan.timeouts, prepared.seen
    assert seen.conversation is not None
    row = calls.new_row(prepared.first, found.id, scope.clock.now_us(), number=found.calls + 1)
    reopening = turn_changes.TurnReopen(
        conversation=seen.conversation,
        turn=found,
        completion=row,
        owner=scope.owner(),
        lease_us=calls.lease_us(calls.silence_s(prepared.first)),
        prompts=prepared.first.manifest.prompts,
    )
    yield from sure(scope, turn_writes.reopen, committed.reopened, reopening, patience_s=BEGIN_S, passing_only=True)
    return calls.ActiveCall(
        prepared,
        seen.conversation,
        row,
        found.branch,
        seen.path.rows[-1],
        epoch=found.epoch + 1,
        deadline=scope.clock.monotonic() + timeouts.total_s,
        stream=prepared.stream,
        moves_head=moves_head,
    )
