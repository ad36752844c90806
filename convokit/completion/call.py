"""One API call of a turn, and the calls made again after it failed.

Every call has its row before its first byte is sent, and nothing is called again once a piece of the reply was handed out. A
reply on its way is stored as it comes, about once a second or every 4 KiB.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from convokit.completion import retry
from convokit.completion.effects import (
    CloseResponse,
    Emit,
    Flow,
    OpenRequest,
    ReadBody,
    ResponseHead,
    Sleep,
    write_once_flow,
)
from convokit.completion.manifest import body_digest
from convokit.completion.prepare import PreparedRequest, adapted_to
from convokit.completion.state import KitState
from convokit.completion.write_once import SAVE_S, sure
from convokit.domain import hashchain
from convokit.domain.conversation import ConversationRow
from convokit.domain.events import Retrying
from convokit.domain.message import MessageRow
from convokit.domain.reply import Usage
from convokit.domain.text import dump_json, repair_text
from convokit.domain.turn import CallRow
from convokit.errors import ContextOverflow, ModelError, StoreUnavailable, TimedOut
from convokit.store import committed, turn_changes, turn_writes
from convokit.wire import error_mapping, headers
from convokit.wire.response import ReplyReader

log = logging.getLogger(__name__)
LEASE_MARGIN_S = 10.0
PIECE_S = 1.0
PIECE_CHARS = 4096
_ERROR_BODY_BYTES = 64 * 1024
_ERROR_BODY_S = 10.0


class LeaseLost(Exception):  # not a user's error: `stored.ended` says what became of the turn
    """The turn is no longer ours, so its reply is not ours to save."""


@dataclass(slots=True, repr=False)
class ActiveCall:
    """A call that is running: what is stored of it, and what came of it so far."""

    prepared: PreparedRequest
    conversation: ConversationRow
    row: CallRow
    branch: int
    parent: MessageRow
    """What the reply follows: the question, or the last tool result."""
    epoch: int
    deadline: float
    stream: bool
    reader: ReplyReader | None = None
    head: ResponseHead | None = None
    first_token_at: int | None = None
    pieces: int = 0
    stored_chars: int = 0
    stored_at: float = 0.0
    content_at: float = 0.0
    key: str | None = None
    """The API key of this very call: keys rotate."""
    moves_head: bool = True
    recorded: bool = False
    """Whether this call's outcome is on record already: a tool round is between two calls."""
    spent: list[Usage] = field(default_factory=list)
    """What the calls before this one used, in the same turn."""
    made: int = 1
    """How many calls the turn has made, this one included."""
    unsure: bool = False
    """Whether a piece may have been stored although its acknowledgement was lost."""

    @property
    def text(self) -> str:
        """What came of the reply so far, as it may be stored."""
        return repair_text(self.reader.text) if self.reader is not None else ""

    def without_key(self, text: str) -> str:
        """Return what a server said without the key that it was sent: some send it back."""
        return text.replace(self.key, "[key]") if self.key else text


def make(scope: KitState, call: ActiveCall) -> Flow[None]:
    """Make the call, again as often as the retry policy allows, until the reply is complete.

    Raises: ModelError or ContextOverflow when it failed for good.
    """
    attempt = 1
    while True:
        try:
            yield from _exchange(scope, call)
            return
        except (ModelError, ContextOverflow) as error:
            yield CloseResponse()
            _tell(call, error)
            following = None if call.first_token_at is not None else adapted_to(scope, call.prepared, error)
            wait: float | None = 0.0
            if following is None:
                wait = _delay_s(scope, call, error, attempt)
                attempt += 1
            if wait is None:
                raise
            yield from _record_retry(scope, call, error, following or call.prepared, wait)
            yield Emit([Retrying(attempt, wait, type(error).__name__)])
            yield Sleep(wait)


def _tell(call: ActiveCall, error: ModelError | ContextOverflow) -> None:
    """Add to an error what came of the reply, and take out the key, should the server have sent it back."""
    if isinstance(error, ModelError) and not error.partial:
        error.partial = call.text
    error.args = tuple(call.without_key(str(each)) for each in error.args)
    for name in ("code", "type", "param", "request_id"):
        said = getattr(error, name, None)
        if isinstance(said, str):
            setattr(error, name, call.without_key(said))


