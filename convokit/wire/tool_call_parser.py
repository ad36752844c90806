"""Merge the deltas of tool calls into whole calls.

A delta belongs to the call at its `index`; without one, to the call with its `id`; without both, to the last call. Servers
break these rules in four ways:

- Some send every call at index 0: another id at the same index starts another call.
- Some send neither index nor id, or one id for all calls: a name after complete arguments starts another call.
- Some repeat id, type and name in each delta: the first one counts, and only arguments are joined.
- Some repeat the arguments so far in each delta (see `tool_arguments`).

Arguments are stored as they came, valid JSON or not. Each call of a reply has an id of its own.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from typing import Any

from convokit.domain.events import ToolCallDelta
from convokit.domain.text import repair_text
from convokit.wire.json_text import repair_surrogates
from convokit.wire.tool_arguments import join_arguments, parse_object, repeats_arguments

_MAX_INDEX_DIGITS = 10


class PartialToolCalls:
    """The tool calls of one choice, in the order in which they started.

    `taken_ids` are the ids of earlier calls in the request. A call with one of them gets a new id.
    """

    __slots__ = ("_by_id", "_by_index", "_taken_ids", "all")

    def __init__(self, taken_ids: Collection[str] = ()) -> None:
        self.all: list[PartialToolCall] = []
        self._by_index: dict[int, PartialToolCall] = {}
        self._by_id: dict[str, PartialToolCall] = {}
        self._taken_ids = taken_ids

    def feed(self, delta: dict[str, Any], choice: int, *, position: int | None = None) -> ToolCallDelta:
        """Merge a delta. `position`: it is a call of a whole message, at this position."""
        call = self._find_call(delta if position is None else {**delta, "index": position})
        added = call.merge(delta)
        if call.received_id:
            # The model is told of calls by their ids, so two calls must not share one.
            if not call.id:
                is_taken = call.received_id in self._by_id or call.received_id in self._taken_ids
                call.id = _new_id() if is_taken else call.received_id
            self._by_id[call.received_id] = call
        return ToolCallDelta(call.position, call.id, call.name, added, choice)

    def _find_call(self, delta: dict[str, Any]) -> PartialToolCall:
        index, call_id = _parse_index(delta.get("index")), _parse_id(delta.get("id"))
        same_id = self._by_id.get(call_id) if call_id else None
        if index is None:
            last = self.all[-1] if self.all else None
            call = same_id or (None if call_id else last)
            return self._start_call() if call is None or _starts_another(call, delta) else call
        call = self._by_index.get(index)
        if call is not None and call_id and call.received_id and call.received_id != call_id:
            call = same_id  # the index is used again: by a new call, or by an earlier one that goes on
        elif call is not None and _starts_another(call, delta):
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

    __slots__ = ("arguments", "extra", "function_extra", "id", "kind", "name", "position", "received_id")

    def __init__(self, position: int) -> None:
        self.position = position
        self.id = ""
        self.received_id = ""
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
                self.received_id = self.received_id or _parse_id(value)
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

    def is_complete(self) -> bool:
        """Whether the arguments so far are one JSON object."""
        return bool(self.arguments) and self.arguments[-1].endswith("}") and parse_object(self._join()) is not None

    def goes_on_with(self, arguments: str) -> bool:
        """Whether complete arguments go on with a chunk that does not start another call."""
        return repeats_arguments(self._join(), arguments) or not arguments.lstrip().startswith("{")

    def _join(self) -> str:
        return join_arguments(self.arguments)

    def build_function(self) -> dict[str, Any]:
        """Return the function as it is stored. Empty arguments become an empty object."""
        return {"name": self.name, "arguments": self._join() or "{}", **self.function_extra}

    def build(self) -> dict[str, Any]:
        """Return the call as it is stored. A call without an id gets one, and keeps it."""
        self.id = self.id or _new_id()
        kind = self.kind or "function"
        if kind == "custom":
            body = {"name": self.name, "input": "".join(self.arguments), **self.function_extra}
        else:
            body = self.build_function()
        return {
            "id": self.id,
            "type": kind,
            kind if kind == "custom" else "function": body,
            **self.extra,
        }


def _starts_another(call: PartialToolCall, delta: dict[str, Any]) -> bool:
    """Whether a delta names a function with other arguments, although the arguments of `call` are complete."""
    function = delta.get("function")
    name = _text_or_empty(function.get("name")) if isinstance(function, dict) else ""
    if not isinstance(function, dict) or not name:
        return False
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else _dump_arguments(arguments)
    if not text.strip() or not call.is_complete():
        return False
    return name != call.name or not call.goes_on_with(text)


def _dump_arguments(value: Any) -> str:
    # Some servers send the arguments as an object.
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _parse_index(value: Any) -> int | None:
    # Some gateways write the index as a text or as a float.
    if isinstance(value, str):
        return int(value) if value.isdecimal() and len(value) < _MAX_INDEX_DIGITS else None
    return int(value) if isinstance(value, int) or (isinstance(value, float) and value.is_integer()) else None


def _parse_id(value: Any) -> str:
    return repair_text(repair_surrogates(value)) if isinstance(value, str) else ""


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex}"
