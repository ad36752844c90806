"""Find the tool that a call means, and validate its arguments.

Models and servers write names and JSON in odd ways. A call runs where exactly one tool is meant, and where its arguments fit
the schema, if need be after they are decoded once more.

BadArguments is written for the model: it names the argument and the problem. A parameter that the model leaves out keeps the
default of the function, which is neither copied nor validated. So does null, unless the tool is not strict and null is a value
of the parameter's type.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from convokit.errors import BadArguments
from convokit.wire.json_text import repair_json
from convokit.wire.schema_violations import name_json_type
from convokit.wire.structured_output import list_validation_problems

if TYPE_CHECKING:  # `Tool.run` binds arguments
    from convokit.tools.tool import Tool

_MAX_PROBLEMS = 5
_MAX_ENCODINGS = 3
# gpt-oss writes its channel or its recipient into the name: `look<|channel|>commentary`, `commentary to=functions.look`.
_HARMONY_TOKEN = re.compile(r"<\|[^|<>]*\|>")
_RECIPIENT = re.compile(r"(?:^|\s)to=(\S+)")
# Kimi also adds the number of the call: `functions.look:0`.
_NAMESPACE = re.compile(r"(?:functions?|tools?|default_api)[.:/](.+?)(?::\d+)?")


class _Absent(Enum):
    LEFT_OUT = "left out"


LEFT_OUT: Final = _Absent.LEFT_OUT
"""The value of a field whose argument was not given."""


class SignatureModel(BaseModel):
    """The base of models that are made from signatures."""

    # The fields are named p0, p1 … and the parameters are their aliases, because a parameter may have any name.

    model_config = ConfigDict(extra="forbid")


def find_tool(tools: Mapping[str, Tool], name: str) -> Tool | None:
    """Return the tool of this name, else the only one that an odd spelling of the name means, else None."""
    if name in tools:
        return tools[name]
    parts = [*_HARMONY_TOKEN.split(name), *_RECIPIENT.findall(_HARMONY_TOKEN.sub(" ", name))]
    found = {each for part in parts for each in _list_spellings(part.strip()) if each in tools}
    return tools[found.pop()] if len(found) == 1 else None


def _list_spellings(name: str) -> list[str]:
    match = _NAMESPACE.fullmatch(name)
    return [name] if match is None else [name, match[1].strip()]


def bind_arguments(tool: Tool, raw: str) -> dict[str, Any]:
    """Return keyword arguments for the tool's function, from the text that the model sent (empty: no arguments).

    Arguments of a tool without a model are parsed and not validated. Raises: BadArguments.
    """
    arguments = _parse_object(tool, raw)
    if tool.arguments is None:
        return arguments
    model = tool.arguments
    names = _list_names(model)
    value = _validate(tool, model, arguments)
    by_alias = issubclass(model, SignatureModel)
    bound = {alias if by_alias else name: getattr(value, name) for alias, name in names.items()}
    return {name: value for name, value in bound.items() if value is not LEFT_OUT}


def _list_names(model: type[BaseModel]) -> dict[str, str]:
    return {_find_alias(name, field): name for name, field in model.model_fields.items()}


def _validate(tool: Tool, model: type[BaseModel], arguments: dict[str, Any]) -> BaseModel:
    """Return the validated arguments. A text that does not fit is decoded as JSON, because some models encode values twice."""
    first: ValidationError | None = None
    for _ in range(_MAX_ENCODINGS):
        _drop_defaults(tool, model, arguments)
        try:
            # As JSON text: pydantic converts dates, enums and bytes from JSON, and not all of them from Python values.
            return model.model_validate_json(json.dumps(arguments))
        except ValidationError as error:
            first = first or error
            if not _decode_texts(arguments, error):
                break
        except Exception as error:  # raised by a validator of the tool's author
            problem = f"the arguments could not be validated ({type(error).__name__})"
            raise BadArguments(tool.name, problem) from error
    assert first is not None
    problems = list_validation_problems(first)
    more = f"; and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
    raise BadArguments(tool.name, "; ".join(problems[:_MAX_PROBLEMS]) + more)


def _drop_defaults(tool: Tool, model: type[BaseModel], arguments: dict[str, Any]) -> None:
    """Remove each null that stands for a default."""
    properties = tool.parameters.get("properties", {})
    for alias, name in _list_names(model).items():
        # In strict mode the model must send every parameter, and null stands for its default.
        null_means_default = tool.strict or not admits_null(properties.get(alias))
        if arguments.get(alias, LEFT_OUT) is None and null_means_default and not model.model_fields[name].is_required():
            del arguments[alias]


def _decode_texts(arguments: dict[str, Any], error: ValidationError) -> bool:
    """Decode each text that did not fit and is JSON; return whether there was one."""
    texts: dict[tuple[int, Any], tuple[Any, Any, str]] = {}
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        holder: Any = arguments
        for step in problem["loc"]:
            try:
                value = holder[step]
            except (KeyError, IndexError, TypeError):  # a missing key, or the name of a type in a union
                continue
            if isinstance(value, str):
                texts[id(holder), step] = holder, step, value
                break
            holder = value
    decoded = {place: _decode(text) for place, (_, _, text) in texts.items()}
    for place, value in decoded.items():
        holder, step, _ = texts[place]
        holder[step] = value
    return any(value != texts[place][2] for place, value in decoded.items())


def admits_null(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    types = schema.get("type")
    if types == "null" or (isinstance(types, list) and "null" in types):
        return True
    return any(map(admits_null, schema.get("anyOf", ())))


class _InvalidJson(ValueError):
    """JSON that Python's decoder accepts and convokit refuses."""


def _parse_object(tool: Tool, raw: str) -> dict[str, Any]:
    if not raw.strip():
        return {}
    try:
        value = _decode(_DECODER.decode(raw))
    except json.JSONDecodeError as error:
        raise BadArguments(tool.name, f"the arguments are not JSON: {error.msg} (character {error.pos})") from None
    except _InvalidJson as error:
        raise BadArguments(tool.name, str(error)) from None
    except ValueError:
        raise BadArguments(tool.name, "the arguments contain a number of too many digits") from None
    except RecursionError:
        raise BadArguments(tool.name, "the arguments are nested too deeply") from None
    is_empty = not value.strip() if isinstance(value, str) else value in (None, [])
    if is_empty and not _requires_arguments(tool):
        return {}
    if not isinstance(value, dict):
        raise BadArguments(tool.name, f"the arguments must be one JSON object, not {name_json_type(value)}")
    return value


def _decode(value: Any) -> Any:
    """Return a JSON value, decoded again while it is a text that is JSON."""
    for _ in range(_MAX_ENCODINGS):
        if not isinstance(value, str):
            break
        try:
            value = _DECODER.decode(value)
        except (ValueError, RecursionError):
            break
    return repair_json(value)


def _requires_arguments(tool: Tool) -> bool:
    if tool.arguments is None:
        return bool(tool.parameters.get("required"))
    return any(field.is_required() for field in tool.arguments.model_fields.values())


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise _InvalidJson(f"{name[:64]} is given twice")
        values[name] = value
    return values


def _parse_finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise _InvalidJson(f"{number[:20]} is not a JSON number")
    return float(number)


_DECODER = json.JSONDecoder(
    strict=False,  # small models write raw line breaks in strings
    object_pairs_hook=_refuse_duplicates,
    parse_constant=_parse_finite,
    parse_float=_parse_finite,
)


def _find_alias(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias or field.alias
    return alias if isinstance(alias, str) else name
