"""List the places where a JSON schema leaves the strict subset.

The rules are those of the guide "Structured outputs" and of the API's own errors: the root is a closed object, every object is
closed and requires all its properties, every value has a type, and only some keywords are allowed. A level of nesting is an
object or array inside another one, also through references. A recursive reference counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MAX_PROPERTIES = 5_000
MAX_LEVELS = 10
MAX_CHARS = 120_000
MAX_ENUM_VALUES = 1_000
LONG_ENUM = 250
MAX_LONG_ENUM_CHARS = 15_000

# The start of the one violation that matters on servers without schemas too: JSON mode gives only objects.
ROOT_VIOLATION = "$: the root must be an object"
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_ANNOTATIONS = {"title", "description", "$schema", "$id", "$defs", "definitions"}
_SHAPES = {"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const", "$ref"}
_BOUNDS = {"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"}
_KEYWORDS = frozenset({*_ANNOTATIONS, *_SHAPES, *_BOUNDS, "pattern", "format"})
_ALTERNATIVES = {
    "oneOf": "use anyOf",
    "allOf": "write its parts as one schema",
    "prefixItems": "for a tuple, use an object with named properties, or a list of one type",
    "patternProperties": "name the properties, or use a list of pairs",
    "propertyNames": "name the properties, or use a list of pairs",
    "default": "leave it out",
}
_TYPE_KEYWORDS = frozenset({"type", "$ref", "anyOf", "oneOf", "allOf"})
_LOOKAROUND = ("(?=", "(?!", "(?<=", "(?<!")


def list_violations(schema: Mapping[str, Any]) -> list[str]:
    """Return each violation as `path: problem`; an empty list for a schema within the subset."""
    checker = _SchemaChecker(schema)
    try:
        checker.check_root()
    except RecursionError:
        return ["$: is nested too deeply to be checked"]
    return checker.violations


def name_json_type(value: Any) -> str:
    """Return JSON Schema's name for the type of a value."""
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null", list: "array"}
    return names.get(type(value), "object")


def has_lookaround(pattern: str) -> bool:
    """Whether a regular expression looks ahead or behind. The API answers it with an error, sometimes a 500."""
    plain = pattern.replace("\\\\", "").replace("\\(", "")
    return any(token in plain for token in _LOOKAROUND)


