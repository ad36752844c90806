"""Tests of the rules of strict schemas: each rule has a schema that violates it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.wire.schema_violations import has_lookaround, list_violations, name_json_type


def strict_object(**properties: Any) -> dict[str, Any]:
    """Return an object as strict mode requires it."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


TEXT = {"type": "string"}
FITTING = [
    strict_object(),
    strict_object(a=TEXT, b={"type": ["string", "null"]}),
    strict_object(
        a={"type": "array", "items": strict_object(n={"type": "integer", "minimum": 0, "maximum": 9, "multipleOf": 3})}
    ),
    strict_object(a={"anyOf": [TEXT, {"type": "null"}], "description": "either"}),
    strict_object(a={"type": "string", "format": "date-time"}, b={"type": "string", "pattern": "^(a|b)$"}),
    strict_object(a={"type": "string", "enum": ["x", "y"]}, b={"type": "string", "const": "z"}),
    {**strict_object(child={"anyOf": [{"$ref": "#"}, {"type": "null"}]}), "title": "Recursive", "description": "yes"},
    {
        **strict_object(child={"$ref": "#/$defs/Node"}),
        "$defs": {"Node": strict_object(next={"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]})},
    },
    {**strict_object(child={"$ref": "#/definitions/X"}), "definitions": {"X": strict_object(a=TEXT)}},
    strict_object(title=TEXT, default=TEXT, allOf=TEXT, type=TEXT, **{"$ref": TEXT}),
]


@pytest.mark.parametrize("schema", FITTING)
def test_a_schema_within_the_subset_has_no_violations(schema: dict[str, Any]) -> None:
    assert list_violations(schema) == []


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (TEXT, "$: the root must be an object, not 'string'"),
        ({"type": "array", "items": TEXT}, "$: the root must be an object, not 'array'"),
        ({"anyOf": [strict_object(), strict_object(a=TEXT)]}, "$: the root must be an object, not anyOf"),
        ({**strict_object(), "anyOf": [strict_object()]}, "$: the root must be an object, not anyOf"),
        ({"$ref": "#/$defs/A", "$defs": {"A": strict_object()}}, "$: the root must be an object, not $ref"),
        ({}, "$: the root must be an object, not None"),
        ({**strict_object(a=TEXT), "additionalProperties": True}, "$: additionalProperties must be false"),
        (
            strict_object(a={k: v for k, v in strict_object(b=TEXT).items() if k != "additionalProperties"}),
            "$.properties.a: additionalProperties must be false",
        ),
        ({**strict_object(a=TEXT, b=TEXT), "required": ["a"]}, "$: required must name every property; missing: b"),
        (
            {k: v for k, v in strict_object(a=TEXT).items() if k != "required"},
            "$: required must name every property; missing: a",
        ),
        (
            strict_object(a={"type": "object", "additionalProperties": TEXT}),
            "$.properties.a: is an object with free keys",
        ),
        (
            strict_object(a={"type": "object", "additionalProperties": True}),
            "$.properties.a: is an object with free keys",
        ),
        (strict_object(a={}), "$.properties.a: must have a type (not Any)"),
        (strict_object(a={"description": "anything"}), "$.properties.a: must have a type (not Any)"),
        (strict_object(a=True), "$.properties.a: must be a schema"),
        (strict_object(a={"enum": ["x"]}), "$.properties.a: must have a type"),
        (strict_object(a={"const": "x"}), "$.properties.a: must have a type"),
        (strict_object(a={"type": "array"}), "$.properties.a: must have items"),
        (strict_object(a={"type": "array", "items": {}}), "$.properties.a.items: must have a type (not Any)"),
        (strict_object(a={"type": "text"}), "$.properties.a: there is no type 'text'"),
        (strict_object(a={"allOf": [TEXT, TEXT]}), "$.properties.a: 'allOf' is not allowed"),
        (strict_object(a={"oneOf": [TEXT, {"type": "null"}]}), "$.properties.a: 'oneOf' is not allowed: use anyOf"),
        (strict_object(a={"type": "string", "not": TEXT}), "$.properties.a: 'not' is not allowed"),
        ({**strict_object(a=TEXT), "dependentRequired": {}}, "$: 'dependentRequired' is not allowed"),
        ({**strict_object(a=TEXT), "dependentSchemas": {}}, "$: 'dependentSchemas' is not allowed"),
        ({**strict_object(a=TEXT), "if": {}}, "$: 'if' is not allowed"),
        ({**strict_object(a=TEXT), "then": {}}, "$: 'then' is not allowed"),
        ({**strict_object(a=TEXT), "else": {}}, "$: 'else' is not allowed"),
        ({**strict_object(a=TEXT), "patternProperties": {"^x": TEXT}}, "$: 'patternProperties' is not allowed"),
        (
            strict_object(a={"type": "array", "items": TEXT, "uniqueItems": True}),
            "$.properties.a: 'uniqueItems' is not allowed",
        ),
        (
            strict_object(a={"type": "array", "prefixItems": [TEXT], "items": TEXT}),
            "$.properties.a: 'prefixItems' is not allowed: for a tuple",
        ),
        (strict_object(a={"type": "string", "default": "x"}), "$.properties.a: 'default' is not allowed"),
        (strict_object(a={"type": "string", "minLength": 1}), "$.properties.a: 'minLength' is not allowed"),
        (strict_object(a={"type": "string", "format": "uri"}), "$.properties.a: format 'uri' is not allowed"),
        (
            strict_object(a={"type": "string", "pattern": "^(?!x)"}),
            "$.properties.a: pattern must not look ahead or behind",
        ),
        (
            {**strict_object(a={"$ref": "#/$defs/A", "type": "string"}), "$defs": {"A": TEXT}},
            "$.properties.a: $ref must be alone, without type",
        ),
        (strict_object(a={"$ref": "#/$defs/Gone"}), "$.properties.a: #/$defs/Gone does not exist"),
        (strict_object(a={"$ref": "https://example.org/x"}), "$.properties.a: https://example.org/x does not exist"),
        ({**strict_object(), "$defs": {"A": {}}}, "$.$defs.A: must have a type"),
        (
            strict_object(a={"anyOf": [TEXT, strict_object(b={})]}),
            "$.properties.a.anyOf[1].properties.b: must have a type",
        ),
    ],
)
def test_each_violation_has_its_path(schema: dict[str, Any], told: str) -> None:
    """Behaviour 84."""
    assert any(each.startswith(told) for each in list_violations(schema)), list_violations(schema)


def test_every_violation_is_listed_in_the_order_of_the_schema() -> None:
    found = list_violations({**strict_object(a={}, b={"type": "text"}), "additionalProperties": True, "if": {}})
    assert [each.split(":")[0] for each in found] == ["$", "$", "$.properties.a", "$.properties.b"]


def nest_objects(levels: int, inner: dict[str, Any]) -> dict[str, Any]:
    """Return objects inside objects."""
    for _ in range(levels):
        inner = strict_object(a=inner)
    return inner


def test_ten_levels_are_allowed_and_eleven_are_not() -> None:
    """An object or an array is a level."""
    assert list_violations(nest_objects(10, TEXT)) == []
    assert list_violations(nest_objects(11, TEXT)) == ["$: has 11 levels of nesting, 10 are allowed"]
    assert list_violations(nest_objects(9, {"type": "array", "items": TEXT})) == []
    assert list_violations(nest_objects(9, {"type": "array", "items": strict_object()})) == [
        "$: has 11 levels of nesting, 10 are allowed"
    ]
    assert list_violations(strict_object(a={"anyOf": [{"type": "null"}, nest_objects(9, TEXT)]})) == []


def test_levels_are_counted_through_references() -> None:
    """A recursive reference ends the count."""
    chain = {f"M{n}": strict_object(a={"$ref": f"#/$defs/M{n + 1}"}) for n in range(9)} | {"M9": strict_object(a=TEXT)}
    assert list_violations({**strict_object(a={"$ref": "#/$defs/M1"}), "$defs": chain}) == []
    assert list_violations({**strict_object(a={"$ref": "#/$defs/M0"}), "$defs": chain}) == [
        "$: has 11 levels of nesting, 10 are allowed"
    ]


def test_definitions_that_all_refer_to_each_other_are_counted_fast() -> None:
    names = [f"M{n}" for n in range(60)]
    definitions = {name: strict_object(**{other: {"$ref": f"#/$defs/{other}"} for other in names}) for name in names}
    assert isinstance(list_violations({**strict_object(a={"$ref": "#/$defs/M0"}), "$defs": definitions}), list)


def test_the_limits_of_size() -> None:
    """5,000 properties, 1,000 enum values, 120,000 characters of names and values."""
    assert list_violations(strict_object(**{f"p{n}": TEXT for n in range(5_000)})) == []
    assert list_violations(strict_object(**{f"p{n}": TEXT for n in range(5_001)})) == [
        "$: has 5,001 properties, 5,000 are allowed"
    ]
    numbers = {"type": "integer", "enum": list(range(500))}
    assert list_violations(strict_object(a=numbers, b=numbers)) == []
    assert list_violations(strict_object(a=numbers, b={"type": "integer", "enum": list(range(501))})) == [
        "$: has 1,001 enum values, 1,000 are allowed"
    ]
    assert list_violations(strict_object(**{"x" * 120_000: TEXT})) == []
    assert list_violations(strict_object(**{"x" * 120_001: TEXT})) == [
        "$: has 120,001 characters of names and values, 120,000 are allowed"
    ]
    assert list_violations(strict_object(a={"type": "string", "const": "x" * 120_000})) != []
    assert list_violations({**strict_object(), "$defs": {"D" * 120_001: TEXT}}) != []


def test_a_long_enum_has_a_limit_of_its_own() -> None:
    """More than 250 values may have 15,000 characters."""
    long = ["x" * 57 + f"{n:03}" for n in range(250)]
    assert list_violations(strict_object(a={"type": "string", "enum": long})) == []
    assert list_violations(strict_object(a={"type": "string", "enum": [*long, "y"]})) == [
        "$.properties.a: its 251 enum values have 15,001 characters, 15,000 are allowed for more than 250 values"
    ]


def test_a_schema_that_is_nested_too_deeply_is_a_violation() -> None:
    assert list_violations(nest_objects(5_000, TEXT)) == ["$: is nested too deeply to be checked"]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=3)
        | st.sampled_from(["object", "array", "#", "#/$defs/a"]),
        lambda of: (
            st.lists(of, max_size=4)
            | st.dictionaries(
                st.sampled_from(["type", "properties", "items", "anyOf", "$ref", "$defs", "enum", "required", "a"]),
                of,
                max_size=5,
            )
        ),
        max_leaves=20,
    )
)
def test_any_dict_gives_a_list_of_texts(value: Any) -> None:
    found = list_violations(value if isinstance(value, dict) else {"properties": value})
    assert all(isinstance(each, str) and each.startswith("$") for each in found)


def test_a_lookaround_is_distinguished_from_an_escaped_parenthesis() -> None:
    """`\\(?=` is an escaped parenthesis, `\\\\(?=` is a lookahead after a backslash."""
    assert has_lookaround("(?=a)")
    assert has_lookaround(r"\\(?=a)")
    assert has_lookaround("x(?<!a)")
    assert not has_lookaround(r"\(?=a")
    assert not has_lookaround("(?:a)(?P<n>b)")


def test_each_json_value_has_its_type_name() -> None:
    values: list[Any] = [True, 1, 1.5, "x", None, [], {}]
    assert [name_json_type(value) for value in values] == [
        "boolean",
        "integer",
        "number",
        "string",
        "null",
        "array",
        "object",
    ]
