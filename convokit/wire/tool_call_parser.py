"""Merge the deltas of tool calls into whole calls.

A delta belongs to the call at its `index`; without one, to the call with its `id`; without both, to the last call. Servers
break these rules in three ways:

- Some send every call at index 0: another id at the same index starts another call.
- Some send neither index nor id: a name after complete arguments starts another call.
- Some repeat id, type and name in each delta: the first one counts, and only arguments are joined.

Arguments are stored as they came, valid JSON or not.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from convokit.domain.events import ToolCallDelta
from convokit.domain.text import repair_text
from convokit.wire.json_text import repair_surrogates


class PartialToolCalls:
    """The tool calls of one choice, in the order in which they started."""

    __slots__ = ("_by_id", "_by_index", "all")

    def __init__(self) -> None:
        self.all: list[PartialToolCall] = []
        self._by_index: dict[int, PartialToolCall] = {}
        self._by_id: dict[str, PartialToolCall] = {}

    def feed(self, delta: dict[str, Any], choice: int, *, whole: bool) -> ToolCallDelta:
        """Merge a delta. `whole`: it is a call of a whole reply, and each of those is a call of its own."""
        call = self._start_call() if whole else self._find_call(delta)
        added = call.merge(delta)
        if call.id:
            self._by_id.setdefault(call.id, call)
        return ToolCallDelta(call.position, call.id, call.name, added, choice)

    def _find_call(self, delta: dict[str, Any]) -> PartialToolCall:
        index, call_id = delta.get("index"), _text_or_empty(delta.get("id"))
        same_id = self._by_id.get(call_id) if call_id else None
        if not isinstance(index, int):
            last = self.all[-1] if self.all else None
            if same_id is not None:
                return same_id
            return self._start_call() if call_id or last is None or _starts_another(last, delta) else last
        call = self._by_index.get(index)
        if call is not None and call_id and call.id and call.id != call_id:
            call = same_id  # the index is used again: by a new call, or by an earlier one that goes on
        elif call is not None and not call_id and _starts_another(call, delta):
            call = None
        if call is None:
            call = self._start_call()
        self._by_index[index] = call
        return call

    def _start_call(self) -> PartialToolCall:
        call = PartialToolCall(len(self.all))
        self.all.append(call)
        return call


class PartialToolCall:
    """One tool call while its deltas arrive."""

    __slots__ = ("arguments", "extra", "function_extra", "id", "kind", "name", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.id = ""
        self.kind = ""
        self.name = ""
        self.arguments: list[str] = []
        self.extra: dict[str, Any] = {}
        self.function_extra: dict[str, Any] = {}

    def merge(self, delta: dict[str, Any]) -> str:
        """Merge a delta and return what it adds to the arguments."""
        added = ""
        for key, value in delta.items():
            if key in ("function", "custom") and isinstance(value, dict):
                if key == "custom":
                    self.kind = self.kind or "custom"
                added += self.merge_function(value)
            elif key == "id":
                self.id = self.id or _text_or_empty(value)
            elif key == "type":
                self.kind = self.kind or _text_or_empty(value)
            elif key != "index" and value is not None:
                self.extra[key] = value
        return added

    def merge_function(self, delta: dict[str, Any]) -> str:
        """Merge the object under `function` or `custom`, and return what it adds to the arguments."""
        added = ""
        for key, value in delta.items():
            if key in ("arguments", "input"):
                added = value if isinstance(value, str) else _dump_arguments(value)
                self.arguments.append(added)
            elif key == "name":
                self.name = self.name or _text_or_empty(value)
            elif value is not None:
                self.function_extra[key] = value
        return added

    def has_complete_arguments(self) -> bool:
        text = "".join(self.arguments)
        if not text.endswith("}"):
            return False
        try:
            return isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            return False

    def build_function(self) -> dict[str, Any]:
        """Return the function as it is stored. Empty arguments become an empty object."""
        return {"name": self.name, "arguments": "".join(self.arguments) or "{}", **self.function_extra}

    def build(self) -> dict[str, Any]:
        """Return the call as it is stored. A call without an id gets one, and keeps it."""
        self.id = self.id or f"call_{uuid.uuid4().hex}"
        kind = self.kind or "function"
        if kind == "custom":
            body = {"name": self.name, "input": "".join(self.arguments), **self.function_extra}
        else:
            body = self.build_function()
        return {
            "id": repair_text(repair_surrogates(self.id)),
            "type": kind,
            kind if kind == "custom" else "function": body,
            **self.extra,
        }


def _starts_another(call: PartialToolCall, delta: dict[str, Any]) -> bool:
    """Whether a delta without an id names a function although the arguments of `call` are complete."""
    function = delta.get("function")
    if not isinstance(function, dict) or not function.get("name"):
        return False
    arguments = function.get("arguments")
    has_arguments = bool(arguments) and (not isinstance(arguments, str) or bool(arguments.strip()))
    return has_arguments and call.has_complete_arguments()


def _dump_arguments(value: Any) -> str:
    # Some servers send the arguments as an object.
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""
