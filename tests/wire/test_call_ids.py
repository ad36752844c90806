"""Tests of tool calls that share an id."""

from __future__ import annotations

from typing import Any

import pytest

from convokit.domain.events import ToolCallDelta
from convokit.wire.reply_parser import ReplyParser

from .vectors import chunk, reply, tool_delta


def call(id: str | None, arguments: str, name: str = "f") -> dict[str, Any]:
    """Return a whole call."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def parse_with_events(taken: frozenset[str], *bodies: Any) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Return the calls of a reply, and the id in the last event of each."""
    parser = ReplyParser(taken)
    events = [event for body in bodies for event in parser.feed(body)]
    ids = {event.position: event.id for event in events if isinstance(event, ToolCallDelta)}
    return parser.build_reply().choices[0].tool_calls, ids


TWO: list[tuple[str, list[Any]]] = [
    ("plain", [reply({"content": None, "tool_calls": [call("same", '{"p":"x"}'), call("same", '{"p":"y"}')]})]),
    ("plain, equal", [reply({"content": None, "tool_calls": [call("same", "{}"), call("same", "{}")]})]),
    (
        "other indexes",
        [
            chunk(tool_delta(0, "same", "f", '{"p":"x"}')),
            chunk(tool_delta(1, "same", "f", '{"p":')),
            chunk(tool_delta(1, None, None, '"y"}')),
        ],
    ),
    (
        "one index",
        [
            chunk(tool_delta(0, "same", "f", '{"p":"x"}')),
            chunk(tool_delta(0, "same", "f", '{"p":')),
            chunk(tool_delta(0, "same", None, '"y"}')),
        ],
    ),
    (
        "no index",
        [chunk(tool_delta(None, "same", "f", '{"p":"x"}')), chunk(tool_delta(None, "same", "f", '{"p":"y"}'))],
    ),
    ("a function's name", [chunk(tool_delta(0, "f", "f", "{}")), chunk(tool_delta(0, "f", "g", '{"a":1}'))]),
    (
        "ids that are equal when repaired",
        [chunk(tool_delta(0, "a\x00", "f", "{}")), chunk(tool_delta(1, "a\ud800", "f"))],
    ),
]


@pytest.mark.parametrize("bodies", [case[1] for case in TWO], ids=[case[0] for case in TWO])
def test_the_second_call_with_an_id_gets_a_new_one(bodies: list[Any]) -> None:
    """The events have the same ids as the reply."""
    calls, ids = parse_with_events(frozenset(), *bodies)
    assert len(calls) == 2
    assert len({each["id"] for each in calls}) == 2
    assert calls[0]["id"] in ("same", "f", "a\ufffd")
    assert [ids[0], ids[1]] == [each["id"] for each in calls]


def test_an_id_of_an_earlier_call_is_not_used_again() -> None:
    bodies = [reply({"content": None, "tool_calls": [call("old", "{}"), call("new", "{}"), call("old", "{}")]})]
    calls, _ = parse_with_events(frozenset({"old"}), *bodies)
    ids = [each["id"] for each in calls]
    assert len(set(ids)) == 3
    assert "old" not in ids
    assert ids[1] == "new"


def test_a_call_keeps_its_new_id_to_its_end() -> None:
    """Deltas find their call by the id that the server sends."""
    deltas = [
        tool_delta(None, "old", "f", '{"a"'),
        tool_delta(None, "b", "g", "{"),
        tool_delta(None, "old", None, ":1}"),
        tool_delta(None, "b", None, "}"),
    ]
    calls, _ = parse_with_events(frozenset({"old"}), *map(chunk, deltas))
    assert [each["function"]["arguments"] for each in calls] == ['{"a":1}', "{}"]


def test_choices_have_ids_of_their_own() -> None:
    """Each choice is on a path of its own."""
    body = reply({"content": None, "tool_calls": [call("a", "{}")]})
    body["choices"].append({**body["choices"][0], "index": 1})
    parser = ReplyParser()
    parser.feed(body)
    assert [choice.tool_calls[0]["id"] for choice in parser.build_reply().choices] == ["a", "a"]
