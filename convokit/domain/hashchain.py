"""Compute the hash chain of a conversation.

Each entry commits to a row with a salted digest, and to all entries before it with the previous hash. The row stores its salt.
Redaction deletes the salt: the chain stays whole, and nobody can guess a short text from its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

EntryKind = Literal["message", "completion", "redaction", "erasure", "import"]
"""`completion` is an API call. `import` names, in its ref, the chain that was copied or restored, and has no row."""
# Rows and links have different prefixes, so that the hash of one can never be taken for the other (RFC 6962, section 2.1).
_ROW_PREFIX = b"\x02convokit.1\x00"
_LINK_PREFIX = b"\x00convokit.1\x00"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the chain. It commits to the row that `kind` and `ref` name, as it was when the entry was written."""

    number: int
    kind: EntryKind
    ref: str
    commitment: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class HashInput:
    """A row that the next entry of the chain commits to."""

    kind: EntryKind
    ref: str
    commitment: bytes


def genesis_hash(conversation_id: UUID) -> bytes:
    """Return the hash before the first entry. It depends on the id, so that a chain fits one conversation only."""
    return hashlib.sha256(_LINK_PREFIX + conversation_id.bytes).digest()


def new_salt() -> bytes:
    return os.urandom(16)


def compute_commitment(salt: bytes, values: Sequence[object]) -> bytes:
    """Return the salted digest of column values: text, numbers, None, and bytes and ids as text."""
    return hashlib.sha256(_ROW_PREFIX + salt + _encode_canonically(values)).digest()


def compute_salted_digest(salt: bytes, data: bytes) -> bytes:
    """Return the salted digest of bytes that were sent."""
    return hashlib.sha256(_ROW_PREFIX + salt + data).digest()


def _to_text(value: object) -> str:
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else str(value)


# Making an encoder takes as long as encoding a row.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_to_text)


def _encode_canonically(values: Sequence[object]) -> bytes:
    return _ENCODER.encode(values).encode("utf-8")


def extend_chain(last_number: int, last_hash: bytes, hash_inputs: Iterable[HashInput]) -> list[Entry]:
    """Return the entries that follow entry `last_number`."""
    entries = []
    for number, row in enumerate(hash_inputs, last_number + 1):
        last_hash = compute_entry_hash(last_hash, number, row.kind, row.ref, row.commitment)
        entries.append(Entry(number, row.kind, row.ref, row.commitment, last_hash))
    return entries


def compute_entry_hash(previous: bytes, number: int, kind: str, ref: str, commitment: bytes) -> bytes:
    head = f"{number}\x00{kind}\x00{ref}\x00".encode()
    return hashlib.sha256(_LINK_PREFIX + previous + head + commitment).digest()
