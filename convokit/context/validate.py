"""The rules the API enforces on a `messages` array, as a check that anyone may run alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ROLES = frozenset({"developer", "system", "user", "assistant", "tool", "function"})


def problems(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return every reason why a Chat Completions server would refuse this array; an empty list means none."""
    found: list[str] = []
    if not messages:
        return ["messages: must hold at least one message"]
    waiting: dict[str, int] = {}
    for index, message in enumerate(messages):
        role = message.get("role")
        where = f"messages[{index}]"
        if role not in ROLES:
            found.append(f"{where}.role: {role!r} is not a role")
        if role == "tool":
            if waiting.pop(str(message.get("tool_call_id")), None) is None:
                found.append(f"{where}: a tool message must answer a call of the assistant message before it")
        elif waiting:
            found.append(f"{where}: these tool calls have no answer: {', '.join(waiting)}")
            waiting = {}
        found += _content_problems(where, message)
        if role == "assistant":
            waiting = {str(call.get("id")): index for call in message.get("tool_calls") or ()}
    if waiting:
        found.append(f"messages[{len(messages) - 1}]: these tool calls have no answer: {', '.join(waiting)}")
    return found


def _content_problems(where: str, message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    if "tool_calls" in message and not message["tool_calls"]:
        return [f"{where}.tool_calls: must not be empty; leave it out"]
    if content is None:
        excused = message.get("role") == "assistant" and (message.get("tool_calls") or message.get("audio"))
        refused = message.get("role") == "assistant" and message.get("refusal")
        return [] if excused or refused else [f"{where}.content: expected a string, got null"]
    if not isinstance(content, str | list | tuple):
        return [f"{where}.content: must be text or a list of parts, not {type(content).__name__}"]
    if not isinstance(content, str) and not content:
        return [f"{where}.content: must hold at least one part"]
    return []
