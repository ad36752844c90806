"""The house: what may stand where, and how large a room may get."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
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
    search,
    store,
    tokens,
    transfer,
    usage,
    wire,
)
from convokit.store import indexes

MAX_LINES = 350
MAX_FUNCTION = 80
API_CLASSES = ("kit.py", "async_kit.py", "chat.py", "async_chat.py")
# Where a feature's package holds its own statements.
SQL_OF_FEATURES = {
    *(f"{package}/sql.py" for package in ("audit", "erasure", "transfer", "usage")),
    *("audit/consistency.py", "erasure/residue.py", "history/copies.py"),
}


def _files(checkout: Path) -> list[Path]:
    return sorted((checkout / "convokit").rglob("*.py"))


@pytest.mark.parametrize("package", [convokit, context, store, tokens, wire])
def test_all_is_sorted_and_complete(package: ModuleType) -> None:
    """`__all__` names every public name of a public package, sorted."""
    public = sorted(name for name, value in vars(package).items() if name[0] != "_" and not inspect.ismodule(value))
    assert package.__all__ == public == sorted(package.__all__)


def test_no_file_outgrows_its_room(checkout: Path) -> None:
    """A file has at most 350 lines, but for the API classes with their docstrings; a function has at most 80."""
    for path in _files(checkout):
        text = path.read_text("utf-8")
        assert text.count("\n") <= MAX_LINES or path.name in API_CLASSES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION, f"{path}: {node.name}"


def test_sql_lives_in_the_store_only(checkout: Path) -> None:
    """No other floor builds a statement: outside store/ nothing of SQLAlchemy's statements is imported."""
    statements = {"select", "insert", "update", "delete", "text", "table", "column", "func", "bindparam"}
    for path in _files(checkout):
        if "store" in path.parts or path.relative_to(checkout / "convokit").as_posix() in SQL_OF_FEATURES:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
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
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Compare | ast.match_case):
                names = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
                assert not names & {"sqlite", "postgresql"}, f"{path}:{ast.unparse(node)}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("get_backend_name", "get_dialect", "drivername"), path
                assert ast.unparse(node).split(".")[-2:] != ["dialect", "name"], path


def test_no_import_of_our_own_hides_in_a_function(checkout: Path) -> None:
    """An import of convokit inside a function is a cycle in hiding."""
    for path in _files(checkout):
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                if path.parent.name != "cli":
                    assert not (module or "").startswith("convokit"), f"{path}: {function.name}"


@pytest.mark.parametrize(("one", "other"), [(Convokit, AsyncConvokit), (Chat, AsyncChat)])
def test_both_faces_have_the_same_methods(one: type, other: type) -> None:
    """The same public names in the same order with the same parameters; only the waiting differs."""

    def face(cls: type) -> dict[str, list[tuple[str, object]]]:
        return {
            name: [(each.name, each.kind) for each in inspect.signature(member).parameters.values()]
            for name, member in vars(cls).items()
            if inspect.isfunction(member) and name[0] != "_"
        }

    assert list(face(one)) == list(face(other))
    assert face(one) == face(other)


def test_child_tables_lead_with_the_conversation() -> None:
    """Keys and unique indexes of every table below a conversation begin with conversation_id."""
    roots = {"convokit_schema", "convokit_conversation", "convokit_prompt"}
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
    """The tree drawn at the top of errors.py names every class, and every class descends from ConvokitError."""
    drawn = errors.__doc__ or ""
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, Exception):
            assert name in drawn, name
            assert issubclass(value, errors.ConvokitError)


def test_importing_convokit_is_light() -> None:
    """`import convokit` loads no command line, no Alembic, no driver and no local model."""
    code = (
        "import sys, httpx; before = set(sys.modules); import convokit;"  # httpx itself loads click and rich if it can
        "bad = {'alembic', 'typer', 'rich', 'click', 'psycopg', 'xllamacpp', 'openai', 'mako'} & (set(sys.modules) - before);"
        "sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_no_plain_turn_needs_is_loaded_by_who_needs_it() -> None:
    """`import convokit` and making a kit load no database's dialect but their own, and no room for reading back or removing."""
    needless = ("convokit.audit.", "convokit.erasure.", "convokit.store.indexes")
    rooms = [f"convokit.{room}" for room in ("history.branches", "history.copies", "search.flows", "transfer.flows")]
    code = (
        "import sys, convokit; after = [name for name in sys.modules if name.startswith('sqlalchemy.dialects.')];"
        "convokit.Convokit('sqlite:///chat.db', model='m').chat('k');"
        "foreign = ('sqlalchemy.dialects.postgresql', 'convokit.store.dialects.postgresql');"
        "dialects = {name for name in sys.modules if name.startswith(foreign)};"
        f"loaded = [name for name in sys.modules if name.startswith({(*needless, *rooms)!r})];"
        "sys.exit(repr((after, dialects, loaded)) if after or dialects or loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("floor", [audit, erasure, history, search, transfer, usage])
def test_rooms_opened_on_use_are_those_that_type_checkers_know(floor: ModuleType) -> None:
    """Each room a floor names opens, nothing else does, and type checkers are told of the same ones."""
    tree = ast.parse(inspect.getsource(floor))
    said = {node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.names[0].asname}
    named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} - {inspect.getdoc(floor)}
    assert said == {name for name in named if isinstance(name, str)} > set()
    for room in said:
        assert inspect.ismodule(getattr(floor, room))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(floor, "nothing")  # noqa: B009  # mypy knows that it is not there


def test_public_names_are_documented() -> None:
    """Every public class, method and function has a docstring."""
    for name in convokit.__all__:
        value = getattr(convokit, name)
        if not inspect.isclass(value) and not inspect.isfunction(value):
            continue  # a union of types has no words of its own
        assert inspect.getdoc(value), name
        for attribute, member in vars(value).items() if inspect.isclass(value) else ():
            if attribute[0] != "_" and (inspect.isfunction(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{name}.{attribute}"
