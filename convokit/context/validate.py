"""The rules the API enforces on a `messages` array, as a check that anyone may run alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convokit.context.shapes import NAME, ROLES, call_name, called_ids


def problems(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return every reason why a Chat Completions server would refuse this array; an empty list means none."""
    found: list[str] = []
    if not messages:
        return ["messages: must hold at least one message"]
    waiting: list[str] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            found.append(f"{where}: must be an object, not {type(message).__name__}")
            continue
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            found.append(f"{where}.role: {role!r} is not a role")
        if role == "tool":
            if message.get("tool_call_id") in waiting:
                waiting.remove(message["tool_call_id"])
            else:
                found.append(f"{where}: a tool message must answer a call of the assistant message before it")
        elif waiting:
            found.append(f"{where}: these tool calls have no answer: {', '.join(waiting)}")
            waiting = []
        found += _content_problems(where, message)
        if message.get("name") is not None:
            found += _name_problems(f"{where}.name", message["name"])
        if "tool_calls" in message:
            found += _call_problems(f"{where}.tool_calls", message)
            waiting = called_ids(message)
    if waiting:
        found.append(f"messages[{len(messages) - 1}]: these tool calls have no answer: {', '.join(waiting)}")
    return found


def _content_problems(where: str, message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    if content is None:
        other = any(message.get(key) for key in ("tool_calls", "function_call", "refusal", "audio"))
        excused = message.get("role") == "assistant" and other
        return [] if excused else [f"{where}.content: expected a string, got null"]
    if isinstance(content, str):
        return []
    if not isinstance(content, list | tuple):
        return [f"{where}.content: must be text or a list of parts, not {type(content).__name__}"]
    if not content:
        return [f"{where}.content: must hold at least one part"]
    return [
        f"{where}.content[{number}]: must be an object with a type"
        for number, part in enumerate(content)
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str)
    ]


def _name_problems(where: str, name: object) -> list[str]:
    if isinstance(name, str) and NAME.fullmatch(name):
        return []
    return [f"{where}: {name!r} is not 1 to 64 of A-Z a-z 0-9 _ and -"]


def _call_problems(where: str, message: Mapping[str, Any]) -> list[str]:
    calls = message["tool_calls"]
    if message.get("role") != "assistant":
        return [f"{where}: only an assistant message calls tools"]
    if not isinstance(calls, list | tuple) or not calls:
        return [f"{where}: must not be empty; leave it out"]
    ids = called_ids(message)
    found = [] if len(ids) == len(calls) else [f"{where}: each call needs an id"]
    if len(set(ids)) < len(ids):
        found.append(f"{where}: two calls have the same id")
    for number, call in enumerate(calls):
        if isinstance(call, Mapping):
            found += _name_problems(f"{where}[{number}].name", call_name(call))
    return found
