"""Request and parse replies of a Python type.

A request carries `response_format`, and the reply's text is parsed into a value of the type.

A server with JSON schemas receives a strict one (see `strict_schema`). Any other server receives the schema as an instruction.
No server's promise counts: a reply becomes a value only after its validation here.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import SchemaError

from convokit.domain.finish_reason import classify_finish_reason
from convokit.domain.profiles import Profile
from convokit.domain.text import dump_json
from convokit.errors import ContentFiltered, Refused, SettingsError, Truncated, ValidationFailed
from convokit.wire.schema_violations import ROOT_VIOLATION, list_violations
from convokit.wire.strict_schema import to_strict_schema

Value = TypeVar("Value")

_ACCEPTED_TYPES = "must be a pydantic model, a dataclass, a TypedDict, or the API's own object as a dict"
# Part of the request's bytes: a change raises request.RENDERER.
_INSTRUCTION = (
    "Answer with one JSON object that fits this JSON Schema, and with nothing else: no words around it, "
    "no code fence.\n"
)
_CODE_FENCE = "```"
_THINKING_END = "</think>"
_BLANK = "\ufeff \t\r\n"
_LENIENT_DECODER = json.JSONDecoder(strict=False)
_MAX_PROBLEMS = 5
_MAX_PROBLEM_CHARS = 200
_MAX_KEY_CHARS = 64


def build_response_format(model_or_dict: Any, profile: Profile) -> tuple[dict[str, Any] | None, str | None]:
    """Return `response_format`, and an instruction for servers without schemas (None for the others).

    A dict is the caller's own object and is returned as it is. Raises: SettingsError that names each violation of the strict
    subset.
    """
    if isinstance(model_or_dict, Mapping):
        return dict(model_or_dict), None
    output_type = _describe_type(model_or_dict)
    violations = [each for each in output_type.violations if profile.json_schema or each.startswith(ROOT_VIOLATION)]
    if violations:
        more = len(violations) - _MAX_PROBLEMS
        raise SettingsError(
            "response_format",
            f"{output_type.name} does not fit a strict schema: {'; '.join(violations[:_MAX_PROBLEMS])}"
            + (f"; and {more} more" if more > 0 else "")
            + ". Change the type, or pass the API's own object with strict false",
        )
    if profile.json_schema:
        described = {"name": output_type.name, "strict": True, "schema": json.loads(output_type.schema)}
        return {"type": "json_schema", "json_schema": described}, None
    return ({"type": "json_object"} if profile.json_object else None), _INSTRUCTION + output_type.schema


def parse_structured(model: type[Value], text: str | None, *, finish_reason: str | None, refusal: str | None) -> Value:
    """Return the value in the text of a finished reply.

    A byte order mark, the thinking of a model, and a code fence around the whole text are removed. Raw control characters in
    strings are accepted.

    Raises: ContentFiltered, Refused or Truncated if the reply is not whole; ValidationFailed with the text and each problem.
    """
    kind = classify_finish_reason(finish_reason)
    if kind == "filtered":
        raise ContentFiltered("a content filter stopped the reply", categories={}, partial=text or "")
    if refusal:
        raise Refused(refusal)
    if kind == "cut":
        raise Truncated(text or "")
    if not text:
        raise ValidationFailed("", ["the reply is empty"])
    adapter: TypeAdapter[Value] = _describe_type(model).adapter
    first: ValidationError | None = None
    for reading in _list_readings(text):
        try:
            return adapter.validate_json(reading)
        except ValidationError as error:
            if not _is_invalid_json(error):
                raise ValidationFailed(text, list_validation_problems(error)) from None
            first = first or error
    assert first is not None
    raise ValidationFailed(text, list_validation_problems(first))


def _list_readings(text: str) -> Iterator[str]:
    """Yield the texts that the reply may mean, as long as none of them is JSON."""
    yield _strip_code_fence(text)
    bare = text.strip(_BLANK)
    opening, end_tag, rest = bare.partition(_THINKING_END)
    # A chat template may write the start tag, and then the reply has the end tag only.
    if end_tag and not opening.startswith(("{", "[")):
        bare = rest.strip(_BLANK)
    bare = _strip_code_fence(bare).strip(_BLANK)
    yield bare
    try:
        yield json.dumps(_LENIENT_DECODER.decode(bare))
    except (ValueError, RecursionError):
        return


def _is_invalid_json(error: ValidationError) -> bool:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return first["type"] == "json_invalid" and not first["loc"]


def list_validation_problems(error: ValidationError) -> list[str]:
    """Return each problem as `path: problem`. The values are left out: errors must not repeat the reply's text."""
    problems = []
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        steps = (f"[{step}]" if isinstance(step, int) else f".{step[:_MAX_KEY_CHARS]}" for step in each["loc"])
        path = "".join(steps).lstrip(".")
        problem = {"missing": "is missing", "extra_forbidden": "is an unknown key"}.get(each["type"], each["msg"])
        problem = problem if len(problem) <= _MAX_PROBLEM_CHARS else problem[: _MAX_PROBLEM_CHARS - 1] + "…"
        problems.append(f"{path}: {problem}" if path else problem)
    return problems


def _strip_code_fence(text: str) -> str:
    bare = text.strip()
    opening, _, rest = bare.partition("\n")
    if opening.rstrip().lower() in (_CODE_FENCE, f"{_CODE_FENCE}json") and rest.endswith(_CODE_FENCE):
        return rest.removesuffix(_CODE_FENCE)
    return text


@dataclass(frozen=True, slots=True)
class _OutputType:
    """A type with its name in the request, its strict schema as JSON text, and the schema's violations."""

    adapter: TypeAdapter[Any]
    name: str
    schema: str
    violations: tuple[str, ...]


def _describe_type(kind: Any) -> _OutputType:
    if isinstance(kind, str | BaseModel) or (is_dataclass(kind) and not isinstance(kind, type)):
        raise SettingsError("response_format", f"{_ACCEPTED_TYPES}; not a {type(kind).__name__}")
    try:
        hash(kind)
    except TypeError:  # Annotated with a value that is not hashable
        return _build_output_type(kind)
    return _build_output_type_cached(kind)


def _build_output_type(kind: Any) -> _OutputType:
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    name = getattr(bare, "__name__", type(bare).__name__)
    try:
        adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
        schema = to_strict_schema(adapter)
        text = dump_json(schema)
    except (PydanticUserError, PydanticUndefinedAnnotation, SchemaError, NameError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise SettingsError("response_format", f"{_ACCEPTED_TYPES}; {name} has no JSON schema: {reason}") from error
    api_name = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:64] or "reply"
    return _OutputType(adapter, api_name, text, tuple(list_violations(schema)))


_build_output_type_cached = functools.lru_cache(maxsize=256)(_build_output_type)
