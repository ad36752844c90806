"""Arrange the selected messages into the array of the request.

The array depends on the messages alone, not on budgets. So a replay arranges the same messages again and gets the same array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convokit.context.strategy import Item
from convokit.context.validity import PartialPolicy, select_sendable
from convokit.domain.message import ASSISTANT, INSTRUCTION_ROLES, USER
from convokit.domain.profiles import Profile
from convokit.errors import InvalidInput


def arrange_messages(
    items: Sequence[Item], developer_prompt: str | None, profile: Profile, partial: PartialPolicy
) -> tuple[list[dict[str, Any]], list[Item], dict[int, str]]:
    """Return the array, the items in it, and the reason why each other item was left out, by key.

    The items that were kept give the same array when they are arranged again. Raises: InvalidInput if no item can be sent.
    """
    kept, left_out = select_sendable(items, partial=partial)
    if profile.alternate:
        kept = _from_first_user(kept, left_out)
    if not kept:
        raise InvalidInput("history", "has no message that can be sent")
    return _apply_profile(developer_prompt, kept, profile), kept, left_out


def _apply_profile(developer_prompt: str | None, items: Sequence[Item], profile: Profile) -> list[dict[str, Any]]:
    """Return the array with instructions in the profile's role, or folded into the first user message.

    Instructions in the middle become user messages where the chat template allows them at the beginning only, or nowhere.
    """
    messages = [as_sent(item.shape, profile) for item in items]
    if profile.alternate:
        messages = _alternate(messages)
    if not developer_prompt:
        return messages
    if profile.instructions != "fold":
        return [{"role": profile.instructions, "content": developer_prompt}, *messages]
    first = next((index for index, message in enumerate(messages) if message["role"] == USER), None)
    if first is None:
        return [{"role": USER, "content": developer_prompt}, *messages]
    messages[first] = {**messages[first], "content": _join(developer_prompt, messages[first]["content"])}
    return messages


def as_sent(shape: dict[str, Any], profile: Profile) -> dict[str, Any]:
    """Return a message as the profile sends it: instructions in the profile's role."""
    if shape["role"] not in INSTRUCTION_ROLES:
        return shape
    role = USER if profile.alternate or profile.instructions == "fold" else profile.instructions
    return shape if shape["role"] == role else {**shape, "role": role}


def prompt_role(profile: Profile) -> str:
    """Return the role that the developer prompt is sent in."""
    return USER if profile.instructions == "fold" else profile.instructions


def _from_first_user(items: list[Item], left_out: dict[int, str]) -> list[Item]:
    """Return the items from the first user message on, for models whose turns must start with the user."""
    first = next((index for index, item in enumerate(items) if item.shape["role"] == USER), len(items))
    left_out.update(
        {item.key: "before the first user message (this model's turns start there)" for item in items[:first]}
    )
    return items[first:]


def _alternate(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge neighbours of the same role. A reply before one that calls tools is merged into it; the results stay behind it."""
    result: list[dict[str, Any]] = []
    for message in messages:
        last = result[-1] if result else None
        if last is not None and message["role"] in (USER, ASSISTANT) and last["role"] == message["role"]:
            result[-1] = _merge(last, message)
        else:
            result.append(message)
    return result


def _merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    contents = [each for each in (_content_of(first), _content_of(second)) if each]
    kept = {key: value for key, value in second.items() if key in ("role", "tool_calls", "function_call")}
    if not contents:
        return second
    return {**kept, "content": contents[0] if len(contents) == 1 else _join(*contents)}


def _content_of(message: Mapping[str, Any]) -> Any:
    """Return a message's content, else its refusal, else the transcript of a spoken reply."""
    return message.get("content") or message.get("refusal") or (message.get("audio") or {}).get("transcript")


def _join(first: Any, second: Any) -> Any:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_to_parts(first), *_to_parts(second)]


def _to_parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content or ())