class _SchemaChecker:
    """Walk a schema once, collect its violations and count its size."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self.violations: list[str] = []
        self.properties = 0
        self.chars = 0
        self.enum_values = 0
        self.levels: dict[str, int] = {}

    def check_root(self) -> None:
        kind = self.schema.get("type")
        if kind != "object" or "anyOf" in self.schema:
            actual = next((key for key in ("anyOf", "oneOf", "allOf", "$ref") if key in self.schema), repr(kind))
            self.violations.append(f"{ROOT_VIOLATION}, not {actual}; make it a property of an object")
        self.check(self.schema, "$")
        for name, count, limit in (
            ("properties", self.properties, MAX_PROPERTIES),
            ("levels of nesting", self.count_levels(self.schema), MAX_LEVELS),
            ("characters of names and values", self.chars, MAX_CHARS),
            ("enum values", self.enum_values, MAX_ENUM_VALUES),
        ):
            if count > limit:
                self.add("$", f"has {count:,} {name}, {limit:,} are allowed")

    def add(self, path: str, problem: str) -> None:
        self.violations.append(f"{path}: {problem}")

    def check(self, node: Any, path: str) -> None:
        if not isinstance(node, Mapping):
            return self.add(path, "must be a schema with a type (not Any)")
        for key in node:
            if key not in _KEYWORDS:
                alternative = f": {_ALTERNATIVES[key]}" if key in _ALTERNATIVES else ""
                self.add(path, f"{key!r} is not allowed{alternative}")
        if _TYPE_KEYWORDS.isdisjoint(node):
            self.add(path, "must have a type (not Any)")
        self.check_type(node, path)
        self.check_reference(node, path)
        self.check_values(node, path)
        for step, child in _iterate_children(node):
            self.check(child, path + step)
        return None

    def check_type(self, node: Mapping[str, Any], path: str) -> None:
        types = _list_types(node)
        for name in types:
            if name not in _TYPES:
                self.add(path, f"there is no type {name!r}")
        if "object" in types or "properties" in node:
            self.check_object(node, path)
        if "array" in types and "items" not in node:
            self.add(path, "must have items")

    def check_object(self, node: Mapping[str, Any], path: str) -> None:
        properties = node.get("properties")
        names = list(properties) if isinstance(properties, Mapping) else []
        self.properties += len(names)
        self.chars += sum(len(str(name)) for name in names)
        additional = node.get("additionalProperties")
        if not names and additional not in (None, False):
            return self.add(path, "is an object with free keys; name its properties, or use a list of pairs")
        if additional is not False:
            self.add(path, "additionalProperties must be false")
        required = node.get("required")
        listed = required if isinstance(required, list) else []
        missing = [name for name in names if name not in listed]
        if missing:
            self.add(path, f"required must name every property; missing: {', '.join(map(str, missing))}")
        return None

    def check_reference(self, node: Mapping[str, Any], path: str) -> None:
        ref = node.get("$ref")
        if ref is None:
            return
        beside = sorted(map(str, node.keys() - {"$ref", "title", "description", "$defs", "definitions"}))
        if beside:
            self.add(path, f"$ref must be alone, without {', '.join(beside)}")
        if self.resolve(ref) is None:
            self.add(path, f"{ref} does not exist")

    def check_values(self, node: Mapping[str, Any], path: str) -> None:
        if "format" in node and str(node["format"]) not in FORMATS:
            self.add(path, f"format {node['format']!r} is not allowed; use one of {', '.join(sorted(FORMATS))}")
        if has_lookaround(str(node.get("pattern", ""))):
            self.add(path, "pattern must not look ahead or behind")
        if "const" in node:
            self.chars += len(str(node["const"]))
        values = node.get("enum")
        if isinstance(values, list):
            chars = sum(len(str(value)) for value in values)
            self.chars += chars
            self.enum_values += len(values)
            if len(values) > LONG_ENUM and chars > MAX_LONG_ENUM_CHARS:
                limit = f"{MAX_LONG_ENUM_CHARS:,} are allowed for more than {LONG_ENUM} values"
                self.add(path, f"its {len(values)} enum values have {chars:,} characters, {limit}")
        for key in ("$defs", "definitions"):
            if isinstance(node.get(key), Mapping):
                self.chars += sum(len(str(name)) for name in node[key])

    def resolve(self, ref: Any) -> Any:
        """Return the schema that a reference names, or None."""
        if ref == "#":
            return self.schema
        if not isinstance(ref, str) or not ref.startswith("#/"):
            return None
        node: Any = self.schema
        for step in ref[2:].split("/"):
            if not isinstance(node, Mapping):
                return None
            node = node.get(step.replace("~1", "/").replace("~0", "~"))  # RFC 6901, section 4
        return node

    def count_levels(self, node: Any) -> int:
        if not isinstance(node, Mapping):
            return 0
        ref = node.get("$ref")
        if isinstance(ref, str):
            if ref not in self.levels:
                self.levels[ref] = 0  # ends a recursive reference
                self.levels[ref] = self.count_levels(self.resolve(ref))
            return self.levels[ref]
        own = not {"object", "array"}.isdisjoint(_list_types(node))
        inner = (
            self.count_levels(child)
            for step, child in _iterate_children(node)
            if not step.startswith((".$defs", ".definitions"))
        )
        return own + max(inner, default=0)


def _list_types(node: Mapping[str, Any]) -> list[str]:
    types = node.get("type", [])
    return [str(name) for name in types] if isinstance(types, list) else [str(types)]


def _iterate_children(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each schema directly below a node, with its step of the path."""
    for key in ("properties", "$defs", "definitions"):
        if isinstance(node.get(key), Mapping):
            for name, child in node[key].items():
                yield f".{key}.{name}", child
    if "items" in node:
        yield ".items", node["items"]
    if isinstance(node.get("anyOf"), list):
        for index, child in enumerate(node["anyOf"]):
            yield f".anyOf[{index}]", child
