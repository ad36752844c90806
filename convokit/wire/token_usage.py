"""Parse the token counts and the cost that a server reports."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from convokit.domain.reply import Usage

_COST_HEADER = "x-litellm-response-cost"
# No call costs more. A larger number is a mistake, or an attempt to overflow a sum.
_MAX_COST_USD = 10_000


def parse_usage(details: dict[str, Any], timings: Any = None) -> Usage:
    """Return the counts of a reply's `usage` object. A count that is not reported is None, never 0.

    `timings` is the object of that name beside `usage`, which llama.cpp sends.
    """
    if not details:
        return Usage()
    prompt, completion = (
        _get_object(details, "prompt_tokens_details"),
        _get_object(details, "completion_tokens_details"),
    )
    cached = _first_count(
        prompt.get("cached_tokens"),
        details.get("prompt_cache_hit_tokens"),  # DeepSeek
        details.get("cached_tokens"),
        timings.get("cache_n") if isinstance(timings, dict) else None,  # llama.cpp
    )
    return Usage(
        prompt_tokens=parse_count(details.get("prompt_tokens")),
        completion_tokens=parse_count(details.get("completion_tokens")),
        total_tokens=parse_count(details.get("total_tokens")),
        cached_tokens=cached,
        cache_write_tokens=parse_count(prompt.get("cache_write_tokens")),
        reasoning_tokens=_first_count(completion.get("reasoning_tokens"), details.get("reasoning_tokens")),
        source="reported",
    )


def parse_cost_nanousd(details: dict[str, Any], headers: Mapping[str, str]) -> int | None:
    """Return the cost that the server reports, in billionths of a US dollar, or None.

    `details` is the reply's `usage` object. `headers` are the response headers, with lower-case names.
    """
    cost = details.get("cost")  # OpenRouter
    if isinstance(cost, dict):  # Perplexity
        cost = cost.get("total_cost")
    if isinstance(cost, bool) or not isinstance(cost, int | float):
        cost = headers.get(_COST_HEADER)
    try:
        usd = Decimal(str(cost))
    except InvalidOperation:
        return None
    return round(usd * 1_000_000_000) if usd.is_finite() and 0 <= usd <= _MAX_COST_USD else None


def parse_count(value: Any) -> int | None:
    """Return a whole number from 0 up, or None for any other value that a server sends in its place."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _first_count(*values: Any) -> int | None:
    return next((count for count in map(parse_count, values) if count is not None), None)


def _get_object(details: dict[str, Any], key: str) -> dict[str, Any]:
    value = details.get(key)
    return value if isinstance(value, dict) else {}
