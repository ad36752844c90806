"""Validate and normalize plain messages of a caller.

The text of a message never changes. Only fields that a server would refuse do: empty lists of calls, names with characters that
the API does not allow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from convokit.context.validity import NAME, call_name
from convokit.domain.message import ASSISTANT, FUNCTION, ROLES, TOOL
from convokit.errors import InvalidInput

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


def normalize_message(place: str, message: object) -> dict[str, Any]:
    """Return a copy of `message` that may be counted and sent. Raises: InvalidInput, naming `place`."""
    if not isinstance(message, Mapping):
        raise InvalidInput(place, f"must be a mapping with a role and content, not {type(message).__name__}")
    role = message.get("role")
    if role is None:
        raise InvalidInput(f"{place}.role", "is missing")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidInput(f"{place}.role", f"must be one of {', '.join(sorted(ROLES))}, not {role!r}")
    shape = dict(message)
    shape["content"] = _check_content(f"{place}.content", message.get("content"))
    if role == TOOL and shape["content"] is None:  # a function that returned nothing; the API allows no null here
        shape["content"] = ""
    for key in ("refusal", "tool_call_id", "name"):
        if shape.get(key) is not None and not isinstance(shape[key], str):
            raise InvalidInput(f"{place}.{key}", f"must be text, not {type(shape[key]).__name__}")
    name = shape.pop("name", None)
    if name and (role == FUNCTION or _normalize_name(name)):
        shape["name"] = _normalize_name(name) or "_"
    calls = shape.pop("tool_calls", None)
    if calls and role == ASSISTANT:
        shape["tool_calls"] = _normalize_calls(f"{place}.tool_calls", calls)
    legacy_call = shape.pop("function_call", None)
    if legacy_call and role == ASSISTANT:
        (call,) = _normalize_calls(f"{place}.function_call", [{"function": legacy_call}])
        shape["function_call"] = call["function"]
    return shape


def _check_content(place: str, content: object) -> Any:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise InvalidInput(place, f"must be text or a list of parts, not {type(content).__name__}")
    for number, part in enumerate(content):
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise InvalidInput(f"{place}[{number}]", "must be a mapping with a type")
    return content or None


def _normalize_calls(place: str, calls: object) -> list[Any]:
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise InvalidInput(place, "must be a list of mappings")
    try:
        json.dumps(calls)
    except (TypeError, ValueError, RecursionError):
        raise InvalidInput(place, "is not JSON serializable") from None
    return [_normalize_call(f"{place}[{number}]", call) for number, call in enumerate(calls)]


def _normalize_call(place: str, call: Mapping[str, Any]) -> Mapping[str, Any]:
    name = call_name(call)
    if not isinstance(name, str):
        raise InvalidInput(f"{place}.name", "must be text")
    if NAME.fullmatch(name):
        return call
    kind = "custom" if call.get("type") == "custom" else "function"
    return {**call, kind: {**call[kind], "name": _normalize_name(name) or "_"}}


def _normalize_name(name: str) -> str:
    """Return a name in the characters that the API allows, at most 64 of them; empty if none is left."""
    return name if NAME.fullmatch(name) else _NOT_IN_NAMES.sub("_", name).strip("_")[:64]
