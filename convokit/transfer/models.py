"""Define the results of exports and imports."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain.ids import derive_conversation_id

ExportFormat = Literal["jsonl", "openai", "markdown"]
ImportFormat = Literal["jsonl", "chatgpt", "claude", "openwebui", "messages", "openai"]
OnError = Literal["raise", "skip"]
# A file, a folder or ZIP archive of files, several of these, or a file that the caller opened.
ImportPath = str | Path
ImportSource = ImportPath | IO[Any] | Sequence[ImportPath]
MAX_PROBLEMS = 1000
# A part of an export's text, and the number of messages in it.
ExportChunk = tuple[str, int]


class Exported(BaseModel):
    """The result of an export.

    `lines` counts all lines of the file. `sha256` (hexadecimal) covers them, except the footer of the format `jsonl`.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversations: int = 0
    messages: int = 0
    lines: int = 0
    sha256: str = ""


class Skipped(BaseModel):
    """A record that an import skipped: its first line in the file, the problem, and the name of the file."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    line: int
    problem: str
    file: str = ""


class Imported(BaseModel):
    """The result of an import.

    `conversations` and `messages` count new ones. `unchanged` counts conversations that an earlier import wrote. `rechained`
    counts new conversations from another database or tenant. They have new ids and a new chain, whose first entry names the old
    one. `skipped` counts bad records. `problems` describes the first 1,000 of them. `left_out` counts what the new
    conversations do not have of the file, by its kind: `{"instructions": 1, "turns": 4}`.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversations: int = 0
    messages: int = 0
    unchanged: int = 0
    rechained: int = 0
    skipped: int = 0
    problems: tuple[Skipped, ...] = ()
    left_out: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class ImportTarget:
    """The database and tenant that an import writes to, and the time of the import."""

    database_id: UUID
    tenant: str
    now_us: int

    def derive_id(self, key: str | None, origin: str) -> UUID:
        """Return the conversation id for `key`. Without a key, repeated imports of the same `origin` get the same id."""
        if key is None:
            # A key cannot contain NUL, so this name never equals a key.
            key = f"\x00import\x00{hashlib.sha256(origin.encode()).hexdigest()}"
        return derive_conversation_id(self.database_id, self.tenant, key)


@dataclass(frozen=True, slots=True)
class RecordResult:
    """The result of one imported record. `unchanged` means that an earlier import wrote the conversation."""

    conversation_id: UUID
    unchanged: bool = False
    messages: int = 0
    rechained: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)
