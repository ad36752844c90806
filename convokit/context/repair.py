"""Making any history a valid array, by leaving out and reordering, never by inventing text.

The API demands that an assistant message with tool calls is followed at once by one answer per call, that no answer stands
alone, and that content is null only beside tool calls. A crash, an import or a cut can leave anything; what cannot be sent is
left out here, and stays as it is in storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from convokit.context.shapes import called_ids
from convokit.context.window import Item

PartialPolicy = Literal["include", "mark", "leave_out"]
MARK = "\n[cut off]"
"""What is put behind a partial reply that is sent marked."""


def sendable(items: Sequence[Item], *, partial: PartialPolicy) -> tuple[list[Item], dict[int, str]]:
    """Return the items that may be sent, in a valid order, and why each other one was left out (by key)."""
    left_out: dict[int, str] = {}
    results = [item for item in items if item.shape["role"] == "tool"]
    answers = _answers(items) if results else {}
    used: set[int] = set()
    result: list[Item] = []
    for item in items:
        role = item.shape["role"]
        if role == "tool":
            continue
        reason = _unsendable(item, partial)
        if reason is not None:
            left_out[item.key] = reason
        elif role == "assistant" and item.shape.get("tool_calls"):
            result += _with_answers(item, answers, used, left_out)
        else:
            result.append(item)
    left_out.update({item.key: "a tool result without its call" for item in results if item.key not in used})
    return result, left_out


def _answers(items: Sequence[Item]) -> dict[tuple[int, str], Item]:
    """Return the result of each asker's calls: some servers number their calls afresh in every reply.

    A result belongs to the nearest call of its id before it that has none yet.
    """
    waiting: dict[str, list[int]] = {}
    found: dict[tuple[int, str], Item] = {}
    for item in items:
        if item.shape["role"] == "tool":
            answered = item.shape.get("tool_call_id")
            if isinstance(answered, str) and waiting.get(answered):
                found[waiting[answered].pop(), answered] = item
        elif item.shape["role"] == "assistant":
            for call_id in dict.fromkeys(called_ids(item.shape)):
                waiting.setdefault(call_id, []).append(item.key)
    return found


def marked(shape: dict[str, Any]) -> dict[str, Any]:
    """Return a partial reply with the mark that says so: the model must not take it for a whole one."""
    return {**shape, "content": shape["content"] + MARK} if isinstance(shape.get("content"), str) else shape


def _unsendable(item: Item, partial: PartialPolicy) -> str | None:
    if item.status == "redacted":
        return "redacted"
    if item.status == "late":
        return "came after its turn was over"
    if item.status == "partial" and partial == "leave_out":
        return "a partial reply (policy)"
    shape = item.shape
    if _has_content(shape.get("content")):
        return None
    return None if _says_otherwise(shape) or (shape["role"] == "assistant" and shape.get("tool_calls")) else "empty"


def _says_otherwise(shape: dict[str, Any]) -> bool:
    """Whether an assistant message without content says something all the same."""
    return shape["role"] == "assistant" and any(shape.get(key) for key in ("refusal", "audio", "function_call"))


def _has_content(content: Any) -> bool:
    if isinstance(content, str):
        return content != ""
    return any(part.get("type") != "text" or part.get("text") for part in content or ())


def _with_answers(
    item: Item, answers: dict[tuple[int, str], Item], used: set[int], left_out: dict[int, str]
) -> list[Item]:
    """Return the message with only its answered calls, and the answers in the calls' order right behind it."""
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
    elif not (_has_content(shape.get("content")) or _says_otherwise(shape)):
        left_out[item.key] = "tool calls without results"
        return []
    return [Item(item.key, shape, item.tokens, item.before, item.status), *behind]
