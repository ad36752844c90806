"""The typed programs call every public method."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from convokit import AsyncChat, AsyncConvokit, AsyncStream, Chat, Convokit, Stream

_FOLDER = Path(__file__).parent


def _list_names(file: str) -> set[str]:
    tree = ast.parse((_FOLDER / file).read_text("utf-8"))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def _list_public(*classes: type) -> set[str]:
    return {name for each in classes for name, _ in inspect.getmembers(each) if not name.startswith("_")}


def test_the_programs_use_every_public_method() -> None:
    """A new method is called in `async_methods.py`, so both type checkers see its signature."""
    assert _list_public(AsyncConvokit, AsyncChat, AsyncStream) <= _list_names("async_methods.py")
    assert _list_public(Convokit, Chat, Stream) <= _list_names("methods.py")
