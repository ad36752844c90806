"""Make and parse ids of conversations, turns and messages."""

from __future__ import annotations

import hashlib
import json
import os
import time
from uuid import UUID

from convokit.errors import InvalidInput

MAX_SEQ = 2**31 - 1
"""The largest value of the integer column."""


def new_id() -> UUID:
    """Return a UUIDv7 (RFC 9562). Ids made one after the other are neighbours in an index."""
    # uuid.uuid7 exists from Python 3.14 on.
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return _set_version(value, 7)


def derive_conversation_id(database_id: UUID, tenant: str, key: str) -> UUID:
    """Return the UUIDv8 of the conversation with this key.

    The id is a hash of database, tenant and key. So the primary key alone keeps keys unique, and an id does not reveal its key.
    """
    # A JSON array delimits its items: ("a", "bc") and ("ab", "c") give different bytes.
    material = json.dumps([str(database_id), tenant, key], ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(material.encode("utf-8")).digest()
    return _set_version(int.from_bytes(digest[:16]), 8)


def _set_version(value: int, version: int) -> UUID:
    value &= ~(0xF << 76 | 0x3 << 62)
    return UUID(int=value | version << 76 | 0x2 << 62)


def parse_id(value: UUID | str, field: str = "id") -> UUID:
    """Return `value` as a UUID. Raises: InvalidInput."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput(field, f"{value!r} is not a UUID") from None


def format_message_id(conversation_id: UUID, seq: int) -> str:
    """Return the public id of a message. It is derived, so it needs no column and no index."""
    return f"{conversation_id}:{seq}"


def parse_message_seq(conversation_id: UUID, value: str | int) -> int:
    """Return the seq of a message id of this conversation. A seq is returned as it is. Raises: InvalidInput."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SEQ:
        return value
    owner, _, seq = str(value).rpartition(":")
    if owner != str(conversation_id) or not (seq.isascii() and seq.isdigit()) or int(seq[:20]) > MAX_SEQ:
        raise InvalidInput("message", f"{value!r} is not a message of conversation {conversation_id}")
    return int(seq)
