"""The messages that were selected, as the array that is sent: what is valid of them, in the form the profile asks for.

It looks at the messages alone, not at budgets: the same messages always give the same array, so a replay arranges them again.
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
    """Return the array, the items it is made of, and why each other one was left out (by key).

    Arranged again without those that were left out, the rest gives the same array. Raises: InvalidInput when none can be sent.
    """
    kept, left_out = select_sendable(items, partial=partial)
    if profile.alternate:
        kept = _from_first_user(kept, left_out)
    if not kept:
        raise InvalidInput("history", "holds no message that can be sent")
    return _shaped(developer_prompt, kept, profile), kept, left_out


def _shaped(developer_prompt: str | None, items: Sequence[Item], profile: Profile) -> list[dict[str, Any]]:
    """Return the array in the form the profile asks for: the instructions' role or fold, and turns that alternate.

    Instructions in mid-array become the user's where the template knows them at the beginning only, or not at all.
    """
    messages = [as_sent(item.shape, profile) for item in items]
    if profile.alternate:
        messages = _alternating(messages)
    if not developer_prompt:
        return messages
    if profile.instructions != "fold":
        return [{"role": profile.instructions, "content": developer_prompt}, *messages]
    first = next((index for index, message in enumerate(messages) if message["role"] == USER), None)
    if first is None:
        return [{"role": USER, "content": developer_prompt}, *messages]
    messages[first] = {**messages[first], "content": _joined(developer_prompt, messages[first]["content"])}
    return messages


def as_sent(shape: dict[str, Any], profile: Profile) -> dict[str, Any]:
    """Return a message of the history, instructions in the role that the profile sends them in."""
    if shape["role"] not in INSTRUCTION_ROLES:
        return shape
    role = USER if profile.alternate or profile.instructions == "fold" else profile.instructions
    return shape if shape["role"] == role else {**shape, "role": role}


def prompt_role(profile: Profile) -> str:
    """Return the role that the developer prompt is sent in."""
    return USER if profile.instructions == "fold" else profile.instructions


def _from_first_user(items: list[Item], left_out: dict[int, str]) -> list[Item]:
    """Return the items from the first user message on, where turns must begin with the user."""
    first = next((index for index, item in enumerate(items) if item.shape["role"] == USER), len(items))
    left_out.update(
        {item.key: "before the first user message (this model's turns begin there)" for item in items[:first]}
    )
    return items[first:]


def _alternating(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge neighbours of one role. A reply before one that calls tools is merged into it; its answers stay behind it."""
    result: list[dict[str, Any]] = []
    for message in messages:
        last = result[-1] if result else None
        if last is not None and message["role"] in (USER, ASSISTANT) and last["role"] == message["role"]:
            result[-1] = _merged(last, message)
        else:
            result.append(message)
    return result


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    said = [each for each in (_said(first), _said(second)) if each]
    kept = {key: value for key, value in second.items() if key in ("role", "tool_calls", "function_call")}
    if not said:
        return second
    return {**kept, "content": said[0] if len(said) == 1 else _joined(*said)}


def _said(message: Mapping[str, Any]) -> Any:
    """Return a message's content, or in its place the refusal, or the words of a spoken reply."""
    return message.get("content") or message.get("refusal") or (message.get("audio") or {}).get("transcript")


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_as_parts(first), *_as_parts(second)]


def _as_parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content or ())
