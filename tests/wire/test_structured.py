"""Tests of structured outputs: the schema of a type, the response format, and the parsed value."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import json
import socket
import uuid
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib._parsing._completions import type_to_response_format_param
from openai.lib._pydantic import to_strict_json_schema
from openai.types.shared_params import ResponseFormatJSONSchema
from pydantic import (
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    TypeAdapter,
    WithJsonSchema,
    create_model,
    field_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from convokit.domain.profiles import Profile
from convokit.errors import ContentFiltered, ParseFailed, Refused, SettingsError, Truncated, ValidationFailed
from convokit.wire.schema_violations import list_violations
from convokit.wire.strict_schema import to_plain_schema, to_strict_schema
from convokit.wire.structured_output import build_response_format, parse_structured
from tests.support.selection import examples

GENERIC = Profile()
JSON_ONLY = Profile(json_schema=False)
NOTHING = Profile(json_schema=False, json_object=False)


class Color(enum.Enum):
    """A color."""

    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    """A place."""

    name: str
    country: str | None = None


class Node(BaseModel):
    value: int
    children: list[Node] = []
    parent: Node | None = Field(default=None, description="above")


class Told(BaseModel):
    """Refers to itself with words beside the reference."""

    other: Annotated[Told, Field(description="deeper")] | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Trip(BaseModel):
    """A trip."""

    to: Place = Field(description="where to")
    color: Color = Field(Color.RED, description="of the car")
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    stops: list[Place] = []
    days: Annotated[int, Field(ge=1, le=30)] = 3
    note: str | None = None


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5
    tags: list[str] = dataclasses.field(default_factory=list)


@pydantic_dataclass
class Size:
    w: int


class Movie(TypedDict):
    title: str
    year: int | None


Value = TypeVar("Value")


class Box(BaseModel, Generic[Value]):
    value: Value


class Unready(BaseModel):
    later: NotThereYet  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


class Extra(BaseModel):
    a: int = Field(json_schema_extra={"minimum": float("nan")})


def refs(node: Any) -> set[str]:
    """Return every reference in a schema."""
    if isinstance(node, dict):
        here = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return here.union(*map(refs, node.values()))
    return set().union(*map(refs, node)) if isinstance(node, list) else set()


def tidied(node: Any, *, named: bool = False) -> Any:
    """Return the official client's schema without titles, defaults and the discriminator, which ours leaves out."""
    if isinstance(node, list):
        return [tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if named or key not in ("title", "default", "discriminator")}
    return {key: tidied(value, named=not named and key in ("properties", "$defs")) for key, value in kept.items()}


