"""Tests of the arguments of tool calls that are sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.domain.profiles import Profile
from convokit.wire.message_encoding import to_wire_messages
from convokit.wire.request import RENDERER
from convokit.wire.tool_arguments import is_json_object, to_sendable_arguments

VALID = ['{"city": "京都"}', "{}", ' {"a":1} ', '{"a":{"b":[1,null,true,-0.5e3]}}', r'{"a":"😀"}', '{"a":1,"a":2}']
INVALID = [
    '{"path": "/a',
    "{'path': '/a'}",
    '{"a":1}{"a":1}',
    "[]",
    '["京都"]',
    "null",
    '"{}"',
    "5",
    "京都",
    '{"a":"line\nfeed"}',
    '{"a":NaN}',
    '{"a":1e999}',
    r'{"a":"\ud83d"}',
    "\ufeff{}",
    '{"a":' + "9" * 5_000 + "}",
    '{"a":' * 100_000,
]


@pytest.mark.parametrize("arguments", VALID)
def test_valid_arguments_are_sent_as_they_were_stored(arguments: str) -> None:
    assert to_sendable_arguments(arguments) == arguments


@pytest.mark.parametrize("arguments", INVALID, ids=range(len(INVALID)))
def test_invalid_arguments_are_sent_as_the_text_of_an_object(arguments: str) -> None:
    assert not is_json_object(arguments)
    assert json.loads(to_sendable_arguments(arguments)) == {"arguments": arguments}


@pytest.mark.parametrize("arguments", ["", " ", "\n\t", "\u3000", None])
def test_blank_arguments_are_sent_as_an_empty_object(arguments: str | None) -> None:
    assert to_sendable_arguments(arguments) == "{}"


@pytest.mark.parametrize(("arguments", "sent"), [({"a": "京都"}, '{"a": "京都"}'), ([1], '{"arguments":"[1]"}')])
def test_arguments_that_are_no_text_become_json(arguments: Any, sent: str) -> None:
    assert to_sendable_arguments(arguments) == sent


@given(st.text())
def test_every_text_is_sent_as_an_object(arguments: str) -> None:
    assert is_json_object(to_sendable_arguments(arguments))


@pytest.mark.parametrize("stored", ["{'path': '京都'}", "[1]", ""])
def test_both_renderers_and_both_forms_of_a_call(stored: str) -> None:
    """Renderer 1 sends the stored arguments, renderer 2 an object. The stored call does not change."""
    function = {"name": "f", "arguments": stored}
    messages: list[dict[str, object]] = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": function}]},
        {"role": "assistant", "content": None, "function_call": function},
    ]

    def render(renderer: int = RENDERER) -> list[str]:
        first, second = to_wire_messages(messages, Profile(), renderer=renderer)
        return [first["tool_calls"][0]["function"]["arguments"], second["function_call"]["arguments"]]

    assert render(1) == [stored or "{}"] * 2
    assert render(2) == render() == [to_sendable_arguments(stored)] * 2
    assert function["arguments"] == stored


def test_the_input_of_a_custom_tool_is_free_text() -> None:
    call = {"id": "a", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    sent = to_wire_messages([{"role": "assistant", "content": None, "tool_calls": [call]}], Profile())
    assert sent[0]["tool_calls"] == [call]
