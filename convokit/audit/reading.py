"""Which reader a format has."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from convokit.audit import arrays, chatgpt
from convokit.audit.foreign import Foreign
from convokit.audit.restore import Restore
from convokit.audit.sources import Source
from convokit.context.tokens import Counter
from convokit.domain.text import checked
from convokit.domain.transfer import ImportFormat
from convokit.errors import InvalidInput, SettingsError, TooLarge
from convokit.settings import Limits

FORMATS = ("jsonl", "chatgpt", "messages")


def reader(
    given: str | Path | IO[Any], form: ImportFormat, *, key: str | None, limits: Limits, counter: Counter
) -> Restore | Foreign:
    """Return what reads a file; nothing is opened yet. Raises: SettingsError, InvalidInput."""
    if form not in FORMATS:
        raise SettingsError("format", f"must be one of {', '.join(FORMATS)}, not {form!r}")
    if key is not None:
        if form != "messages":
            raise InvalidInput("key", f"is for messages; conversations of the format {form} bring their own")
        checked("key", key, limit=limits.key_chars * 4, setting="Limits.key_chars")
        if not key:
            raise InvalidInput("key", "is empty")
        if len(key) > limits.key_chars:
            raise TooLarge("key", len(key), limits.key_chars, setting="Limits.key_chars", unit="characters")
    source = Source(given)
    if form == "jsonl":
        return Restore(source)
    if form == "chatgpt":
        folder = source.path.parent if source.path is not None else None
        return Foreign(source, chatgpt.values, chatgpt.Exports(limits, folder), counter)
    return Foreign(source, arrays.values, arrays.Arrays(limits, key), counter)
