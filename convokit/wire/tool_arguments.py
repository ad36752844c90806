"""Read the arguments of tool calls, and repair those that are sent.

A model may write arguments that are no JSON object. They are stored as they came. Many servers parse the arguments of every
tool call in the history, and refuse a whole request for one call that they cannot parse.
"""

from __future__ import annotations

import json
import math
from typing import Any

from convokit.domain.text import dump_json


def is_json_object(text: str) -> bool:
    """Whether every JSON parser reads the text as one object."""
    return _parse(text) is not None


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


def _parse(text: str) -> dict[str, Any] | None:
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:
            dump_json(value).encode("utf-8")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
