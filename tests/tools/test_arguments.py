"""Parse and validate the arguments of tool calls: the result is arguments or BadArguments, whatever the model sends."""

from __future__ import annotations

import datetime
import enum
import json
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from convokit.errors import BadArguments
from convokit.tools.arguments import bind_arguments
from convokit.tools.decorator import tool
from convokit.tools.tool import Tool


class Unit(enum.Enum):
    C = "c"
    F = "f"


class Filter(BaseModel):
    model_config = ConfigDict(strict=True)
    field: str
    since: datetime.date | None = None


@dataclass
class Point:
    x: int
    y: float = 0.0


MARK = object()


@tool
def search(
    query: str,
    unit: Unit = Unit.C,
    filters: list[Filter] = [],  # noqa: B006 - never handed out
    limit: Annotated[int, Field(ge=1, le=9)] = 5,
    maybe: int | None = 7,
    mark: Literal["x"] = MARK,  # type: ignore[assignment]
) -> Any:
    """Search."""
    return locals()


@tool(strict=False)
def loose(query: str, limit: int = 5, maybe: int | None = 7, extra: dict[str, Any] = {}) -> Any:  # noqa: B006
    """Search loosely."""
    return locals()


def said(made: Tool, raw: str) -> str:
    """What the model is told of its arguments."""
    with pytest.raises(BadArguments) as caught:
        bind_arguments(made, raw)
    assert caught.value.tool == made.name
    return str(caught.value)


def test_arguments_have_the_annotated_types() -> None:
    """Enums, models, dataclasses, dates and numbers, not the types of JSON."""

    @tool
    def typed(
        unit: Unit, filters: list[Filter], point: Point, when: datetime.datetime, id: UUID, price: Decimal, data: bytes
    ) -> None: ...

    bound = bind_arguments(
        typed,
        '{"unit": "f", "filters": [{"field": "a", "since": "2026-01-02"}], "point": {"x": 1, "y": 2.5}, '
        '"when": "2026-01-02T03:04:05Z", "id": "00000000-0000-0000-0000-000000000001", "price": "1.50", "data": "abc"}',
    )
    assert bound == {
        "unit": Unit.F,
        "filters": [Filter(field="a", since=datetime.date(2026, 1, 2))],
        "point": Point(1, 2.5),
        "when": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        "id": UUID(int=1),
        "price": Decimal("1.50"),
        "data": b"abc",
    }
    assert type(bound["filters"][0]) is Filter


def test_left_out_or_null_argument_keeps_the_default() -> None:
    """It is absent from the arguments, so that a default that cannot be copied works too."""
    nulls = '{"query": "a", "unit": null, "filters": null, "limit": null, "maybe": null, "mark": null}'
    assert bind_arguments(search, nulls) == bind_arguments(search, '{"query": "a"}') == {"query": "a"}
    called = search(**bind_arguments(search, nulls))
    assert called["mark"] is MARK
    assert called["maybe"] == 7


def test_null_without_strict_is_a_value_if_the_type_allows_it() -> None:
    """Otherwise null means the default."""
    assert bind_arguments(loose, '{"query": "a", "limit": null, "maybe": null}') == {"query": "a", "maybe": None}
    assert bind_arguments(loose, '{"query": "a"}') == {"query": "a"}


def test_null_for_a_required_parameter_is_a_value() -> None:

    @tool
    def take(value: int | None, word: str) -> None: ...

    assert bind_arguments(take, '{"value": null, "word": "a"}') == {"value": None, "word": "a"}
    assert "word: Input should be a valid string" in said(take, '{"value": null, "word": null}')


@pytest.mark.parametrize("raw", ["", " ", "\n", "{}", " { } "])
def test_empty_text_means_no_arguments(raw: str) -> None:
    """Servers send an empty text or an empty object for a call without arguments."""

    @tool
    def now() -> None: ...

    assert bind_arguments(now, raw) == {}
    assert "query: is missing" in said(search, raw)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ('{"query": "a"', "the arguments are not JSON: Expecting ',' delimiter (character 13)"),
        ("query=a", "the arguments are not JSON: Expecting value (character 0)"),
        ('{"query": "a"} and more', "the arguments are not JSON: Extra data (character 15)"),
        ("{'query': 'a'}", "the arguments are not JSON"),
        ("null", "must be one JSON object, not null"),
        ("[]", "must be one JSON object, not array"),
        ('"a"', "must be one JSON object, not string"),
        ("1", "must be one JSON object, not integer"),
        ("true", "must be one JSON object, not boolean"),
        ("1.5", "must be one JSON object, not number"),
        ("9" * 5_000, "a number of too many digits"),
        ('{"limit": ' + "9" * 5_000 + "}", "a number of too many digits"),
        ('{"limit": NaN}', "NaN is not a JSON number"),
        ('{"limit": -Infinity}', "-Infinity is not a JSON number"),
        ('{"limit": 1e999}', "1e999 is not a JSON number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"query": "a", "query": "b"}', "query is given twice"),
        ('{"query": "a", "filters": [{"field": "a", "field": "b"}]}', "field is given twice"),
        ("{}", "query: is missing"),
        ('{"query": "a", "colour": 1}', "colour: is an unknown key"),
        ('{"query": 5}', "query: Input should be a valid string"),
        ('{"query": "a", "unit": "kelvin"}', "unit: Input should be 'c' or 'f'"),
        ('{"query": "a", "limit": 10}', "limit: Input should be less than or equal to 9"),
        ('{"query": "a", "limit": "many"}', "limit: Input should be a valid integer"),
        ('{"query": "a", "limit": 1.5}', "limit: Input should be a valid integer"),
        ('{"query": "a", "filters": [{"field": "a"}, {"since": "x"}]}', "filters[1].field: is missing"),
    ],
)
def test_bad_argument_names_the_argument_and_the_problem(raw: str, told: str) -> None:
    assert told in said(search, raw)
    assert len(said(search, raw)) < 500


