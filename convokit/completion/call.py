"""Make one API call of a turn, and retry it.

The row of a call is committed before its first byte is sent. Nothing is called again once a chunk of the reply was
handed out. A streamed reply is stored as it comes, about once a second or every 4,096 characters.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from convokit.completion import retry
from convokit.completion.call_rows import lease_us, longest_silence_s, new_call_row, record_failure
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
from convokit.completion.observed_turn import ObservedTurn
from convokit.completion.prepare import PreparedRequest, adapt_request
from convokit.completion.state import KitState
from convokit.completion.stored_events import make_chunk
from convokit.completion.write_retry import SAVE_S, update_turn_flow
from convokit.domain.conversation import ConversationRow
from convokit.domain.events import Retrying, StreamEvent
from convokit.domain.message import MessageRow
from convokit.domain.reply import ParsedReply, Usage
from convokit.domain.text import repair_text
from convokit.domain.turn import CallRow
from convokit.errors import ContextOverflow, Interrupted, ModelError, StoreUnavailable, TimedOut
from convokit.store.turn_end import TurnUpdate, save_chunk
from convokit.store.turn_start import Written
from convokit.wire import error_mapping, headers
from convokit.wire.error_body import mask_error
from convokit.wire.response import ReplyReader

log = logging.getLogger("convokit.completion")
CHUNK_S = 1.0
CHUNK_CHARS = 4096
_ERROR_BODY_BYTES = 64 * 1024
_ERROR_BODY_S = 10.0
_OUT_OF_TIME = "the turn took longer than Timeouts.total_s"


class LeaseLost(Exception):  # never reaches a user: `turn.py` finds out what became of the turn
    """Another worker closed the turn. Its reply must not be saved as the turn's."""


@dataclass(slots=True, repr=False)
class ActiveCall:
    """A call in progress: its request, its row, and the reply so far."""

    request: PreparedRequest
    conversation: ConversationRow
    row: CallRow
    branch: int
    parent: MessageRow
    """The message that the reply follows: the question, or the last tool result."""
    epoch: int
    deadline: float
    stream: bool
    reader: ReplyReader | None = None
    reply: ParsedReply | None = None
    """The reply, once it is complete."""
    head: ResponseHead | None = None
    first_token_at: int | None = None
    chunks: int = 0
    unstored: list[StreamEvent] = field(default_factory=list)
    """The events since the last stored chunk."""
    stored_chars: int = 0
    stored_at: float = 0.0
    content_at: float = 0.0
    key: str | None = None
    """The API key of this call: keys rotate."""
    moves_head: bool = True
    recorded: bool = False
    """Whether the outcome of this call is stored already: a tool round runs between two calls."""
    spent: list[Usage] = field(default_factory=list)
    """The usage of the turn's calls so far."""
    attempts: int = 1
    """The number of calls that the turn has made, this one included."""
    may_have_stored: bool = False
    """Whether a chunk may be stored although its acknowledgement was lost."""
    observed: ObservedTurn | None = None
    """Reports the turn to the observers, if there are any."""

    @property
    def text(self) -> str:
        """The reply so far, as it may be stored."""
        return repair_text(self.reader.text) if self.reader is not None else ""

    def parse_reply(self) -> ParsedReply:
        """Return the reply so far."""
        if self.reply is not None:
            return self.reply
        return self.reader.build_reply() if self.reader is not None else ParsedReply([])

    def advance(self, written: Written | None, request: PreparedRequest, next_call: CallRow) -> None:
        """Become the next call of the same turn. Raises: LeaseLost if the turn is no longer ours."""
        if written is None:
            raise LeaseLost
        self.conversation, self.request, self.row = written.conversation, request, next_call
        self.reader, self.reply, self.head, self.recorded, self.unstored = None, None, None, False, []
        self.stored_chars = self.chunks = 0
        self.attempts += 1


