"""Token counts as the vendors report them. A count that nobody reported is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from convokit.domain.reply import Usage


def read_usage(details: dict[str, Any], timings: Any = None) -> Usage:
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
        prompt_tokens=count(details.get("prompt_tokens")),
        completion_tokens=count(details.get("completion_tokens")),
        total_tokens=count(details.get("total_tokens")),
        cached_tokens=cached,
        cache_write_tokens=count(prompt.get("cache_write_tokens")),
        reasoning_tokens=_first(completion.get("reasoning_tokens"), details.get("reasoning_tokens")),
        source="reported",
    )


_COST_HEADER = "x-litellm-response-cost"
_MOST_USD = 10_000
"""No call costs more: a larger number is a mistake, or an attempt to overflow a sum."""


def reported_cost(details: dict[str, Any], headers: Mapping[str, str]) -> int | None:
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
    return next((each for each in map(count, values) if each is not None), None)


def count(value: Any) -> int | None:
    """Return a whole number that is one, whatever a server put in its place."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
