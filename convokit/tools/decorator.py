"""Functions as tools: a signature becomes the schema that is sent.

What the model is told comes from the code alone: types and defaults from the signature, words from the docstring. Whatever
cannot be told, or could be told only wrongly, is refused when the tool is made, not when the model calls it.
"""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin, overload

from pydantic import BaseModel, Field, TypeAdapter, create_model
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from convokit.domain.text import dump_json
from convokit.domain.tool import Tool
from convokit.errors import SettingsError
from convokit.tools import docstrings
from convokit.tools.arguments import LEFT_OUT, Signature, admits_null, bind_arguments
from convokit.tools.results import format_error, format_result
from convokit.wire.schema_violations import list_violations
from convokit.wire.strict_schema import to_plain_schema, to_strict_schema

__all__ = ["ToolLike", "bind_arguments", "format_error", "format_result", "to_tools", "tool"]

ToolLike = Tool | Callable[..., Any] | Mapping[str, Any]
"""What may be given as a tool: a function, a `Tool`, or the API's own object."""

_DEFAULT_CHARS = 80
_MAX_PROBLEMS = 5


@overload
def tool(
    function: Callable[..., Any], *, name: str | None = None, description: str | None = None, strict: bool = True
) -> Tool: ...
@overload
def tool(
    function: None = None, *, name: str | None = None, description: str | None = None, strict: bool = True
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = True,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Return a function as a tool; also a decorator, with and without arguments.

    `name` and `description` default to the function's name and its docstring up to the first section; what the docstring
    says of each parameter is told with it. `strict` has the server hold the model to the schema; then every parameter is
    sent, null standing for its default.

    Raises: SettingsError naming the parameter or the place in the schema that cannot be told to a model, and the way out.
    """
    if function is None:
        return lambda given: _described(given, name, description, strict=strict)
    return _described(function, name, description, strict=strict)


def to_tools(given: Sequence[ToolLike]) -> tuple[Tool, ...]:
    """Return tools, functions and the API's own objects as tools. Raises: SettingsError, also when two share a name."""
    if isinstance(given, str | Mapping | Tool) or not isinstance(given, Sequence):
        raise SettingsError("tools", f"must be a list of tools, not a {type(given).__name__}")
    made: dict[str, Tool] = {}
    for each in given:
        one = each if isinstance(each, Tool) else _made(each)
        if one.name in made:
            raise SettingsError("tools", f"two of them are named {one.name!r}: give one another name")
        made[one.name] = one
    return tuple(made.values())


def _made(function: Any) -> Tool:
    if isinstance(function, Mapping):
        return Tool.of_dict(function)
    if inspect.isfunction(function) and "<locals>" not in function.__qualname__:
        return _remembered(
            function
        )  # a module's function stays as long as the program; a closure must not be kept alive
    return _described(function, None, None, strict=True)


@functools.lru_cache(maxsize=256)
def _remembered(function: Callable[..., Any]) -> Tool:
    return _described(function, None, None, strict=True)


def _described(function: Any, name: str | None, description: str | None, *, strict: bool) -> Tool:
    if isinstance(function, Tool | type) or not callable(function):
        raise SettingsError("tools", f"a tool is made of a function, not of {function!r}")
    plain = _plain(function)
    name = _name(function, plain) if name is None else name
    where = f"tool {name}"
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError, NameError) as error:
        raise SettingsError(where, f"its signature cannot be read ({error}): describe it with Tool(...)") from error
    text, notes = docstrings.read(plain.__doc__, [parameter.name for parameter in parameters])
    hints = {parameter.name: _hint(where, plain, parameter) for parameter in parameters}
    model, schema = _modelled(where, parameters, hints, notes, strict=strict)
    if strict:
        wrong = list_violations(schema)
        if wrong:
            raise SettingsError(
                where, f"{'; '.join(wrong[:_MAX_PROBLEMS])}. Change the type, or use tool(strict=False)"
            )
    return Tool(name, text if description is None else description, schema, strict, function, model)


