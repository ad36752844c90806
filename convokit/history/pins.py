"""Pin messages, so that they stay in the window.

A pin belongs to the conversation; the message itself never changes.
"""

from __future__ import annotations

import json

from sqlalchemy import Connection

from convokit.completion.begin import check_subject
from convokit.completion.effects import Flow, write_once_flow
from convokit.completion.start_point import MessageLike, resolve_seq_flow
from convokit.completion.state import ChatRef, KitState, identify_flow, not_found
from convokit.domain.message import PASSAGE, SUMMARY
from convokit.errors import InvalidInput, NotFound, Redacted
from convokit.store import conversations, messages

MAX_PINS = 64
"""Every turn reads each pin that lies before its window."""


def pin_flow(kit: KitState, chat: ChatRef, message: MessageLike, *, pinned: bool) -> Flow[None]:
    """Pin or unpin a message. Doing so twice changes nothing. Raises: NotFound, Redacted, InvalidInput."""
    seq = yield from resolve_seq_flow(kit, chat, message)
    yield from identify_flow(kit, chat)
    if not (yield from write_once_flow(_write_pin, kit.tenant, chat, seq, pinned)):
        raise not_found(chat)


def _write_pin(connection: Connection, tenant: str, chat: ChatRef, seq: int, pinned: bool) -> bool:
    conversation_id = chat.id
    assert conversation_id is not None
    conversations.lock(connection, conversation_id)
    conversation = conversations.find(connection, tenant, conversation_id)
    if conversation is None:
        return False
    check_subject(conversation, chat)
    row = messages.find(connection, conversation_id, seq)
    if row is None:
        raise NotFound("message", seq)
    if row.status == "redacted" and pinned:
        raise Redacted(conversation_id, f"message {seq}")
    if row.status == PASSAGE:
        raise InvalidInput("message", f"message {seq} is a retrieved passage; pass it again with the next question")
    if row.status == SUMMARY:
        problem = f"message {seq} is a summary, which is sent without a pin; pin a message that it summarizes"
        raise InvalidInput("message", problem)
    pins = {*conversation.pinned_seqs, seq} if pinned else set(conversation.pinned_seqs) - {seq}
    if len(pins) > MAX_PINS:
        raise InvalidInput("message", f"at most {MAX_PINS} messages of a conversation can be pinned; unpin one first")
    conversations.set_pins(connection, conversation, json.dumps(sorted(pins)) if pins else None)
    return True
