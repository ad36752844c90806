"""Token counts as the vendors report them. A count that nobody reported is None, never 0."""

from __future__ import annotations

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
