"""Pinning messages: a property of the conversation, not of the message, which never changes."""

from __future__ import annotations

import json
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, write_once
from convokit.completion.places import seq_of
from convokit.completion.scope import Scope, Target, identify, missing
from convokit.domain.message import PASSAGE, SUMMARY, Message
from convokit.errors import InvalidInput, NotFound, Redacted
from convokit.store import conversations, messages

MOST_PINS = 64
"""Each is read with every turn that has left it behind."""


def pin(scope: Scope, target: Target, given: Message | str | int, *, pinned: bool) -> Flow[None]:
    """Pin a message, or unpin it; again is no error. Raises: NotFound, InvalidInput past 64 pins."""
    seq = yield from seq_of(scope, target, given)
    conversation_id = yield from identify(scope, target)
    found = yield from write_once(_change, scope.tenant, conversation_id, seq, pinned)
    if not found:
        raise missing(target)


def _change(connection: Connection, tenant: str, conversation_id: UUID, seq: int, pinned: bool) -> bool:
    conversations.lock(connection, conversation_id)
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return False
    found = messages.get(connection, conversation_id, seq)
    if found is None:
        raise NotFound("message", seq)
    if found.status == "redacted" and pinned:
        raise Redacted(conversation_id, f"message {seq}")
    if found.status == PASSAGE:
        raise InvalidInput(
            "message", "is a passage, which is sent with its own turn only: send it with the next as well"
        )
    if found.status == SUMMARY:
        raise InvalidInput("message", "is a summary, which is sent by itself: pin what it stands for")
    pins = {*row.pinned, seq} if pinned else set(row.pinned) - {seq}
    if len(pins) > MOST_PINS:
        raise InvalidInput("message", f"at most {MOST_PINS} messages of a conversation may be pinned: unpin one first")
    conversations.set_pins(connection, row, json.dumps(sorted(pins)) if pins else None)
    return True
