"""Check and repair the order of messages that the API accepts.

The API requires that an assistant message with tool calls is followed at once by one result for each call, that no
result stands alone, and that content is null only beside tool calls. A crash, an import or a cut can break these rules.
Messages that cannot be sent are left out of the array; they stay as they are in the database. No text is ever invented.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from convokit.context.strategy import Item
from convokit.domain.message import ASSISTANT, NOTE, ROLES, TOOL

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The names that the API allows for participants, functions and tools."""
PartialPolicy = Literal["include", "mark", "leave_out"]
MARK = "\n[cut off]"
"""The text after a partial reply that is sent marked."""


def list_call_ids(message: Mapping[str, Any]) -> list[str]:
    """Return the ids of an assistant message's tool calls, as many as there are."""
    calls = message.get("tool_calls")
    if message.get("role") != ASSISTANT or not isinstance(calls, list | tuple):
        return []
    ids = [call.get("id") for call in calls if isinstance(call, Mapping)]
    return [each for each in ids if isinstance(each, str) and each]


def call_name(call: Mapping[str, Any]) -> object:
    """Return the name of the function or custom tool that is called."""
    body = call.get("custom" if call.get("type") == "custom" else "function")
    return body.get("name") if isinstance(body, Mapping) else None


def select_sendable(items: Sequence[Item], *, partial: PartialPolicy) -> tuple[list[Item], dict[int, str]]:
    """Return the items that may be sent, in a valid order, and why each other item was left out, by key."""
    left_out: dict[int, str] = {}
    results = [item for item in items if item.shape["role"] == TOOL]
    answers = _match_results(items) if results else {}
    used: set[int] = set()
    result: list[Item] = []
    for item in items:
        role = item.shape["role"]
        if role == TOOL:
            continue
        reason = _find_reason(item, partial)
        if reason is not None:
            left_out[item.key] = reason
        elif role == ASSISTANT and item.shape.get("tool_calls"):
            result += _keep_answered_calls(item, answers, used, left_out)
        else:
            result.append(item)
    left_out.update({item.key: "a tool result without its call" for item in results if item.key not in used})
    return result, left_out


def _match_results(items: Sequence[Item]) -> dict[tuple[int, str], Item]:
    """Return the result of each call, by the key of the asking message and the call's id.

    Some servers number their calls from the start again in every reply. A result belongs to the nearest call with its
    id before it that has no result yet.
    """
    waiting: dict[str, list[int]] = {}
    found: dict[tuple[int, str], Item] = {}
    for item in items:
        if item.shape["role"] == TOOL:
            answered = item.shape.get("tool_call_id")
            if isinstance(answered, str) and waiting.get(answered):
                found[waiting[answered].pop(), answered] = item
        elif item.shape["role"] == ASSISTANT:
            for call_id in dict.fromkeys(list_call_ids(item.shape)):
                waiting.setdefault(call_id, []).append(item.key)
    return found


def mark_partial(shape: dict[str, Any]) -> dict[str, Any]:
    """Return a partial reply with a mark, so that the model does not take it for a whole one."""
    return {**shape, "content": shape["content"] + MARK} if isinstance(shape.get("content"), str) else shape


def _find_reason(item: Item, partial: PartialPolicy) -> str | None:
    if item.status == "redacted":
        return "redacted"
    if item.status == NOTE:
        return "a note of another program, which is never sent"
    if item.status == "late":
        return "came after its turn was over"
    if item.status == "partial" and partial == "leave_out":
        return "a partial reply (policy)"
    shape = item.shape
    if _has_content(shape.get("content")):
        return None
    return None if _has_other_content(shape) or (shape["role"] == ASSISTANT and shape.get("tool_calls")) else "empty"


def _has_other_content(shape: dict[str, Any]) -> bool:
    """Return whether an assistant message without content has a refusal, audio or a function call."""
    return shape["role"] == ASSISTANT and any(shape.get(key) for key in ("refusal", "audio", "function_call"))


def _has_content(content: Any) -> bool:
    if isinstance(content, str):
        return content != ""
    return any(part.get("type") != "text" or part.get("text") for part in content or ())


def _keep_answered_calls(
    item: Item, answers: dict[tuple[int, str], Item], used: set[int], left_out: dict[int, str]
) -> list[Item]:
    """Return the message with its answered calls only, and after it the results in the order of the calls."""
    kept, behind = [], []
    for call in item.shape["tool_calls"]:
        answer = answers.get((item.key, str(call.get("id"))))
        if answer is not None and answer.status != "redacted" and answer.key not in used:
            kept.append(call)
            behind.append(answer)
            used.add(answer.key)
    if len(kept) == len(item.shape["tool_calls"]):
        return [item, *behind]
    shape = {key: value for key, value in item.shape.items() if key != "tool_calls"}
    if kept:
        shape["tool_calls"] = kept
    elif not (_has_content(shape.get("content")) or _has_other_content(shape)):
        left_out[item.key] = "tool calls without results"
        return []
    return [Item(item.key, shape, item.tokens, item.tokens_before, item.status), *behind]


def find_problems(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return every reason why a Chat Completions server would refuse this array; an empty list if it is valid."""
    found: list[str] = []
    if not messages:
        return ["messages: must have at least one message"]
    waiting: list[str] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            found.append(f"{where}: must be an object, not {type(message).__name__}")
            continue
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            found.append(f"{where}.role: {role!r} is not a role")
        if role == TOOL:
            if message.get("tool_call_id") in waiting:
                waiting.remove(message["tool_call_id"])
            else:
                found.append(f"{where}: a tool message must answer a call of the assistant message before it")
        elif waiting:
            found.append(f"{where}: these tool calls have no answer: {', '.join(waiting)}")
            waiting = []
        found += _check_content(where, message)
        if message.get("name") is not None:
            found += _check_name(f"{where}.name", message["name"])
        if "tool_calls" in message:
            found += _check_calls(f"{where}.tool_calls", message)
            waiting = list_call_ids(message)
    if waiting:
        found.append(f"messages[{len(messages) - 1}]: these tool calls have no answer: {', '.join(waiting)}")
    return found


def _check_content(where: str, message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    if content is None:
        other = any(message.get(key) for key in ("tool_calls", "function_call", "refusal", "audio"))
        excused = message.get("role") == ASSISTANT and other
        return [] if excused else [f"{where}.content: expected a string, got null"]
    if isinstance(content, str):
        return []
    if not isinstance(content, list | tuple):
        return [f"{where}.content: must be text or a list of parts, not {type(content).__name__}"]
    if not content:
        return [f"{where}.content: must have at least one part"]
    return [
        f"{where}.content[{number}]: must be an object with a type"
        for number, part in enumerate(content)
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str)
    ]


def _check_name(where: str, name: object) -> list[str]:
    if isinstance(name, str) and NAME.fullmatch(name):
        return []
    return [f"{where}: {name!r} is not 1 to 64 of A-Z a-z 0-9 _ and -"]


def _check_calls(where: str, message: Mapping[str, Any]) -> list[str]:
    calls = message["tool_calls"]
    if message.get("role") != ASSISTANT:
        return [f"{where}: only an assistant message calls tools"]
    if not isinstance(calls, list | tuple) or not calls:
        return [f"{where}: must not be empty; leave it out"]
    ids = list_call_ids(message)
    found = [] if len(ids) == len(calls) else [f"{where}: each call needs an id"]
    if len(set(ids)) < len(ids):
        found.append(f"{where}: two calls have the same id")
    for number, call in enumerate(calls):
        if isinstance(call, Mapping):
            found += _check_name(f"{where}[{number}].name", call_name(call))
    return found
