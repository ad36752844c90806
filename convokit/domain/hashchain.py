"""The history's chain, as arithmetic: what is hashed, in which order, with which salt.

An entry commits to a row by a salted digest, and to all entries before it by the previous hash. The salt lives with the row and
goes with it when the row is redacted: the chain stays whole and nothing short can be guessed back. Leaf and link are hashed
under different prefixes (RFC 6962's domain separation), so that one can never pass for the other.
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
"""`import` names the chain that a conversation was copied or restored from: its ref says so, and it has no row."""
_LEAF = b"\x02convokit.1\x00"
_LINK = b"\x00convokit.1\x00"


@dataclass(frozen=True, slots=True)
class Entry:
    """One link: entry `number` says that row `ref` of this `kind` was, at that moment, what `commitment` commits to."""

    number: int
    kind: EntryKind
    ref: str
    commitment: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class HashInput:
    """A row about to be entered."""

    kind: EntryKind
    ref: str
    commitment: bytes


def genesis_hash(conversation_id: UUID) -> bytes:
    """Return the hash before the first entry: a chain cannot be moved to another conversation."""
    return hashlib.sha256(_LINK + conversation_id.bytes).digest()


def new_salt() -> bytes:
    """Return 16 random bytes."""
    return os.urandom(16)


def compute_commitment(salt: bytes, covered: Sequence[object]) -> bytes:
    """Return the salted digest of a row's covered columns (text, numbers, None; bytes and ids as text)."""
    return hashlib.sha256(_LEAF + salt + _canonical(covered)).digest()


def compute_salted_digest(salt: bytes, data: bytes) -> bytes:
    """Return the salted digest of bytes that were sent."""
    return hashlib.sha256(_LEAF + salt + data).digest()


def _plain(value: object) -> str:
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else str(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain)
"""Made once: making one takes as long as encoding a row."""


def _canonical(values: Sequence[object]) -> bytes:
    return _ENCODER.encode(values).encode("utf-8")


def extend_chain(last_number: int, last_hash: bytes, hash_inputs: Iterable[HashInput]) -> list[Entry]:
    """Return the entries that follow entry `last`, whose hash is `previous`."""
    entries = []
    for number, leaf in enumerate(hash_inputs, last_number + 1):
        last_hash = compute_entry_hash(last_hash, number, leaf.kind, leaf.ref, leaf.commitment)
        entries.append(Entry(number, leaf.kind, leaf.ref, leaf.commitment, last_hash))
    return entries


def compute_entry_hash(previous: bytes, number: int, kind: str, ref: str, committed: bytes) -> bytes:
    """Return the hash of one entry."""
    head = f"{number}\x00{kind}\x00{ref}\x00".encode()
    return hashlib.sha256(_LINK + previous + head + committed).digest()
