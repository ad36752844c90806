"""Make and parse the ids of the API.

An id holds the id of its conversation, and that of its turn or the seq of a message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from convokit.server.refusals import not_found

_ITEM = re.compile(r"(?:msg|fc|fco)_([0-9a-f]{32})(?:([0-9a-f]{32})|_(\d{1,10}))(?:_\d{1,6})?", re.ASCII)


def format_conversation_id(conversation_id: UUID) -> str:
    """Return `conv_` and 32 hexadecimal digits."""
    return f"conv_{conversation_id.hex}"


def parse_conversation_id(given: str, *, param: str | None = None) -> UUID:
    """Return the id of a conversation. Raises: Refusal."""
    if re.fullmatch(r"conv_[0-9a-f]{32}", given, re.ASCII) is None:
        raise not_found("Conversation", given, param=param)
    return UUID(hex=given[5:])


def format_completion_id(conversation_id: UUID, turn_id: UUID) -> str:
    """Return the id of a turn as a chat completion."""
    return f"chatcmpl-{conversation_id.hex}{turn_id.hex}"


def format_response_id(conversation_id: UUID, turn_id: UUID) -> str:
    """Return the id of a turn as a response."""
    return f"resp_{conversation_id.hex}{turn_id.hex}"


def parse_turn_id(given: str, prefix: str, kind: str) -> tuple[UUID, UUID]:
    """Return the conversation and the turn that an id names. Raises: Refusal."""
    if re.fullmatch(rf"{prefix}[0-9a-f]{{64}}", given, re.ASCII) is None:
        raise not_found(kind, given)
    digits = given.removeprefix(prefix)
    return UUID(hex=digits[:32]), UUID(hex=digits[32:])


@dataclass(frozen=True, slots=True)
class ItemName:
    """The parts of an item's id: a conversation, and a turn (for its reply) or the seq of a message."""

    conversation_id: UUID
    turn_id: UUID | None
    seq: int | None


def parse_item_id(given: str, *, param: str | None = None) -> ItemName:
    """Return what an item's id names. Raises: Refusal."""
    found = _ITEM.fullmatch(given)
    if found is None:
        raise not_found("Item", given, param=param)
    turn_id = UUID(hex=found[2]) if found[2] else None
    return ItemName(UUID(hex=found[1]), turn_id, int(found[3]) if found[3] else None)
