"""The strict subset of JSON Schema: what the API takes with `strict: true`, and where a schema leaves it.

Said once, as the API's documentation and its refusals say it: the root is a closed object, every object closed with every
property required, every value typed, few keywords, and limits on how much of it all. A level of nesting is an object or an
array inside another, through references too; a recursive reference counts once.
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

ROOT = "$: the root must be an object"
"""How the one violation begins that no server forgives: a reply is an object, with a schema or without."""
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_ANNOTATIONS = {"title", "description", "$schema", "$id", "$defs", "definitions"}
_SHAPES = {"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const", "$ref"}
_BOUNDS = {"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"}
_KEYWORDS = frozenset({*_ANNOTATIONS, *_SHAPES, *_BOUNDS, "pattern", "format"})
_INSTEAD = {
    "oneOf": "use anyOf",
    "allOf": "write its parts as one schema",
    "prefixItems": "a tuple has no place here: use an object with named properties, or a list of one type",
    "patternProperties": "name the properties, or use a list of pairs",
    "propertyNames": "name the properties, or use a list of pairs",
    "default": "leave it out",
}
_SAYS_TYPE = frozenset({"type", "$ref", "anyOf", "oneOf", "allOf"})
_LOOKAROUND = ("(?=", "(?!", "(?<=", "(?<!")


def list_violations(schema: Mapping[str, Any]) -> list[str]:
    """Return each place where a schema leaves the strict subset, as `path: what is wrong`; an empty list when it does not."""
    check = _Check(schema)
    try:
        check.root()
    except RecursionError:
        return ["$: is nested far too deeply"]
    return check.problems


def name_json_type(value: Any) -> str:
    """Return JSON's name for the type of a value."""
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null", list: "array"}
    return kinds.get(type(value), "object")


def has_lookaround(pattern: str) -> bool:
    """Whether a regular expression looks ahead or behind, which the API answers with an error (500, in part)."""
    plain = pattern.replace("\\\\", "").replace("\\(", "")
    return any(token in plain for token in _LOOKAROUND)


class _Check:
    """One walk over a schema: the problems found, and what is counted on the way."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self.problems: list[str] = []
        self.properties = 0
        self.chars = 0
        self.enum_values = 0
        self.levels: dict[str, int] = {}

    def root(self) -> None:
        kind = self.schema.get("type")
        if kind != "object" or "anyOf" in self.schema:
            met = next((key for key in ("anyOf", "oneOf", "allOf", "$ref") if key in self.schema), repr(kind))
            self.problems.append(f"{ROOT}, not {met}: make that a property of one")
        self.node(self.schema, "$")
        for name, count, limit in (
            ("properties", self.properties, MAX_PROPERTIES),
            ("levels of nesting", self.nesting(self.schema), MAX_LEVELS),
            ("characters of names and values", self.chars, MAX_CHARS),
            ("enum values", self.enum_values, MAX_ENUM_VALUES),
        ):
            if count > limit:
                self.found("$", f"has {count:,} {name}, {limit:,} are allowed")

    def found(self, path: str, problem: str) -> None:
        self.problems.append(f"{path}: {problem}")

    def node(self, node: Any, path: str) -> None:
        if not isinstance(node, Mapping):
            return self.found(path, "must be a schema that says its type (not Any)")
        for key in node:
            if key not in _KEYWORDS:
                instead = f": {_INSTEAD[key]}" if key in _INSTEAD else ""
                self.found(path, f"{key!r} is not allowed{instead}")
        if _SAYS_TYPE.isdisjoint(node):
            self.found(path, "must say its type (not Any)")
        self.type_of(node, path)
        self.reference(node, path)
        self.values(node, path)
        for step, child in _children(node):
            self.node(child, path + step)
        return None

    def type_of(self, node: Mapping[str, Any], path: str) -> None:
        kinds = _types(node)
        for kind in kinds:
            if kind not in _TYPES:
                self.found(path, f"there is no type {kind!r}")
        if "object" in kinds or "properties" in node:
            self.object(node, path)
        if "array" in kinds and "items" not in node:
            self.found(path, "must say what its items are")

    def object(self, node: Mapping[str, Any], path: str) -> None:
        properties = node.get("properties")
        names = list(properties) if isinstance(properties, Mapping) else []
        self.properties += len(names)
        self.chars += sum(len(str(name)) for name in names)
        free = node.get("additionalProperties")
        if not names and free not in (None, False):
            return self.found(path, "is an object with free keys: name its properties, or use a list of pairs")
        if free is not False:
            self.found(path, "additionalProperties must be false")
        required = node.get("required")
        listed = required if isinstance(required, list) else []
        missing = [name for name in names if name not in listed]
        if missing:
            self.found(path, f"required must name every property; {', '.join(map(str, missing))} not named")
        return None

    def reference(self, node: Mapping[str, Any], path: str) -> None:
        ref = node.get("$ref")
        if ref is None:
            return
        beside = sorted(map(str, node.keys() - {"$ref", "title", "description", "$defs", "definitions"}))
        if beside:
            self.found(path, f"a $ref stands alone, without {', '.join(beside)}")
        if self.target(ref) is None:
            self.found(path, f"there is no {ref}")

    def values(self, node: Mapping[str, Any], path: str) -> None:
        if "format" in node and str(node["format"]) not in FORMATS:
            self.found(path, f"format {node['format']!r} is not allowed; {', '.join(sorted(FORMATS))} are")
        if has_lookaround(str(node.get("pattern", ""))):
            self.found(path, "pattern may not look ahead or behind")
        if "const" in node:
            self.chars += len(str(node["const"]))
        values = node.get("enum")
        if isinstance(values, list):
            size = sum(len(str(value)) for value in values)
            self.chars += size
            self.enum_values += len(values)
            if len(values) > LONG_ENUM and size > MAX_LONG_ENUM_CHARS:
                limit = f"{MAX_LONG_ENUM_CHARS:,} characters are allowed for more than {LONG_ENUM}"
                self.found(path, f"its {len(values)} enum values have {size:,} characters, {limit}")
        for key in ("$defs", "definitions"):
            if isinstance(node.get(key), Mapping):
                self.chars += sum(len(str(name)) for name in node[key])

    def target(self, ref: Any) -> Any:
        """Return what a reference refers to; None when there is nothing."""
        if ref == "#":
            return self.schema
        if not isinstance(ref, str) or not ref.startswith("#/"):
            return None
        found: Any = self.schema
        for step in ref[2:].split("/"):
            if not isinstance(found, Mapping):
                return None
            found = found.get(step.replace("~1", "/").replace("~0", "~"))
        return found

    def nesting(self, node: Any) -> int:
        """Return how many objects and arrays lie inside one another from here on."""
        if not isinstance(node, Mapping):
            return 0
        ref = node.get("$ref")
        if isinstance(ref, str):
            if ref not in self.levels:
                self.levels[ref] = 0  # so that a recursive reference ends
                self.levels[ref] = self.nesting(self.target(ref))
            return self.levels[ref]
        own = not {"object", "array"}.isdisjoint(_types(node))
        inner = (
            self.nesting(child) for step, child in _children(node) if not step.startswith((".$defs", ".definitions"))
        )
        return own + max(inner, default=0)


def _types(node: Mapping[str, Any]) -> list[str]:
    kinds = node.get("type", [])
    return [str(kind) for kind in kinds] if isinstance(kinds, list) else [str(kinds)]


def _children(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas directly below one, each with its step of the path."""
    for key in ("properties", "$defs", "definitions"):
        if isinstance(node.get(key), Mapping):
            for name, child in node[key].items():
                yield f".{key}.{name}", child
    if "items" in node:
        yield ".items", node["items"]
    if isinstance(node.get("anyOf"), list):
        for index, child in enumerate(node["anyOf"]):
            yield f".anyOf[{index}]", child
