"""A turn that is over, as it is stored: its reply, or the error that says how it ended."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from sqlalchemy import Connection

from convokit.domain.message import Message
from convokit.domain.reply import Usage, UsageSource
from convokit.domain.turn import LATE_CALLS, CompletionRow, Reply, TurnRow
from convokit.errors import Interrupted, NotFound
from convokit.store import messages, turns

_ENDED = {
    "interrupted": "the reply broke off",
    "cancelled": "the turn was cancelled",
    "failed": "the turn failed",
    "abandoned": "the worker of this turn is gone",
    "superseded": "the turn was superseded by a later one",
}


def stored_reply(connection: Connection, conversation_id: UUID, found: TurnRow) -> Reply:
    """Return a completed turn's reply as it is stored. Raises: NotFound."""
    row = None if found.reply_seq is None else messages.get(connection, conversation_id, found.reply_seq)
    call = turns.call(connection, conversation_id, found.id, found.calls)
    if row is None or call is None:
        raise NotFound("reply of turn", found.id)
    message = Message.of(conversation_id, row)
    return Reply.model_construct(
        message=message,
        choices=[message],
        usage=_usage(call),
        turn_id=found.id,
        model=call.served_model or call.requested_model,
        finish_reason=call.finish_reason,
        request_id=call.request_id,
        attempts=found.calls % LATE_CALLS,
    )


def _usage(call: CompletionRow) -> Usage:
    values: dict[str, Any] = {name: getattr(call, name, None) for name in Usage.model_fields if name != "source"}
    prompt, completion = call.prompt_tokens, call.completion_tokens
    values["total_tokens"] = None if prompt is None or completion is None else prompt + completion
    return Usage(**values, source=cast("UsageSource", call.usage_source or "absent"))


def ended(turn: TurnRow, partial: str = "", more: str = "") -> Interrupted:
    """Return the error for a turn that ended without a whole reply for whoever waits for it; its code is the turn's state."""
    told = Interrupted(_ENDED.get(turn.state, turn.state) + more, code=turn.state, partial=partial)
    told.turn_id = str(turn.id)
    return told
