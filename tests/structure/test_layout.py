"""Check the layout of the code: sizes, names, docstrings, and which module may contain what."""

from __future__ import annotations

import ast
import functools
import inspect
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import convokit
from convokit import (
    AsyncChat,
    AsyncConvokit,
    Chat,
    Convokit,
    audit,
    context,
    erasure,
    errors,
    history,
    local,
    search,
    server,
    store,
    telemetry,
    testing,
    tokens,
    transfer,
    usage,
    wire,
)
from convokit.store import indexes

MAX_LINES = 350
MAX_FUNCTION = 80
API_CLASSES = ("kit.py", "async_kit.py", "chat.py", "async_chat.py")
# File names that mean the same in every package: the flows of a call, its statements, its public values, and a turn.
REPEATED_NAMES = {"__init__.py", "flows.py", "models.py", "sql.py", "turn.py"}
# Modules outside of store/ that build statements.
SQL_OF_FEATURES = {
    *(f"{package}/sql.py" for package in ("audit", "erasure", "transfer", "usage")),
    *("audit/consistency.py", "erasure/residue.py", "history/copies.py"),
}


def _files(checkout: Path) -> list[Path]:
    return sorted((checkout / "convokit").rglob("*.py"))


@functools.cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@pytest.mark.parametrize("package", [convokit, context, local, server, store, telemetry, testing, tokens, wire])
def test_all_is_sorted_and_complete(package: ModuleType) -> None:
    """`__all__` names every public name of a public package, sorted."""
    public = sorted(name for name, value in vars(package).items() if name[0] != "_" and not inspect.ismodule(value))
    assert package.__all__ == public == sorted(package.__all__)