def test_bad_arguments_are_reported_together() -> None:
    """Up to five, and how many more."""

    @tool
    def many(a: int, b: int, c: int, d: int, e: int, f: int, g: int) -> None: ...

    assert said(many, "{}").endswith("e: is missing; and 2 more")


def test_bad_argument_does_not_quote_the_value() -> None:
    """Messages and logs get names and rules only."""
    assert "hunter2" not in said(search, '{"query": "a", "limit": "hunter2", "unit": "hunter2"}')
    assert len(said(search, json.dumps({"x" * 10_000: 1, "query": "a"}))) < 500


def test_raw_line_breaks_and_lone_surrogates_are_accepted() -> None:
    """Small models write raw line breaks. A lone surrogate becomes U+FFFD."""
    assert bind_arguments(search, '{"query": "a\nb"}') == {"query": "a\nb"}
    assert bind_arguments(search, '{"query": "a\\ud800"}') == {"query": "a\ufffd"}
    assert bind_arguments(search, '{"query": "\\ud83d\\ude00 東"}') == {"query": "😀 東"}


def test_arguments_of_a_tool_without_a_model_are_parsed_only() -> None:
    described = Tool("pay", parameters={"type": "object"})
    assert bind_arguments(described, '{"amount": 5, "to": null}') == {"amount": 5, "to": None}
    assert bind_arguments(described, "") == {}
    assert "must be one JSON object" in said(described, "[1]")


def test_arguments_model_of_the_caller_validates() -> None:
    """Field names, defaults and rules of `Tool(arguments=...)` apply."""

    class Arguments(BaseModel):
        from_: str = Field(alias="from")
        count: int = 3

    made = Tool("go", arguments=Arguments)
    assert bind_arguments(made, '{"from": "a"}') == {"from_": "a", "count": 3}
    assert bind_arguments(made, '{"from": "a", "count": null}') == {"from_": "a", "count": 3}
    assert "from: is missing" in said(made, "{}")


def test_failing_validator_of_the_tool_is_a_bad_argument() -> None:
    """The cause is kept."""

    def explode(value: int) -> float:
        return 1 / value

    @tool
    def divide(by: Annotated[int, AfterValidator(explode)]) -> None: ...

    with pytest.raises(BadArguments, match="could not be validated") as caught:
        bind_arguments(divide, '{"by": 0}')
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_duplicate_keys_are_found_in_linear_time() -> None:
    raw = "{" + ",".join(f'"k{n}":0' for n in range(200_000)) + ',"k199999":1}'
    begun = time.perf_counter()
    assert "k199999 is given twice" in said(search, raw)
    assert time.perf_counter() - begun < 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda of: (
        st.lists(of)
        | st.dictionaries(st.text() | st.sampled_from(["query", "limit", "maybe", "filters", "unit", "field"]), of)
    ),
    max_leaves=20,
)
NEAR = st.fixed_dictionaries(
    {"query": st.text() | JSON},
    optional={
        "unit": st.sampled_from(["c", "f", None, 3]),
        "limit": st.integers(-1, 10) | JSON,
        "maybe": JSON,
        "filters": JSON,
    },
)


@given(
    JSON.map(json.dumps)
    | NEAR.map(json.dumps)
    | st.text(st.characters())
    | st.text(st.sampled_from('{}[]":,\\ud8nul-1e9 aquery'))
)
@example("\ud800")
@example('{"query": "\x00"}')
@example('{"query": 1' + "0" * 400 + "}")
@example("\ufeff{}")
def test_any_text_is_arguments_or_a_bad_argument(raw: str) -> None:
    """Property test: a dict for the function, or BadArguments, and nothing else."""
    for made in (search, loose, Tool("described")):
        try:
            bound = bind_arguments(made, raw)
        except BadArguments:
            continue
        assert isinstance(bound, dict)
        if made.function is not None:
            made(**bound)


@given(st.text(st.characters(codec="utf-8")), st.sampled_from(Unit), st.integers(1, 9), st.none() | st.integers())
def test_arguments_survive_a_round_trip_through_json(query: str, unit: Unit, limit: int, maybe: int | None) -> None:
    """Null stands for the default."""
    raw = json.dumps(
        {"query": query, "unit": unit.value, "filters": None, "limit": limit, "maybe": maybe, "mark": None}
    )
    expected: dict[str, Any] = {"query": query, "unit": unit, "limit": limit}
    if maybe is not None:
        expected["maybe"] = maybe
    assert bind_arguments(search, raw) == expected
