"""What a message looks like, read without trusting it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ROLES = frozenset({"developer", "system", "user", "assistant", "tool", "function"})
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What a participant, a function or a tool may be called."""


def called_ids(message: Mapping[str, Any]) -> list[str]:
    """Return the ids of an assistant message's tool calls, as many as there are."""
    calls = message.get("tool_calls")
    if message.get("role") != "assistant" or not isinstance(calls, list | tuple):
        return []
    ids = [call.get("id") for call in calls if isinstance(call, Mapping)]
    return [each for each in ids if isinstance(each, str) and each]


def call_name(call: Mapping[str, Any]) -> object:
    """Return the name of the function or custom tool that is called."""
    body = call.get("custom" if call.get("type") == "custom" else "function")
    return body.get("name") if isinstance(body, Mapping) else None
