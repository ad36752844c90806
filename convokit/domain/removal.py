"""Define removals: the stored row and the caller's receipt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain import hashchain

Action = Literal["redact", "erase", "purge"]
BytesState = Literal["gone", "found", "pending", "unchecked", "server"]
EVERYTHING = "*"
"""The `ref` of a removal that erased everything before its chain entry."""
_ERASABLE = "message search completion turn chunk tool_call blob prompt prompt_use conversation branch summary anchor"
VACUUM_COMMAND = "VACUUM FULL ANALYZE " + ", ".join(f"convokit_{name}" for name in _ERASABLE.split())
"""Rewrites PostgreSQL's files without the old versions of erased rows. A plain VACUUM leaves their bytes in the files."""


@dataclass(slots=True)
class RemovalRow:
    """A row of the removal table. The chain entry with the same number commits to it."""

    number: int
    ref: str
    author: str | None
    reason: str | None
    salt: bytes
    created_at: int

    def hash_input(self) -> hashchain.HashInput:
        chained = [self.number, self.ref, self.author, self.reason, self.created_at]
        kind: hashchain.EntryKind = "erasure" if self.ref == EVERYTHING else "redaction"
        return hashchain.HashInput(kind, self.ref, hashchain.compute_commitment(self.salt, chained))


class Receipt(BaseModel):
    """The result of `redact`, `erase` or `purge`: rows removed, and what a check found afterwards.

    `bytes` is the state of the removed bytes:

    - "gone": the SQLite file and its write-ahead log do not contain them
    - "pending": a reader keeps an older state of the database open; erase again later
    - "found": the file still contains them, outside of convokit's tables
    - "unchecked": the file could not be read, or this was a dry run
    - "server": PostgreSQL keeps them in its files until VACUUM FULL, and in its WAL and backups

    `removed` counts rows by table:

    - `message`, `blob`, `summary`: messages without their text, deleted binaries and summaries
    - `chunk`: deleted chunks of partial replies
    - `completion`, `turn`, `tool_call`: cleared errors and details
    - `conversation`: cleared description, settings or pins; after a purge, deleted conversations
    - `anchor`: deleted digests under which a gateway finds messages: those of the message and of all later ones
    - `prompt`: deleted developer prompts and tool sets that no request refers to
    - `salt`: deleted salts of digests; without a salt, nobody can guess a short text from its digest

    After a dry run the counts say what would be removed. A dry run writes nothing.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    action: Action
    dry_run: bool = False
    conversations: int = 0
    removed: dict[str, int] = {}
    entries: int = 0
    """Chain entries written. Each records who removed what, when and why."""
    author: str | None = None
    reason: str | None = None
    at: datetime
    remaining: int | None = None
    """Rows that still hold removed text, read after the removal. Expected: 0. None after a dry run or a purge."""
    chain: str | None = None
    """"whole" if `verify` passed after the removal, else its error. None after a dry run or a purge."""
    bytes: BytesState = "unchecked"
    searched: int = 0
    """Number of samples of removed text that the database file was searched for."""
    skipped: tuple[UUID, ...] = ()
    """Conversations that were not erased because a turn is open. Erase them again later."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do. Ignores VACUUM FULL, WAL and backups of PostgreSQL."""
        checked = not self.remaining and self.chain in ("whole", None) and self.bytes in ("gone", "server")
        return self.dry_run or (checked and not self.skipped)