def _delay_s(scope: KitState, call: ActiveCall, error: Exception, attempt: int) -> float | None:
    if call.first_token_at is not None:
        return None
    remaining = call.deadline - scope.clock.monotonic()
    policy = call.prepared.plan.retry
    return retry.delay_s(error, attempt=attempt, retry=policy, random=scope.clock.random, remaining_s=remaining)


def _exchange(scope: KitState, call: ActiveCall) -> Flow[None]:
    plan = call.prepared.plan
    call.head = yield _open(scope, call)
    assert call.head is not None
    call.row.first_byte_at = scope.clock.now_us()
    request_id = headers.parse_request_id(call.head.headers)
    call.row.request_id = None if request_id is None else call.without_key(request_id)
    if not 200 <= call.head.status < 300:
        raise (yield from _refusal(scope, call, call.head))
    content_type = call.head.headers.get("content-type", "")
    reader = ReplyReader(content_type=content_type, streaming=call.stream, limits=scope.limits)
    call.reader = reader
    call.content_at = call.stored_at = scope.clock.monotonic()
    while not reader.finished:
        data = yield ReadBody(_patience(scope, call, plan.timeouts.stall_s))
        events = reader.feed(data) if data else reader.end()
        now = scope.clock.monotonic()
        if reader.content_seen or not call.stream:
            call.content_at = now
        if events and call.stream:
            yield from _hand_out(scope, call, events, now)
            call.content_at = max(call.content_at, scope.clock.monotonic())  # a slow reader is not a silent server
    yield CloseResponse()
    call.spent.append(reader.build_reply().usage)
    for answer in reader.build_reply().choices[:1]:
        filtered = error_mapping.find_filter_error(answer, reader.build_reply())
        if filtered is not None:
            raise filtered


def _open(scope: KitState, call: ActiveCall) -> OpenRequest:
    plan, rendered = call.prepared.plan, call.prepared.rendered
    call.key = scope.api_key()
    return OpenRequest(
        url=scope.url,
        headers=headers.build_headers(
            plan.profile,
            call.key,
            stream=call.stream,
            request_id=str(call.row.turn_id),
            extra=rendered.headers,
        ),
        data=rendered.data,
        connect_s=plan.timeouts.connect_s,
        first_byte_s=_first_byte_s(scope, call),
    )


def _first_byte_s(scope: KitState, call: ActiveCall) -> float:
    """Return how long to wait for the head: a plain answer begins only when it is complete."""
    remaining = call.deadline - scope.clock.monotonic()
    if call.stream:
        remaining = min(remaining, call.prepared.plan.timeouts.first_byte_s)
    return max(remaining, 0.001)


def _patience(scope: KitState, call: ActiveCall, stall_s: float) -> float:
    """Return how long to wait for the next bytes. Comments keep a connection alive, they are no content."""
    now = scope.clock.monotonic()
    if now >= call.deadline:
        raise TimedOut("the turn took longer than Timeouts.total_s", phase="total", partial=call.text)
    quiet = now - call.content_at
    if quiet >= stall_s:
        raise TimedOut(f"no content for {stall_s:g} s (Timeouts.stall_s)", phase="stall", partial=call.text)
    return min(stall_s - quiet, call.deadline - now)


def _hand_out(scope: KitState, call: ActiveCall, events: list[Any], now: float) -> Flow[None]:
    if call.first_token_at is None:
        call.first_token_at = scope.clock.now_us()
    yield Emit(events)
    assert call.reader is not None
    fresh = call.reader.text_chars - call.stored_chars
    if fresh >= PIECE_CHARS or now - call.stored_at >= PIECE_S:  # without text too: reasoning must keep the lease
        yield from _store_piece(scope, call, now)


def _store_piece(scope: KitState, call: ActiveCall, now: float) -> Flow[None]:
    """Store what came since the last piece. While the database is away the stream goes on; the next piece holds this one."""
    assert call.reader is not None
    text = call.reader.text_after(call.stored_chars)
    call.stored_at = now
    try:
        ours = yield from write_once_flow(
            turn_writes.save_piece,
            call.conversation.id,
            call.row,
            call.epoch,
            call.pieces + 1,
            repair_text(text),
            lease_us=lease_us(call.prepared.plan.timeouts.stall_s),
            first_token_at=call.first_token_at or scope.clock.now_us(),
        )
    except StoreUnavailable as error:
        log.warning("turn %s: a piece of its reply waits to be stored (%s)", call.row.turn_id, type(error).__name__)
        call.unsure = True
        return
    if not ours:
        raise LeaseLost
    call.pieces += bool(text)
    call.stored_chars += len(text)


