"""Make a tool of a Python function.

Its signature becomes the JSON schema, and its docstring the descriptions. A parameter without a JSON schema is refused when the
tool is made, not when the model calls it.
"""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, get_args, get_origin, overload

from pydantic import BaseModel, Field, TypeAdapter, create_model
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import SchemaError, to_jsonable_python

from convokit.domain.text import dump_json
from convokit.errors import SettingsError
from convokit.tools import docstrings
from convokit.tools.arguments import LEFT_OUT, SignatureModel, admits_null
from convokit.tools.tool import Tool
from convokit.wire.schema_violations import list_violations
from convokit.wire.strict_schema import to_plain_schema, to_strict_schema

ToolLike = Tool | Callable[..., Any] | Mapping[str, Any]
"""A tool, a Python function, or the API's own object."""
# Longer defaults are not shown to the model.
_MAX_DEFAULT_CHARS = 80
_MAX_PROBLEMS = 5


@overload
def tool(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = True,
    approval: bool = False,
) -> Tool: ...
@overload
def tool(
    function: None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = True,
    approval: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = True,
    approval: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a Python function. Also a decorator, with and without arguments.

    `name` defaults to the function's name. `description` defaults to its docstring up to the first section; the descriptions of
    the parameters come from the docstring too. With `strict`, the server holds the model to the schema: the model then sends
    every parameter, and null stands for its default. With `approval`, the turn does not run the function: the reply hands its
    calls to the caller, who runs them with `Tool.run` or refuses them.

    Raises: SettingsError for a parameter that has no JSON schema, or one outside of the strict subset.
    """
    if not isinstance(approval, bool):
        raise SettingsError("tools", f"approval must be True or False, not {approval!r}")

    def decorate(decorated: Callable[..., Any]) -> Tool:
        return replace(_describe_function(decorated, name, description, strict=strict), approval=approval)

    return decorate if function is None else decorate(function)


def to_tools(given: Sequence[ToolLike]) -> tuple[Tool, ...]:
    """Convert functions and the API's own objects to tools. Raises: SettingsError, also if two tools have the same name."""
    if isinstance(given, str | Mapping | Tool) or not isinstance(given, Sequence):
        raise SettingsError("tools", f"must be a list of tools, not a {type(given).__name__}")
    tools: dict[str, Tool] = {}
    for item in given:
        converted = item if isinstance(item, Tool) else _to_tool(item)
        if converted.name in tools:
            raise SettingsError("tools", f"two tools are named {converted.name!r}: rename one with tool(name=...)")
        tools[converted.name] = converted
    return tuple(tools.values())


def _to_tool(function: Any) -> Tool:
    if isinstance(function, Mapping):
        return Tool.of_dict(function)
    if inspect.isfunction(function) and "<locals>" not in function.__qualname__:
        # A function of a module lives as long as the program. A cached closure would stay in memory.
        return _describe_once(function)
    return _describe_function(function, None, None, strict=True)


@functools.lru_cache(maxsize=256)
def _describe_once(function: Callable[..., Any]) -> Tool:
    return _describe_function(function, None, None, strict=True)


def _describe_function(function: Any, name: str | None, description: str | None, *, strict: bool) -> Tool:
    if isinstance(function, Tool | type) or not callable(function):
        raise SettingsError("tools", f"{function!r} is not a function: pass a function, a Tool or a dict")
    original = _unwrap(function)
    name = _find_name(function, original) if name is None else name
    setting = f"tool {name}"
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError, NameError) as error:
        raise SettingsError(setting, f"its signature cannot be read ({error}): describe it with Tool(...)") from error
    text, notes = docstrings.parse_docstring(original.__doc__, [parameter.name for parameter in parameters])
    types = {parameter.name: _resolve_type(setting, original, parameter) for parameter in parameters}
    model, schema = _build_model(setting, parameters, types, notes, strict=strict)
    violations = list_violations(schema) if strict else []
    if violations:
        problems = "; ".join(violations[:_MAX_PROBLEMS])
        raise SettingsError(setting, f"{problems}. Change the type, or use tool(strict=False)")
    return Tool(name, text if description is None else description, schema, strict, function, model)