def used(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without unused definitions."""
    definitions, root = schema.get("$defs", {}), {key: value for key, value in schema.items() if key != "$defs"}
    names, before = refs(root), None
    while names != before:
        before, names = (
            names,
            names | {ref for name in names for ref in refs(definitions[name.removeprefix("#/$defs/")])},
        )
    kept = {name: definition for name, definition in definitions.items() if f"#/$defs/{name}" in names}
    return {**root, "$defs": kept} if kept else root


# --- the strict schema


@pytest.mark.parametrize("model", [Place, Node, Cat, Dog, Box[int], Box[list[Place]]])
def test_the_schema_equals_the_official_clients(model: type[BaseModel]) -> None:
    """Except for titles and defaults, which are not sent."""
    assert to_strict_schema(model) == used(tidied(to_strict_json_schema(model)))


def test_schemas_that_the_api_refuses_from_the_official_client_are_valid() -> None:
    """It leaves `oneOf`, defaults and string lengths in, and the API answers 400."""
    assert any("'default'" in each for each in list_violations(to_strict_json_schema(Trip)))
    assert any("'oneOf'" in each for each in list_violations(to_strict_json_schema(Trip)))
    assert list_violations(to_strict_schema(Trip)) == []


def test_every_object_is_closed_and_every_property_required() -> None:
    """In the root, in definitions and in inlined schemas."""
    schema = to_strict_schema(Trip)
    objects = [schema, *schema["$defs"].values(), schema["properties"]["to"]]
    for each in objects:
        assert each["additionalProperties"] is False
        assert each["required"] == list(each["properties"])
    assert schema["required"] == ["to", "color", "pet", "stops", "days", "note"]


def test_a_reference_with_other_keys_is_inlined() -> None:
    """The field's own description replaces the type's."""
    properties = to_strict_schema(Trip)["properties"]
    assert properties["to"]["description"] == "where to"
    assert properties["to"]["properties"]["name"] == {"type": "string"}
    assert properties["color"] == {"type": "string", "enum": ["red", "blue"], "description": "of the car"}


def test_a_recursive_type_stays_a_reference() -> None:
    schema = to_strict_schema(Node)
    assert schema["type"] == "object"
    assert schema["properties"]["children"] == {"type": "array", "items": {"$ref": "#/$defs/Node"}}
    assert schema["properties"]["parent"]["anyOf"] == [{"$ref": "#/$defs/Node"}, {"type": "null"}]
    assert list_violations(schema) == []


def test_a_recursive_reference_with_other_keys_is_wrapped() -> None:
    schema = to_strict_schema(Told)
    assert list_violations(schema) == []
    assert {"description": "deeper", "anyOf": [{"$ref": "#/$defs/Told"}]} in schema["$defs"]["Told"]["properties"][
        "other"
    ]["anyOf"][0]["properties"]["other"]["anyOf"]


def test_unused_definitions_are_not_sent() -> None:

    class OneColor(BaseModel):
        color: Color = Field(description="this one")

    assert "$defs" not in to_strict_schema(OneColor)


def test_a_discriminated_union_becomes_any_of() -> None:
    pet = to_strict_schema(Trip)["properties"]["pet"]
    assert pet == {"anyOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}
    assert to_strict_schema(Trip)["$defs"]["Cat"]["properties"]["kind"] == {"type": "string", "const": "cat"}


def test_titles_and_defaults_are_left_out_but_not_properties_of_that_name() -> None:

    class Odd(BaseModel):
        title: str = "t"
        default: int = 3
        properties: list[int]
        required: bool
        enum: Color

    properties = to_strict_schema(Odd)["properties"]
    assert list(properties) == ["title", "default", "properties", "required", "enum"]
    assert properties["title"] == {"type": "string"}
    assert properties["default"] == {"type": "integer"}
    assert list_violations(to_strict_schema(Odd)) == []


def test_constraints_that_the_subset_lacks_move_into_the_description() -> None:

    class Form(BaseModel):
        name: Annotated[str, Field(min_length=1, max_length=9, description="the name")]
        link: AnyUrl
        tags: set[str]
        code: Annotated[str, Field(json_schema_extra={"pattern": "^(?!x)"})]
        plain: Annotated[str, Field(pattern="^[a-z]+$")]
        when: datetime.datetime
        who: uuid.UUID
        many: Annotated[list[int], Field(min_length=1, max_length=3)]
        price: Decimal

    properties = to_strict_schema(Form)["properties"]
    assert properties["name"]["description"] == "the name (maxLength: 9, minLength: 1)"
    assert "format: uri" in properties["link"]["description"]
    assert properties["tags"]["description"] == "uniqueItems: true"
    assert properties["code"] == {"type": "string", "description": "pattern: ^(?!x)"}
    assert properties["plain"]["pattern"] == "^[a-z]+$"
    assert properties["when"]["format"] == "date-time"
    assert properties["who"]["format"] == "uuid"
    assert (properties["many"]["minItems"], properties["many"]["maxItems"]) == (1, 3)
    assert list_violations(to_strict_schema(Form)) == []


def test_an_enum_of_several_types_becomes_one_for_each_type() -> None:
    """The API refuses an enumeration without a type."""

    class Mixed(BaseModel):
        a: Literal["x", "y", 1, None]
        b: Literal[True]
        c: Annotated[str, WithJsonSchema({"const": "x"})]

    properties = to_strict_schema(Mixed)["properties"]
    assert properties["a"] == {
        "anyOf": [{"type": "string", "enum": ["x", "y"]}, {"type": "integer", "enum": [1]}, {"type": "null"}]
    }
    assert properties["b"] == {"type": "boolean", "const": True}
    assert properties["c"] == {"type": "string", "const": "x"}
    assert list_violations(to_strict_schema(Mixed)) == []


def test_a_single_all_of_is_flattened() -> None:
    """Keys beside `allOf` replace those in it."""

    class Wrapping:
        """Wraps what comes in, as older pydantic does around references with words."""

        def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
            return {"allOf": [handler(core)], "description": "out"}

    class Wrapped(BaseModel):
        a: Annotated[str, Wrapping()]
        b: Annotated[Place, Wrapping()]
        c: Annotated[str, Field(json_schema_extra={"allOf": [{"type": "integer"}]})]

    schema = to_strict_schema(Wrapped)
    assert schema["properties"]["a"] == {"type": "string", "description": "out"}
    assert schema["properties"]["b"]["description"] == "out"
    assert schema["properties"]["b"]["required"] == ["name", "country"]
    assert [each.split(":")[0] for each in list_violations(schema)] == ["$.properties.c"], (
        "two that disagree are not merged"
    )


def test_objects_that_allow_extra_keys_are_closed() -> None:
    """A dict with free keys is a violation."""

    class Tolerant(BaseModel):
        model_config = ConfigDict(extra="allow")
        a: int

    assert to_strict_schema(Tolerant)["additionalProperties"] is False

    class Nothing(BaseModel):
        model_config = ConfigDict(extra="forbid")

    assert to_strict_schema(Nothing) == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
        "required": [],
    }

    class Free(BaseModel):
        ages: dict[str, int]
        anything: Any
        whatever: dict[str, Any]

    assert [each.split(":")[0] for each in list_violations(to_strict_schema(Free))] == [
        "$.properties.ages",
        "$.properties.anything",
        "$.properties.whatever",
    ]


def test_aliases_name_the_properties() -> None:

    class Aliased(BaseModel):
        from_: str = Field(alias="from")

    assert list(to_strict_schema(Aliased)["properties"]) == ["from"]


def test_a_default_that_is_not_json_gives_no_warning() -> None:

    class Quiet(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        a: int = object()  # type: ignore[assignment]

    assert to_strict_schema(Quiet)["properties"] == {"a": {"type": "integer"}}
    assert to_plain_schema(Quiet)["properties"] == {"a": {"type": "integer"}}


def test_the_plain_schema_keeps_constraints_and_defaults() -> None:
    schema = to_plain_schema(Trip)
    assert schema["required"] == ["to", "pet"]
    assert schema["properties"]["days"] == {"type": "integer", "minimum": 1, "maximum": 30, "default": 3}
    assert '"title"' not in json.dumps(schema)


LEAVES: list[Any] = [
    int,
    str,
    float,
    bool,
    Color,
    Place,
    Node,
    datetime.date,
    Literal["a", "b"],
    Point,
    Movie,
    Cat | Dog,
]
TYPES = st.recursive(
    st.sampled_from(LEAVES),
    lambda of: (
        of.map(lambda kind: list[kind])  # type: ignore[valid-type]
        | of.map(lambda kind: kind | None)
        | st.tuples(of, of).map(lambda p: p[0] | p[1])
    ),
    max_leaves=4,
)
FIELDS = st.dictionaries(
    st.sampled_from(["a", "b", "title", "anyOf", "items", "type"]),
    st.tuples(TYPES, st.sampled_from([..., None]), st.sampled_from([None, "words"])),
    max_size=4,
)


@examples(cost=5)
@given(FIELDS)
def test_any_model_of_plain_types_has_no_violation(fields: dict[str, Any]) -> None:
    given_fields: dict[str, Any] = {
        name: (kind, Field(default, description=words) if words else Field(default))
        for name, (kind, default, words) in fields.items()
    }
    model = create_model("Made", **given_fields)
    schema = to_strict_schema(model)
    assert list_violations(schema) == []
    assert to_strict_schema(model) == schema
    assert schema == used(tidied(to_strict_json_schema(model)))


# --- what is sent


def test_the_response_format_equals_the_official_clients() -> None:
    sent, instruction = build_response_format(Place, GENERIC)
    assert instruction is None
    assert sent is not None
    theirs = type_to_response_format_param(Place)
    assert isinstance(theirs, dict)
    assert sent == tidied(theirs)
    TypeAdapter(ResponseFormatJSONSchema).validate_python(sent)
    assert list(sent["json_schema"]) == ["name", "strict", "schema"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Place, "Place"),
        (Box[int], "Box_int"),
        (Point, "Point"),
        (Size, "Size"),
        (Movie, "Movie"),
        (Annotated[Place, Field(description="x")], "Place"),
        (Annotated[Place, ["no hash"]], "Place"),
        (TypeAdapter(Point), "TypeAdapter"),
        (create_model("天気", a=(int, ...)), "reply"),
        (create_model("A" * 99, a=(int, ...)), "A" * 64),
    ],
)
def test_every_kind_of_type_is_accepted(kind: Any, name: str) -> None:
    """Models, dataclasses, TypedDicts and Annotated types, each under a valid name."""
    sent, _ = build_response_format(kind, GENERIC)
    assert sent is not None
    assert sent["json_schema"]["name"] == name
    assert list_violations(sent["json_schema"]["schema"]) == []


def test_a_server_without_schemas_gets_an_instruction() -> None:
    """With json_object where the server has it."""
    sent, instruction = build_response_format(Place, JSON_ONLY)
    assert sent == {"type": "json_object"}
    assert instruction is not None
    assert "JSON" in instruction
    assert json.loads(instruction.splitlines()[-1]) == to_strict_schema(Place)
    assert build_response_format(Place, NOTHING) == (None, instruction)


def test_a_dict_is_returned_as_it_is() -> None:
    own = {"type": "json_schema", "json_schema": {"name": "x", "strict": False, "schema": {"anyOf": []}}}
    for profile in (GENERIC, JSON_ONLY, NOTHING):
        assert build_response_format(own, profile) == (own, None)


def test_the_same_type_always_gives_the_same_bytes() -> None:
    """Also if an earlier result was changed."""
    first, _ = build_response_format(Trip, GENERIC)
    assert first is not None
    text = json.dumps(first)
    first["json_schema"]["schema"].clear()
    assert json.dumps(build_response_format(Trip, GENERIC)[0]) == text


def test_violations_are_refused_with_their_paths() -> None:

    class Free(BaseModel):
        ages: dict[str, int]
        pair: tuple[int, str]

    with pytest.raises(SettingsError) as caught:
        build_response_format(Free, GENERIC)
    said = str(caught.value)
    assert caught.value.setting == "response_format"
    assert "$.properties.ages: " in said
    assert "$.properties.pair: 'prefixItems'" in said
    assert "strict false" in said
    _, instruction = build_response_format(Free, JSON_ONLY)
    assert instruction is not None, "where the schema is only words, it may be any schema"


@pytest.mark.parametrize("kind", [list[Place], int, Cat | Dog, RootModel[list[int]], None, dict[str, int]])
@pytest.mark.parametrize("profile", [GENERIC, JSON_ONLY, NOTHING])
def test_the_root_must_be_an_object_on_every_server(kind: Any, profile: Profile) -> None:
    """JSON mode gives only objects too."""
    if kind == dict[str, int] and profile is not GENERIC:
        assert build_response_format(kind, profile)[1]
        return
    with pytest.raises(SettingsError, match=r"the root must be an object|free keys"):
        build_response_format(kind, profile)


@pytest.mark.parametrize("kind", ["Place", 5, Place(name="x"), Point(1), object(), socket.socket, Unready, Extra])
def test_a_value_that_is_not_a_type_is_refused(kind: Any) -> None:
    """The error names the accepted kinds of types."""
    with pytest.raises(SettingsError, match="pydantic model, a dataclass, a TypedDict"):
        build_response_format(kind, GENERIC)


# --- the value


GOOD = '{"name": "東京", "country": null}'


def read(text: str | None, finish: str | None = "stop", refusal: str | None = None) -> Place:
    """Return a Place from a reply."""
    return parse_structured(Place, text, finish_reason=finish, refusal=refusal)


def test_a_whole_reply_is_parsed() -> None:
    """Whatever its finish reason is called."""
    for finish in ("stop", None, "eos", "tool_calls"):
        assert read(GOOD, finish) == Place(name="東京")


def test_a_refusal_raises_refused() -> None:
    with pytest.raises(Refused) as caught:
        read(None, refusal="I cannot.")
    assert caught.value.text == "I cannot."
    with pytest.raises(Refused):
        read(GOOD, "length", refusal="I cannot.")


def test_a_reply_cut_by_its_length_raises_truncated() -> None:
    """Also if its text is valid JSON."""
    with pytest.raises(Truncated) as caught:
        read('{"name": "To', "length")
    assert caught.value.text == '{"name": "To'
    with pytest.raises(Truncated):
        read(None, "length")


def test_a_filtered_reply_raises_content_filtered() -> None:
    with pytest.raises(ContentFiltered) as caught:
        read('{"na', "content_filter")
    assert caught.value.partial == '{"na'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the reply is empty"),
        (None, "the reply is empty"),
        ("Sure! " + GOOD, "Invalid JSON"),
        (GOOD + " Hope that helps.", "Invalid JSON"),
        ('{"name": 5}', "name: Input should be a valid string"),
        ("{}", "name: is missing"),
        ("[]", "Input should be an object"),
        ("[" * 10_000, "Invalid JSON"),
        ('{"name": "\ud800"}', "Input should be a valid string"),
        ("```json\n" + GOOD, "Invalid JSON"),
        ("Here:\n```json\n" + GOOD + "\n```", "Invalid JSON"),
    ],
)
def test_an_invalid_reply_raises_with_its_text_and_problems(text: str | None, problem: str) -> None:
    """The message does not repeat the text."""
    with pytest.raises(ValidationFailed) as caught:
        read(text)
    assert caught.value.text == (text or "")
    assert any(each.startswith(problem) or problem in each for each in caught.value.problems), caught.value.problems


def test_every_problem_has_its_path() -> None:
    """The values are left out."""
    text = '{"to": {"name": 1}, "color": "green", "pet": {"kind": "cat"}, "stops": [{"name": "a"}, {"nam": "secret words"}]}'
    with pytest.raises(ValidationFailed) as caught:
        parse_structured(Trip, text, finish_reason="stop", refusal=None)
    paths = [each.split(":")[0] for each in caught.value.problems]
    assert paths == ["to.name", "color", "pet.cat.lives", "stops[1].name"]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```",
        f"```JSON\r\n{GOOD}\r\n```\n",
        f"\n  ```json\n{GOOD}```  ",
        f"  {GOOD}\n",
        json.dumps(json.loads(GOOD), indent=4),
    ],
)
def test_a_code_fence_around_the_whole_text_is_removed(text: str) -> None:
    assert read(text) == Place(name="東京")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + GOOD,
        f"\ufeff```json\n{GOOD}\n```",
        f"<think>{{hm}} 東京?</think>\n\n{GOOD}",
        f"hm, 東京</think>{GOOD}",
        f"<think></think>\n```json\n\ufeff{GOOD}\n```",
        f"\ufeff\n<think>\nhm\n</think>\n{GOOD}",
    ],
)
def test_marks_and_thinking_before_the_value_are_removed(text: str) -> None:
    assert read(text) == Place(name="東京")


def test_raw_control_characters_in_strings_are_accepted() -> None:
    assert read('{"name": "東\n京\t"}') == Place(name="東\n京\t")
    assert read('<think>x</think>```json\n{"name": "東\n京"}\n```') == Place(name="東\n京")


def test_the_end_of_thinking_inside_of_the_value_is_text() -> None:
    assert read('{"name": "a</think>b"}') == Place(name="a</think>b")
    assert read('{"name": "a</think>\nb"}') == Place(name="a</think>\nb")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('<think>hm</think>{"nam": "x"}', "name: is missing"),
        ("<think>hm", "Invalid JSON"),
        (f"<think>hm</think>{GOOD} and more", "Invalid JSON"),
        (f"{GOOD}{GOOD}", "Invalid JSON"),
        ("\ufeff", "Invalid JSON"),
    ],
)
def test_what_is_behind_the_thinking_must_fit(text: str, problem: str) -> None:
    with pytest.raises(ValidationFailed, match=problem) as caught:
        read(text)
    assert caught.value.text == text


def test_megabytes_of_white_space_are_parsed_fast() -> None:
    """A model in JSON mode may write blanks until its limit."""
    for text in ("```json\n" + " " * 2_000_000, "```json\n" + " \n" * 1_000_000 + "```", " " * 2_000_000):
        with pytest.raises(ValidationFailed):
            read(text)


def test_every_accepted_kind_of_type_is_parsed() -> None:
    assert parse_structured(Point, '{"x": 1, "y": 2, "tags": ["a"]}', finish_reason="stop", refusal=None) == Point(
        1, 2.0, ["a"]
    )
    movie = parse_structured(Movie, '{"title": "羅生門", "year": 1950}', finish_reason="stop", refusal=None)
    assert movie == {"title": "羅生門", "year": 1950}
    kind: Any = Annotated[Place, Field(description="x")]
    assert parse_structured(kind, GOOD, finish_reason="stop", refusal=None) == Place(name="東京")


def test_the_models_own_validators_run() -> None:

    class Even(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def even(cls, n: int) -> int:
            """Only even."""
            if n % 2:
                raise ValueError("must be even")
            return n

    with pytest.raises(ValidationFailed, match="must be even"):
        parse_structured(Even, '{"n": 3}', finish_reason="stop", refusal=None)


@examples(cost=5)
@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)).map(
        json.dumps
    ),
    st.sampled_from(["stop", "length", "content_filter", None, "x"]),
    st.none() | st.text(),
)
def test_any_reply_gives_a_value_or_a_parse_error(text: str, finish: str | None, refusal: str | None) -> None:
    """Behaviour 85."""
    with contextlib.suppress(ParseFailed, ContentFiltered):
        assert isinstance(read(text, finish, refusal), Place)


@examples(cost=5)
@given(
    st.builds(
        Point,
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.lists(st.text(st.characters(codec="utf-8"))),
    )
)
def test_a_value_written_as_json_is_parsed_to_the_same_value(point: Point) -> None:
    assert parse_structured(Point, json.dumps(dataclasses.asdict(point)), finish_reason="stop", refusal=None) == point
