"""Validate text and JSON before they are stored or sent.

PostgreSQL refuses NUL, and no driver can encode a lone surrogate. Text from callers with one of them is refused before anything
is written. Text from servers is repaired instead, because it is already paid for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from convokit.errors import InvalidInput, TooLarge

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
UNSAFE_TEXT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters except tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional formatting
    "\u200b\u2060-\u2064\ufeff"  # zero width; joiners belong to emoji and to scripts
    "\u2028\u2029\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"  # separators, annotations, tags, lone surrogates
)
"""Characters that steer a terminal or a page, or that nobody sees. Whoever shows text makes them visible."""
MAX_DEPTH = 32
MAX_NUMBER = 2**53


def validate_text(field: str, value: object, *, limit: int, setting: str) -> str:
    """Return `value` if both databases can store it and it has at most `limit` bytes of UTF-8.

    Raises: InvalidInput, TooLarge with `setting`, the setting that raises the limit.
    """
    if not isinstance(value, str):
        raise InvalidInput(field, f"must be text, not {type(value).__name__}")
    match = _UNSTORABLE.search(value)
    if match is not None:
        what = "NUL (U+0000)" if match.group() == "\x00" else f"a lone surrogate (U+{ord(match.group()):04X})"
        raise InvalidInput(field, f"contains {what} at position {match.start()}, which cannot be stored: remove it")
    if len(value) * 4 > limit:  # a character takes at most 4 bytes, so shorter text need not be encoded
        size = len(value.encode("utf-8"))
        if size > limit:
            raise TooLarge(field, size, limit, setting=setting)
    return value


def validate_name(field: str, value: object, max_chars: int, *, if_empty: str = "") -> str:
    """Return a key, subject, title, tenant or name of a branch.

    Raises: InvalidInput for other values and an empty text, TooLarge for more than `max_chars` characters. `if_empty` is the
    advice about an empty text.
    """
    text = validate_text(field, value, limit=max_chars * 4, setting="Limits.key_chars")
    if not text:
        raise InvalidInput(field, f"is empty: {if_empty}" if if_empty else "is empty")
    if len(text) > max_chars:
        raise TooLarge(field, len(text), max_chars, setting="Limits.key_chars", unit="characters")
    return text


def repair_text(value: str) -> str:
    """Return `value` with NUL and lone surrogates replaced by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", value)


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a copy of a JSON value with every text and key changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [map_texts(item, change) for item in value]
    if isinstance(value, Mapping):
        return {change(key): map_texts(item, change) for key, item in value.items()}
    return value


def escape_surrogates(document: str) -> str:
    """Return JSON text with lone surrogates escaped, so that both databases can store it."""
    return _SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", document)


def dump_json(value: Any) -> str:
    """Return compact JSON. Non-ASCII characters stay as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def validate_json(field: str, value: Mapping[str, Any], *, limit: int, setting: str) -> str:
    """Return `value` as JSON text of at most `limit` bytes. Keys are strings, numbers finite, integers within 2**53.

    Raises: InvalidInput with the path of the invalid value, TooLarge.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput(field, f"must be a mapping, not {type(value).__name__}")
    return validate_json_value(field, value, limit=limit, setting=setting)


def validate_json_value(field: str, value: object, *, limit: int, setting: str) -> str:
    """Return any JSON value as text of at most `limit` bytes. Raises: as `validate_json`."""
    encoded = dump_json(to_plain_json(field, value))
    return validate_text(field, encoded, limit=limit, setting=setting)


def to_plain_json(
    path: str, value: object, *, max_depth: int = MAX_DEPTH, max_number: int = MAX_NUMBER, any_text: bool = False
) -> Any:
    """Return a copy of a value made of dicts, lists and scalars that JSON can express and both databases can store.

    `any_text` also takes the characters that JSON must escape to be stored. Raises: InvalidInput with the path of the invalid
    value.
    """
    if max_depth < 0:
        raise InvalidInput(path, "is nested too deeply")
    if isinstance(value, Mapping):
        plain = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidInput(path, f"key {key!r} must be text")
            key_path = f"{path}.{repair_text(key)}"
            to_plain_json(key_path, key, any_text=any_text)
            plain[key] = to_plain_json(
                key_path, item, max_depth=max_depth - 1, max_number=max_number, any_text=any_text
            )
        return plain
    if isinstance(value, list | tuple):
        return [
            to_plain_json(f"{path}[{at}]", item, max_depth=max_depth - 1, max_number=max_number, any_text=any_text)
            for at, item in enumerate(value)
        ]
    if isinstance(value, str):
        if not any_text and _UNSTORABLE.search(value):
            raise InvalidInput(path, "contains NUL or a lone surrogate, which cannot be stored: remove it")
    elif isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > max_number:
            raise InvalidInput(path, f"is a number beyond 2**{max_number.bit_length() - 1}: pass it as text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(path, f"{value} is not a JSON number: pass a finite number or None")
    elif not isinstance(value, bool) and value is not None:
        raise InvalidInput(path, f"{type(value).__name__} is not JSON serializable")
    return value