def silence_s(prepared: PreparedRequest) -> float:
    """Return the longest silence before a call's first piece: a plain answer is silent until it is complete."""
    timeouts = prepared.plan.timeouts
    return timeouts.first_byte_s + timeouts.stall_s if prepared.stream else timeouts.total_s


def lease_us(longest_silence_s: float) -> int:
    """Return a lease that covers the longest silence a call may still have."""
    return int((longest_silence_s + LEASE_MARGIN_S) * 1_000_000)


def _refusal(scope: KitState, call: ActiveCall, head: ResponseHead) -> Flow[ModelError | ContextOverflow]:
    body = b""
    until = min(scope.clock.monotonic() + _ERROR_BODY_S, call.deadline)
    while len(body) < _ERROR_BODY_BYTES and scope.clock.monotonic() < until:
        data = yield ReadBody(max(until - scope.clock.monotonic(), 0.001))
        if not data:
            break
        body += data
    yield CloseResponse()
    secrets = (call.key,) if call.key else ()
    return error_mapping.build_response_error(
        head.status, head.headers, body, retry_after_now=scope.clock.time(), secrets=secrets
    )


def _record_retry(
    scope: KitState, call: ActiveCall, error: Exception, prepared: PreparedRequest, wait: float
) -> Flow[None]:
    """Make durable that this call failed and that another follows."""
    now = scope.clock.now_us()
    fail(call.row, error, now)
    following = new_row(prepared, call.row.turn_id, now, number=call.row.number + 1)
    recording = turn_changes.TurnUpdate(
        conversation=call.conversation,
        branch=call.branch,
        turn_id=call.row.turn_id,
        epoch=call.epoch,
        ended=call.row,
        following=following,
        prompts=prepared.manifest.prompts,
        moves_head=call.moves_head,
        lease_us=lease_us(wait + silence_s(prepared)),
        at=now,
    )
    follow(call, (yield from record(scope, recording)), prepared, following)


def record(scope: KitState, recording: turn_changes.TurnUpdate) -> Flow[turn_changes.Written | None]:
    """Write what happened in the turn; None when it is no longer ours."""
    return (yield from sure(scope, turn_writes.record, committed.recorded, recording, patience_s=SAVE_S))


def follow(
    call: ActiveCall, recorded: turn_changes.Written | None, prepared: PreparedRequest, following: CallRow
) -> None:
    """Turn to the next call of the same turn. Raises: Fenced when the turn is no longer ours."""
    if recorded is None:
        raise LeaseLost
    call.conversation, call.prepared, call.row = recorded.conversation, prepared, following
    call.reader, call.head, call.recorded = None, None, False
    call.stored_chars = call.pieces = 0
    call.made += 1


def fail(row: CallRow, error: Exception, now: int) -> None:
    """Write into the row how the call failed. No text of anyone's is kept in it."""
    row.state, row.usage_source, row.prompt_tokens = "error", "absent", None
    row.error = dump_json(describe(error))
    row.ended_at = now
    row.salt = hashchain.new_salt()


def describe(error: Exception) -> dict[str, Any]:
    """Return an error's facts for the record: no message text but the error's own sentence."""
    facts: dict[str, Any] = {"type": type(error).__name__, "message": repair_text(str(error))[:500]}
    for name in ("status", "code", "param", "phase", "request_id"):
        value = getattr(error, name, None)
        if value is not None:
            facts[name] = repair_text(value)[:200] if isinstance(value, str) else value
    return facts


def new_row(prepared: PreparedRequest, turn_id: UUID, now: int, *, number: int = 1) -> CallRow:
    """Return the row of a call that is about to be made. Its prompt is estimated, in case its worker dies before it ends."""
    salt, digest = body_digest(prepared.rendered)
    return CallRow(
        turn_id=turn_id,
        number=number,
        state="sending",
        manifest=prepared.manifest.text,
        body_salt=salt,
        body_digest=digest,
        requested_model=prepared.plan.model,
        provider=prepared.plan.provider,
        started_at=now,
        prompt_tokens=prepared.context.report.tokens,
        usage_source="estimated",
    )
