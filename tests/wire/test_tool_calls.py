"""Tests of merging the deltas of tool calls."""

from __future__ import annotations

from typing import Any

import pytest

from convokit.domain.events import ToolCallDelta
from convokit.wire.reply_parser import ReplyParser

from .test_reply_parser import parse_choice
from .vectors import chunk, parse, reply, tool_delta


def parse_calls(*deltas: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return id, name and arguments of each call that these deltas make."""
    found = parse_choice(*deltas, finish="tool_calls").tool_calls
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in found]


def test_b55_repeated_role_id_and_name_do_not_concatenate() -> None:
    repeated = [{"role": "assistant", **tool_delta(0, "call_1", "weather", text)} for text in ('{"a"', ":1}", "")]
    assert parse_calls(*repeated) == [("call_1", "weather", '{"a":1}')]
    kinds = [{**one, "tool_calls": [{**one["tool_calls"][0], "type": "function"}]} for one in repeated]
    assert parse_choice(*kinds).tool_calls[0]["type"] == "function"


def test_b56_interleaved_deltas_are_merged_by_index() -> None:
    deltas = [
        tool_delta(0, "a", "f", "{"),
        tool_delta(1, "b", "g", "["),
        tool_delta(0, arguments="}"),
        tool_delta(1, arguments="]"),
    ]
    assert parse_calls(*deltas) == [("a", "f", "{}"), ("b", "g", "[]")]


def test_b56_deltas_without_an_index_are_merged_by_id() -> None:
    """A delta without both belongs to the last call."""
    assert parse_calls(
        tool_delta(None, "a", "f", "{"), tool_delta(None, "b", "g", "{"), tool_delta(None, "a", None, "}")
    ) == [
        ("a", "f", "{}"),
        ("b", "g", "{"),
    ]
    assert parse_calls(tool_delta(None, "a", "f"), tool_delta(arguments="{"), tool_delta(arguments="}")) == [
        ("a", "f", "{}")
    ]


def test_b56_whole_calls_without_index_and_id() -> None:
    """A name after complete arguments starts another call, and each call gets an id."""
    found = parse_calls(
        tool_delta(name="f", arguments='{"a":1}'),
        tool_delta(name="f", arguments='{"a":2}'),
        tool_delta(name="g", arguments="{}"),
    )
    assert [one[1:] for one in found] == [("f", '{"a":1}'), ("f", '{"a":2}'), ("g", "{}")]
    assert len({one[0] for one in found}) == 3


def test_b56_index_zero_reused_with_a_new_id() -> None:
    """Another id at an index starts another call; a known id continues its own."""
    deltas = [
        tool_delta(0, "a", "f", "{"),
        tool_delta(0, "b", "g", '{"x":'),
        tool_delta(0, "a", None, "}"),
        tool_delta(0, "b", None, "1}"),
    ]
    assert parse_calls(*deltas) == [("a", "f", "{}"), ("b", "g", '{"x":1}')]


def test_b56_indexes_may_start_at_one_and_a_delta_may_have_several_calls() -> None:
    whole = {
        "tool_calls": [tool_delta(1, "a", "f", "{}")["tool_calls"][0], tool_delta(2, "b", "g", "{}")["tool_calls"][0]]
    }
    assert parse_calls(whole) == [("a", "f", "{}"), ("b", "g", "{}")]


def test_b56_events_name_their_call() -> None:
    """An event has the call's position, its id and name so far, and the new part of the arguments."""
    parser = ReplyParser()
    first = parser.feed(chunk(tool_delta(3, "a", "f", "{")))
    second = parser.feed(chunk(tool_delta(3, arguments="}")))
    assert first == [ToolCallDelta(0, "a", "f", "{")]
    assert second == [ToolCallDelta(0, "a", "f", "}")]


def test_b82_arguments_are_stored_as_they_came() -> None:
    """Empty arguments become an empty object, and an object becomes text."""
    assert parse_calls(tool_delta(0, "a", "f", '{"x": tru')) == [("a", "f", '{"x": tru')]
    assert parse_calls(tool_delta(0, "a", "f")) == [("a", "f", "{}")]
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"city": "京都"}}}
    found = parse(reply({"content": None, "tool_calls": [call]})).choices[0].tool_calls
    assert found[0]["function"]["arguments"] == '{"city": "京都"}'


def test_custom_tool_calls_keep_their_input() -> None:
    deltas = [
        {"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": "SELECT"}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": " 1"}}]},
    ]
    assert parse_choice(*deltas).tool_calls == [
        {"id": "a", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    ]


def test_the_deprecated_function_call_is_stored() -> None:
    deltas = [{"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}}]
    assert parse_choice(*deltas, finish="function_call").extra == {"function_call": {"name": "f", "arguments": "{}"}}


def test_b56_whole_calls_at_one_index_without_ids() -> None:
    """A name after complete arguments starts another call."""
    found = parse_calls(
        tool_delta(0, None, "f", '{"a":1}'),
        tool_delta(0, None, "f", '{"a":2}'),
        tool_delta(0, None, "f"),
        tool_delta(0, arguments=" "),
    )
    assert [one[1:] for one in found] == [("f", '{"a":1}'), ("f", '{"a":2} ')]


def test_b56_calls_of_a_whole_reply_are_never_merged() -> None:
    same = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    none = {"type": "function", "function": {"name": "f", "arguments": ""}}
    found = parse(reply({"content": None, "tool_calls": [same, same, none, none]})).choices[0].tool_calls
    assert len(found) == 4


@pytest.mark.parametrize("write", [str, float], ids=["text", "float"])
def test_an_index_of_another_type_is_an_index(write: Any) -> None:
    """The parts of two calls come in turn, and only the index says which call they belong to."""
    starts = [{**tool_delta(n, f"c{n}", "f", '{"n":')} for n in (0, 1)]
    ends = [tool_delta(n, None, None, f"{n}}}") for n in (0, 1)]
    for each in (*starts, *ends):
        each["tool_calls"][0]["index"] = write(each["tool_calls"][0]["index"])
    assert parse_calls(*starts, *ends) == [("c0", "f", '{"n":0}'), ("c1", "f", '{"n":1}')]


def test_a_tool_call_without_a_list_around_it() -> None:
    call = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert [each["id"] for each in parse(chunk({"tool_calls": call})).choices[0].tool_calls] == ["a"]
