"""Tests of arguments and messages that a gateway repeats in later chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.domain.events import TextDelta
from convokit.wire import tool_arguments
from convokit.wire.reply_parser import ReplyParser
from convokit.wire.tool_arguments import join_arguments, repeats_arguments

from .test_tool_calls import parse_calls
from .vectors import chunk, parse, reply, tool_delta

READINGS: list[tuple[str, tuple[str, ...], str]] = [
    ("deltas", ('{"path":"', "/srv", '"}'), '{"path":"/srv"}'),
    ("equal deltas", ('{"path":"', "a", "a", 'a"}'), '{"path":"aaa"}'),
    ("cumulative", ("", '{"pa', '{"path":"/sr', '{"path":"/srv"}'), '{"path":"/srv"}'),
    ("cumulative, and the last one again", ('{"path":"京', '{"path":"京都"}', '{"path":"京都"}'), '{"path":"京都"}'),
    (
        "cumulative of two",
        ('{"path":"/a"', '{"path":"/a","depth":', '{"path":"/a","depth":2}'),
        '{"path":"/a","depth":2}',
    ),
    ("whole once more", ('{"a":', "1}", '{"a":1}'), '{"a":1}'),
    ("whole once more in other words", ('{"a": "', '京"}', '{"a":"\\u4eac"}'), '{"a":"\\u4eac"}'),
    ("whole thrice", ('{"a":1}', '{"a":1}', '{"a":1}'), '{"a":1}'),
    ("empty object first", ("{}", '{"a":', "1}"), '{"a":1}'),
    ("empty object first, with blanks", ("{ }\n", '{"a":1}'), '{"a":1}'),
    ("empty object only", ("{}", "", "{}"), "{}"),
    ("looks cumulative, and is none", ('{"a":', '{"a":1}', "}"), '{"a":{"a":1}}'),
    ("an empty object inside", ('{"a":', "{}", "}"), '{"a":{}}'),
    ("no object in either reading", ('{"a":1}', '{"b":2}'), '{"a":1}{"b":2}'),
    ("cut off", ('{"a":', '"x'), '{"a":"x'),
    ("blanks inside of a text", ('{"a":"x', " ", 'y"}'), '{"a":"x y"}'),
    ("no arguments", ("", ""), "{}"),
]


@pytest.mark.parametrize(("chunks", "arguments"), [case[1:] for case in READINGS], ids=[case[0] for case in READINGS])
@pytest.mark.parametrize("names", ["once", "always"])
def test_arguments_are_read_as_they_were_meant(chunks: tuple[str, ...], arguments: str, names: str) -> None:
    """Index and id come once, or with each chunk. The deprecated function call is read alike."""
    named = [tool_delta(0, "a", "f", each) for each in chunks]
    if names == "once":
        named[1:] = [tool_delta(0, None, None, each) for each in chunks[1:]]
    if arguments != '{"a":1}{"b":2}' or names == "once":  # with a name, another object is another call
        assert parse_calls(*named) == [("a", "f", arguments)]
    function = [chunk({"function_call": {"name": "f", "arguments": each}}) for each in chunks]
    assert parse(*function).choices[0].extra["function_call"]["arguments"] == arguments


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.dictionaries(st.text(), st.integers())), st.data())
def test_every_stream_of_an_object_is_read(value: dict[str, Any], data: st.DataObject) -> None:
    """Concatenated, cumulative, and concatenated with the whole object behind: the object is the same."""
    text = json.dumps(value, ensure_ascii=False)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert join_arguments(parts) == text
    assert json.loads(join_arguments([text[:end] for end in [*cuts, len(text)]])) == value
    assert json.loads(join_arguments([*parts, text])) == value
    assert json.loads(join_arguments(["{}", *parts])) == value


def test_events_have_the_arguments_of_their_chunk() -> None:
    parser = ReplyParser()
    texts = ['{"a"', '{"a":1}']
    events = [parser.feed(chunk(tool_delta(0, "a", "f", text)))[0] for text in texts]
    assert [event.arguments for event in events] == texts  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "parts",
    [['{"a":"', *["{}"] * 10_000], ["{}"] * 10_000, ['{"a":1}'] * 5_000, ['{"a":1', *["1"] * 20_000]],
    ids=["empty objects in a text", "empty objects", "repeated objects", "digits"],
)
def test_hostile_chunks_are_compared_in_linear_time(parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The characters that are compared are at most a few times those that came."""
    compared = 0

    def count(gathered: str, chunk: str) -> bool:
        nonlocal compared
        compared += len(gathered) + len(chunk)
        return repeats_arguments(gathered, chunk)

    monkeypatch.setattr(tool_arguments, "repeats_arguments", count)
    join_arguments(parts)
    assert compared <= 20 * sum(map(len, parts))


