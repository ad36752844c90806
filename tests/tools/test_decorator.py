"""Make tools of Python functions: name, description and schema."""

from __future__ import annotations

import datetime
import enum
import functools
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union

import openai
import pytest
from openai.types.chat import ChatCompletionFunctionToolParam
from pydantic import BaseModel, Field, TypeAdapter
from typing_extensions import TypedDict

from convokit.errors import SettingsError
from convokit.tools import decorator
from convokit.tools.arguments import bind_arguments
from convokit.tools.decorator import to_tools, tool
from convokit.tools.tool import Tool
from convokit.wire.schema_violations import list_violations


class Unit(enum.Enum):
    C = "c"
    F = "f"


class Filter(BaseModel):
    """One condition."""

    field: str
    values: list[str] = []


@dataclass
class Point:
    x: int
    y: float = 0.0


class Movie(TypedDict):
    title: str


class Pair(NamedTuple):
    a: int
    b: str


def weather(city: str, unit: Literal["c", "f"] = "c", days: int | None = None) -> dict[str, Any]:
    """Return the weather.

    In short.

    Args:
        city: Where, e.g. 東京.
        unit: Which degrees.

    Returns:
        A dict.
    """
    return {"city": city, "unit": unit, "days": days}


def properties(made: Tool) -> dict[str, Any]:
    """What the model is told of each parameter."""
    found: dict[str, Any] = made.parameters["properties"]
    return found


def test_function_becomes_the_object_of_the_api() -> None:
    """Name, description up to the first section, a strict schema in the order of the signature."""
    made = tool(weather)
    TypeAdapter(ChatCompletionFunctionToolParam).validate_python(made.as_wire())
    assert made.as_wire() == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Return the weather.\n\nIn short.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where, e.g. 東京."},
                    "unit": {
                        "anyOf": [{"type": "string", "enum": ["c", "f"]}, {"type": "null"}],
                        "description": 'Which degrees. (null means "c")',
                    },
                    "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                },
                "required": ["city", "unit", "days"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    }
    assert made.function is weather


def test_schema_bytes_are_deterministic() -> None:
    """A prompt cache needs the same bytes in every request."""
    assert json.dumps(tool(weather).as_wire()) == json.dumps(tool(weather).as_wire())


def test_schema_equals_the_one_of_the_openai_library() -> None:
    """For a model with the same required fields, titles aside."""

    class Search(BaseModel):
        query: str = Field(description="what")
        filters: list[Filter]
        limit: Annotated[int, Field(ge=1, le=9)]
        unit: Unit

    def search(
        query: Annotated[str, Field(description="what")],
        filters: list[Filter],
        limit: Annotated[int, Field(ge=1, le=9)],
        unit: Unit,
    ) -> None:
        """Search."""

    theirs = dict(openai.pydantic_function_tool(Search)["function"])["parameters"]

    def tidied(node: Any) -> Any:
        if isinstance(node, list):
            return [tidied(item) for item in node]
        if not isinstance(node, dict):
            return node
        return {key: tidied(value) for key, value in node.items() if key not in ("title", "default")}

    assert tool(search).parameters == tidied(theirs)


def test_decorator_with_and_without_arguments() -> None:
    """As a call too. The tool can still be called."""

    @tool
    def plain(a: int) -> int:
        """Plain."""
        return a

    @tool()
    def empty(a: int) -> int:
        """Empty."""
        return a

    @tool(name="other-name", description="Other.", strict=False)
    def named(a: int) -> int:
        """Named."""
        return a

    made = [plain, empty, named, tool(weather, name="w")]
    assert all(isinstance(each, Tool) for each in made)
    assert [(each.name, each.description, each.strict) for each in made[:3]] == [
        ("plain", "Plain.", True),
        ("empty", "Empty.", True),
        ("other-name", "Other.", False),
    ]
    assert made[3].name == "w"
    assert plain(3) == empty(3) == named(3) == 3


