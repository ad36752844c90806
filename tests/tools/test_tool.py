"""Test `Tool`: its name, its shape in a request, and the API's own objects."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionCustomToolParam, ChatCompletionFunctionToolParam
from pydantic import TypeAdapter

from convokit.errors import BadArguments, InvalidInput, SettingsError, UnknownTool
from convokit.tools.decorator import tool
from convokit.tools.tool import Tool

FUNCTION: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "pay",
        "description": "Pay.",
        "parameters": {"type": "object", "properties": {}},
        "strict": True,
    },
}
CUSTOM: dict[str, Any] = {
    "type": "custom",
    "custom": {"name": "sql", "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /x/"}}},
}


def test_wire_shape_has_a_fixed_order() -> None:
    """The types of the official client accept it."""
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    shape = Tool("pay", "Pay.", schema, strict=True).as_wire()
    TypeAdapter(ChatCompletionFunctionToolParam).validate_python(shape)
    assert list(shape) == ["type", "function"]
    assert list(shape["function"]) == ["name", "description", "parameters", "strict"]
    assert shape["function"]["strict"] is True


def test_empty_fields_are_not_sent() -> None:
    assert Tool("pay").as_wire() == {"type": "function", "function": {"name": "pay"}}


@pytest.mark.parametrize("name", ["", "a b", "é", "a" * 65, "a.b", "ok\n", "天気", "a/b"])
def test_invalid_name_is_refused(name: str) -> None:
    """The error quotes the name."""
    with pytest.raises(SettingsError) as caught:
        Tool(name)
    assert repr(name) in str(caught.value)


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True))
def test_valid_names_are_accepted(name: str) -> None:
    assert Tool(name).as_wire()["function"]["name"] == name


def test_tool_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Tool("a").name = "b"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        Tool("a").other = 1  # type: ignore[attr-defined]


def test_tool_with_a_function_is_callable() -> None:
    """A tool without one raises SettingsError."""
    assert Tool("double", function=lambda n: 2 * n)(4) == 8
    with pytest.raises(SettingsError, match="has no function"):
        Tool("double")(4)


@pytest.mark.parametrize(
    ("raw", "form"), [(FUNCTION, ChatCompletionFunctionToolParam), (CUSTOM, ChatCompletionCustomToolParam)]
)
def test_raw_tool_is_sent_unchanged(raw: dict[str, Any], form: Any) -> None:
    TypeAdapter(form).validate_python(raw)
    tool = Tool.of_dict(raw)
    assert json.dumps(tool.as_wire()) == json.dumps(raw)
    assert tool.function is None
    assert tool.arguments is None
    assert tool.name == raw[raw["type"]]["name"]


def test_unknown_keys_of_a_raw_tool_are_kept() -> None:
    raw = {
        **FUNCTION,
        "cache_control": {"type": "ephemeral"},
        "function": {**FUNCTION["function"], "x": [1, 2.5, None]},
    }
    assert Tool.of_dict(raw).as_wire() == raw


def test_raw_tool_is_a_copy() -> None:
    raw = json.loads(json.dumps(FUNCTION))
    tool = Tool.of_dict(raw)
    raw["function"]["parameters"]["properties"]["x"] = {"type": "string"}
    assert tool.as_wire() == FUNCTION
    assert tool.parameters == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "type"),
        ({"type": "web_search"}, "web_search"),
        ({"name": "pay", "parameters": {}}, "type"),
        ({"type": "function", "name": "pay"}, "form of the Responses API"),
        ({"type": "function", "function": "pay"}, '"function"'),
        ({"type": "function", "function": {}}, "name"),
        ({"type": "function", "function": {"name": "a b"}}, "'a b'"),
        ({"type": "function", "function": {"name": 3}}, "3"),
        ({"type": "function", "function": {"name": "a", "parameters": []}}, "parameters"),
        ({"type": "function", "function": {"name": "a", "description": 5}}, "description"),
        ({"type": "function", "function": {"name": "a", "strict": "yes"}}, "strict"),
        ({"type": "function", "function": {"name": "a", "parameters": {"x": {1, 2}}}}, "JSON"),
        ({"type": "function", "function": {"name": "a", "parameters": {"x": float("nan")}}}, "JSON"),
        ({"type": "function", "function": {"name": "a", "description": "\ud800"}}, "JSON"),
        ({"type": "custom", "custom": {"name": ""}}, "name"),
    ],
)
def test_invalid_raw_tool_is_refused(raw: dict[str, Any], said: str) -> None:
    """The error names the problem."""
    with pytest.raises(SettingsError) as caught:
        Tool.of_dict(raw)
    assert said in str(caught.value)


@pytest.mark.soak(sample=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)
    )
)
def test_any_dict_is_a_tool_or_a_settings_error(value: Any) -> None:
    """Property test."""
    for raw in (
        {"type": "function", "function": value},
        {"type": value},
        {"type": "custom", "custom": {"name": value}},
    ):
        try:
            Tool.of_dict(raw)
        except SettingsError:
            continue


def test_run_binds_the_arguments_of_a_call() -> None:
    """Names and arguments are read as in a turn: odd spellings, null for a default, JSON in a text."""

    @tool(approval=True)
    def pay(yen: int, note: str = "罰金") -> str:
        """Pay."""
        return f"{note}: {yen}"

    assert (pay.approval, pay.is_run_by_turn, pay(5)) == (True, False, "罰金: 5")
    for name, arguments, result in (
        ("pay", '{"yen": 5, "note": null}', "罰金: 5"),
        ("functions.pay", '{"yen": "5", "note": "本"}', "本: 5"),
    ):
        call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
        assert pay.run(call) == result
    assert pay.function is not None
    assert pay.as_wire() == tool(pay.function, name="pay", description="Pay.").as_wire()


def test_run_raises_what_is_wrong() -> None:
    """Another tool's call, arguments that do not fit, a tool without a function, and what is no call at all."""

    @tool
    def broken(yen: int) -> None:
        """Break."""
        raise KeyError(yen)

    def call(name: str, arguments: str = "{}") -> dict[str, Any]:
        return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}

    with pytest.raises(UnknownTool, match="not a call of the tool 'broken'"):
        broken.run(call("other"))
    with pytest.raises(BadArguments, match="yen"):
        broken.run(call("broken", '{"yen": "five"}'))
    with pytest.raises(KeyError):
        broken.run(call("broken", '{"yen": 5}'))
    with pytest.raises(SettingsError, match="no function"):
        Tool("ask").run(call("ask"))
    for value in ({"id": "c1", "type": "custom", "custom": {"name": "broken"}}, "broken", None):
        with pytest.raises(InvalidInput, match="open_calls"):
            broken.run(value)  # type: ignore[arg-type]


def test_run_returns_what_an_async_function_returns() -> None:
    """The caller awaits it."""

    @tool(approval=True)
    async def look(at: str) -> str:
        """Look."""
        return f"seen {at}"

    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "空"}'}}
    assert asyncio.run(look.run(call)) == "seen 空"


def test_approval_is_true_or_false() -> None:
    """A typo must not let a function run."""
    with pytest.raises(SettingsError, match="approval must be True or False"):
        tool(approval="yes")  # type: ignore[call-overload]
