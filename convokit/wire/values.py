"""JSON as servers write it, and text that can be stored.

Raw control characters in strings are let through, numbers that JSON does not have become None, and whatever cannot be parsed
is a BadReply with an excerpt. A lone half of a surrogate pair becomes U+FFFD: no database and no socket takes it.

Token counts as the vendors report them. A count that nobody reported is None, never 0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from convokit.domain.reply import Usage
from convokit.errors import BadReply

EXCERPT_CHARS = 500
MAX_DEPTH = 64
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_PRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


DECODER = json.JSONDecoder(strict=False, parse_constant=lambda name: None, parse_float=_finite)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises: BadReply with an excerpt, whatever is wrong with it."""
    try:
        value, end = DECODER.raw_decode(text)
        if end == len(text):
            return value
    except (ValueError, RecursionError):
        pass  # white space around it, or not JSON: the slower way tells
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise BadReply(f"the server sent something that is not JSON: {shorten(text)}") from (
            error if isinstance(error, RecursionError) else None
        )


def shorten(text: str) -> str:
    """Return the beginning of a text on one line, fit for a message or a log."""
    line = _NOT_PRINTABLE.sub(" ", repair_surrogates(text[: 2 * EXCERPT_CHARS])).strip()
    return line if len(line) <= EXCERPT_CHARS else line[: EXCERPT_CHARS - 1] + "…"


def describe_json(value: Any) -> str:
    """Return an excerpt of a JSON value, whatever it is."""
    try:
        return shorten(json.dumps(value, ensure_ascii=False))
    except (RecursionError, TypeError, ValueError):
        return f"a {type(value).__name__}"


def repair_surrogates(text: str) -> str:
    """Return the text with surrogate pairs joined and lone halves replaced; the same object where there are none."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def repair_json(value: Any) -> Any:
    """Return a JSON value with every string in it mended."""
    if isinstance(value, str):
        return repair_surrogates(value)
    if isinstance(value, list):
        return [repair_json(item) for item in value]
    if isinstance(value, dict):
        return {repair_surrogates(key): repair_json(item) for key, item in value.items()}
    return value


def count_chars(value: Any, depth: int = 0) -> int:
    """Return about how many characters a JSON value holds. Raises: BadReply when it is nested past reason."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, (dict, list)):
        return 8
    if depth > MAX_DEPTH:
        raise BadReply(f"the server sent JSON nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return 16 + sum(len(key) + count_chars(item, depth + 1) for key, item in value.items())
    return 16 + sum(count_chars(item, depth + 1) for item in value)


def parse_usage(details: dict[str, Any], timings: Any = None) -> Usage:
    """Return the counts of a `usage` object; `timings` is llama.cpp's, which knows what came from its cache."""
    if not details:
        return Usage()
    prompt, completion = _inner(details, "prompt_tokens_details"), _inner(details, "completion_tokens_details")
    cached = _first(
        prompt.get("cached_tokens"),
        details.get("prompt_cache_hit_tokens"),  # DeepSeek
        details.get("cached_tokens"),
        timings.get("cache_n") if isinstance(timings, dict) else None,
    )
    return Usage(
        prompt_tokens=parse_count(details.get("prompt_tokens")),
        completion_tokens=parse_count(details.get("completion_tokens")),
        total_tokens=parse_count(details.get("total_tokens")),
        cached_tokens=cached,
        cache_write_tokens=parse_count(prompt.get("cache_write_tokens")),
        reasoning_tokens=_first(completion.get("reasoning_tokens"), details.get("reasoning_tokens")),
        source="reported",
    )


_COST_HEADER = "x-litellm-response-cost"
_MOST_USD = 10_000
"""No call costs more: a larger number is a mistake, or an attempt to overflow a sum."""


def parse_cost_nanousd(details: dict[str, Any], headers: Mapping[str, str]) -> int | None:
    """Return what the server says the call cost, in billionths of a US dollar, or None when it does not say."""
    said = details.get("cost")  # OpenRouter
    if isinstance(said, dict):  # Perplexity
        said = said.get("total_cost")
    if isinstance(said, bool) or not isinstance(said, int | float):
        said = headers.get(_COST_HEADER)
    try:
        cost = Decimal(str(said))
    except InvalidOperation:
        return None
    return round(cost * 1_000_000_000) if cost.is_finite() and 0 <= cost <= _MOST_USD else None


def _inner(details: dict[str, Any], key: str) -> dict[str, Any]:
    value = details.get(key)
    return value if isinstance(value, dict) else {}


def _first(*values: Any) -> int | None:
    return next((each for each in map(parse_count, values) if each is not None), None)


def parse_count(value: Any) -> int | None:
    """Return a whole number that is one, whatever a server put in its place."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
