"""Recognise the files of other programs, for errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LANGCHAIN_TYPES = frozenset({"human", "ai", "system", "tool", "function", "chat"})


def find_hint(value: Any) -> str:
    """Return the end of an error about a record of another format; empty if nobody knows it."""
    found = _recognise(value)
    if found is None:
        return ""
    name, format_ = found
    if format_ is None:
        return f"; it looks like {name}, which convokit does not read: convert it to message arrays (format messages)"
    return f'; it looks like {name}: import it with format "{format_}"'


def _recognise(value: Any) -> tuple[str, str | None] | None:
    """Return the name of a record's format, and the format to import it with, if there is one."""
    if isinstance(value, list):
        return _recognise_message(value[0]) or _recognise(value[0]) if value else None
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("convokit"), Mapping):
        return "an export of convokit", "jsonl"
    if isinstance(value.get("mapping"), Mapping):
        return "an export of ChatGPT", "chatgpt"
    if isinstance(value.get("chat_messages"), list):
        return "an export of Claude", "claude"
    if isinstance(value.get("chat"), Mapping) or isinstance(value.get("history"), Mapping):
        return "an export of Open WebUI", "openwebui"
    if "preferred_output" in value or "non_preferred_output" in value:
        return "preference data for fine-tuning", None
    if isinstance(value.get("conversations"), list):
        return _recognise(value["conversations"]) or ("a ShareGPT file", None)
    messages = value.get("messages")
    if isinstance(messages, list) and messages:
        return _recognise_message(messages[0])
    return _recognise_message(value) or _recognise_role(value)


def _recognise_message(value: Any) -> tuple[str, str | None] | None:
    if not isinstance(value, Mapping):
        return None
    if "from" in value and "value" in value:
        return "a ShareGPT file", None
    type_, id_ = value.get("type"), value.get("id")
    is_serialized = value.get("type") == "constructor" and isinstance(id_, list) and id_[:1] == ["langchain"]
    if is_serialized or (isinstance(type_, str) and type_ in _LANGCHAIN_TYPES and "role" not in value):
        return "a LangChain file", None
    return None


def _recognise_role(value: Mapping[str, Any]) -> tuple[str, str | None] | None:
    is_message = "role" in value and "content" in value
    return ("a message array", "messages") if is_message else None
