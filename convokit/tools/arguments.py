"""The model's answer becomes arguments: parsed, checked against the signature, and only then anything is run.

A mistake of the model's is a `BadArguments` whose text it can act on. A parameter that it leaves out, or answers with null
where there is a default, keeps the function's own default, which is never copied or checked.
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
"""What a field holds for an argument that was not given."""


class Signature(BaseModel):
    """The base of the models made of signatures: fields p0, p1 … (any name may be a parameter's), names as aliases."""

    model_config = ConfigDict(extra="forbid")


def bind_arguments(tool: Tool, raw: str) -> dict[str, Any]:
    """Return the arguments to call the tool's function with, from the text the model sent ("" is no arguments).

    Raises: BadArguments saying which argument is wrong and how, in words for the model. A tool that is only described has
    its arguments parsed, not checked.
    """
    given = _object(tool, raw)
    if tool.arguments is None:
        return given
    model = tool.arguments
    named = {_alias(name, field): name for name, field in model.model_fields.items()}
    properties = tool.parameters.get("properties", {})
    for alias, name in named.items():
        default_meant = tool.strict or not admits_null(properties.get(alias))
        if given.get(alias, LEFT_OUT) is None and default_meant and not model.model_fields[name].is_required():
            del given[alias]
    try:  # as JSON: what a type takes from JSON text (dates, enums, bytes) it need not take from Python values
        value = model.model_validate_json(json.dumps(given))
    except ValidationError as error:
        found = list_validation_problems(error)
        more = f"; and {len(found) - _MAX_PROBLEMS} more" if len(found) > _MAX_PROBLEMS else ""
        raise BadArguments(tool.name, "; ".join(found[:_MAX_PROBLEMS]) + more) from None
    except Exception as error:  # a validator of the tool's own that the model's value was too much for
        raise BadArguments(tool.name, f"the arguments could not be checked ({type(error).__name__})") from error
    by_alias = issubclass(model, Signature)
    bound = {alias if by_alias else name: getattr(value, name) for alias, name in named.items()}
    return {name: value for name, value in bound.items() if value is not LEFT_OUT}


def admits_null(node: Any) -> bool:
    """Whether a schema allows null."""
    if not isinstance(node, Mapping):
        return False
    kinds = node.get("type")
    return (
        kinds == "null" or (isinstance(kinds, list) and "null" in kinds) or any(map(admits_null, node.get("anyOf", ())))
    )


class _Unfit(ValueError):
    """JSON of a kind that Python would take and nobody can mean."""


def _object(tool: Tool, raw: str) -> dict[str, Any]:
    if not raw.strip():
        return {}
    try:
        value = repair_json(_DECODER.decode(raw))
    except json.JSONDecodeError as error:
        raise BadArguments(tool.name, f"the arguments are not JSON: {error.msg} (character {error.pos})") from None
    except _Unfit as error:
        raise BadArguments(tool.name, str(error)) from None
    except ValueError:
        raise BadArguments(tool.name, "the arguments hold a number of too many digits") from None
    except RecursionError:
        raise BadArguments(tool.name, "the arguments are nested too deeply") from None
    if not isinstance(value, dict):
        raise BadArguments(tool.name, f"the arguments must be one JSON object, not {name_json_type(value)}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise _Unfit(f"{name[:64]} is given twice")
        made[name] = value
    return made


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise _Unfit(f"{number[:20]} is not a JSON number")
    return float(number)


_DECODER = json.JSONDecoder(  # raw line breaks in strings are let through: small models write them
    strict=False, object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite
)


def _alias(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias or field.alias
    return alias if isinstance(alias, str) else name
