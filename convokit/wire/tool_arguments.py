"""Join the arguments of tool calls, and repair those that are sent.

Some gateways repeat the arguments so far in each chunk, or send them whole once more, or send `{}` first. So the chunks have
two readings: concatenated, and cumulative. A legitimate stream may look cumulative (`{"a":`, `{"a":1}`, `}`), so the
concatenation counts wherever it is one JSON object.

A model may write arguments that are no JSON object. They are stored as they came. Many servers parse the arguments of every
tool call in the history, and refuse a whole request for one call that they cannot parse.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from convokit.domain.text import dump_json

_EMPTY_OBJECT = re.compile(r"\s*\{\s*\}\s*")
_MAX_EMPTY_CHARS = 16
# A repeated object may be written with other blanks and escapes, but not with many more.
_MAX_GROWTH = 8


def join_arguments(chunks: Sequence[str]) -> str:
    """Return the arguments of a call: the concatenation, or the cumulative reading if only that is one JSON object."""
    text = "".join(chunks)
    if len(chunks) < 2 or parse_object(text) is not None:
        return text
    cumulative = _read_cumulative(chunks)
    return text if parse_object(cumulative) is None else cumulative


def _read_cumulative(chunks: Sequence[str]) -> str:
    """Return the arguments for chunks of which each may repeat those before it.

    A chunk is compared only if it is about as long as all that was gathered. So the time grows with the length of the chunks.
    """
    gathered: list[str] = []
    size_chars = 0
    for chunk in chunks:
        is_long = len(chunk) * _MAX_GROWTH >= size_chars or size_chars <= _MAX_EMPTY_CHARS
        if chunk and gathered and is_long and repeats_arguments("".join(gathered), chunk):
            gathered.clear()
            size_chars = 0
        gathered.append(chunk)
        size_chars += len(chunk)
    return "".join(gathered)


def repeats_arguments(gathered: str, chunk: str) -> bool:
    """Return whether a chunk replaces all that was gathered: it begins with it or is equal to it, or only `{}` was gathered."""
    if not chunk.strip():
        return False
    if chunk.startswith(gathered) or (len(gathered) <= _MAX_EMPTY_CHARS and _EMPTY_OBJECT.fullmatch(gathered)):
        return True
    if not (chunk.lstrip().startswith("{") and chunk.rstrip().endswith("}") and gathered.rstrip().endswith("}")):
        return False
    whole = parse_object(chunk)
    return whole is not None and whole == parse_object(gathered)


def parse_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object in a text, also one with raw control characters; None for any other text."""
    try:
        value = _LENIENT_DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def to_sendable_arguments(arguments: Any) -> str:
    """Return arguments that every server can parse: themselves, `{}` for blank ones, else an object that holds their text."""
    if arguments is None:
        return "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    if not text.strip():
        return "{}"
    return text if is_json_object(text) else dump_json({"arguments": text})


def _refuse(number: str) -> float:
    raise ValueError(number)


def _parse_finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


# Python accepts NaN, 1e999 and lone surrogates. Other parsers refuse them.
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_parse_finite)
_LENIENT_DECODER = json.JSONDecoder(strict=False)


def is_json_object(text: str) -> bool:
    """Return whether every JSON parser reads the text as one object."""
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:
            dump_json(value).encode("utf-8")
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)
