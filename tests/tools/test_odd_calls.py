"""Tests of names and arguments that models and servers write in odd ways."""

from __future__ import annotations

import json
from datetime import date
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from convokit import Tool, tool
from convokit.errors import BadArguments
from convokit.tools.arguments import bind_arguments, find_tool

TOOLS = {name: Tool(name) for name in ("look", "look_up", "commentary2", "functions")}


@pytest.mark.parametrize(
    "name",
    [
        "look",
        " look",
        "look\n",
        "\u3000look ",
        "functions.look",
        "function.look",
        "tools.look",
        "functions:look",
        "functions.look:0",
        "default_api.look",
        " functions. look ",
        "look<|channel|>commentary",
        "look<|channel|>",
        "look<|constrain|>json",
        "functions.look<|channel|>commentary",
        "<|channel|>commentary to=functions.look",
        "assistant<|channel|>commentary to=look <|constrain|>json",
        "look<|channel|>look",
    ],
)
def test_the_name_means_one_tool(name: str) -> None:
    found = find_tool(TOOLS, name)
    assert found is not None
    assert found.name == "look"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "lookup",
        "Look",
        "look up",
        "lo ok",
        "look.up",
        "other.look",
        "x_look",
        "look<|channel|>look_up",
        "<|look|>",
        "検索",
    ],
)
def test_the_name_means_no_tool_or_several(name: str) -> None:
    assert find_tool(TOOLS, name) is None


def test_a_tool_of_the_exact_name_comes_first() -> None:
    assert find_tool(TOOLS, "functions") is TOOLS["functions"]


class Where(BaseModel):
    city: str
    tags: list[str] = []


def find(
    query: str,
    tags: list[str] | None = None,
    limit: int = 3,
    where: Where | None = None,
    day: date | None = None,
    short: Annotated[str, Field(max_length=4)] = "",
) -> None:
    """Find."""


TWICE: list[tuple[Any, dict[str, Any]]] = [
    ({"query": "q", "limit": "5"}, {"query": "q", "limit": 5}),
    ({"query": "q", "tags": '["京","都"]'}, {"query": "q", "tags": ["京", "都"]}),
    ({"query": "q", "where": '{"city":"京都"}'}, {"query": "q", "where": Where(city="京都")}),
    ({"query": "q", "where": {"city": "b", "tags": '["c"]'}}, {"query": "q", "where": Where(city="b", tags=["c"])}),
    ({"query": "q", "where": '{"city":"b","tags":"[\\"c\\"]"}'}, {"query": "q", "where": Where(city="b", tags=["c"])}),
    ({"query": "q", "day": '"2026-11-30"'}, {"query": "q", "day": date(2026, 11, 30)}),
    ({"query": "q", "limit": "null"}, {"query": "q"}),
    ({"query": '["a"]'}, {"query": '["a"]'}),
    ({"query": "5"}, {"query": "5"}),
    ({"query": "null"}, {"query": "null"}),
    (json.dumps({"query": "q"}), {"query": "q"}),
    (json.dumps(json.dumps({"query": "q", "tags": '["a"]'})), {"query": "q", "tags": ["a"]}),
]


@pytest.mark.parametrize(("arguments", "bound"), TWICE, ids=range(len(TWICE)))
def test_arguments_that_were_encoded_twice(arguments: Any, bound: dict[str, Any]) -> None:
    """A text stays a text where the schema takes one."""
    assert bind_arguments(tool(find), json.dumps(arguments)) == bound


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"query": ["q"]}, "query"),
        ({"query": "q", "tags": "a, b"}, "tags"),
        ({"query": "q", "tags": '{"a":1}'}, "tags: Input should be a valid (list|array)"),
        ({"query": "q", "limit": "[]"}, "limit: .*unable to parse string"),
        ({"query": "q", "short": '"12345"'}, "short"),
        ("query", "one JSON object, not string"),
        (json.dumps(["q"]), "one JSON object, not array"),
    ],
)
def test_arguments_that_fit_in_no_reading(arguments: Any, problem: str) -> None:
    """The model reads the problem of what it sent."""
    with pytest.raises(BadArguments, match=problem):
        bind_arguments(tool(find), json.dumps(arguments))


@pytest.mark.parametrize("raw", ["", " ", "null", '""', '" "', "[]", "{}", '"{}"', '"null"', '"[]"'])
def test_no_arguments_in_every_spelling(raw: str) -> None:
    """A function without required parameters takes them. Another one names the problem."""

    def now(zone: str = "JST") -> None:
        """Tell the time."""

    assert bind_arguments(tool(now), raw) == {}
    assert bind_arguments(Tool("now", function=now), raw) == {}
    with pytest.raises(BadArguments):
        bind_arguments(tool(find), raw)


@pytest.mark.parametrize("raw", ["[1]", "[{}]", "false", "0"])
def test_other_values_are_no_arguments(raw: str) -> None:
    with pytest.raises(BadArguments, match="must be one JSON object"):
        bind_arguments(Tool("now", function=print), raw)
