"""Check the messages of a client, and separate its instructions from them."""

from __future__ import annotations

from typing import Any

from convokit.domain.message import ASSISTANT, INSTRUCTION_ROLES, TOOL, USER
from convokit.server.refusals import Refusal

MAX_MESSAGES = 20_000
"""Messages of one request. Comparing so many with stored ones takes half a second."""
_MAX_PARTS = 10_000
"""Content parts and tool calls of one request. Each takes up to 0.1 ms of the event loop."""
_LISTS = ("content", "tool_calls", "output")
"""The fields of messages and items that hold them."""
_KEPT = ("role", "content", "tool_calls", "tool_call_id", "name", "refusal")
"""The stored keys of a message. Clients echo further keys of replies, such as `annotations`."""


def check_count(param: str, messages: list[Any]) -> None:
    """Check how many messages or items there are, and how many parts and calls they have. Raises: Refusal."""
    if len(messages) > MAX_MESSAGES:
        problem = f"{len(messages):,} messages are over the limit of {MAX_MESSAGES:,}"
        raise Refusal(f"{param}: {problem}", status=413, param=param, code="too_large")
    lists = (each.get(name) for each in messages if isinstance(each, dict) for name in _LISTS)
    count = sum(len(each) for each in lists if isinstance(each, list))
    if count > _MAX_PARTS:
        problem = f"{count:,} content parts and tool calls are over the limit of {_MAX_PARTS:,}"
        raise Refusal(f"{param}: {problem}", status=413, param=param, code="too_large")


def split_instructions(messages: Any) -> tuple[str | None, list[dict[str, Any]], list[int]]:
    """Return the instructions of this call as one text, the other messages with the keys that are stored, and their positions.

    Instructions in the middle are joined to those at the beginning. An assistant message without any content, which some
    clients keep of a reply that was stopped, is left out. Raises: Refusal.
    """
    if not isinstance(messages, list):
        raise Refusal("messages: must be a list", param="messages", code="invalid_type")
    check_count("messages", messages)
    positions: list[int] = []
    instructions: list[str] = []
    others: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role in INSTRUCTION_ROLES:
            instructions.append(_read_text(path, message))
        elif role in (USER, ASSISTANT, TOOL):
            _check_shape(path, message)
            kept = {name: message[name] for name in _KEPT if message.get(name) is not None}
            if role != ASSISTANT or any(kept.get(name) for name in ("content", "tool_calls", "refusal")):
                others.append(kept)
                positions.append(index)
        else:
            problem = f"must be one of developer, system, user, assistant and tool, not {role!r}"
            raise Refusal(f"{path}.role: {problem}", param=f"{path}.role", code="invalid_value")
    return "\n\n".join(text for text in instructions if text) or None, others, positions


def _read_text(path: str, message: dict[str, Any]) -> str:
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts
    ):
        raise Refusal(f"{path}.content: must be text", param=f"{path}.content", code="invalid_type")
    return "\n".join(part["text"] for part in parts)


def _check_shape(path: str, message: dict[str, Any]) -> None:
    """Check the types of what is compared with stored messages. The library checks the values when it stores them."""
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        for number, part in enumerate(content):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                where = f"{path}.content[{number}]"
                raise Refusal(f"{where}: must be an object with a type", param=where, code="invalid_type")
            file = part.get("file")
            if isinstance(file, dict) and file.get("file_id"):  # a file in the account of the gateway's own key
                where = f"{path}.content[{number}].file.file_id"
                raise Refusal(f"{where}: send file_data", param=where, code="unsupported_value")
    elif content is not None and not isinstance(content, str):
        where = f"{path}.content"
        raise Refusal(f"{where}: must be text or a list of content parts", param=where, code="invalid_type")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        where = f"{path}.tool_calls"
        raise Refusal(f"{where}: must be a list of objects", param=where, code="invalid_type")


def split_answered(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Any, dict[str, Any] | None]:
    """Return the messages before those that the turn answers, and the question or the tool results.

    Raises: Refusal for messages that end with a reply.
    """
    last = messages[-1]
    if last["role"] == USER:
        return messages[:-1], last.get("content", ""), None
    if last["role"] == ASSISTANT:
        problem = "the last message is from the assistant; a turn answers a user message or tool results"
        raise Refusal(f"messages: {problem}", param="messages", code="unsupported_value")
    count = count_trailing_results(messages)
    results = {str(message.get("tool_call_id")): message.get("content", "") for message in messages[-count:]}
    return messages[:-count], None, results


def count_trailing_results(messages: list[dict[str, Any]]) -> int:
    """Return how many tool messages the list ends with."""
    return next((number for number, each in enumerate(reversed(messages)) if each["role"] != TOOL), len(messages))
