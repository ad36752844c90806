"""Parse and validate the arguments of a tool call.

BadArguments is written for the model: it names the argument and the problem. A parameter that the model leaves out keeps the
default of the function, which is neither copied nor validated. So does null, unless the tool is not strict and null is a value
of the parameter's type.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from convokit.domain.tool import Tool
from convokit.errors import BadArguments
from convokit.wire.json_text import repair_json
from convokit.wire.schema_violations import name_json_type
from convokit.wire.structured_output import list_validation_problems

_MAX_PROBLEMS = 5


class _Absent(Enum):
    LEFT_OUT = "left out"


LEFT_OUT: Final = _Absent.LEFT_OUT
"""The value of a field whose argument was not given."""


class SignatureModel(BaseModel):
    """The base of models that are made from signatures."""

    # The fields are named p0, p1 … and the parameters are their aliases, because a parameter may have any name.

    model_config = ConfigDict(extra="forbid")


def bind_arguments(tool: Tool, raw: str) -> dict[str, Any]:
    """Return keyword arguments for the tool's function, from the text that the model sent (empty: no arguments).

    Arguments of a tool without a model are parsed and not validated. Raises: BadArguments.
    """
    arguments = _parse_object(tool, raw)
    if tool.arguments is None:
        return arguments
    model = tool.arguments
    names = {_find_alias(name, field): name for name, field in model.model_fields.items()}
    properties = tool.parameters.get("properties", {})
    for alias, name in names.items():
        # In strict mode the model must send every parameter, and null stands for its default.
        null_means_default = tool.strict or not admits_null(properties.get(alias))
        if arguments.get(alias, LEFT_OUT) is None and null_means_default and not model.model_fields[name].is_required():
            del arguments[alias]
    try:
        # Validated as JSON text: pydantic converts dates, enums and bytes from JSON, and not all of them from Python values.
        value = model.model_validate_json(json.dumps(arguments))
    except ValidationError as error:
        problems = list_validation_problems(error)
        more = f"; and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
        raise BadArguments(tool.name, "; ".join(problems[:_MAX_PROBLEMS]) + more) from None
    except Exception as error:  # raised by a validator of the tool's author
        raise BadArguments(tool.name, f"the arguments could not be validated ({type(error).__name__})") from error
    by_alias = issubclass(model, SignatureModel)
    bound = {alias if by_alias else name: getattr(value, name) for alias, name in names.items()}
    return {name: value for name, value in bound.items() if value is not LEFT_OUT}


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
        value = repair_json(_DECODER.decode(raw))
    except json.JSONDecodeError as error:
        raise BadArguments(tool.name, f"the arguments are not JSON: {error.msg} (character {error.pos})") from None
    except _InvalidJson as error:
        raise BadArguments(tool.name, str(error)) from None
    except ValueError:
        raise BadArguments(tool.name, "the arguments contain a number of too many digits") from None
    except RecursionError:
        raise BadArguments(tool.name, "the arguments are nested too deeply") from None
    if not isinstance(value, dict):
        raise BadArguments(tool.name, f"the arguments must be one JSON object, not {name_json_type(value)}")
    return value


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
