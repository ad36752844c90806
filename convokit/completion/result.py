"""Convert a server's answer into stored rows and the returned reply."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.call import ActiveCall
from convokit.completion.retry import describe_error
from convokit.completion.saved_reply import Reply
from convokit.domain import hashchain
from convokit.domain.content import Blob
from convokit.domain.message import ASSISTANT, FINISH_REASON_KEY, Message, MessageRow, extract_text, place_rows
from convokit.domain.reply import ParsedReply, ReplyChoice, Usage
from convokit.domain.text import dump_json, repair_text
from convokit.domain.turn import LATE, CallRow, TurnRow
from convokit.errors import ConvokitError, Interrupted, NotFound, Redacted
from convokit.store import api_calls, messages
from convokit.store.turn_start import Written
from convokit.tokens.counter import count_message
from convokit.wire import headers, structured_output
from convokit.wire.token_usage import parse_cost_nanousd

_END_MESSAGES = {
    "open": "the worker of this turn is gone, and a read-only kit leaves the turn open",
    "interrupted": "the reply broke off",
    "cancelled": "the turn was cancelled",
    "failed": "the turn failed",
    "abandoned": "the worker of this turn is gone",
    "superseded": "the turn was superseded by a later one",
}
_USAGE_COLUMNS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
"""Usage keys that have columns of their own. Usage without other keys is not stored a second time in `details`."""
_MAX_COUNT = 2**31 - 1
"""The largest count that a column holds. A server may report anything, and its reply is kept all the same."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: the state of its turn, the status of its reply rows, and the error if there was one."""

    state: str
    status: str
    error: Exception | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the call brought a whole reply."""
        return self.status != "partial" and self.error is None


def read_reply(connection: Connection, conversation_id: UUID, turn: TurnRow) -> Reply:
    """Return the stored reply of a completed turn. Raises: NotFound, Redacted."""
    row = None if turn.reply_seq is None else messages.find(connection, conversation_id, turn.reply_seq)
    calls = [each for each in api_calls.list_calls(connection, conversation_id, turn.id) if not each.is_late]
    if row is None or not calls:
        raise NotFound("reply of turn", turn.id)
    call = calls[-1]
    if row.status == "redacted":
        raise Redacted(conversation_id, f"the reply of turn {turn.id}")
    message = Message.from_row(conversation_id, row)
    return Reply.model_construct(
        message=message,
        choices=[message],
        usage=call.usage,
        turn_id=turn.id,
        model=call.served_model or call.requested_model,
        finish_reason=call.finish_reason,
        request_id=call.request_id,
        attempts=len(calls),
    )


def end_error(turn: TurnRow, partial: str = "", more: str = "") -> Interrupted:
    """Return the error for a turn that ended without a whole reply; its code is the turn's state."""
    error = Interrupted(_END_MESSAGES.get(turn.state, turn.state) + more, code=turn.state, partial=partial)
    error.turn_id = str(turn.id)
    return error


def make_reply_rows(call: ActiveCall, outcome: Outcome, now: int) -> list[MessageRow]:
    """Write the outcome into the call's row, and return the reply's rows, placed behind the conversation's last message."""
    reply = call.parse_reply()
    record_outcome(call, reply, outcome, now)
    choices = [choice for choice in reply.choices if outcome.is_ok or _has_text(choice)]
    rows = [_make_row(call, choice, _find_status(choice, outcome), now) for choice in choices]
    place_rows(rows, call.conversation.last_seq, call.parent, chained=False)
    return rows


def _find_status(choice: ReplyChoice, outcome: Outcome) -> str:
    # A filter that stops the first choice fails the call. The others of a reply (`n` > 1) are kept as partial.
    return "partial" if outcome.status == "complete" and choice.finish_kind == "filtered" else outcome.status


def _has_text(choice: ReplyChoice) -> bool:
    return bool(choice.content or choice.refusal or (choice.audio or {}).get("transcript"))


def _make_row(call: ActiveCall, choice: ReplyChoice, status: str, now: int) -> MessageRow:
    """Return the row of a choice, without its position.

    Tool calls of a partial reply are dropped, because their arguments may be cut off.
    """
    options = call.request.options
    tool_calls = choice.tool_calls if status == "complete" else []
    row = MessageRow(
        seq=0,
        parent_seq=call.parent.seq,
        run_start_seq=0,
        turn_id=call.row.turn_id,
        role=ASSISTANT,
        content=_repair(choice.content),
        tool_calls=repair_text(dump_json(tool_calls)) if tool_calls else None,
        refusal=_repair(choice.refusal),
        extra=_encode_extra(call, choice),
        status=status,
        tokens=0,
        counter=options.counter.name,
        path_tokens=0,
        window_from_seq=call.request.context.report.start,
        window_rule=options.window_rule,
        window_tokens=_count_window(call),
        window_counted=call.request.context.report.counted,
        created_at=now,
        salt=hashchain.new_salt(),
    )
    if options.exact_start is not None:  # the next turn chooses its window as if this one had none
        row.window_from_seq = row.window_rule = row.window_tokens = row.window_counted = None
    row.tokens = count_message(options.counter, row.as_wire())
    row.path_tokens = call.parent.path_tokens + row.tokens
    return row


def _count_window(call: ActiveCall) -> int | None:
    """Return the tokens of the request: what the server reported, else what follows from its refusal of a longer one."""
    usage, report = call.parse_reply().usage, call.request.context.report
    prompt, cached = usage.prompt_tokens or 0, usage.cached_tokens or 0
    if usage.source == "reported" and prompt > 0:
        return min(prompt + (cached if cached > prompt else 0), _MAX_COUNT)  # some servers do not count what is cached
    return report.tokens if report.factor_source == "refusal" else None