def call_with_retries_flow(kit: KitState, call: ActiveCall) -> Flow[None]:
    """Make the call, and repeat it until the reply is complete or the retry policy gives up.

    Raises: ModelError, ContextOverflow, LeaseLost.
    """
    attempt = 1
    while True:
        try:
            try:
                yield from _exchange_flow(kit, call)
            finally:
                if call.observed is not None:
                    call.observed.stop_clock()
            return
        except (ModelError, ContextOverflow) as error:
            yield CloseResponse()
            _complete_error(kit, call, error)
            adapted = None if call.first_token_at is not None else adapt_request(kit, call.request, error)
            wait_s: float | None = 0.0
            if adapted is None:
                wait_s = _find_delay_s(kit, call, error, attempt)
                attempt += 1
            if wait_s is None:
                raise
            yield from _record_retry_flow(kit, call, error, adapted or call.request, wait_s)
            yield Emit([Retrying(attempt, wait_s, type(error).__name__)])
            yield Sleep(wait_s)


def _complete_error(kit: KitState, call: ActiveCall, error: ModelError | ContextOverflow) -> None:
    """Add the partial reply to the error, and mask the API key in it, because some servers send the key back."""
    if isinstance(error, ModelError) and not error.partial:
        error.partial = call.text
    is_out_of_time = kit.clock.monotonic() >= call.deadline  # the last wait was as long as the rest of the turn's time
    if isinstance(error, TimedOut) and error.phase in ("first_byte", "stall") and is_out_of_time:
        error.phase, error.args = "total", (_OUT_OF_TIME,)
    error_mapping.add_url_hint(error, kit.url)
    mask_error(error, call.key)


def _find_delay_s(kit: KitState, call: ActiveCall, error: Exception, attempt: int) -> float | None:
    if call.first_token_at is not None:
        return None
    return retry.find_delay_s(
        error,
        attempt=attempt,
        retry=call.request.options.retry,
        random=kit.clock.random,
        remaining_s=call.deadline - kit.clock.monotonic(),
    )


def _exchange_flow(kit: KitState, call: ActiveCall) -> Flow[None]:
    """Send the request and read the whole answer."""
    timeouts = call.request.options.timeouts
    head: ResponseHead = yield _open_request(kit, call)
    call.head, call.row.first_byte_at = head, kit.clock.now_us()
    call.row.request_id = headers.parse_request_id(head.headers)
    if not 200 <= head.status < 300:
        raise (yield from _read_error_flow(kit, call, head))
    kind, taken_ids = head.headers.get("content-type", ""), call.request.list_call_ids()
    reader = call.reader = ReplyReader(content_type=kind, streaming=call.stream, limits=kit.limits, taken_ids=taken_ids)
    call.content_at = call.stored_at = kit.clock.monotonic()
    while not reader.finished:
        try:
            data = yield ReadBody(_read_timeout_s(kit, call, timeouts.stall_s))
        except (Interrupted, TimedOut):
            if not reader.is_whole:
                raise
            data = b""  # only `[DONE]` and the end of the body are missing
        events = reader.feed(data) if data else reader.end()
        now = kit.clock.monotonic()
        if reader.content_seen or not call.stream:
            call.content_at = now
        if events and call.stream:
            yield from _emit_and_store_flow(kit, call, events, now)
            call.content_at = max(call.content_at, kit.clock.monotonic())  # a slow reader is not a silent server
    yield CloseResponse()
    reply = call.reply = reader.build_reply()
    call.spent.append(reply.usage)
    for choice in reply.choices[:1]:
        error = error_mapping.find_filter_error(choice, reply)
        if error is not None:
            raise error


def _open_request(kit: KitState, call: ActiveCall) -> OpenRequest:
    options, rendered = call.request.options, call.request.rendered
    call.key = kit.api_key()
    remaining_s = call.deadline - kit.clock.monotonic()
    if call.stream:  # a plain answer sends its head only when the reply is complete
        remaining_s = min(remaining_s, options.timeouts.first_byte_s)
    sent = headers.build_headers(
        options.profile, call.key, stream=call.stream, request_id=str(call.row.turn_id), extra=rendered.headers
    )
    if call.observed is not None:
        sent |= call.observed.start_call(call.row, call.request, call.parse_reply, sent)
    return OpenRequest(
        url=kit.url,
        headers=sent,
        data=rendered.data,
        connect_s=options.timeouts.connect_s,
        first_byte_s=max(remaining_s, 0.001),
        has_key=bool(call.key),
    )


