"""From what the server answered to the rows that are saved and the reply that is returned.

A turn that is over, as it is stored: its reply, or the error that says how it ended.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.call import ActiveCall, describe
from convokit.domain import hashchain
from convokit.domain.content import Blob
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import ASSISTANT, Message, MessageRow
from convokit.domain.reply import ParsedReply, ReplyChoice, Usage, UsageSource
from convokit.domain.text import dump_json, repair_text
from convokit.domain.turn import LATE_CALL_OFFSET, CallRow, Reply, TurnRow
from convokit.errors import ConvokitError, Interrupted, NotFound, Redacted
from convokit.store import api_calls, messages, turn_changes
from convokit.tokens.counter import count_message
from convokit.wire import headers, structured
from convokit.wire.values import reported_cost

_ENDED = {
    "interrupted": "the reply broke off",
    "cancelled": "the turn was cancelled",
    "failed": "the turn failed",
    "abandoned": "the worker of this turn is gone",
    "superseded": "the turn was superseded by a later one",
}


def stored_reply(connection: Connection, conversation_id: UUID, found: TurnRow) -> Reply:
    """Return a completed turn's reply as it is stored. Raises: NotFound, Redacted."""
    row = None if found.reply_seq is None else messages.find(connection, conversation_id, found.reply_seq)
    call = api_calls.find_call(connection, conversation_id, found.id, found.calls)
    if row is None or call is None:
        raise NotFound("reply of turn", found.id)
    if row.status == "redacted":
        raise Redacted(conversation_id, f"the reply of turn {found.id}")
    message = Message.of(conversation_id, row)
    return Reply.model_construct(
        message=message,
        choices=[message],
        usage=_stored_usage(call),
        turn_id=found.id,
        model=call.served_model or call.requested_model,
        finish_reason=call.finish_reason,
        request_id=call.request_id,
        attempts=found.calls % LATE_CALL_OFFSET,
    )


def _stored_usage(call: CallRow) -> Usage:
    values: dict[str, Any] = {name: getattr(call, name, None) for name in Usage.model_fields if name != "source"}
    prompt, completion = call.prompt_tokens, call.completion_tokens
    values["total_tokens"] = None if prompt is None or completion is None else prompt + completion
    return Usage(**values, source=cast("UsageSource", call.usage_source or "absent"))


def ended(turn: TurnRow, partial: str = "", more: str = "") -> Interrupted:
    """Return the error for a turn that ended without a whole reply for whoever waits for it; its code is the turn's state."""
    told = Interrupted(_ENDED.get(turn.state, turn.state) + more, code=turn.state, partial=partial)
    told.turn_id = str(turn.id)
    return told


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended: its state, the status of the reply rows, and the error if one ended it."""

    state: str
    status: str
    error: Exception | None = None


_COUNTED = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
"""What a usage says that has columns of its own: where it says no more, nothing is stored of it twice."""
_MAX_COUNT = 2**31 - 1
"""What a column holds: a server may say anything, and its reply is kept all the same."""
RowsFor = Callable[[ConversationRow], list[MessageRow]]


def rows_of(call: ActiveCall, outcome: Outcome, now: int) -> RowsFor:
    """Write the outcome into the call's row, and return what builds the reply rows behind any given last seq."""
    completion = call.reader.completion() if call.reader is not None else ParsedReply([])
    complete = outcome.status != "partial" and outcome.error is None
    close(call, completion, outcome, now)
    answers = [answer for answer in completion.choices if complete or _worth_keeping(answer)]
    drafts = [_draft(call, answer, outcome.status, now) for answer in answers]

    def rows(conversation: ConversationRow) -> list[MessageRow]:
        for number, draft in enumerate(drafts, 1):
            draft.seq = conversation.last_seq + number
            follows = draft.seq == call.parent.seq + 1
            draft.run_start_seq = call.parent.run_start_seq if follows else draft.seq
            draft.salt = hashchain.new_salt()
        return drafts

    return rows


def _worth_keeping(answer: ReplyChoice) -> bool:
    return bool(answer.content or answer.refusal or (answer.audio or {}).get("transcript"))


def _draft(call: ActiveCall, answer: ReplyChoice, status: str, now: int) -> MessageRow:
    """Return the reply's row, without its place. A call whose arguments broke off is no call."""
    plan, report = call.prepared.plan, call.prepared.context.report
    calls = answer.tool_calls if status == "complete" else []
    row = MessageRow(
        seq=0,
        parent_seq=call.parent.seq,
        run_start_seq=0,
        turn_id=call.row.turn_id,
        role=ASSISTANT,
        content=_fixed(answer.content),
        tool_calls=repair_text(dump_json(calls)) if calls else None,
        refusal=_fixed(answer.refusal),
        extra=_extra(call, answer),
        status=status,
        tokens=0,
        counter=plan.counter.name,
        path_tokens=0,
        window_from_seq=report.start,
        window_rule=call.prepared.rule,
        created_at=now,
    )
    row.tokens = count_message(plan.counter, row.as_wire())
    row.path_tokens = call.parent.path_tokens + row.tokens
    return row


def _fixed(text: str | None) -> str | None:
    return None if text is None else repair_text(text)


