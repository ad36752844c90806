"""Hold a conversation that is being imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convokit.context.message_draft import MessageDraft
from convokit.domain.content import Blob, Content
from convokit.domain.text import validate_json, validate_text
from convokit.errors import TooLarge
from convokit.settings import Limits


@dataclass(slots=True)
class ConversationDraft:
    """A conversation to import. `origin` is the ref of its import entry: source, number of chain entries there, hash."""

    origin: str
    identity: str | None = None
    """A text that identifies the content, if `origin` does not. Without a key, a repeated import finds it by this."""
    key: str | None = None
    subject: str | None = None
    title: str | None = None
    metadata: str | None = None
    developer_prompt: str | None = None
    created_at: int | None = None
    updated_at: int | None = None
    messages: list[MessageDraft] = field(default_factory=list)
    head: int | None = None
    """The index of the branch head in `messages`."""
    blobs: dict[bytes, Blob] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    """The number of things that the draft does not have of its record, by their kind."""

    def set_fields(self, values: Mapping[str, Any], limits: Limits) -> None:
        """Set title and metadata from a record. Raises: InvalidInput, TooLarge."""
        title = values.get("title")
        if title is not None and title != "":
            self.title = validate_label("title", title, limits)
        if values.get("metadata") is not None:
            self.metadata = validate_json(
                "metadata", values["metadata"], limit=limits.metadata_bytes, setting="Limits.metadata_bytes"
            )

    def add_blobs(self, content: Content) -> None:
        """Keep the binaries of a message's content."""
        self.blobs |= {blob.digest: blob for blob in content.blobs}


def validate_label(field: str, value: object, limits: Limits) -> str:
    """Return a key, subject or title. Raises: InvalidInput, TooLarge."""
    # The limit is in characters, of at most 4 bytes each.
    text = validate_text(field, value, limit=limits.key_chars * 4, setting="Limits.key_chars")
    if len(text) > limits.key_chars:
        raise TooLarge(field, len(text), limits.key_chars, setting="Limits.key_chars", unit="characters")
    return text
