"""Read messages that some gateways send in place of deltas.

Each message of such a stream repeats the ones before it and adds to them, or it holds the new part only. The first message
that is not equal to the one before shows which. Text in deltas is never compared.
"""

from __future__ import annotations

from typing import Any


class GrowingMessage:
    """The messages of one choice so far."""

    __slots__ = ("_lists", "_texts")

    def __init__(self, first: dict[str, Any]) -> None:
        self._texts: dict[str, _GrowingText] = {}
        self._lists: dict[str, list[Any]] = {}
        self.read_added(first)

    def read_added(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return what a message adds to the messages before it."""
        added: dict[str, Any] = {}
        for key, item in message.items():
            value = _join_parts(item) if key == "content" and isinstance(item, list) else item
            if isinstance(value, str) and key != "role":
                added[key] = self._texts.setdefault(key, _GrowingText()).read_added(value)
            elif isinstance(value, list) and key != "tool_calls":  # calls are merged by their positions
                known = self._lists.get(key, [])
                added[key] = value[len(known) :] if value[: len(known)] == known else value
                self._lists[key] = [*known, *added[key]]
            else:
                added[key] = value
        return added


class _GrowingText:
    """One text of the messages."""

    __slots__ = ("_repeats", "_text", "_way")

    def __init__(self) -> None:
        self._text = ""
        self._repeats = 0
        self._way = "unknown"

    def read_added(self, value: str) -> str:
        text = self._text
        if self._way != "appends" and value.startswith(text):
            self._text = value
            if text and value == text:
                self._repeats += 1
            elif text:
                self._way = "grows"
            return value[len(text) :]
        if self._way == "unknown":  # the equal texts before this one were parts of their own
            self._way = "appends"
            return text * self._repeats + value
        self._text += value if self._way == "grows" else ""
        return value


def _join_parts(parts: list[Any]) -> str:
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))