def _extra(call: ActiveCall, answer: ReplyChoice) -> str | None:
    """Return what the provider sent beyond the API's own fields, under its name: it goes back only to that provider."""
    keys = dict(answer.extra)
    if answer.annotations:
        keys["annotations"] = answer.annotations
    if answer.audio:
        keys["audio"] = spoken(answer)[0]
    if not keys:
        return None
    return repair_text(dump_json({"provider": call.prepared.plan.profile.provider, "keys": keys}))


def spoken(answer: ReplyChoice) -> tuple[dict[str, Any], list[Blob]]:
    """Return a spoken answer as it is stored: its sound apart from its id and transcript."""
    audio = dict(answer.audio or {})
    try:
        sound = base64.b64decode(audio.pop("data", None) or "", validate=True)
    except (binascii.Error, ValueError, TypeError):
        sound = b""
    if not sound:
        return audio, []
    blob = Blob.of("audio", sound)
    return {**audio, "data": blob.url}, [blob]


def sounds_of(call: ActiveCall) -> list[Blob]:
    """Return the sounds in a call's answers."""
    answers = call.reader.completion().choices if call.reader is not None else []
    return [blob for answer in answers if answer.audio for blob in spoken(answer)[1]]


def close(call: ActiveCall, completion: ParsedReply, outcome: Outcome, now: int) -> None:
    """Write into the call's row what came of it."""
    row = call.row
    row.state = "ok" if outcome.status != "partial" and outcome.error is None else "error"
    row.error = dump_json(describe(outcome.error)) if outcome.error is not None else None
    row.ended_at = now
    row.served_model = _said(call, completion.model)
    row.response_id = _said(call, completion.response_id)
    row.finish_reason = _said(call, completion.choices[0].finish_reason) if completion.choices else None
    row.service_tier = _said(call, completion.service_tier)
    row.cost_nanousd = reported_cost(completion.usage_details, call.head.headers if call.head is not None else {})
    row.details = _said(call, _details(completion))
    _count(row, _usage(call, completion))
    row.salt = hashchain.new_salt()


def _said(call: ActiveCall, text: str | None) -> str | None:
    """Return what the server said about the call as it may be stored."""
    return None if text is None else call.without_key(repair_text(text))


def _details(completion: ParsedReply) -> str | None:
    values = dict(completion.extra)
    if completion.system_fingerprint:
        values["system_fingerprint"] = completion.system_fingerprint
    if not _COUNTED.issuperset(completion.usage_details):
        values["usage"] = completion.usage_details
    return repair_text(dump_json(values)) if values else None


def _usage(call: ActiveCall, completion: ParsedReply) -> Usage:
    """Return the reported usage, else an estimate where a reply had begun: never a zero. Refused calls are not charged."""
    if completion.usage.source == "reported" or call.head is None or call.head.status >= 400:
        return completion.usage
    counter, text = call.prepared.plan.counter, call.text
    prompt, answered = call.prepared.context.report.tokens, counter.count(text)
    return Usage(prompt_tokens=prompt, completion_tokens=answered, total_tokens=prompt + answered, source="estimated")


def _count(row: CallRow, usage: Usage) -> None:
    for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"):
        count = getattr(usage, name)
        setattr(row, name, None if count is None else min(max(count, 0), _MAX_COUNT))
    row.usage_source = usage.source


def _parsed(call: ActiveCall, answer: ReplyChoice) -> Any:
    model = call.prepared.plan.response_model
    if model is None or answer.tool_calls:
        return None
    return structured.parse_structured(
        model, answer.content, finish_reason=answer.finish_reason, refusal=answer.refusal
    )


def _total(spent: list[Usage]) -> Usage:
    """Return the sum over the turn's calls; a count that one of them did not report is None for all."""
    if len(spent) == 1:
        return spent[0]
    sources = {usage.source for usage in spent}
    values: dict[str, Any] = {"source": "estimated" if "estimated" in sources else "reported"}
    for name in Usage.model_fields:
        counts = [getattr(usage, name) for usage in spent]
        if name != "source":
            values[name] = None if None in counts else sum(counts)
    return Usage(**values) if "absent" not in sources else Usage()


def reply_of(call: ActiveCall, settled: turn_changes.Written) -> Reply:
    """Return the reply as its caller sees it. Raises: ParseFailed when a structure was asked for and did not come."""
    if not settled.rows:
        raise ConvokitError("the server answered with no choice at all")
    reader = call.reader
    assert reader is not None
    completion = reader.completion()
    saved = [Message.of(settled.conversation.id, row) for row in settled.rows]
    parsed = _parsed(call, completion.choices[0])
    return Reply.model_construct(
        message=saved[0],
        choices=saved,
        usage=_total(call.spent),
        turn_id=call.row.turn_id,
        model=completion.model or call.row.requested_model,
        finish_reason=call.row.finish_reason,
        reasoning=completion.choices[0].reasoning,
        logprobs=completion.choices[0].logprobs,
        changes=(*call.prepared.changes, *call.prepared.rendered.changes),
        parsed=parsed,
        request_id=call.row.request_id,
        attempts=call.made,
        rate_limits=headers.parse_rate_limits(call.head.headers) if call.head is not None else None,
        context=call.prepared.context.report,
    )