def _read_timeout_s(kit: KitState, call: ActiveCall, stall_s: float) -> float:
    """Return how long to wait for the next bytes. SSE comments keep a connection alive, but are no content."""
    now = kit.clock.monotonic()
    if now >= call.deadline:
        raise TimedOut(_OUT_OF_TIME, phase="total", partial=call.text)
    silent_s = now - call.content_at
    if silent_s >= stall_s:
        raise TimedOut(f"no content for {stall_s:g} s (Timeouts.stall_s)", phase="stall", partial=call.text)
    return min(stall_s - silent_s, call.deadline - now)


def _read_error_flow(kit: KitState, call: ActiveCall, head: ResponseHead) -> Flow[ModelError | ContextOverflow]:
    body = b""
    until = min(kit.clock.monotonic() + _ERROR_BODY_S, call.deadline)
    while len(body) < _ERROR_BODY_BYTES and kit.clock.monotonic() < until:
        try:
            data = yield ReadBody(max(until - kit.clock.monotonic(), 0.001))
        except ModelError:  # the status counts more than a body that breaks off or cannot be unpacked
            data = b""
        if not data:
            break
        body += data
    yield CloseResponse()
    return error_mapping.build_response_error(head.status, head.headers, body, retry_after_now=kit.clock.time())


def _emit_and_store_flow(kit: KitState, call: ActiveCall, events: Sequence[StreamEvent], now: float) -> Flow[None]:
    """Hand out events, and store the text of the reply from time to time."""
    if call.first_token_at is None:
        call.first_token_at = kit.clock.now_us()
    if call.observed is not None:
        call.observed.note_chunk()
    yield Emit(events)
    call.unstored += events
    assert call.reader is not None
    fresh_chars = call.reader.text_chars - call.stored_chars
    if fresh_chars >= CHUNK_CHARS or now - call.stored_at >= CHUNK_S:  # without text too: reasoning renews the lease
        yield from _store_chunk_flow(kit, call, now)


def _store_chunk_flow(kit: KitState, call: ActiveCall, now: float) -> Flow[None]:
    """Store what came since the last stored chunk.

    While the database is down the stream goes on, and the next stored chunk contains this too.
    """
    assert call.reader is not None
    text = call.reader.text_after(call.stored_chars)
    chunk = make_chunk(call.chunks + 1, text, call.unstored)
    call.stored_at = now
    try:
        is_ours = yield from write_once_flow(
            save_chunk,
            call.conversation.id,
            call.row,
            call.epoch,
            chunk,
            lease_us=lease_us(call.request.options.timeouts.stall_s),
            first_token_at=call.first_token_at or kit.clock.now_us(),
        )
    except StoreUnavailable as error:
        log.warning("turn %s: a chunk of its reply waits to be stored (%s)", call.row.turn_id, type(error).__name__)
        call.may_have_stored = True
        return
    if not is_ours:
        raise LeaseLost
    call.chunks += chunk is not None
    call.stored_chars += len(text)
    call.unstored = []


def _record_retry_flow(
    kit: KitState, call: ActiveCall, error: Exception, request: PreparedRequest, wait_s: float
) -> Flow[None]:
    """Commit that this call failed and that another one follows."""
    now = kit.clock.now_us()
    record_failure(call.row, error, now)
    next_call = new_call_row(request, call.row.turn_id, now, number=call.row.number + 1)
    update = TurnUpdate(
        conversation=call.conversation,
        branch=call.branch,
        turn_id=call.row.turn_id,
        at=now,
        rows=[],
        call=call.row,
        moves_head=call.moves_head,
        epoch=call.epoch,
        lease_us=lease_us(wait_s + longest_silence_s(request)),
        next_call=next_call,
        prompts=request.record.prompts,
    )
    written = yield from update_turn_flow(kit, update, patience_s=SAVE_S)
    if written is not None and call.observed is not None:
        call.observed.end_call()
    call.advance(written, request, next_call)
