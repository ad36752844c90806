"""I18: nothing that is read from the store is imported, evaluated, templated or made into an object by name."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from convokit import Budget
from tests.faults.shared_kit import EACH_ONCE, Stage, staged
from tests.support.server import Script, completion

stage = staged(EACH_ONCE)
TRAPS: list[dict[str, Any]] = [
    {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": "x"}},
    {"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]},
    {"__class__": "os.system", "__reduce__": ["os.system", ["x"]], "__init__": 1},
    {"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}]},
    {"$ref": "#/definitions/x", "$type": "System.Diagnostics.Process", "!!python/object/apply:os.system": ["x"]},
    {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
    {"blob": "blob:" + "0" * 64, "extra": {"keys": {"audio": 1}}, "keys": {}},
]
TEMPLATES = [
    "{{ 7*7 }} {% for x in ().__class__.__base__.__subclasses__() %}{% endfor %}",
    "{0.__class__} {self} {__import__('os')} %(x)s %s %d $x ${x} #{x} <%= x %>",
    "blob:" + "0" * 64,
    '{"type": "constructor", "lc": 1}',
    "\x80\x04\x95\x05cos\nsystem\n.",
]


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: next(iter(trap)))
def test_stored_mappings_are_data(stage: Stage, trap: dict[str, Any]) -> None:
    """A mapping that another library would revive comes back as the mapping it is: in metadata, tool calls and vendor keys."""
    chat = stage.chat(metadata=trap, subject=json.dumps(trap)[:400])
    body = {
        "id": "x",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "ok",
                    "vendor": trap,
                    "tool_calls": [
                        {
                            "id": "1",
                            "type": "function",
                            "function": {"name": "f", "arguments": json.dumps(trap)},
                            **trap,
                        }
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        **trap,
    }
    if trap.get("type"):
        body["choices"][0]["message"]["tool_calls"][0]["type"] = "function"
    stage.server.script(Script([json.dumps(body).encode()]))
    stage.settle(chat.send("x"))
    again = stage.kit.chat(chat.key)
    stored = stage.settle(again.messages())
    assert json.loads(stored[1].tool_calls[0]["function"]["arguments"]) == trap
    (found,) = stage.settle(stage.kit.conversations(subject=json.dumps(trap)[:400]))
    assert found.metadata == trap
    assert stage.settle(again.send("y")).text == "echo: y"
    stage.settle(again.verify())


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("text", TEMPLATES, ids=lambda text: text[:12])
def test_stored_text_is_no_template(stage: Stage, text: str) -> None:
    """Text that a template engine, a format string or our own references would expand is sent as it is, from every place."""
    chat = stage.chat(developer_prompt=text, title=text, metadata={text: text})
    stage.server.script(completion(text))
    stage.settle(chat.send([text], user=text, budget=Budget(context_tokens=100_000)))
    stage.settle(stage.kit.chat(chat.key).send(text))
    sent = stage.server.requests[-1].body
    contents = [each["content"] for each in sent["messages"]]
    assert contents == [text, [{"type": "text", "text": text}], text, text]
    assert stage.server.requests[-2].body["user"] == text
    assert [each.text for each in stage.settle(chat.messages())][:2] == [text, text]


MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "jsonpickle", "yaml", "jinja2", "msgpack"}
CALLS = {"eval", "exec", "compile", "__import__", "import_module", "literal_eval", "find_spec", "from_string"}
RENDERS_TEMPLATES = {("convokit/viewer/rendering.py", "jinja2")}
"""Where templates of the package are rendered. Data are their values: `from_string` would make a template of them."""
LITERAL = {"text", "exec_driver_sql", "literal_column"}
MADE_OF_CONSTANTS = {
    ("convokit/store/indexes.py", "where"),
    ("convokit/store/dialects/sqlite.py", "f'PRAGMA {name}'"),
    ("convokit/store/dialects/sqlite.py", "f'PRAGMA {pragma}'"),
    ("convokit/usage/sql.py", "str(int(value))"),
    ("convokit/store/distribution.py", "_build_statement(table.name, is_below=_KEY in table.c)"),
    ("convokit/store/distribution.py", "f\"SELECT to_regclass('{name}')\""),
    ("convokit/store/distribution.py", "statement"),
}
"""SQL that is put together from names of the same module or of tables, from a number, or from a checked `HOST:PORT`."""
NAMED_IN_CODE = {
    ("convokit/_lazy.py", "f'{package}.{name}'"),
    ("convokit/local/local_model.py", "_BUNDLE"),
    ("convokit/store/dialects/__init__.py", "_MODULES[name]"),
}
"""Imports by name: of the modules that a package lists, of the dialect of an open engine, and
of the package with the local model."""


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def offences(path: str, source: str) -> list[str]:
    """Return what a module does that could make code or SQL of data."""
    found = []
    tree = ast.parse(source)
    constants = {
        ast.unparse(each.targets[0])
        for each in tree.body
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant)
    }
    for node in ast.walk(tree):
        line = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [
                f"{line} imports {name}"
                for name in names
                if name.partition(".")[0] in MODULES and (path, name) not in RENDERS_TEMPLATES
            ]
        if not isinstance(node, ast.Call):
            continue
        name, given = _name(node), node.args[0] if node.args else None
        named = given is not None and (path, ast.unparse(given)) in NAMED_IN_CODE
        harmless = named or _is_method(node, "re") or _is_sqlalchemys(node) or isinstance(given, ast.Constant)
        if name in CALLS and not harmless:
            found.append(f"{line} calls {name}")
        is_constant = given is None or _is_fixed(given) or ast.unparse(given) in constants
        fixed = is_constant or given is None or (path, ast.unparse(given)) in MADE_OF_CONSTANTS
        if name in LITERAL and not _is_of_another(node) and not fixed:
            found.append(f"{line} makes SQL of {ast.unparse(given or node)}")
        if name == "execute" and isinstance(given, ast.JoinedStr | ast.BinOp) and not fixed:
            found.append(f"{line} makes SQL of {ast.unparse(given)}")
    return found


def _is_method(call: ast.Call, owner: str) -> bool:
    function = call.func
    return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == owner


def _is_sqlalchemys(call: ast.Call) -> bool:
    """Whether it is a statement's own `compile`, which takes a dialect and gives SQL."""
    return _name(call) == "compile" and any(keyword.arg == "dialect" for keyword in call.keywords)


