"""What goes in and out: the values that an export and an import return, and a conversation on its way in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain.content import Blob
from convokit.domain.ids import derive_conversation_id

ExportFormat = Literal["jsonl", "openai", "markdown"]
ImportFormat = Literal["jsonl", "chatgpt", "messages"]
OnError = Literal["raise", "skip"]
MOST_PROBLEMS = 1000


class Exported(BaseModel):
    """What was written: how many conversations and messages, in how many lines; the SHA-256 of them, hexadecimal."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversations: int = 0
    messages: int = 0
    lines: int = 0
    sha256: str = ""


class Skipped(BaseModel):
    """A record that was not imported: the line it begins in, and why."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    line: int
    problem: str


class Imported(BaseModel):
    """What was read: `conversations` and `messages` that are new now, `unchanged` ones that were there already.

    `rechained` of the new ones came from another database (or tenant): they have other ids, and a new chain whose first entry
    names the old one. `skipped` counts bad records; `problems` says of the first 1,000 of them where and why.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversations: int = 0
    messages: int = 0
    unchanged: int = 0
    rechained: int = 0
    skipped: int = 0
    problems: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where an import goes, and when it happens (microseconds)."""

    database_id: UUID
    tenant: str
    at: int

    def conversation_id(self, key: str | None, origin: str) -> UUID:
        """Return the id under `key`; without one, an id that is the same whenever the same `origin` is imported again."""
        if key is not None:
            return derive_conversation_id(self.database_id, self.tenant, key)
        digest = hashlib.sha256(origin.encode()).hexdigest()
        return derive_conversation_id(
            self.database_id, self.tenant, f"\x00import\x00{digest}"
        )  # NUL: no key can be that


@dataclass(frozen=True, slots=True)
class Written:
    """What came of one record. `messages` is None where the conversation was there already."""

    messages: int | None
    rechained: bool = False


@dataclass(slots=True)
class Draft:
    """A message on its way in: what its row needs besides its place. `parent` is an index into the drafts before it."""

    role: str
    parent: int | None
    content: str | None = None
    parts: list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    created_at: int | None = None

    def shape(self) -> dict[str, Any]:
        """Return the message in the API's shape."""
        shape: dict[str, Any] = {"role": self.role, "content": self.content if self.parts is None else self.parts}
        for key in ("tool_calls", "tool_call_id", "name", "refusal"):
            if getattr(self, key) is not None:
                shape[key] = getattr(self, key)
        return shape


@dataclass(slots=True)
class Incoming:
    """A conversation from another kind of file. `origin` names it there, with a digest of what it holds."""

    origin: str
    key: str | None = None
    subject: str | None = None
    title: str | None = None
    metadata: str | None = None
    developer_prompt: str | None = None
    created_at: int | None = None
    updated_at: int | None = None
    drafts: list[Draft] = field(default_factory=list)
    head: int | None = None
    """The index of the message that the conversation stands at."""
    blobs: dict[bytes, Blob] = field(default_factory=dict)