def _repair(text: str | None) -> str | None:
    return None if text is None else repair_text(text)


def _encode_extra(call: ActiveCall, choice: ReplyChoice) -> str | None:
    """Return the provider's own fields under its name: they are sent back to that provider only."""
    keys = dict(choice.extra)
    if choice.annotations:
        keys["annotations"] = choice.annotations
    if choice.audio:
        keys["audio"] = _split_audio(choice)[0]
    if choice.finish_reason and choice.finish_kind != "complete":
        keys[FINISH_REASON_KEY] = choice.finish_reason
    if not keys:
        return None
    return repair_text(dump_json({"provider": call.request.options.profile.provider, "keys": keys}))


def _split_audio(choice: ReplyChoice) -> tuple[dict[str, Any], list[Blob]]:
    """Return the audio of a spoken reply as it is stored: the sound as a blob, apart from its id and transcript."""
    audio = dict(choice.audio or {})
    try:
        sound = base64.b64decode(audio.pop("data", None) or "", validate=True)
    except (binascii.Error, ValueError, TypeError):
        sound = b""
    if not sound:
        return audio, []
    blob = Blob.from_bytes("audio", sound)
    return {**audio, "data": blob.url}, [blob]


def list_audio_blobs(call: ActiveCall) -> list[Blob]:
    """Return the sounds of the call's reply."""
    return [blob for choice in call.parse_reply().choices if choice.audio for blob in _split_audio(choice)[1]]


def record_outcome(call: ActiveCall, reply: ParsedReply, outcome: Outcome, now: int) -> None:
    """Write into the call's row how it ended and what the server reported."""
    row = call.row
    row.state = LATE if outcome.status == "late" else "ok" if outcome.is_ok else "error"
    row.error = dump_json(describe_error(outcome.error)) if outcome.error is not None else None
    row.ended_at = now
    row.served_model = _repair(reply.model)
    row.response_id = _repair(reply.response_id)
    row.finish_reason = _repair(reply.choices[0].finish_reason) if reply.choices else None
    row.service_tier = _repair(reply.service_tier)
    row.cost_nanousd = parse_cost_nanousd(reply.usage_details, call.head.headers if call.head is not None else {})
    row.details = _repair(_encode_details(reply))
    _write_usage(row, _find_usage(call, reply))
    row.salt = hashchain.new_salt()


def _encode_details(reply: ParsedReply) -> str | None:
    values = dict(reply.extra) if reply.choices else {}  # a body without a choice may be anything; its error quotes it
    if reply.system_fingerprint:
        values["system_fingerprint"] = reply.system_fingerprint
    if not _USAGE_COLUMNS.issuperset(reply.usage_details):
        values["usage"] = reply.usage_details
    return repair_text(dump_json(values)) if values else None


def _find_usage(call: ActiveCall, reply: ParsedReply) -> Usage:
    """Return the reported usage, else an estimate where a reply had started, never zeros. Refused calls are not charged."""
    if reply.usage.source == "reported" or call.head is None or call.head.status >= 400:
        return reply.usage
    prompt = call.request.context.report.tokens
    completion = call.request.options.counter.count(call.text)
    total = prompt + completion
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total, source="estimated")


def _write_usage(row: CallRow, usage: Usage) -> None:
    for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"):
        count = getattr(usage, name)
        setattr(row, name, None if count is None else min(max(count, 0), _MAX_COUNT))
    row.usage_source = usage.source


def _parse(call: ActiveCall, choice: ReplyChoice) -> Any:
    model = call.request.options.response_model
    if model is None or choice.tool_calls:
        return None
    return structured_output.parse_structured(
        model, choice.content, finish_reason=choice.finish_reason, refusal=choice.refusal
    )


def parse_stored_reply(reply: Reply, model: Any) -> Reply:
    """Return a reply that was read back with its text parsed into `model`. Raises: ParseFailed."""
    if model is None or reply.tool_calls:
        return reply
    parsed = structured_output.parse_structured(
        model, extract_text(reply.message.content), finish_reason=reply.finish_reason, refusal=reply.refusal
    )
    return reply.model_copy(update={"parsed": parsed})


def _add_usage(spent: list[Usage]) -> Usage:
    """Return the sum over the turn's calls. A count that one of them did not report is None for all."""
    if len(spent) == 1:
        return spent[0]
    sources = {usage.source for usage in spent}
    values: dict[str, Any] = {"source": "estimated" if "estimated" in sources else "reported"}
    for name in Usage.model_fields:
        counts = [getattr(usage, name) for usage in spent]
        if name != "source":
            values[name] = None if None in counts else sum(counts)
    return Usage(**values) if "absent" not in sources else Usage()


def make_reply(call: ActiveCall, written: Written) -> Reply:
    """Return the reply of a finished turn. Raises: ParseFailed if a structure was asked for and the text does not hold it."""
    if not written.rows:
        raise ConvokitError("the server's answer has no choice")
    parsed_reply, request = call.parse_reply(), call.request
    choice = parsed_reply.choices[0]
    saved = [Message.from_row(written.conversation.id, row) for row in written.rows]
    return Reply.model_construct(
        message=saved[0],
        choices=saved,
        usage=_add_usage(call.spent),
        turn_id=call.row.turn_id,
        model=parsed_reply.model or call.row.requested_model,
        finish_reason=call.row.finish_reason,
        reasoning=choice.reasoning,
        logprobs=choice.logprobs,
        changes=(*request.changes, *request.rendered.changes),
        parsed=_parse(call, choice),
        request_id=call.row.request_id,
        attempts=call.attempts,
        rate_limits=headers.parse_rate_limits(call.head.headers) if call.head is not None else None,
        context=request.context.report,
    )
