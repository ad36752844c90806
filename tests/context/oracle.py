"""What Chat Completions servers refuse in a `messages` array, said a second time.

Written from the servers' own error texts and not from `convokit.context.validity`, so that each can be held against the other.
It works the other way round: by looking at what surrounds each message, where the validator keeps a list of open calls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ROLES = ("developer", "system", "user", "assistant", "tool", "function")


def refusals(messages: Sequence[Any]) -> list[str]:
    """Return what a server would say against the array."""
    if not messages:
        return ["Invalid 'messages': empty array"]
    found = []
    for at, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            found.append(f"{at}: no message with a role")
            continue
        found += [f"{at}: {why}" for why in (*_content(message), *_names(message), *_pairs(messages, at))]
    return found


def alternation(messages: Sequence[dict[str, Any]]) -> list[str]:
    """Return what a template that wants user and assistant in turns would say."""
    spoken = [message for message in messages if message["role"] not in ("system", "developer")]
    found = [] if spoken and spoken[0]["role"] == "user" else ["the first turn is not the user's"]
    for at in range(1, len(messages)):
        if messages[at]["role"] in ("system", "developer"):
            found.append(f"{at}: instructions that are not at the beginning")
        if messages[at]["role"] == messages[at - 1]["role"] in ("user", "assistant"):
            found.append(f"{at}: {messages[at]['role']} twice in succession")
    return found


def _content(message: dict[str, Any]) -> list[str]:
    content, assistant = message.get("content"), message["role"] == "assistant"
    if content is None:
        other = assistant and any(message.get(key) for key in ("tool_calls", "function_call", "refusal", "audio"))
        return [] if other else ["Invalid value for 'content': expected a string, got null."]
    if isinstance(content, str):
        return []
    if not isinstance(content, list | tuple) or not content:
        return ["Invalid type for 'content'"]
    return [] if all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content) else ["a part"]


def _names(message: dict[str, Any]) -> list[str]:
    names = [message["name"]] if message.get("name") is not None else []
    names += [(call.get("function") or call.get("custom") or {}).get("name") for call in _calls(message)]
    wrong = [name for name in names if not isinstance(name, str) or not _NAME.fullmatch(name)]
    return [f"Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$': {name!r}" for name in wrong]


def _pairs(messages: Sequence[dict[str, Any]], at: int) -> list[str]:
    message, found = messages[at], []
    if message["role"] == "tool":
        before = at - 1
        while before >= 0 and messages[before]["role"] == "tool":
            before -= 1
        called = [call.get("id") for call in _calls(messages[before])] if before >= 0 else []
        if message.get("tool_call_id") not in called:
            found.append("messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.")
    if "tool_calls" not in message:
        return found
    if message["role"] != "assistant" or not _calls(message):
        return [*found, "tool_calls: an empty array, or not an assistant's"]
    asked = [call.get("id") for call in _calls(message)]
    behind = at + 1
    while behind < len(messages) and messages[behind]["role"] == "tool":
        behind += 1
    answered = [answer.get("tool_call_id") for answer in messages[at + 1 : behind]]
    if not all(isinstance(each, str) and each for each in asked):
        found.append("tool_calls: a call without an id")
    elif len(set(asked)) < len(asked) or sorted(map(str, asked)) != sorted(map(str, answered)):
        found.append("must be followed by tool messages responding to each 'tool_call_id'.")
    return found


def _calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    calls = message.get("tool_calls")
    return list(calls) if message["role"] == "assistant" and isinstance(calls, list | tuple) else []