def _unwrap(function: Any) -> Any:
    """Return the function that a partial, decorator, method or callable object calls in the end."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if not hasattr(function, "__globals__") and not inspect.isbuiltin(function):
        function = inspect.unwrap(getattr(function, "__func__", type(function).__call__))
    return function


def _find_name(function: Any, original: Any) -> str:
    name = str(getattr(original, "__name__", ""))
    return type(function).__name__ if name == "__call__" else name


def _resolve_type(setting: str, original: Any, parameter: inspect.Parameter) -> Any:
    """Return the type of a parameter. A text annotation is evaluated with the names that the function can see."""
    problem = _find_problem(parameter)
    if problem:
        raise SettingsError(setting, f"parameter {parameter.name} {problem}")

    def probe() -> None: ...

    probe.__annotations__ = {parameter.name: parameter.annotation}
    module_names: dict[str, Any] = getattr(original, "__globals__", {})
    closure_names = _read_closure(original)
    try:
        try:
            return typing.get_type_hints(probe, module_names, closure_names, include_extras=True)[parameter.name]
        except NameError:
            # A closure does not hold a name of the enclosing function that only an annotation uses.
            names = {**_find_caller_locals(), **module_names, **closure_names}
            return typing.get_type_hints(probe, module_names, names, include_extras=True)[parameter.name]
    except Exception as error:  # evaluating an annotation can raise anything
        problem = f"its type {parameter.annotation!r} cannot be read ({error}): define it where the function can see it"
        raise SettingsError(setting, f"parameter {parameter.name}: {problem}") from error


def _find_problem(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return "is *args, and a model passes arguments by name: use a list"
    if parameter.kind is parameter.VAR_KEYWORD:
        return "is **kwargs, and the schema needs every name: list the parameters, or use one pydantic model"
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return "is positional-only, and a model passes arguments by name: remove the /"
    if parameter.annotation is parameter.empty:
        if parameter.name in ("self", "cls"):
            return "belongs to an unbound method: pass the bound one, tool(thing.method)"
        return f"has no type: annotate it, as in `{parameter.name}: str`"
    if isinstance(parameter.default, FieldInfo):
        return "has Field(...) as its default: put it into the type, Annotated[..., Field(...)]"
    return ""


def _read_closure(original: Any) -> dict[str, Any]:
    names = original.__code__.co_freevars if hasattr(original, "__code__") else ()
    values = {}
    for name, cell in zip(names, getattr(original, "__closure__", None) or (), strict=False):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return values


def _find_caller_locals() -> dict[str, Any]:
    """Return the local names of the first caller outside of convokit: it makes the tool."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "convokit":
        frame = frame.f_back
    return dict(frame.f_locals)


def _build_model(
    setting: str, parameters: list[inspect.Parameter], types: dict[str, Any], notes: dict[str, str], *, strict: bool
) -> tuple[type[BaseModel], dict[str, Any]]:
    """Return the pydantic model that validates the arguments, and their JSON schema."""
    fields: dict[str, Any] = {}
    for number, parameter in enumerate(parameters):
        annotation = types[parameter.name]
        fields[f"p{number}"] = (annotation, _build_field(parameter, annotation, notes.get(parameter.name)))
    try:
        model = create_model("Arguments", __base__=SignatureModel, **fields)
        schema = to_strict_schema(model) if strict else to_plain_schema(model)
    except Exception as error:
        for name, annotation in types.items():
            _check_type(setting, name, annotation)
        raise SettingsError(setting, f"its parameters have no JSON schema: {error}") from error
    schema.pop("description", None)  # the docstring of the base class
    properties = schema.get("properties", {})
    for parameter in parameters:
        if parameter.default is not parameter.empty:
            properties[parameter.name] = _add_default(properties[parameter.name], parameter.default, strict=strict)
    return model, schema


def _build_field(parameter: inspect.Parameter, annotation: Any, note: str | None) -> Any:
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    has_description = any(isinstance(item, FieldInfo) and item.description for item in metadata)
    options: dict[str, Any] = {} if has_description or note is None else {"description": note}
    if parameter.default is not parameter.empty:
        options["default_factory"] = lambda: LEFT_OUT  # pydantic would copy and validate the function's default
    return Field(alias=parameter.name, validation_alias=parameter.name, **options)


def _check_type(setting: str, name: str, annotation: Any) -> None:
    try:
        TypeAdapter(annotation).json_schema()
    except (PydanticUserError, PydanticUndefinedAnnotation, SchemaError, TypeError, NameError) as error:
        cause = str(error).partition("\n")[0]
        advice = "use JSON's own types, enums, dataclasses or pydantic models"
        raise SettingsError(
            setting, f"parameter {name}: {annotation!r} has no JSON schema: {advice} ({cause})"
        ) from error


def _add_default(node: dict[str, Any], default: Any, *, strict: bool) -> dict[str, Any]:
    """Return a parameter's schema with its default. In strict mode the description names it as the meaning of null."""
    try:
        value = to_jsonable_python(default)
        text = dump_json(value)
    except (ValueError, TypeError, RecursionError):
        value, text = None, ""
    is_shown = bool(text) and len(text) <= _MAX_DEFAULT_CHARS
    if not strict:
        return {**node, "default": value} if is_shown else node
    description = node.get("description", "")
    inner = {key: item for key, item in node.items() if key != "description"}
    if not admits_null(inner):
        branches = inner["anyOf"] if inner.keys() == {"anyOf"} else [inner]
        inner = {"anyOf": [*branches, {"type": "null"}]}
    if default is not None:
        description = f"{description} (null means {text if is_shown else 'the default'})".strip()
    return {**inner, "description": description} if description else inner