def _plain(function: Any) -> Any:
    """Return the function that was written: behind partials, decorators, methods and objects that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if not hasattr(function, "__globals__") and not inspect.isbuiltin(function):
        function = inspect.unwrap(getattr(function, "__func__", type(function).__call__))
    return function


def _name(function: Any, plain: Any) -> str:
    name = str(getattr(plain, "__name__", ""))
    return type(function).__name__ if name == "__call__" else name


def _hint(where: str, plain: Any, parameter: inspect.Parameter) -> Any:
    """Return the type of a parameter; a text annotation is read with the names the function itself can see."""
    problem = _problem(parameter)
    if problem:
        raise SettingsError(where, f"parameter {parameter.name} {problem}")

    def probe() -> None: ...

    probe.__annotations__ = {parameter.name: parameter.annotation}
    known: dict[str, Any] = getattr(plain, "__globals__", {})
    own = _closure(plain)
    try:
        try:
            return typing.get_type_hints(probe, known, own, include_extras=True)[parameter.name]
        except NameError:  # a name beside the function, inside another: no closure holds what only an annotation uses
            names = {**_around(), **known, **own}
            return typing.get_type_hints(probe, known, names, include_extras=True)[parameter.name]
    except Exception as error:  # an annotation is code
        said = f"its type {parameter.annotation!r} cannot be read ({error}): define it where the function can see it"
        raise SettingsError(where, f"parameter {parameter.name}: {said}") from error


def _problem(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return "is *args, and a model names its arguments: take a list"
    if parameter.kind is parameter.VAR_KEYWORD:
        return "is **kwargs, and a model must be told each name: name the parameters, or take one model of them"
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return "is positional-only, and a model names its arguments: remove the /"
    if parameter.annotation is parameter.empty:
        if parameter.name in ("self", "cls"):
            return "is the object's own: use the bound method, tool(thing.method)"
        return f"has no type: annotate it, as in `{parameter.name}: str`"
    if isinstance(parameter.default, FieldInfo):
        return "has Field(...) for a default: put it into the type, Annotated[..., Field(...)]"
    return ""


def _closure(plain: Any) -> dict[str, Any]:
    names = plain.__code__.co_freevars if hasattr(plain, "__code__") else ()
    found = {}
    for name, cell in zip(names, getattr(plain, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _around() -> dict[str, Any]:
    """Return the local names where the tool is being made: in the first caller that is not of this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "convokit":
        frame = frame.f_back
    return dict(frame.f_locals)


def _modelled(
    where: str, parameters: list[inspect.Parameter], hints: dict[str, Any], notes: dict[str, str], *, strict: bool
) -> tuple[type[BaseModel], dict[str, Any]]:
    """Return the model that checks the arguments, and the schema that describes them."""
    fields: dict[str, Any] = {
        f"p{number}": (hints[each.name], _field(each, hints[each.name], notes.get(each.name)))
        for number, each in enumerate(parameters)
    }
    try:
        model = create_model("Arguments", __base__=Signature, **fields)
        schema = to_strict_schema(model) if strict else to_plain_schema(model)
    except Exception as error:
        for name, hint in hints.items():
            _check_alone(where, name, hint)
        raise SettingsError(where, f"its parameters have no JSON schema: {error}") from error
    schema.pop("description", None)  # the base's own docstring
    for each in parameters:
        if each.default is not each.empty:
            properties = schema["properties"]
            properties[each.name] = _with_default(properties[each.name], each.default, strict=strict)
    return model, schema


def _field(parameter: inspect.Parameter, hint: Any, note: str | None) -> Any:
    own = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    said = any(isinstance(each, FieldInfo) and each.description for each in own)
    given: dict[str, Any] = {} if said or note is None else {"description": note}
    if parameter.default is not parameter.empty:
        given["default_factory"] = lambda: LEFT_OUT  # the function's own default is never copied or checked
    return Field(alias=parameter.name, validation_alias=parameter.name, **given)


def _check_alone(where: str, name: str, hint: Any) -> None:
    try:
        TypeAdapter(hint).json_schema()
    except (PydanticUserError, PydanticUndefinedAnnotation, TypeError, NameError) as error:
        said = str(error).partition("\n")[0]
        problem = f"{hint!r} has no JSON schema: use JSON's own types, enums, dataclasses or pydantic models ({said})"
        raise SettingsError(where, f"parameter {name}: {problem}") from error


def _with_default(node: dict[str, Any], default: Any, *, strict: bool) -> dict[str, Any]:
    """Return a parameter's schema with its default: in strict mode, where all are sent, as what null means."""
    try:
        value = to_jsonable_python(default)
        text = dump_json(value)
    except (ValueError, TypeError, RecursionError):
        value, text = None, ""
    short = bool(text) and len(text) <= _DEFAULT_CHARS
    if not strict:
        return {**node, "default": value} if short else node
    said = node.get("description", "")
    inner = {key: item for key, item in node.items() if key != "description"}
    if not admits_null(inner):
        branches = inner["anyOf"] if inner.keys() == {"anyOf"} else [inner]
        inner = {"anyOf": [*branches, {"type": "null"}]}
    if default is not None:
        said = f"{said} (null means {text if short else 'the default'})".strip()
    return {**inner, "description": said} if said else inner
