"""Tool calls from their pieces.

A piece belongs to the call at its `index`; without one, to the call with its `id`; without either, to the last call, unless it
names a function after that one's arguments are complete. A different id at an index in use is a new call: some servers send
them all at index 0. Names and ids are set once however often they are repeated; arguments are kept as they came, valid or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from convokit.domain.events import ToolCallDelta
from convokit.domain.text import repair_text
from convokit.wire.values import repair_json, repair_surrogates


class PartialToolCall:
    """One tool call on its way."""

    __slots__ = ("arguments", "extra", "function_extra", "id", "kind", "name", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.id = ""
        self.kind = ""
        self.name = ""
        self.arguments: list[str] = []
        self.extra: dict[str, Any] = {}
        self.function_extra: dict[str, Any] = {}

    def add(self, piece: dict[str, Any]) -> str:
        """Take a piece; return what it adds to the arguments."""
        added = ""
        for key, value in piece.items():
            if key in ("function", "custom") and isinstance(value, dict):
                if key == "custom":
                    self.kind = self.kind or "custom"
                added += self.add_function(value)
            elif key == "id":
                self.id = self.id or _text(value)
            elif key == "type":
                self.kind = self.kind or _text(value)
            elif key != "index" and value is not None:
                self.extra[key] = value
        return added

    def add_function(self, piece: dict[str, Any]) -> str:
        """Take a piece of the function (or custom tool) itself."""
        added = ""
        for key, value in piece.items():
            if key in ("arguments", "input"):
                added = (
                    value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
                )
                self.arguments.append(added)
            elif key == "name":
                self.name = self.name or _text(value)
            elif value is not None:
                self.function_extra[key] = value
        return added

    def has_complete_arguments(self) -> bool:
        """Whether the arguments are a whole JSON object, so that a name with more of them begins another call."""
        text = "".join(self.arguments)
        if not text.endswith("}"):
            return False
        try:
            return isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            return False

    def build_function(self) -> dict[str, Any]:
        """Return the function as it is stored; nothing at all for arguments means that there are none."""
        arguments = repair_surrogates("".join(self.arguments))
        return {
            "name": repair_surrogates(self.name),
            "arguments": arguments or "{}",
            **repair_json(self.function_extra),
        }

    def build(self, new_id: Callable[[], str]) -> dict[str, Any]:
        """Return the whole call as it is stored; `new_id` names one that its server did not."""
        self.id = self.id or new_id()
        kind = self.kind or "function"
        if kind == "custom":
            text = repair_surrogates("".join(self.arguments))
            body = {"name": repair_surrogates(self.name), "input": text, **repair_json(self.function_extra)}
        else:
            body = self.build_function()
        return {
            "id": repair_text(repair_surrogates(self.id)),
            "type": kind,
            kind if kind == "custom" else "function": body,
            **repair_json(self.extra),
        }


class PartialToolCalls:
    """The tool calls of one choice, in the order in which they began."""

    __slots__ = ("_by_id", "_by_index", "all")

    def __init__(self) -> None:
        self.all: list[PartialToolCall] = []
        self._by_index: dict[int, PartialToolCall] = {}
        self._by_id: dict[str, PartialToolCall] = {}

    def feed(self, piece: dict[str, Any], choice: int, *, whole: bool) -> ToolCallDelta:
        """Take a piece (`whole`: a call of a reply that was not streamed) and say what it added."""
        call = self._new() if whole else self._call(piece)
        added = call.add(piece)
        if call.id:
            self._by_id.setdefault(call.id, call)
        return ToolCallDelta(call.position, call.id, call.name, added, choice)

    def _call(self, piece: dict[str, Any]) -> PartialToolCall:
        index, name = piece.get("index"), _text(piece.get("id"))
        known = self._by_id.get(name) if name else None
        if not isinstance(index, int):
            last = self.all[-1] if self.all else None
            if known is not None:
                return known
            return self._new() if name or last is None or _begins_another(last, piece) else last
        call = self._by_index.get(index)
        if call is not None and name and call.id and call.id != name:
            call = known  # index used again: another call, or one seen before that goes on
        elif call is not None and not name and _begins_another(call, piece):
            call = None
        if call is None:
            call = self._new()
        self._by_index[index] = call
        return call

    def _new(self) -> PartialToolCall:
        call = PartialToolCall(len(self.all))
        self.all.append(call)
        return call


def _begins_another(call: PartialToolCall, piece: dict[str, Any]) -> bool:
    function = piece.get("function")
    if not isinstance(function, dict) or not function.get("name"):
        return False
    arguments = function.get("arguments")
    return (
        bool(arguments)
        and (not isinstance(arguments, str) or bool(arguments.strip()))
        and call.has_complete_arguments()
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
