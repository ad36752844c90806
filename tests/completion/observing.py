"""Observers that record what they are told, and the rules that every record keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any
from uuid import UUID

from convokit.observers import Observer

CONTENT = ("key", "messages", "parameters", "error_message", "replies", "arguments", "result")
"""The fields that are empty without `include_content`."""
Told = tuple[str, Any]


class Recorder(Observer):
    """Records each call of its methods."""

    def __init__(self, *, include_content: bool = False) -> None:
        self.told: list[Told] = []
        self.include_content = include_content

    def turn_started(self, event: Any) -> None:
        self.told.append(("turn_started", event))

    def call_started(self, event: Any) -> None:
        self.told.append(("call_started", event))

    def first_chunk(self, event: Any) -> None:
        self.told.append(("first_chunk", event))

    def call_ended(self, event: Any) -> None:
        self.told.append(("call_ended", event))

    def tool_started(self, event: Any) -> None:
        self.told.append(("tool_started", event))

    def tool_ended(self, event: Any) -> None:
        self.told.append(("tool_ended", event))

    def turn_ended(self, event: Any) -> None:
        self.told.append(("turn_ended", event))

    def turn_closed(self, event: Any) -> None:
        self.told.append(("turn_closed", event))

    @property
    def names(self) -> list[str]:
        """The methods that were called, ends with their states: "turn_ended completed"."""
        return [" ".join(filter(None, (name, getattr(event, "state", None)))) for name, event in self.told]

    def take(self) -> list[str]:
        """Return `names` after checking the rules, and forget them."""
        check_order(self.told)
        names = self.names
        self.told.clear()
        return names

    def last(self, method: str) -> Any:
        """Return the newest event of a method."""
        return next(event for name, event in reversed(self.told) if name == method)


def check_order(told: Iterable[Told]) -> None:
    """Check that each start has one end, in order: tools and calls within their turn, one call at a time."""
    open_turns: dict[tuple[UUID, int], list[Any]] = {}
    for method, event in told:
        run = (event.turn_id, event.epoch)
        match method:
            case "turn_started":
                assert run not in open_turns, "started twice"
                open_turns[run] = []
            case "turn_closed":
                pass
            case "turn_ended":
                assert open_turns.pop(run) == [], "something of the turn has not ended"
            case "call_started":
                assert open_turns[run] == [], "something runs already"
                open_turns[run].append(event.number)
            case "first_chunk":
                assert open_turns[run] == [event.number]
            case "call_ended":
                assert open_turns[run] == [event.number]
                open_turns[run].clear()
            case "tool_started":
                assert ("tool", event.position) not in open_turns[run]
                open_turns[run].append(("tool", event.position))
            case "tool_ended":
                open_turns[run].remove(("tool", event.position))
    assert open_turns == {}, "a turn has not ended"


def texts(told: Iterable[Told]) -> str:
    """Return everything that the events hold, as text."""
    return "\n".join(
        f"{method}.{field.name}={getattr(event, field.name)!r}" for method, event in told for field in fields(event)
    )
