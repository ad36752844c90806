"""What text may be stored: everything every backend returns code point for code point, and nothing else.

PostgreSQL refuses NUL, no driver can encode a lone surrogate. Both are refused here, before anything is written or called;
text that a server sends is repaired instead, because it is already paid for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from convokit.errors import InvalidInput, TooLarge

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
MAX_DEPTH = 32
MAX_NUMBER = 2**53


def validate_text(field: str, value: object, *, limit: int, setting: str) -> str:
    """Return `value` if it is text that every backend can hold, of at most `limit` bytes of UTF-8.

    Raises: InvalidInput, TooLarge (which names `setting`).
    """
    if not isinstance(value, str):
        raise InvalidInput(field, f"must be text, not {type(value).__name__}")
    found = _UNSTORABLE.search(value)
    if found is not None:
        what = "NUL (U+0000)" if found.group() == "\x00" else f"a lone surrogate (U+{ord(found.group()):04X})"
        raise InvalidInput(field, f"holds {what} at position {found.start()}, which cannot be stored; remove it first")
    if len(value) * 4 > limit:  # no character needs more than 4 bytes: encode only when it may matter
        size = len(value.encode("utf-8"))
        if size > limit:
            raise TooLarge(field, size, limit, setting=setting)
    return value


def repair_text(value: str) -> str:
    """Return text from a server with what cannot be stored replaced by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", value)


def dump_json(value: Any) -> str:
    """Return `value` as compact JSON text, non-ASCII characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def validate_json(field: str, value: Mapping[str, Any], *, limit: int, setting: str) -> str:
    """Return a JSON object that means the same on every backend: string keys, finite numbers, integers within 2**53.

    Raises: InvalidInput naming the path of what does not fit, TooLarge.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput(field, f"must be a mapping, not {type(value).__name__}")
    encoded = dump_json(to_plain_json(field, value))
    return validate_text(field, encoded, limit=limit, setting=setting)


def to_plain_json(path: str, value: object, *, max_depth: int = MAX_DEPTH, max_number: int = MAX_NUMBER) -> Any:
    """Return a value in JSON's own containers: string keys, finite numbers, integers within `most`, text that can be stored.

    Raises: InvalidInput naming the path of what does not fit.
    """
    if max_depth < 0:
        raise InvalidInput(path, "is nested too deeply")
    if isinstance(value, Mapping):
        made = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidInput(path, f"key {key!r} is not text")
            place = f"{path}.{repair_text(key)}"
            to_plain_json(place, key)
            made[key] = to_plain_json(place, item, max_depth=max_depth - 1, max_number=max_number)
        return made
    if isinstance(value, list | tuple):
        return [
            to_plain_json(f"{path}[{at}]", item, max_depth=max_depth - 1, max_number=max_number)
            for at, item in enumerate(value)
        ]
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            raise InvalidInput(path, "holds NUL or a lone surrogate, which cannot be stored")
    elif isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > max_number:
            raise InvalidInput(path, f"holds a number beyond 2**{max_number.bit_length() - 1}: store it as text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(path, f"{value} is not a JSON number")
    elif not isinstance(value, bool) and value is not None:
        raise InvalidInput(path, f"{type(value).__name__} is not JSON")
    return value
