"""Structured outputs: the schema of a type, what is sent for it, and the value that comes back."""

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
from hypothesis import given, settings
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
    """Every reference in a schema."""
    if isinstance(node, dict):
        here = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return here.union(*map(refs, node.values()))
    return set().union(*map(refs, node)) if isinstance(node, list) else set()


def tidied(node: Any, *, named: bool = False) -> Any:
    """The official client's schema without what ours leaves out: titles, defaults, the discriminator's own keyword."""
    if isinstance(node, list):
        return [tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if named or key not in ("title", "default", "discriminator")}
    return {key: tidied(value, named=not named and key in ("properties", "$defs")) for key, value in kept.items()}


def used(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without definitions that nothing refers to."""
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
def test_the_schema_is_the_official_clients(model: type[BaseModel]) -> None:
    """Where the official client's schema is right, ours is the same but for titles and defaults, which are not sent."""
    assert to_strict_schema(model) == used(tidied(to_strict_json_schema(model)))


def test_where_the_official_clients_schema_is_refused() -> None:
    """It leaves `oneOf`, non-null defaults and string lengths in, which the API answers with a 400; ours has no violation."""
    assert any("'default'" in each for each in list_violations(to_strict_json_schema(Trip)))
    assert any("'oneOf'" in each for each in list_violations(to_strict_json_schema(Trip)))
    assert list_violations(to_strict_schema(Trip)) == []


def test_every_object_is_closed_and_every_property_required() -> None:
    """In the root, in definitions and in what was inlined: additionalProperties false, required in the order written."""
    schema = to_strict_schema(Trip)
    objects = [schema, *schema["$defs"].values(), schema["properties"]["to"]]
    for each in objects:
        assert each["additionalProperties"] is False
        assert each["required"] == list(each["properties"])
    assert schema["required"] == ["to", "color", "pet", "stops", "days", "note"]


def test_a_reference_with_words_beside_it_is_inlined() -> None:
    """The field's own description wins over the type's, and no reference has a sibling."""
    properties = to_strict_schema(Trip)["properties"]
    assert properties["to"]["description"] == "where to"
    assert properties["to"]["properties"]["name"] == {"type": "string"}
    assert properties["color"] == {"type": "string", "enum": ["red", "blue"], "description": "of the car"}


def test_recursion_stays_a_reference() -> None:
    """A type that holds itself is finite: the root is written out, what is inside refers to its definition."""
    schema = to_strict_schema(Node)
    assert schema["type"] == "object"
    assert schema["properties"]["children"] == {"type": "array", "items": {"$ref": "#/$defs/Node"}}
    assert schema["properties"]["parent"]["anyOf"] == [{"$ref": "#/$defs/Node"}, {"type": "null"}]
    assert list_violations(schema) == []


def test_recursion_with_words_beside_the_reference_ends() -> None:
    """A recursive reference cannot be inlined for ever: its words stand around it."""
    schema = to_strict_schema(Told)
    assert list_violations(schema) == []
    assert {"description": "deeper", "anyOf": [{"$ref": "#/$defs/Told"}]} in schema["$defs"]["Told"]["properties"][
        "other"
    ]["anyOf"][0]["properties"]["other"]["anyOf"]


def test_unused_definitions_are_not_sent() -> None:
    """What was inlined everywhere is not sent a second time."""

    class OneColor(BaseModel):
        color: Color = Field(description="this one")

    assert "$defs" not in to_strict_schema(OneColor)


def test_a_discriminated_union_becomes_any_of() -> None:
    """`oneOf` and its discriminator are no part of the subset; the tags tell the branches apart all the same."""
    pet = to_strict_schema(Trip)["properties"]["pet"]
    assert pet == {"anyOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}
    assert to_strict_schema(Trip)["$defs"]["Cat"]["properties"]["kind"] == {"type": "string", "const": "cat"}


def test_titles_and_defaults_are_left_out_but_not_properties_of_that_name() -> None:
    """Only keywords are dropped: a field may be called title or default."""

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


def test_what_the_subset_has_no_word_for_is_told_in_words() -> None:
    """Lengths, uniqueness, unknown formats and lookarounds move into the description; what is known stays."""

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


def test_an_enum_of_several_types_becomes_one_for_each() -> None:
    """Untyped enumerations are refused by the API: each type gets its own branch."""

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
    """`allOf` of one entry is that entry; what stands beside it wins."""

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


def test_extra_keys_are_not_asked_for() -> None:
    """A model that tolerates extra keys is closed for the model; a dict of free keys cannot be, and is a violation."""

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


def test_aliases_are_what_is_sent() -> None:
    """The model writes what will be validated: the alias."""

    class Aliased(BaseModel):
        from_: str = Field(alias="from")

    assert list(to_strict_schema(Aliased)["properties"]) == ["from"]


def test_a_default_that_is_no_json_makes_no_noise() -> None:
    """Defaults are not sent, so one that JSON does not have is no reason to warn."""

    class Quiet(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        a: int = object()  # type: ignore[assignment]

    assert to_strict_schema(Quiet)["properties"] == {"a": {"type": "integer"}}
    assert to_plain_schema(Quiet)["properties"] == {"a": {"type": "integer"}}


def test_the_plain_schema_keeps_constraints_and_defaults() -> None:
    """Without strict, everything pydantic says is said, but for titles."""
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


@settings(max_examples=60, deadline=None)
@given(FIELDS)
def test_any_model_of_plain_types_fits(fields: dict[str, Any]) -> None:
    """Whatever is built of the types the API knows has no violation, and is what the official client makes of it."""
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


def test_the_format_is_the_official_clients() -> None:
    """`json_schema` with the type's name and strict true, as the official client sends it."""
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
    """Models, dataclasses, TypedDicts, Annotated ones: each under a name that the API takes."""
    sent, _ = build_response_format(kind, GENERIC)
    assert sent is not None
    assert sent["json_schema"]["name"] == name
    assert list_violations(sent["json_schema"]["schema"]) == []


def test_a_server_without_schemas_is_told_in_words() -> None:
    """json_object, and the schema in an instruction that says JSON; without json_object the instruction alone."""
    sent, instruction = build_response_format(Place, JSON_ONLY)
    assert sent == {"type": "json_object"}
    assert instruction is not None
    assert "JSON" in instruction
    assert json.loads(instruction.splitlines()[-1]) == to_strict_schema(Place)
    assert build_response_format(Place, NOTHING) == (None, instruction)


def test_a_dict_of_the_callers_own_goes_as_it_is() -> None:
    """No check and no change, on every profile: who writes the API's own object means it."""
    own = {"type": "json_schema", "json_schema": {"name": "x", "strict": False, "schema": {"anyOf": []}}}
    for profile in (GENERIC, JSON_ONLY, NOTHING):
        assert build_response_format(own, profile) == (own, None)


def test_the_same_type_is_always_the_same_bytes() -> None:
    """Deterministic, and safe to change: what one call returned is not what the next one returns."""
    first, _ = build_response_format(Trip, GENERIC)
    assert first is not None
    text = json.dumps(first)
    first["json_schema"]["schema"].clear()
    assert json.dumps(build_response_format(Trip, GENERIC)[0]) == text


def test_what_strict_mode_cannot_hold_is_refused_with_its_paths() -> None:
    """Every place is named, and the way out, before anything is sent."""

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
def test_a_reply_is_an_object_everywhere(kind: Any, profile: Profile) -> None:
    """A list or a union at the root is refused, with or without schemas: JSON mode gives objects only."""
    if kind == dict[str, int] and profile is not GENERIC:
        assert build_response_format(kind, profile)[1]
        return
    with pytest.raises(SettingsError, match=r"the root must be an object|free keys"):
        build_response_format(kind, profile)


@pytest.mark.parametrize("kind", ["Place", 5, Place(name="x"), Point(1), object(), socket.socket, Unready, Extra])
def test_what_is_no_type_says_what_is_accepted(kind: Any) -> None:
    """Values and types without a schema are told what may be given."""
    with pytest.raises(SettingsError, match="pydantic model, a dataclass, a TypedDict"):
        build_response_format(kind, GENERIC)


# --- the value


GOOD = '{"name": "東京", "country": null}'


def read(text: str | None, finish: str | None = "stop", refusal: str | None = None) -> Place:
    """A place out of a reply."""
    return parse_structured(Place, text, finish_reason=finish, refusal=refusal)


def test_a_whole_reply_is_its_value() -> None:
    """stop, and whatever else servers call it: the text is validated."""
    for finish in ("stop", None, "eos", "tool_calls"):
        assert read(GOOD, finish) == Place(name="東京")


def test_a_refusal_is_refused() -> None:
    """The refusal's own text is on the error, whatever else came."""
    with pytest.raises(Refused) as caught:
        read(None, refusal="I cannot.")
    assert caught.value.text == "I cannot."
    with pytest.raises(Refused):
        read(GOOD, "length", refusal="I cannot.")


def test_a_cut_reply_is_truncated() -> None:
    """length: the JSON is not whole, and even if it parses nobody can know."""
    with pytest.raises(Truncated) as caught:
        read('{"name": "To', "length")
    assert caught.value.text == '{"name": "To'
    with pytest.raises(Truncated):
        read(None, "length")


def test_a_filtered_reply_is_filtered() -> None:
    """content_filter is the filter's error, with what came as its partial."""
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
def test_what_does_not_fit_names_each_place(text: str | None, problem: str) -> None:
    """The raw text is kept, each problem has its path, and the text itself is not in the message."""
    with pytest.raises(ValidationFailed) as caught:
        read(text)
    assert caught.value.text == (text or "")
    assert any(each.startswith(problem) or problem in each for each in caught.value.problems), caught.value.problems


def test_every_place_is_told() -> None:
    """All of what is wrong, with paths into lists, without the values."""
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
def test_a_fence_around_the_whole_is_forgiven(text: str) -> None:
    """Servers that know no schema put one there, asked or not; white space is JSON's own."""
    assert read(text) == Place(name="東京")


def test_white_space_without_end_is_read_in_no_time() -> None:
    """A model that got lost in JSON mode writes blanks until it is stopped: no reading takes longer than the text is."""
    for text in ("```json\n" + " " * 2_000_000, "```json\n" + " \n" * 1_000_000 + "```", " " * 2_000_000):
        with pytest.raises(ValidationFailed):
            read(text)


def test_values_of_every_accepted_kind() -> None:
    """Dataclasses, TypedDicts and Annotated types come back as themselves."""
    assert parse_structured(Point, '{"x": 1, "y": 2, "tags": ["a"]}', finish_reason="stop", refusal=None) == Point(
        1, 2.0, ["a"]
    )
    movie = parse_structured(Movie, '{"title": "羅生門", "year": 1950}', finish_reason="stop", refusal=None)
    assert movie == {"title": "羅生門", "year": 1950}
    kind: Any = Annotated[Place, Field(description="x")]
    assert parse_structured(kind, GOOD, finish_reason="stop", refusal=None) == Place(name="東京")


def test_a_validator_of_the_models_own_speaks() -> None:
    """What the schema cannot say is checked all the same."""

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


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)).map(
        json.dumps
    ),
    st.sampled_from(["stop", "length", "content_filter", None, "x"]),
    st.none() | st.text(),
)
def test_any_reply_is_a_value_or_says_why_not(text: str, finish: str | None, refusal: str | None) -> None:
    """Behaviour 85: value, Refused, Truncated, ContentFiltered or ValidationFailed, and nothing else."""
    with contextlib.suppress(ParseFailed, ContentFiltered):
        assert isinstance(read(text, finish, refusal), Place)


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        Point,
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.lists(st.text(st.characters(codec="utf-8"))),
    )
)
def test_what_was_written_is_read(point: Point) -> None:
    """A value written as JSON comes back as it was."""
    assert parse_structured(Point, json.dumps(dataclasses.asdict(point)), finish_reason="stop", refusal=None) == point
