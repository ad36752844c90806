"""Tool calls from their pieces."""

from __future__ import annotations

from typing import Any

from convokit.domain.events import ToolCallDelta
from convokit.wire.reply_parser import ReplyParser

from .test_accumulate import answer
from .vectors import chunk, parse, piece, reply


def calls(*deltas: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Id, name and arguments of each call these deltas make."""
    found = answer(*deltas, finish="tool_calls").tool_calls
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in found]


def test_b55_repeated_role_id_and_name_do_not_concatenate() -> None:
    """What is said once stays so however often it is repeated."""
    repeated = [{"role": "assistant", **piece(0, "call_1", "weather", text)} for text in ('{"a"', ":1}", "")]
    assert calls(*repeated) == [("call_1", "weather", '{"a":1}')]
    kinds = [{**one, "tool_calls": [{**one["tool_calls"][0], "type": "function"}]} for one in repeated]
    assert answer(*kinds).tool_calls[0]["type"] == "function"


def test_b56_tool_deltas_by_index_interleaved() -> None:
    """Pieces of several calls may come in any order; the index tells them apart."""
    deltas = [piece(0, "a", "f", "{"), piece(1, "b", "g", "["), piece(0, arguments="}"), piece(1, arguments="]")]
    assert calls(*deltas) == [("a", "f", "{}"), ("b", "g", "[]")]


def test_b56_tool_deltas_without_index() -> None:
    """Without an index the id tells calls apart, and a piece without either goes on with the last one."""
    assert calls(piece(None, "a", "f", "{"), piece(None, "b", "g", "{"), piece(None, "a", None, "}")) == [
        ("a", "f", "{}"),
        ("b", "g", "{"),
    ]
    assert calls(piece(None, "a", "f"), piece(arguments="{"), piece(arguments="}")) == [("a", "f", "{}")]


def test_b56_whole_calls_without_index_and_id() -> None:
    """A name after complete arguments begins another call; ids are made up, and differ."""
    found = calls(
        piece(name="f", arguments='{"a":1}'), piece(name="f", arguments='{"a":2}'), piece(name="g", arguments="{}")
    )
    assert [one[1:] for one in found] == [("f", '{"a":1}'), ("f", '{"a":2}'), ("g", "{}")]
    assert len({one[0] for one in found}) == 3


def test_b56_index_zero_reused_with_a_new_id() -> None:
    """A different id at an index in use is another call; a known id there goes on with its own."""
    deltas = [piece(0, "a", "f", "{"), piece(0, "b", "g", '{"x":'), piece(0, "a", None, "}"), piece(0, "b", None, "1}")]
    assert calls(*deltas) == [("a", "f", "{}"), ("b", "g", '{"x":1}')]


def test_b56_index_may_start_at_one_and_a_call_may_come_whole() -> None:
    """Indexes need not start at 0, and one delta may hold whole calls."""
    whole = {"tool_calls": [piece(1, "a", "f", "{}")["tool_calls"][0], piece(2, "b", "g", "{}")["tool_calls"][0]]}
    assert calls(whole) == [("a", "f", "{}"), ("b", "g", "{}")]


def test_b56_events_say_which_call_they_belong_to() -> None:
    """A tool call delta names its position, its id and name as far as known, and the new part of the arguments."""
    parser = ReplyParser()
    first = parser.feed(chunk(piece(3, "a", "f", "{")))
    second = parser.feed(chunk(piece(3, arguments="}")))
    assert first == [ToolCallDelta(0, "a", "f", "{")]
    assert second == [ToolCallDelta(0, "a", "f", "}")]


def test_b82_arguments_are_verbatim_even_when_invalid() -> None:
    """Arguments are kept as they came; none at all means an empty object, and an object becomes text."""
    assert calls(piece(0, "a", "f", '{"x": tru')) == [("a", "f", '{"x": tru')]
    assert calls(piece(0, "a", "f")) == [("a", "f", "{}")]
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"city": "京都"}}}
    found = parse(reply({"content": None, "tool_calls": [call]})).choices[0].tool_calls
    assert found[0]["function"]["arguments"] == '{"city": "京都"}'


def test_custom_tool_calls_keep_their_input() -> None:
    """A custom tool's input is text and stays so."""
    deltas = [
        {"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": "SELECT"}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": " 1"}}]},
    ]
    assert answer(*deltas).tool_calls == [{"id": "a", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}]


def test_deprecated_function_call_is_read() -> None:
    """The old single function call is kept under its own name."""
    deltas = [{"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}}]
    assert answer(*deltas, finish="function_call").extra == {"function_call": {"name": "f", "arguments": "{}"}}


def test_b56_whole_calls_at_one_index_without_ids() -> None:
    """Calls that all come at index 0, without ids, are told apart by a name after complete arguments."""
    found = calls(
        piece(0, None, "f", '{"a":1}'), piece(0, None, "f", '{"a":2}'), piece(0, None, "f"), piece(0, arguments=" ")
    )
    assert [one[1:] for one in found] == [("f", '{"a":1}'), ("f", '{"a":2} ')]


def test_b56_calls_of_a_plain_reply_are_as_many_as_it_says() -> None:
    """A reply that was not streamed needs no merging, whatever its ids are."""
    same = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    none = {"type": "function", "function": {"name": "f", "arguments": ""}}
    found = parse(reply({"content": None, "tool_calls": [same, same, none, none]})).choices[0].tool_calls
    assert len(found) == 4