def test_files_and_functions_have_a_size_limit(checkout: Path) -> None:
    """A file has at most 350 lines, a function at most 80. The API classes may be longer because of their docstrings."""
    for path in _files(checkout):
        text = path.read_text("utf-8")
        assert text.count("\n") <= MAX_LINES or path.name in API_CLASSES, path
        for node in ast.walk(_parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION, f"{path}: {node.name}"


def test_only_the_store_and_the_sql_modules_of_features_build_statements(checkout: Path) -> None:
    """No other module imports the statements of SQLAlchemy or executes a string."""
    statements = {"select", "insert", "update", "delete", "text", "table", "column", "func", "bindparam"}
    for path in _files(checkout):
        if "store" in path.parts or path.relative_to(checkout / "convokit").as_posix() in SQL_OF_FEATURES:
            continue
        for node in ast.walk(_parse(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy"):
                assert not statements & {alias.name for alias in node.names}, path
            if isinstance(node, ast.Attribute):
                assert node.attr != "exec_driver_sql", path


def test_only_the_dialect_modules_name_a_database(checkout: Path) -> None:
    """No other module compares a database's name or asks for it.

    `schema` and `indexes` pass SQLAlchemy column variants and index options of a database, which compare nothing.
    """
    for path in _files(checkout):
        if path.parent.name == "dialects":
            continue
        for node in ast.walk(_parse(path)):
            if isinstance(node, ast.Compare | ast.match_case):
                names = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
                assert not names & {"sqlite", "postgresql"}, f"{path}:{ast.unparse(node)}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("get_backend_name", "get_dialect", "drivername"), path
                assert ast.unparse(node).split(".")[-2:] != ["dialect", "name"], path


def test_no_function_imports_convokit(checkout: Path) -> None:
    """An import of convokit inside a function would hide an import cycle."""
    for path in _files(checkout):
        for function in ast.walk(_parse(path)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                if path.parent.name != "cli":
                    assert not (module or "").startswith("convokit"), f"{path}: {function.name}"


@pytest.mark.parametrize(("one", "other"), [(Convokit, AsyncConvokit), (Chat, AsyncChat)])
def test_sync_and_async_api_have_the_same_methods(one: type, other: type) -> None:
    """Both have the same public methods in the same order with the same parameters."""

    def list_methods(cls: type) -> dict[str, list[tuple[str, object]]]:
        return {
            name: [(each.name, each.kind) for each in inspect.signature(member).parameters.values()]
            for name, member in vars(cls).items()
            if inspect.isfunction(member) and name[0] != "_"
        }

    assert list(list_methods(one)) == list(list_methods(other))
    assert list_methods(one) == list_methods(other)


def test_child_tables_lead_with_the_conversation() -> None:
    """Keys and unique indexes of every table below a conversation begin with conversation_id."""
    roots = {"convokit_schema", "convokit_conversation", "convokit_prompt", "convokit_key", "convokit_key_window"}
    for table in indexes.metadata.tables.values():
        if table.name in roots:
            continue
        assert next(iter(table.primary_key.columns)).name == "conversation_id", table.name
        for index in table.indexes:
            if index.unique:
                assert next(iter(index.columns)).name == "conversation_id", index.name
        for key in table.foreign_keys:
            assert key.parent.name == "conversation_id"


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    """The docstring of errors.py names every class, and every class derives from ConvokitError."""
    drawn = errors.__doc__ or ""
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, Exception):
            assert name in drawn, name
            assert issubclass(value, errors.ConvokitError)


def test_importing_convokit_is_light() -> None:
    """`import convokit` loads no command line, no Alembic, no driver, no local model and no scripted model.

    `import convokit.testing` does not load pytest.
    """
    code = (
        "import sys, httpx; before = set(sys.modules); import convokit;"  # httpx itself loads click and rich if it can
        "bad = {'alembic', 'typer', 'rich', 'click', 'psycopg', 'xllamacpp', 'openai', 'mako'} & (set(sys.modules) - before);"
        "bad |= {'convokit.testing', 'convokit.local'} & set(sys.modules);"
        "import convokit.testing; bad |= {'pytest'} & set(sys.modules); sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plain_turn_loads_no_feature_package_and_no_other_dialect() -> None:
    """`import convokit` loads no dialect. A kit loads only the dialect of its database and no feature module."""
    packages = ("convokit.audit.", "convokit.erasure.", "convokit.store.indexes")
    modules = [f"convokit.{name}" for name in ("history.branches", "history.copies", "search.flows", "transfer.flows")]
    code = (
        "import sys, convokit; after = [name for name in sys.modules if name.startswith('sqlalchemy.dialects.')];"
        "convokit.Convokit('sqlite:///chat.db', model='m').chat('k');"
        "foreign = ('sqlalchemy.dialects.postgresql', 'convokit.store.dialects.postgresql');"
        "dialects = {name for name in sys.modules if name.startswith(foreign)};"
        f"loaded = [name for name in sys.modules if name.startswith({(*packages, *modules)!r})];"
        "sys.exit(repr((after, dialects, loaded)) if after or dialects or loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", [audit, erasure, history, search, transfer, usage])
def test_modules_imported_on_use_are_listed_for_type_checkers(package: ModuleType) -> None:
    """A feature package imports exactly the modules that it lists for type checkers."""
    tree = ast.parse(inspect.getsource(package))
    typed = {node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.names[0].asname}
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} - {inspect.getdoc(package)}
    assert typed == {each for each in strings if isinstance(each, str)} > set()
    for name in typed:
        assert inspect.ismodule(getattr(package, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(package, "nothing")  # noqa: B009  # mypy would report the attribute


def test_public_names_are_documented() -> None:
    """Every public class, method and function has a docstring."""
    for name in convokit.__all__:
        value = getattr(convokit, name)
        if not inspect.isclass(value) and not inspect.isfunction(value):
            continue  # a union of types has no docstring
        assert inspect.getdoc(value), name
        for attribute, member in vars(value).items() if inspect.isclass(value) else ():
            if attribute[0] != "_" and (inspect.isfunction(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{name}.{attribute}"


def test_modules_begin_with_a_short_summary(checkout: Path) -> None:
    """The first line of a module's docstring is a statement of at most 12 words."""
    riddles = {"What", "Where", "Whether", "How", "Who", "When", "Which", "Everything"}
    for path in _files(checkout):
        docstring = ast.get_docstring(_parse(path))
        assert docstring, path
        summary = docstring.splitlines()[0]
        assert len(summary.split()) <= 12, f"{path}: {summary}"
        assert summary.endswith("."), f"{path}: {summary}"
        assert summary.split()[0] not in riddles, f"{path}: {summary}"


def test_roles_are_named_in_one_module(checkout: Path) -> None:
    """Only domain/message.py spells the roles; other modules use its constants. A Literal type may spell them."""
    for path in _files(checkout):
        if path.parts[-2:] == ("domain", "message.py"):
            continue
        text = path.read_text("utf-8")
        if '"user"' not in text and '"assistant"' not in text:  # walking over all modules takes seconds
            continue
        tree = ast.parse(text)  # changed below, so not the shared one
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
                node.slice = ast.Constant(None)
            if isinstance(node, ast.Tuple) and "safety_identifier" in ast.unparse(node):
                node.elts = []  # names of request parameters, of which one is `user`
        spelled = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} & {"user", "assistant"}
        assert not spelled, f"{path}: {spelled}"


def test_file_names_are_unique(checkout: Path) -> None:
    """No two modules have the same file name, except the ones in REPEATED_NAMES."""
    counts = Counter(path.name for path in _files(checkout) if path.parent.name != "commands")
    assert {name for name, count in counts.items() if count > 1} <= REPEATED_NAMES


def test_class_names_are_unique(checkout: Path) -> None:
    """No two modules define a class of the same name. The API exists twice on purpose, sync and async."""
    names = Counter(
        node.name for path in _files(checkout) for node in _parse(path).body if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []
