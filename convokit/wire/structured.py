"""Structured outputs: from a type to the schema that is sent, and from the reply's text back to a value of that type.

The API's strict mode takes a subset of JSON Schema. `strict_schema` says a type within it: whatever the subset has no word
for goes into the description, for the model to read, and is checked here when the reply has come. What cannot be said at all
is found by `violations` before anything is sent. A server without schemas gets the schema as an instruction instead, and a
reply is a value only once it was validated here, whoever promised what.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from convokit.domain.profiles import Profile
from convokit.domain.text import dump_json
from convokit.errors import ContentFiltered, Refused, SettingsError, Truncated, ValidationFailed
from convokit.wire.strict_schema import FORMATS, ROOT, has_lookaround, list_violations, name_json_type

__all__ = [
    "build_response_format",
    "list_validation_problems",
    "list_violations",
    "parse_structured",
    "to_plain_schema",
    "to_strict_schema",
]

Value = TypeVar("Value")

_ACCEPTED = "must be a pydantic model, a dataclass, a TypedDict, or the API's own object as a dict"
_INSTRUCTION = (
    "Answer with one JSON object that fits this JSON Schema, and with nothing else: no words around it, "
    "no code fence.\n"
)
_UNSAID = frozenset(
    {"title", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator", "contentSchema"}
)
_NOTED = frozenset({"minLength", "maxLength", "uniqueItems", "minProperties", "maxProperties", "contentMediaType"})
_ONE = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "$defs", "patternProperties", "dependentSchemas")
_FENCE = "```"
_MESSAGE_CHARS = 200


def to_strict_schema(model: Any) -> dict[str, Any]:
    """Return the schema of a type within the strict subset, as far as the subset goes (see `violations` for the rest).

    Objects are closed and all their properties required; constraints that the subset has no word for stand in the
    description. Raises: pydantic's own errors for a type that has no JSON schema.
    """
    return _strict(_adapter(model))


def to_plain_schema(model: Any) -> dict[str, Any]:
    """Return the schema of a type as pydantic gives it, without the titles, which only repeat the names."""
    untitled: dict[str, Any] = _untitled(_generated(_adapter(model)))
    return untitled


def build_response_format(model_or_dict: Any, profile: Profile) -> tuple[dict[str, Any] | None, str | None]:
    """Return what is sent as `response_format`, and an instruction for servers that need one (None: not needed).

    A dict is the caller's own and goes as it is. Raises: SettingsError with each place that a strict schema cannot hold.
    """
    if isinstance(model_or_dict, Mapping):
        return dict(model_or_dict), None
    structure = _structure_of(model_or_dict)
    wrong = [each for each in structure.problems if profile.json_schema or each.startswith(ROOT)]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise SettingsError(
            "response_format",
            f"{structure.name} does not fit a strict schema: {'; '.join(wrong[:5])}{more}. Change the type, "
            "or give the API's own object with strict false",
        )
    if profile.json_schema:
        described = {"name": structure.name, "strict": True, "schema": json.loads(structure.schema)}
        return {"type": "json_schema", "json_schema": described}, None
    return ({"type": "json_object"} if profile.json_object else None), _INSTRUCTION + structure.schema


def parse_structured(model: type[Value], text: str | None, *, finish_reason: str | None, refusal: str | None) -> Value:
    """Return the value that a finished reply holds.

    Raises: ContentFiltered, Refused or Truncated when the reply is not a whole one; ValidationFailed with the text and each
    place where it does not fit. A code fence around the whole text is forgiven, words around it are not.
    """
    if finish_reason == "content_filter":
        raise ContentFiltered("a content filter stopped the reply", categories={}, partial=text or "")
    if refusal:
        raise Refused(refusal)
    if finish_reason == "length":
        raise Truncated(text or "")
    if not text:
        raise ValidationFailed("", ["the reply is empty"])
    adapter: TypeAdapter[Value] = _structure_of(model).adapter
    try:
        return adapter.validate_json(_unfenced(text))
    except ValidationError as error:
        raise ValidationFailed(text, list_validation_problems(error)) from None


def _unfenced(text: str) -> str:
    bare = text.strip()
    opening, _, rest = bare.partition("\n")
    if opening.rstrip().lower() in (_FENCE, f"{_FENCE}json") and rest.endswith(_FENCE):
        return rest.removesuffix(_FENCE)
    return text


def list_validation_problems(error: ValidationError) -> list[str]:
    """Return each place that did not fit and why, without the value that was there."""
    found = []
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:64]}" for step in each["loc"]).lstrip(".")
        said = {"missing": "is missing", "extra_forbidden": "is not known here"}.get(each["type"], each["msg"])
        said = said if len(said) <= _MESSAGE_CHARS else said[: _MESSAGE_CHARS - 1] + "…"
        found.append(f"{path}: {said}" if path else said)
    return found


@dataclass(frozen=True, slots=True)
class _Structure:
    """What is worked out once for a type: its name on the wire, its schema as text, what keeps that from being strict."""

    adapter: TypeAdapter[Any]
    name: str
    schema: str
    problems: tuple[str, ...]


def _structure_of(kind: Any) -> _Structure:
    if isinstance(kind, str | BaseModel) or (is_dataclass(kind) and not isinstance(kind, type)):
        raise SettingsError("response_format", f"{_ACCEPTED}; not a {type(kind).__name__}")
    try:
        hash(kind)
    except TypeError:  # Annotated with something that has no hash
        return _worked_out(kind)
    return _remembered(kind)


def _worked_out(kind: Any) -> _Structure:
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    name = getattr(bare, "__name__", type(bare).__name__)
    try:
        adapter = _adapter(kind)
        schema = _strict(adapter)
        text = dump_json(schema)
    except (PydanticUserError, PydanticUndefinedAnnotation, NameError, TypeError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise SettingsError("response_format", f"{_ACCEPTED}; {name} has no JSON schema: {said}") from error
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:64] or "reply"
    return _Structure(adapter, safe, text, tuple(list_violations(schema)))


_remembered = functools.lru_cache(maxsize=256)(_worked_out)


def _adapter(kind: Any) -> TypeAdapter[Any]:
    return kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)


class _Generator(GenerateJsonSchema):
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - pydantic's own attribute


def _generated(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    return adapter.json_schema(schema_generator=_Generator)


def _strict(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    given = _generated(adapter)
    definitions = given.pop("$defs", {})
    fitting = _Fitting(definitions)
    root: dict[str, Any] = fitting.fit(given)
    name = _definition(root)
    if name in definitions:  # a recursive type: pydantic makes even the root a reference
        root = fitting.fit(definitions[name], (name,))
    fitted = {name: fitting.fit(definition) for name, definition in definitions.items()}
    used, waiting = set[str](), [root]
    while waiting:  # what was inlined everywhere is not sent a second time
        fresh = _references(waiting.pop()) - used
        used |= fresh
        waiting += [fitted[name] for name in sorted(fresh) if name in fitted]
    kept = {name: definition for name, definition in fitted.items() if name in used}
    return {**root, "$defs": kept} if kept else root


class _Fitting:
    """Say schemas within the strict subset. `inside` are the definitions being inlined: a recursive one stays a reference."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self.definitions = definitions

    def fit(self, node: Any, inside: tuple[str, ...] = ()) -> Any:
        if not isinstance(node, dict):
            return node
        node = {key: value for key, value in _flat(node).items() if key not in _UNSAID}
        if "$ref" in node and len(node) > 1:  # a reference must stand alone
            return self.fit(self.beside_reference(node, inside), (*inside, _definition(node)))
        node = _below(node, lambda child: self.fit(child, inside))
        if "oneOf" in node and "anyOf" not in node:  # a reply that fits two of them is settled when it is validated
            node["anyOf"] = node.pop("oneOf")
        return _closed(_typed(_noted(node)))

    def beside_reference(self, node: dict[str, Any], inside: tuple[str, ...]) -> dict[str, Any]:
        name = _definition(node)
        beside = {key: value for key, value in node.items() if key != "$ref"}
        if name in self.definitions and name not in inside:
            return {**self.definitions[name], **beside}
        return {**beside, "anyOf": [{"$ref": node["$ref"]}]}


def _flat(node: dict[str, Any]) -> dict[str, Any]:
    """Return a node with an `allOf` of one merged into it, unless both say something different of the same thing."""
    inner = node.get("allOf")
    if not isinstance(inner, list) or len(inner) != 1 or not isinstance(inner[0], dict):
        return node
    outer = {key: value for key, value in node.items() if key != "allOf"}
    both = (inner[0].keys() & outer.keys()) - _UNSAID - {"description"}
    return node if both else _flat({**inner[0], **outer})


def _noted(node: dict[str, Any]) -> dict[str, Any]:
    """Move constraints that the subset has no word for into the description."""
    notes = {
        key: value
        for key, value in node.items()
        if key in _NOTED
        or (key == "format" and value not in FORMATS)
        or (key == "pattern" and has_lookaround(str(value)))
    }
    if not notes:
        return node
    said = ", ".join(f"{key}: {value if isinstance(value, str) else dump_json(value)}" for key, value in notes.items())
    kept = {key: value for key, value in node.items() if key not in notes}
    return {**kept, "description": f"{node['description']} ({said})" if node.get("description") else said}


def _typed(node: dict[str, Any]) -> dict[str, Any]:
    """Give constants and enumerations their type; values of several types become one enumeration for each."""
    if "type" in node:
        return node
    if "const" in node:
        return {**node, "type": name_json_type(node["const"])}
    values = node.get("enum")
    if not isinstance(values, list) or "anyOf" in node:
        return node
    kinds: dict[str, list[Any]] = {}
    for value in values:
        kinds.setdefault(name_json_type(value), []).append(value)
    each = [{"type": kind} if kind == "null" else {"type": kind, "enum": of} for kind, of in kinds.items()]
    rest = {key: value for key, value in node.items() if key != "enum"}
    return {**rest, **each[0]} if len(each) == 1 else {**rest, "anyOf": each}


def _closed(node: dict[str, Any]) -> dict[str, Any]:
    """Close an object and require all its properties; one with free keys only is left for `violations` to find."""
    if node.get("type") != "object" and "properties" not in node:
        return node
    if not node.get("properties") and node.get("additionalProperties", False) is not False:
        return node
    properties = node.get("properties", {})
    return {**node, "properties": properties, "additionalProperties": False, "required": list(properties)}


def _below(node: dict[str, Any], change: Any) -> dict[str, Any]:
    """Return a node with `change` made to every schema directly below it."""
    changed = dict(node)
    for key, value in node.items():
        if key in _ONE:
            changed[key] = change(value)
        elif key in _LISTS and isinstance(value, list):
            changed[key] = [change(item) for item in value]
        elif key in _NAMED and isinstance(value, dict):
            changed[key] = {name: change(item) for name, item in value.items()}
    return changed


def _untitled(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return _below({key: value for key, value in node.items() if key != "title"}, _untitled)


def _definition(node: Mapping[str, Any]) -> str:
    return str(node.get("$ref", "")).removeprefix("#/$defs/")


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        here = {_definition(node)} if isinstance(node.get("$ref"), str) else set[str]()
        return here.union(*map(_references, node.values()))
    return set[str]().union(*map(_references, node)) if isinstance(node, list) else set()
