"""Decode the JSON that servers send, and repair its text.

No database and no socket accepts half of a surrogate pair. A server may cut a pair between two chunks, so a text is repaired
when it is complete.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from convokit.domain.text import map_texts
from convokit.errors import BadReply

EXCERPT_CHARS = 500
MAX_DEPTH = 64
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_PRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")


def _parse_float(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


# Not strict: some servers send raw control characters inside strings. Infinity and NaN become None: no database stores them.
_DECODER = json.JSONDecoder(strict=False, parse_constant=lambda name: None, parse_float=_parse_float)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises: BadReply with an excerpt."""
    try:
        value, end = _DECODER.raw_decode(text)
        if end == len(text):
            return value
    except (ValueError, RecursionError):
        pass  # JSON between blanks, or no JSON: decode() knows
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise BadReply(f"the server sent invalid JSON: {shorten(text)}") from (
            error if isinstance(error, RecursionError) else None
        )


def shorten(text: str) -> str:
    """Return the first 500 characters of a text on one line, fit for a message or a log."""
    line = _NOT_PRINTABLE.sub(" ", repair_surrogates(text[: 2 * EXCERPT_CHARS])).strip()
    return line if len(line) <= EXCERPT_CHARS else line[: EXCERPT_CHARS - 1] + "…"


def describe_json(value: Any) -> str:
    try:
        return shorten(json.dumps(value, ensure_ascii=False))
    except (RecursionError, TypeError, ValueError):
        return f"a {type(value).__name__}"


def repair_surrogates(text: str) -> str:
    """Join surrogate pairs, and replace a half without its other half by U+FFFD."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def repair_json(value: Any) -> Any:
    """Return a copy of a JSON value whose texts and keys are repaired."""
    return map_texts(value, repair_surrogates)


def count_chars(value: Any, depth: int = 0) -> int:
    """Return about how many characters a JSON value holds. Raises: BadReply when its nesting is over 64 levels."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, (dict, list)):
        return 8
    if depth > MAX_DEPTH:
        raise BadReply(f"the server sent JSON nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        return 16 + sum(len(key) + count_chars(item, depth + 1) for key, item in value.items())
    return 16 + sum(count_chars(item, depth + 1) for item in value)
