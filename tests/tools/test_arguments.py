"""The model's text becomes arguments, or an error it can act on; nothing else, whatever it sends."""

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

from convokit.domain.tool import Tool
from convokit.errors import BadArguments
from convokit.tools.arguments import bind_arguments
from convokit.tools.decorator import tool


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


def test_values_are_pythons_own() -> None:
    """Enums, models, dataclasses, dates, numbers: what the annotation says, not what JSON had."""

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


def test_what_is_left_out_or_null_keeps_the_functions_default() -> None:
    """Absent from the arguments, so that even a default that cannot be copied stays itself."""
    nulls = '{"query": "a", "unit": null, "filters": null, "limit": null, "maybe": null, "mark": null}'
    assert bind_arguments(search, nulls) == bind_arguments(search, '{"query": "a"}') == {"query": "a"}
    called = search(**bind_arguments(search, nulls))
    assert called["mark"] is MARK
    assert called["maybe"] == 7


def test_null_without_strict_is_a_value_where_the_type_takes_it() -> None:
    """The model could have left it out, so null means null; where the type has no null, it means the default."""
    assert bind_arguments(loose, '{"query": "a", "limit": null, "maybe": null}') == {"query": "a", "maybe": None}
    assert bind_arguments(loose, '{"query": "a"}') == {"query": "a"}


def test_a_required_null_is_a_value() -> None:
    """Without a default there is nothing else null could mean."""

    @tool
    def take(value: int | None, word: str) -> None: ...

    assert bind_arguments(take, '{"value": null, "word": "a"}') == {"value": None, "word": "a"}
    assert "word: Input should be a valid string" in said(take, '{"value": null, "word": null}')


@pytest.mark.parametrize("raw", ["", " ", "\n", "{}", " { } "])
def test_nothing_is_no_arguments(raw: str) -> None:
    """Servers send an empty text, or an empty object, for a call without arguments."""

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
def test_a_mistake_is_told_with_its_place(raw: str, told: str) -> None:
    """Which argument, what is wrong with it, in few words."""
    assert told in said(search, raw)
    assert len(said(search, raw)) < 500


def test_several_mistakes_are_told_at_once() -> None:
    """Up to five, and how many more: the model can mend them all in one try."""

    @tool
    def many(a: int, b: int, c: int, d: int, e: int, f: int, g: int) -> None: ...

    assert said(many, "{}").endswith("e: is missing; and 2 more")


def test_a_mistake_is_told_without_the_value() -> None:
    """What the model wrote stays where it is stored; messages and logs get places and rules."""
    assert "hunter2" not in said(search, '{"query": "a", "limit": "hunter2", "unit": "hunter2"}')
    assert len(said(search, json.dumps({"x" * 10_000: 1, "query": "a"}))) < 500


def test_texts_of_small_models_are_read() -> None:
    """Raw line breaks in strings are let through; a lone surrogate becomes U+FFFD, as everywhere that servers are read."""
    assert bind_arguments(search, '{"query": "a\nb"}') == {"query": "a\nb"}
    assert bind_arguments(search, '{"query": "a\\ud800"}') == {"query": "a\ufffd"}
    assert bind_arguments(search, '{"query": "\\ud83d\\ude00 東"}') == {"query": "😀 東"}


def test_a_tool_that_is_only_described_has_its_arguments_parsed() -> None:
    """Nobody knows its rules: the object comes as it is."""
    described = Tool("pay", parameters={"type": "object"})
    assert bind_arguments(described, '{"amount": 5, "to": null}') == {"amount": 5, "to": None}
    assert bind_arguments(described, "") == {}
    assert "must be one JSON object" in said(described, "[]")


def test_a_model_of_the_callers_own_checks_too() -> None:
    """`Tool(arguments=...)` made by hand: names of the fields, defaults filled in, the model's own rules."""

    class Arguments(BaseModel):
        from_: str = Field(alias="from")
        count: int = 3

    made = Tool("go", arguments=Arguments)
    assert bind_arguments(made, '{"from": "a"}') == {"from_": "a", "count": 3}
    assert bind_arguments(made, '{"from": "a", "count": null}') == {"from_": "a", "count": 3}
    assert "from: is missing" in said(made, "{}")


def test_a_validator_that_breaks_is_a_bad_argument() -> None:
    """The tool's own check, met by a value it was not made for: told to the model, with the cause kept."""

    def explode(value: int) -> float:
        return 1 / value

    @tool
    def divide(by: Annotated[int, AfterValidator(explode)]) -> None: ...

    with pytest.raises(BadArguments, match="could not be checked") as caught:
        bind_arguments(divide, '{"by": 0}')
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_object_of_a_million_keys_is_read_once() -> None:
    """Finding a key that comes twice takes no longer than reading."""
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
    """Whatever the model sends: a dict that the function can be called with, or BadArguments, and nothing else."""
    for made in (search, loose, Tool("described")):
        try:
            bound = bind_arguments(made, raw)
        except BadArguments:
            continue
        assert isinstance(bound, dict)
        if made.function is not None:
            made(**bound)


@given(st.text(st.characters(codec="utf-8")), st.sampled_from(Unit), st.integers(1, 9), st.none() | st.integers())
def test_what_was_meant_arrives(query: str, unit: Unit, limit: int, maybe: int | None) -> None:
    """Arguments written as JSON come back as they were, null standing for the default."""
    raw = json.dumps(
        {"query": query, "unit": unit.value, "filters": None, "limit": limit, "maybe": maybe, "mark": None}
    )
    expected: dict[str, Any] = {"query": query, "unit": unit, "limit": limit}
    if maybe is not None:
        expected["maybe"] = maybe
    assert bind_arguments(search, raw) == expected
