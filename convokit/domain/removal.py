"""Removals: what was lawfully taken out of a history, as the row that is kept of it and as the receipt that is given for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain import hashchain

Action = Literal["redact", "erase", "purge"]
Bytes = Literal["gone", "found", "pending", "unchecked", "server"]
EVERYTHING = "*"
"""The ref of a removal that took everything before its entry."""
MOST_TRACES = 32
"""The most pieces of what was removed that a file is searched for."""
_PIECE_BYTES = 48
_FEWEST_BYTES = 12
"""Fewer bytes may stand anywhere by chance; the salt of their row is looked for all the same."""


@dataclass(slots=True)
class RemovalRow:
    """A row of the removal table: the entry of its number commits to it."""

    number: int
    ref: str
    author: str | None
    reason: str | None
    salt: bytes
    created_at: int

    def hash_input(self) -> hashchain.HashInput:
        """Return this row's entry to be."""
        covered = [self.number, self.ref, self.author, self.reason, self.created_at]
        kind: hashchain.Kind = "erasure" if self.ref == EVERYTHING else "redaction"
        return hashchain.HashInput(kind, self.ref, hashchain.compute_commitment(self.salt, covered))


@dataclass(frozen=True, slots=True)
class Order:
    """A removal as it was asked for: by whom, why, when (microseconds); `dry_run` only counts."""

    author: str | None
    reason: str | None
    at: int
    dry_run: bool = False
    seq: int | None = None
    """The message to redact; None where a whole conversation is erased."""


@dataclass(slots=True, repr=False)
class Removed:
    """What one transaction removed, or would remove."""

    counts: Counter[str] = field(default_factory=Counter)
    """Rows emptied or deleted, by table; `salt`: what short texts could have been guessed back with."""
    entries: int = 0
    seqs: tuple[int, ...] = ()
    """The messages, where not all of them."""
    prompts: frozenset[bytes] | None = frozenset()
    """Developer prompts and tool sets that its requests referred to; None: nobody knows any more."""
    traces: list[bytes] = field(default_factory=list)


class Receipt(BaseModel):
    """What a removal took away, and how that was checked afterwards. Counts are rows.

    `removed` counts by table: messages whose text is gone, `blob`s, pieces of replies (`chunk`), details and errors of API
    calls (`completion`), errors of `turn`s, `prompt`s nobody refers to any more; `salt` counts the salts of digests that short
    texts could have been guessed back with. With `dry_run` it is what would go, and nothing was written.

    `remaining` counts rows, read again afterwards, that still hold something of it: 0. `chain` is "whole" where `verify` passed
    afterwards, else what it said. `bytes` says what became of the bytes: "gone" from a SQLite file and its log; "pending"
    while a reader holds an older state of it open (erase again later); "found" where they still stand, in something that is not
    convokit's; "unchecked" where the file could not be read; "server" on PostgreSQL, where they stay until VACUUM, and in WAL
    and backups.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    action: Action
    dry_run: bool = False
    conversations: int = 0
    removed: dict[str, int] = {}
    entries: int = 0
    """Entries written into chains: each says who removed what, when and why."""
    author: str | None = None
    reason: str | None = None
    at: datetime
    remaining: int | None = None
    chain: str | None = None
    bytes: Bytes = "unchecked"
    searched: int = 0
    """For how many pieces of what was removed the file was searched."""
    skipped: tuple[UUID, ...] = ()
    """Conversations left alone, because a turn was open on them: erase again."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be done or looked into: on PostgreSQL, but for VACUUM, WAL and backups."""
        checked = not self.remaining and self.chain in ("whole", None) and self.bytes in ("gone", "server")
        return self.dry_run or (checked and not self.skipped)


def traces(*, texts: list[str], documents: list[str], binaries: list[bytes]) -> list[bytes]:
    """Return pieces of what is about to be removed, to look for afterwards: as UTF-8 and as JSON may escape it.

    `documents` are JSON: the texts in them count. `binaries` are salts, or the beginnings of binary parts.
    """
    found = dict.fromkeys(binaries)
    for text in [*texts, *(each for document in documents for each in _leaves(json.loads(document)))]:
        for form in dict.fromkeys((text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1])):
            encoded = form.encode("utf-8")
            middle = max((len(encoded) - _PIECE_BYTES) // 2, 0)
            for piece in (encoded[:_PIECE_BYTES], encoded[middle : middle + _PIECE_BYTES], encoded[-_PIECE_BYTES:]):
                if len(piece) >= _FEWEST_BYTES:
                    found[piece] = None
    return list(found)


def _leaves(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value; what a tool is called with is JSON in a text, and is looked into as well."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
