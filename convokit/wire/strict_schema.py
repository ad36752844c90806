"""Convert a JSON schema to the strict subset of the API.

A constraint that the subset lacks moves into the description: the model reads it there, and the reply is validated against it.
`schema_violations` lists what no conversion can express. The result is part of the request's bytes: a change of it raises
`request.RENDERER`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from convokit.domain.text import dump_json
from convokit.wire.schema_violations import FORMATS, has_lookaround, name_json_type

_DROPPED = frozenset(
    {"title", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator", "contentSchema"}
)
_MOVED_TO_DESCRIPTION = frozenset(
    {"minLength", "maxLength", "uniqueItems", "minProperties", "maxProperties", "contentMediaType"}
)
# The keywords whose value is a schema, a list of schemas, or schemas by name.
_SCHEMA_KEYWORDS = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_LIST_KEYWORDS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAP_KEYWORDS = ("properties", "$defs", "patternProperties", "dependentSchemas")


def to_strict_schema(model: Any) -> dict[str, Any]:
    """Return the strict schema of a type or TypeAdapter.

    Objects are closed, and all their properties required. Raises: pydantic's errors for a type without a JSON schema.
    """
    generated = _generate_schema(model)
    definitions = generated.pop("$defs", {})
    converter = _StrictConverter(definitions)
    root: dict[str, Any] = converter.convert(generated)
    name = _get_ref_name(root)
    if name in definitions:  # a recursive type: pydantic makes even the root a reference
        root = converter.convert(definitions[name], (name,))
    converted = {name: converter.convert(definition) for name, definition in definitions.items()}
    # A definition that is inlined everywhere is not sent.
    used, pending = set[str](), [root]
    while pending:
        new = _find_ref_names(pending.pop()) - used
        used |= new
        pending += [converted[name] for name in sorted(new) if name in converted]
    kept = {name: definition for name, definition in converted.items() if name in used}
    return {**root, "$defs": kept} if kept else root


def to_plain_schema(model: Any) -> dict[str, Any]:
    """Return pydantic's schema of a type or TypeAdapter without titles, which only repeat the names."""
    schema: dict[str, Any] = _drop_titles(_generate_schema(model))
    return schema


class _SchemaGenerator(GenerateJsonSchema):
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - pydantic's own attribute


def _generate_schema(model: Any) -> dict[str, Any]:
    adapter: TypeAdapter[Any] = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    return adapter.json_schema(schema_generator=_SchemaGenerator)


class _StrictConverter:
    """Convert schemas. `inside` names the definitions that are being inlined: a recursive one stays a reference."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self.definitions = definitions

    def convert(self, node: Any, inside: tuple[str, ...] = ()) -> Any:
        if not isinstance(node, dict):
            return node
        node = {key: value for key, value in _merge_single_all_of(node).items() if key not in _DROPPED}
        if "$ref" in node and len(node) > 1:  # the API accepts no key beside $ref
            return self.convert(self.inline_reference(node, inside), (*inside, _get_ref_name(node)))
        node = _map_children(node, lambda child: self.convert(child, inside))
        # The API accepts only anyOf. A reply that fits two of the schemas is refused when it is validated.
        if "oneOf" in node and "anyOf" not in node:
            node["anyOf"] = node.pop("oneOf")
        return _close_object(_add_type(_move_constraints(node)))

    def inline_reference(self, node: dict[str, Any], inside: tuple[str, ...]) -> dict[str, Any]:
        name = _get_ref_name(node)
        beside = {key: value for key, value in node.items() if key != "$ref"}
        if name in self.definitions and name not in inside:
            return {**self.definitions[name], **beside}
        return {**beside, "anyOf": [{"$ref": node["$ref"]}]}


def _merge_single_all_of(node: dict[str, Any]) -> dict[str, Any]:
    """Merge an `allOf` of one schema into its node, unless both have the same keyword."""
    inner = node.get("allOf")
    if not isinstance(inner, list) or len(inner) != 1 or not isinstance(inner[0], dict):
        return node
    outer = {key: value for key, value in node.items() if key != "allOf"}
    both = (inner[0].keys() & outer.keys()) - _DROPPED - {"description"}
    return node if both else _merge_single_all_of({**inner[0], **outer})


def _move_constraints(node: dict[str, Any]) -> dict[str, Any]:
    """Move the constraints that the subset lacks into the description."""
    moved = {
        key: value
        for key, value in node.items()
        if key in _MOVED_TO_DESCRIPTION
        or (key == "format" and value not in FORMATS)
        or (key == "pattern" and has_lookaround(str(value)))
    }
    if not moved:
        return node
    note = ", ".join(f"{key}: {value if isinstance(value, str) else dump_json(value)}" for key, value in moved.items())
    kept = {key: value for key, value in node.items() if key not in moved}
    return {**kept, "description": f"{node['description']} ({note})" if node.get("description") else note}


def _add_type(node: dict[str, Any]) -> dict[str, Any]:
    """Add the type of a constant or enumeration. Values of several types become one enumeration for each type."""
    if "type" in node:
        return node
    if "const" in node:
        return {**node, "type": name_json_type(node["const"])}
    values = node.get("enum")
    if not isinstance(values, list) or "anyOf" in node:
        return node
    by_type: dict[str, list[Any]] = {}
    for value in values:
        by_type.setdefault(name_json_type(value), []).append(value)
    typed = [{"type": kind} if kind == "null" else {"type": kind, "enum": of} for kind, of in by_type.items()]
    rest = {key: value for key, value in node.items() if key != "enum"}
    return {**rest, **typed[0]} if len(typed) == 1 else {**rest, "anyOf": typed}


def _close_object(node: dict[str, Any]) -> dict[str, Any]:
    """Close an object and require all its properties. An object with free keys stays as it is: it is a violation."""
    if node.get("type") != "object" and "properties" not in node:
        return node
    if not node.get("properties") and node.get("additionalProperties", False) is not False:
        return node
    properties = node.get("properties", {})
    return {**node, "properties": properties, "additionalProperties": False, "required": list(properties)}


def _map_children(node: dict[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a copy of a node with `convert` applied to every schema directly below it."""
    converted = dict(node)
    for key, value in node.items():
        if key in _SCHEMA_KEYWORDS:
            converted[key] = convert(value)
        elif key in _LIST_KEYWORDS and isinstance(value, list):
            converted[key] = [convert(item) for item in value]
        elif key in _MAP_KEYWORDS and isinstance(value, dict):
            converted[key] = {name: convert(item) for name, item in value.items()}
    return converted


def _drop_titles(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return _map_children({key: value for key, value in node.items() if key != "title"}, _drop_titles)


def _get_ref_name(node: Mapping[str, Any]) -> str:
    return str(node.get("$ref", "")).removeprefix("#/$defs/")


def _find_ref_names(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {_get_ref_name(node)} if isinstance(node.get("$ref"), str) else set[str]()
        return own.union(*map(_find_ref_names, node.values()))
    return set[str]().union(*map(_find_ref_names, node)) if isinstance(node, list) else set()