def messages(*contents: Any, **keys: Any) -> list[dict[str, Any]]:
    """Return chunks with a `message` in place of a `delta`."""
    made = [reply({"role": "assistant", "content": content, **keys}, None) for content in contents]
    made[-1]["choices"][0]["finish_reason"] = "stop"
    return made


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        (("こん", "こんにち", "こんにちは"), "こんにちは"),
        (("Hel", "Hello", "Hello"), "Hello"),
        (("Hel", "lo", " you"), "Hello you"),
        (("ha", "ha", " no"), "haha no"),
        (("", "a", "aa"), "aa"),
        (("a", "ab", "c"), "abc"),
        ((None, "a", None), "a"),
        (([{"type": "text", "text": "Hel"}], [{"type": "text", "text": "Hello"}]), "Hello"),
        (("whole",), "whole"),
    ],
)
def test_messages_in_place_of_deltas(contents: tuple[Any, ...], text: str) -> None:
    """Their text grows, or holds the new part only. The events have the same text."""
    parser = ReplyParser()
    events = [event for body in messages(*contents) for event in parser.feed(body)]
    choice = parser.build_reply().choices[0]
    assert (choice.content, choice.finish_reason) == (text, "stop")
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == text


def test_other_keys_of_growing_messages() -> None:
    first = {"reasoning_content": "思", "annotations": [{"n": 1}], "images": [{"n": 1}], "odd": "x"}
    second = {
        "reasoning_content": "思考",
        "annotations": [{"n": 1}, {"n": 2}],
        "images": [{"n": 1}, {"n": 2}],
        "odd": "x",
    }
    choice = parse(*messages("a", **first), *messages("ab", **second)).choices[0]
    assert (choice.content, choice.reasoning) == ("ab", "思考")
    assert choice.annotations == choice.extra["images"] == [{"n": 1}, {"n": 2}]
    assert choice.extra["odd"] == "x"


def test_tool_calls_of_growing_messages() -> None:
    """A call is the one at its position. A new id at a position is another call."""

    def call(id: str, arguments: str) -> dict[str, Any]:
        return {"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}}

    steps = ([call("a", '{"x"')], [call("a", '{"x":1}')], [call("a", '{"x":1}'), call("b", "{}")])
    chunks = [message for step in steps for message in messages(None, tool_calls=step)]
    found = parse(*chunks).choices[0].tool_calls
    assert [(each["id"], each["function"]["arguments"]) for each in found] == [("a", '{"x":1}'), ("b", "{}")]
    apart = [*messages(None, tool_calls=[call("a", "{}")]), *messages(None, tool_calls=[call("b", "{}")])]
    assert [each["id"] for each in parse(*apart).choices[0].tool_calls] == ["a", "b"]


def test_a_message_after_deltas_repeats_them() -> None:
    last = reply({"role": "assistant", "content": "Hello"})
    assert parse(chunk({"content": "Hel"}), chunk({"content": "lo"}), last).choices[0].content == "Hello"
    empty = chunk({"role": "assistant", "content": ""})
    assert parse(empty, last).choices[0].content == "Hello"
    both = chunk({})
    both["choices"][0]["message"] = {"content": "Hello"}
    assert parse(both, chunk({}, "stop")).choices[0].content == "Hello"


def test_text_of_deltas_is_never_compared() -> None:
    assert parse(chunk({"content": "ha"}), chunk({"content": "haha"}), chunk({}, "stop")).choices[0].content == "hahaha"