def test_function_without_parameters_has_an_empty_closed_schema() -> None:
    """No description without a docstring."""

    @tool
    def now() -> str:
        return "now"

    assert now.as_wire()["function"] == {
        "name": "now",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False, "required": []},
        "strict": True,
    }
    assert bind_arguments(now, "") == {}


def test_python_types_have_strict_schemas() -> None:
    """Literal, Enum, Optional, lists, models, dataclasses, TypedDicts, dates and unions."""

    @tool
    def everything(
        literal: Literal["a", 1],
        unit: Unit,
        maybe: Optional[int],  # noqa: UP045 - people write it
        either: Union[int, str],  # noqa: UP007 - people write it
        one: Filter,
        many: list[Filter],
        point: Point,
        movie: Movie,
        when: datetime.datetime,
        limit: Annotated[int, Field(ge=1, le=9, description="at most")],
        flags: set[str],
    ) -> None: ...

    assert list_violations(everything.parameters) == []
    told = properties(everything)
    assert told["unit"] == {"$ref": "#/$defs/Unit"}
    assert told["maybe"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert told["either"] == {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    assert told["many"] == {"type": "array", "items": {"$ref": "#/$defs/Filter"}}
    assert told["limit"] == {"type": "integer", "minimum": 1, "maximum": 9, "description": "at most"}
    assert told["when"] == {"type": "string", "format": "date-time"}
    assert everything.parameters["$defs"]["Filter"]["description"] == "One condition."
    assert everything.parameters["required"] == list(told)


def test_description_in_the_type_overrides_the_docstring() -> None:
    """`Annotated[..., Field(description=...)]`."""

    @tool
    def find(query: Annotated[str, Field(description="near")], other: str) -> None:
        """Find.

        Args:
            query: far
            other: far
        """

    assert {name: node["description"] for name, node in properties(find).items()} == {"query": "near", "other": "far"}


def test_strict_schema_describes_null_as_the_default() -> None:
    """Every property is required. One with a default accepts null."""

    def searching(
        query: str = "all",
        unit: Unit = Unit.C,
        limit: int | None = 5,
        filters: list[Filter] = [],  # noqa: B006 - never handed out
        where: Filter | None = None,
        long: str = "x" * 200,
        point: Point = Point(1),  # noqa: B008
    ) -> None:
        """Search.

        :param limit: how many
        """

    told = properties(tool(searching))
    null = {"type": "null"}
    assert told["query"] == {"anyOf": [{"type": "string"}, null], "description": '(null means "all")'}
    assert told["unit"] == {"anyOf": [{"$ref": "#/$defs/Unit"}, null], "description": '(null means "c")'}
    assert told["limit"] == {"anyOf": [{"type": "integer"}, null], "description": "how many (null means 5)"}
    assert told["filters"]["description"] == "(null means [])"
    assert told["where"] == {"anyOf": [{"$ref": "#/$defs/Filter"}, null]}
    assert told["long"]["description"] == "(null means the default)"
    assert told["point"]["description"] == '(null means {"x":1,"y":0.0})'
    assert tool(searching).parameters["required"] == list(told)
    assert list_violations(tool(searching).parameters) == []


def test_schema_without_strict_has_optional_parameters() -> None:
    """Free dicts are allowed, and `strict` is not sent."""

    @tool(strict=False)
    def search(
        query: str, filters: dict[str, Any], limit: Annotated[int, Field(ge=1)] = 5, unit: Unit = Unit.F
    ) -> None: ...

    assert "strict" not in search.as_wire()["function"]
    assert search.parameters["required"] == ["query", "filters"]
    assert properties(search)["limit"] == {"type": "integer", "minimum": 1, "default": 5}
    assert properties(search)["unit"] == {"$ref": "#/$defs/Unit", "default": "f"}
    assert properties(search)["filters"]["type"] == "object"
    assert '"title"' not in json.dumps(search.parameters)


def test_parameter_may_have_a_name_that_pydantic_reserves() -> None:

    @tool
    def odd(json: int, schema: str, copy: bool, model_config: int, _hidden: int, self_: str, validate: int = 1) -> Any:
        return locals()

    names = ["json", "schema", "copy", "model_config", "_hidden", "self_", "validate"]
    assert list(properties(odd)) == names
    given = {"json": 1, "schema": "s", "copy": True, "model_config": 2, "_hidden": 3, "self_": "x", "validate": 4}
    assert odd(**bind_arguments(odd, json.dumps(given))) == given


def test_annotation_may_use_names_of_the_enclosing_function() -> None:
    """Also text annotations (`from __future__ import annotations`)."""

    class Local(BaseModel):
        a: int

    @tool
    def decorated(value: Local) -> None: ...

    def used(value: Local) -> type:
        return Local

    def bare(value: list[Local]) -> None: ...

    assert properties(decorated)["value"] == {"$ref": "#/$defs/Local"}
    assert properties(tool(used))["value"] == {"$ref": "#/$defs/Local"}
    assert properties(to_tools([bare])[0])["value"]["items"] == {"$ref": "#/$defs/Local"}
    bound = bind_arguments(decorated, '{"value": {"a": 1}}')
    assert isinstance(bound["value"], Local)


def test_annotation_may_use_names_of_the_closure() -> None:
    """Also if the tool is made elsewhere."""

    def make() -> Callable[..., Any]:
        class Hidden(BaseModel):
            a: int

        def far(value: Hidden) -> Any:
            return Hidden

        return far

    assert properties(tool(make()))["value"] == {"$ref": "#/$defs/Hidden"}


def test_closure_variable_may_be_unassigned() -> None:

    def make() -> Tool:
        def count(value: int) -> Any:
            return later

        made = tool(count)
        later = 1
        return made

    assert list(properties(make())) == ["value"]


def test_function_without_a_signature_is_refused() -> None:
    """Some built-in functions have none."""
    with pytest.raises(SettingsError, match="signature cannot be read"):
        tool(max)


def test_unreadable_return_type_is_ignored() -> None:

    def find(query: str) -> NotThere:  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]
        """Find."""

    assert list(properties(tool(find))) == ["query"]


class Shop:
    """A shop."""

    def __init__(self, name: str) -> None:
        self.name = name

    def buy(self, what: str, count: int = 1) -> str:
        """Buy something.

        Args:
            what: The thing.
        """
        return f"{count} {what} from {self.name}"

    @classmethod
    def close(cls, why: str) -> str:
        """Close."""
        return f"{cls.__name__}: {why}"

    @staticmethod
    def greet(whom: str) -> str:
        """Greet."""
        return f"hello {whom}"

    def __call__(self, order: str) -> str:
        """Take an order."""
        return order + "!"


def test_methods_partials_and_callable_objects_become_tools() -> None:
    """Bound, class and static methods, partials and wrapped functions too."""
    shop = Shop("東")

    def loud(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    buy = tool(shop.buy)
    assert (buy.name, buy.description, list(properties(buy))) == ("buy", "Buy something.", ["what", "count"])
    assert properties(buy)["what"]["description"] == "The thing."
    assert buy(**bind_arguments(buy, '{"what": "a", "count": null}')) == "1 a from 東"
    close, greet, call = tool(Shop.close), tool(Shop.greet), tool(shop)
    assert close(**bind_arguments(close, '{"why": "late"}')) == "Shop: late"
    assert greet(**bind_arguments(greet, '{"whom": "you"}')) == "hello you"
    assert (call.name, call.description) == ("Shop", "Take an order.")
    assert call(**bind_arguments(call, '{"order": "x"}')) == "x!"
    partial = tool(functools.partial(weather, city="Oslo", unit="f"))
    assert (partial.name, partial.description) == ("weather", "Return the weather.\n\nIn short.")
    assert partial(**bind_arguments(partial, "{}")) == {"city": "Oslo", "unit": "f", "days": None}
    wrapped = tool(loud(weather))
    assert wrapped.parameters == tool(weather).parameters


def test_async_function_becomes_a_tool() -> None:

    @tool
    async def slow(city: str) -> str:
        """Slowly."""
        return city

    assert (slow.name, slow.description) == ("slow", "Slowly.")


def unannotated(a: int, b) -> None: ...  # type: ignore[no-untyped-def]
def starred(*rest: int) -> None: ...
def keyed(**rest: int) -> None: ...
def positional(a: int, /) -> None: ...
def field_default(a: int = Field(3)) -> None: ...
def no_schema(a: int, s: socket.socket) -> None: ...
def callback(a: int, f: Callable[[int], int]) -> None: ...
def unknown(a: int, b: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore
def broken(a: int, b: "list[") -> None: ...  # type: ignore[valid-type]  # noqa: F722  # pyright: ignore


@pytest.mark.parametrize(
    ("function", "parameter", "way_out"),
    [
        (unannotated, "b", "annotate it, as in `b: str`"),
        (starred, "rest", "use a list"),
        (keyed, "rest", "list the parameters"),
        (positional, "a", "remove the /"),
        (field_default, "a", "Annotated[..., Field(...)]"),
        (Shop.buy, "self", "pass the bound one"),
        (no_schema, "s", "use JSON's own types"),
        (callback, "f", "use JSON's own types"),
        (unknown, "b", "define it where the function can see it"),
        (broken, "b", "cannot be read"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_parameter_without_a_schema_is_refused(function: Any, parameter: str, way_out: str, *, strict: bool) -> None:
    """The error names the tool and the parameter, and says what to do."""
    with pytest.raises(SettingsError) as caught:
        tool(function, strict=strict)
    said = str(caught.value)
    assert caught.value.setting == f"tool {function.__name__}"
    assert f"parameter {parameter}" in said
    assert way_out in said


def test_schema_outside_the_strict_subset_is_refused() -> None:
    """The error has the paths, and suggests strict=False."""

    def search(filters: dict[str, int], anything: Any, pair: Pair) -> None: ...

    with pytest.raises(SettingsError) as caught:
        tool(search)
    said = str(caught.value)
    for path in (
        "$.properties.filters: is an object with free keys",
        "$.properties.anything: must have a type",
        "prefixItems",
    ):
        assert path in said
    assert "strict=False" in said
    assert list(properties(tool(search, strict=False))) == ["filters", "anything", "pair"]


@pytest.mark.parametrize(
    "given", [5, "weather", None, Shop, dict, tool(weather), len, "a".join], ids=lambda given: type(given).__name__
)
def test_other_values_are_refused(given: Any) -> None:
    """Values, classes, tools, and functions without a usable signature."""
    with pytest.raises(SettingsError):
        decorator._describe_function(given, None, None, strict=True)


def test_name_that_the_api_refuses_is_refused() -> None:
    """A lambda needs a name."""
    unnamed = lambda: None  # noqa: E731
    with pytest.raises(SettingsError, match="<lambda>"):
        tool(unnamed)
    assert tool(unnamed, name="nothing").name == "nothing"


# --- several


def test_tools_may_be_functions_tools_and_dicts() -> None:
    """They keep their order."""
    raw = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}
    custom = {"type": "custom", "custom": {"name": "sql"}}
    made = to_tools([weather, tool(weather, name="other"), raw, custom, Shop("x").buy])
    assert [each.name for each in made] == ["weather", "other", "pay", "sql", "buy"]
    assert made[2].as_wire() == raw
    assert to_tools(()) == ()


def test_two_tools_with_the_same_name_are_refused() -> None:
    with pytest.raises(SettingsError, match="weather"):
        to_tools([weather, {"type": "function", "function": {"name": "weather"}}])


@pytest.mark.parametrize("given", [weather, tool(weather), "weather", {"type": "function"}, 5, None])
def test_tools_must_be_a_list(given: Any) -> None:
    with pytest.raises(SettingsError, match="must be a list"):
        to_tools(given)


def test_function_of_a_module_is_described_once() -> None:
    """A closure is not cached."""

    def local(a: int) -> None: ...

    assert to_tools([weather])[0] is to_tools([weather])[0]
    assert to_tools([local])[0] is not to_tools([local])[0]