def _is_of_another(call: ast.Call) -> bool:
    """Whether `text` is a method or function of somebody else: SQLAlchemy's is imported by name."""
    return _name(call) == "text" and isinstance(call.func, ast.Attribute) and not _is_method(call, "sqlalchemy")


def _is_fixed(argument: ast.expr) -> bool:
    if isinstance(argument, ast.IfExp):
        return _is_fixed(argument.body) and _is_fixed(argument.orelse)
    return isinstance(argument, ast.Constant)


def test_no_module_makes_code_or_sql_of_data(checkout: Path) -> None:
    """No pickle, no eval, no import by name, no YAML, no template engine, and every piece of literal SQL is a constant."""
    found = []
    for path in sorted((checkout / "convokit").rglob("*.py")):
        found += offences(str(path.relative_to(checkout)), path.read_text("utf-8"))
    assert not found, found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from yaml import load",
        "eval(x)",
        "importlib.import_module(x)",
        "builtins.exec(x)",
        "text(f'SELECT {x}')",
        "text('SELECT ' + x)",
        "connection.exec_driver_sql(x)",
        "sqlalchemy.text(x if y else 'z')",
        "connection.execute(f'PRAGMA {x}')",
        "connection.execute('SELECT ' + x)",
    ],
)
def test_the_search_finds_each_of_them(source: str) -> None:
    """The search can fail: each way to make code or SQL of data is found."""
    assert offences("convokit/x.py", source)
