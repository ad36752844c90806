"""From a class or function of the library to Markdown: its signature as written, and its docstring."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Annotated, Any, Generic, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

WIDTH = 100
MADE_FOR_YOU = frozenset({"Chat", "AsyncChat", "Stream", "AsyncStream"})
"""Classes that a method returns and nobody else makes: their constructors are not shown."""
_FACTORIES = {
    "field(default_factory=list)": "[]",
    "field(default_factory=dict)": "{}",
    "field(default=None, repr=False)": "None",
}


def module_text(module: ModuleType) -> str:
    """Return a module's docstring."""
    return prose(inspect.getdoc(module) or "")


def described(value: Any, name: str, depth: int) -> Iterator[str]:
    """Yield a class, function or type under its public name: heading, signature, docstring, fields and methods."""
    if get_origin(value) is not None:  # a name for a type of other types has no docstring
        written = re.sub(r"[\w.]+\.(?=\w)", "", str(value))
        yield from (f"{'#' * depth} {name}", "", "```pyi", f"{name} = {written}", "```", "")
        return
    yield from (f"{'#' * depth} {name}", "", "```pyi", signature(value, name), "```", "")
    yield from (prose(inspect.getdoc(value) or ""), "")
    if not inspect.isclass(value):
        return
    yield from _fields(value)
    yield from _attributes(value)
    for attribute, member in vars(value).items():
        if attribute.startswith("_"):
            continue
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if isinstance(function, FunctionType):
            yield from _method(value, attribute, member, function, depth + 1)


def _method(owner: type, name: str, member: Any, function: FunctionType, depth: int) -> Iterator[str]:
    yield from (f"{'#' * depth} {owner.__name__}.{name}", "", "```pyi")
    if isinstance(member, property):
        yield f"{name}: {_annotation(inspect.signature(function).return_annotation)}"
    else:
        yield _function(function, name)
    yield from ("```", "", prose(inspect.getdoc(member) or ""), "")


def signature(value: Any, name: str) -> str:
    """Return how a function or class is called, as it stands in the source."""
    if not inspect.isclass(value):
        return _function(value, name)
    bases = [base.__name__ for base in value.__bases__ if base not in (object, Generic)]
    head = f"class {value.__name__}" + (f"({', '.join(bases)})" if bases else "")
    constructor = vars(value).get("__init__")
    if not isinstance(constructor, FunctionType) or _own_fields(value) or value.__name__ in MADE_FOR_YOU:
        return head
    return f"{head}:\n" + textwrap.indent(_function(constructor, "__init__"), "    ")


def _function(function: FunctionType, name: str) -> str:
    shown = inspect.signature(function)
    result = "" if shown.return_annotation is inspect.Signature.empty else f" -> {_annotation(shown.return_annotation)}"
    head = f"{'async ' if inspect.iscoroutinefunction(function) else ''}def {name}"
    parts = list(_parameters(shown))
    flat = f"{head}({', '.join(parts)}){result}"
    if len(flat) <= WIDTH:
        return flat
    return f"{head}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def _parameters(shown: inspect.Signature) -> Iterator[str]:
    starred = False
    for each in shown.parameters.values():
        if each.name in ("self", "cls"):
            continue
        if each.kind is each.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        star = "*" if each.kind is each.VAR_POSITIONAL else "**" if each.kind is each.VAR_KEYWORD else ""
        starred = starred or star == "*"
        text = f"{star}{each.name}"
        if each.annotation is not each.empty:
            text += f": {_annotation(each.annotation)}"
        if each.default is not each.empty:
            text += f" = {_default(each.default)}"
        yield text


