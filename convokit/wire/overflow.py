"""Every vendor's way to say that a request holds more tokens than the model takes, read into one ContextOverflow."""

from __future__ import annotations

import re
from typing import Any

from convokit.errors import ContextOverflow
from convokit.wire.envelope import Fault

_NAMES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded", "context_overflow"}
)
_STATUSES = frozenset({None, 200, 400, 413, 422, 500})
_N = r"\(?(\d[\d,]*)"
_SIGNS = re.compile(
    r"maximum (?:context|prompt) length|available context size|longer than the model'?s context length"
    r"|context (?:length|limit|window) exceeded|exceeds? (?:the )?(?:model'?s )?context (?:length|limit|window)"
    r"|exceeds? the context window|context the overflows|(?:prompt|input) is too long|input tokens exceed"
    r"|exceeds the maximum number of tokens allowed|current length is \d+ while limit is|too large for model with"
    r"|reduce the length of the messages",
    re.IGNORECASE,
)
_AVAILABLE = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:context|prompt) (?:length|size|window)(?: is| of(?: only)?)? {_N}",
        rf"context limit: .*> {_N}",
        rf"configured limit of {_N}",
        rf"> {_N} maximum",
        rf"with {_N} maximum context",
        rf"tokens allowed {_N}",
        rf"limit is {_N}",
    )
)
_NEEDED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:resulted in|requested(?: about| a total of)?|at least|contains) {_N} (?:input )?tokens",
        r"(?:input|request|prompt) \((\d[\d,]*) tokens\)",
        r"(?:input length|token count) \((\d[\d,]*)\)",
        rf"too long: {_N}",
        rf"current length is {_N}",
        rf"keep the first {_N} tokens",
    )
)


def overflow(fault: Fault, status: int | None) -> ContextOverflow | None:
    """Return the overflow a fault speaks of, with the numbers it gives; None when it is about something else."""
    named = not _NAMES.isdisjoint({fault.code, fault.type})
    if not named and (status not in _STATUSES or not _SIGNS.search(fault.message)):
        return None
    needed = _number(fault.error.get("n_prompt_tokens")) or _find(_NEEDED, fault.message)  # llama.cpp says both apart
    available = _number(fault.error.get("n_ctx")) or _find(_AVAILABLE, fault.message)
    detail = "" if needed and available else fault.message
    return ContextOverflow(needed, available, counter="the server", detail=detail)


def _find(patterns: tuple[re.Pattern[str], ...], text: str) -> int | None:
    for pattern in patterns:
        found = pattern.search(text)
        if found:
            return _number(int(found[1].replace(",", "")[:15]))
    return None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
