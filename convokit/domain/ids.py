"""Identifiers. A conversation made under a key has its id from that key, so the primary key alone makes keys unique."""

from __future__ import annotations

import hashlib
import json
import os
import time
from uuid import UUID

from convokit.errors import InvalidInput

MAX_SEQ = 2**31 - 1
"""What the column holds."""


def new_id() -> UUID:
    """Return a UUIDv7: 48 bits of milliseconds, then random bits, so that rows made together lie together."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return _versioned(value, 7)


def derive_conversation_id(database_id: UUID, tenant: str, key: str) -> UUID:
    """Return the UUIDv8 of the conversation that `tenant` keeps under `key` in this database.

    A hash over the JSON array of the three: no two pairs can run together, and the id alone tells nothing of the key.
    """
    material = json.dumps([str(database_id), tenant, key], ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(material.encode("utf-8")).digest()
    return _versioned(int.from_bytes(digest[:16]), 8)


def _versioned(value: int, version: int) -> UUID:
    value &= ~(0xF << 76 | 0x3 << 62)
    return UUID(int=value | version << 76 | 0x2 << 62)


def parse_id(value: UUID | str, what: str = "id") -> UUID:
    """Return `value` as a UUID. Raises: InvalidInput when it is not one."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput(what, f"{value!r} is not a UUID") from None


def format_message_id(conversation_id: UUID, seq: int) -> str:
    """Return a message's public id. It is its place, so it costs no column and no index."""
    return f"{conversation_id}:{seq}"


def parse_message_seq(conversation_id: UUID, value: str | int) -> int:
    """Return the seq in a message id of this conversation; a plain seq passes. Raises: InvalidInput."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SEQ:
        return value
    owner, _, seq = str(value).rpartition(":")
    if owner != str(conversation_id) or not (seq.isascii() and seq.isdigit()) or int(seq[:20]) > MAX_SEQ:
        raise InvalidInput("message", f"{value!r} is not a message of conversation {conversation_id}")
    return int(seq)