def _default(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _annotation(value: Any) -> str:
    return value if isinstance(value, str) else inspect.formatannotation(value)


def _fields(value: type) -> Iterator[str]:
    """Yield the fields of a value class, with the words that stand below each in the source."""
    rows = []
    for node in _own_fields(value):
        name, given, words = node
        rows.append(f"- `{name}{given}`" + (f": {_one_line(words)}" if words else ""))
    if rows:
        yield from (*rows, "")


def _own_fields(value: type) -> list[tuple[str, str, str]]:
    found = []
    body = _class(value).body
    for index, node in enumerate(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.target.id[0] == "_":
            continue
        given = f": {ast.unparse(node.annotation)}"
        if node.value is not None:
            default = ast.unparse(node.value)
            given += f" = {_FACTORIES.get(default, default)}"
        found.append((node.target.id, given, _words_after(body, index)))
    return found


def _attributes(value: type) -> Iterator[str]:
    """Yield what an error carries: every public attribute that its constructor sets."""
    if not issubclass(value, Exception):
        return
    targets = [
        target
        for node in ast.walk(_class(value))
        for target in (node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)])
    ]
    names = [each.attr for each in targets if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self"]
    if names:
        yield from (f"Attributes: {', '.join(f'`{name}`' for name in dict.fromkeys(names))}", "")


def prose(text: str) -> str:
    """Return a docstring as Markdown: a drawn tree becomes a block, and so does a session at the prompt."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(_paragraph(paragraph) for paragraph in paragraphs if paragraph.strip())


def _paragraph(text: str) -> str:
    if text.startswith(">>>"):
        return f"```python\n{text}\n```"
    if "├─" in text:
        return f"```text\n{text}\n```"
    return text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _words_after(body: list[ast.stmt], index: int) -> str:
    following = body[index + 1] if index + 1 < len(body) else None
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        return str(following.value.value) if isinstance(following.value.value, str) else ""
    return ""


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[str, str, str]]:
    for index, node in enumerate(body):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, ast.unparse(node.value), _words_after(body, index)


@functools.cache
def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _class(value: type) -> ast.ClassDef:
    module = inspect.getmodule(value)
    assert module is not None
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == value.__name__:
            return node
    raise LookupError(value)


def columns(module: ModuleType) -> dict[str, dict[str, str]]:
    """Return the words beside each assignment in each class of a module."""
    return {
        node.name: {name: _one_line(words) for name, _, words in _assigned(node.body) if words}
        for node in _tree(module).body
        if isinstance(node, ast.ClassDef)
    }


def typed_dict(value: type) -> Iterator[str]:
    """Yield a row of a table for each key: its type without the checks, and its range in words."""
    words = {name: said for name, _, said in _own_fields(value)}
    for name, hint in get_type_hints(value, include_extras=True).items():
        bounds = ", ".join(_bounds(hint))
        said = ". ".join(part for part in (bounds, _one_line(words.get(name, ""))) if part)
        yield f"| `{name}` | `{_bare(hint)}` | {said} |".replace(" | None", " \\| None")


def own_keys(value: type) -> Iterator[str]:
    """Yield a row of a table for each key that the class adds to the one below it, with its type as it is written."""
    for name, given, said in _own_fields(value):
        yield f"| `{name}` | `{given.removeprefix(': ')}` | {_one_line(said)} |".replace(" | None", " \\| None")


def _bounds(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Annotated:
        checks = [check for field in hint.__metadata__ if isinstance(field, FieldInfo) for check in field.metadata]
        yield from _range(checks, "items" if get_origin(hint.__origin__) is list else "characters")
    inner = [" and ".join(_bounds(each)) for each in get_args(hint) if get_origin(each) is not None]
    if get_origin(hint) is dict and len(inner) == 2 and all(inner):
        yield f"keys {inner[0]}, values {inner[1]}"
    elif get_origin(hint) is not Annotated:
        yield from filter(None, inner)


def _range(checks: list[Any], unit: str) -> Iterator[str]:
    low = next((each.ge for each in checks if hasattr(each, "ge")), None)
    high = next((each.le for each in checks if hasattr(each, "le")), None)
    longest = next((each.max_length for each in checks if hasattr(each, "max_length")), None)
    if low is not None:
        yield f"from {_number(low)}" if high is None else f"{_number(low)} to {_number(high)}"
    if longest is not None:
        yield f"at most {longest} {unit}"


def _number(value: float) -> str:
    power = int(abs(value)).bit_length() - 1
    if abs(value) > 2**32:
        return f"{'-' if value < 0 else ''}2^{power + (abs(value) != 2**power)}"
    return f"{value:g}"


def _bare(hint: Any) -> str:
    """Return a type as one writes it, without what is checked about it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _bare(arguments[0])
    if hint is Any:
        return "Any"
    if isinstance(hint, type) and origin is None:
        return hint.__name__
    if getattr(origin, "__name__", "") == "Literal" or str(hint).startswith("typing.Literal"):
        return ", ".join(f'"{each}"' for each in arguments)
    if str(origin) in ("<class 'types.UnionType'>", "typing.Union"):
        return " or ".join(_bare(each) for each in arguments)
    return f"{_bare(origin)}[{', '.join(_bare(each) for each in arguments)}]"
