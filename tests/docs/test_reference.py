"""The generated pages are those that the source gives."""

from __future__ import annotations

import ast

import pytest
from sqlalchemy import Table

from convokit.store import schema
from tests.docs import commands, datamodel, generate
from tests.docs.pages import CHECKOUT


@pytest.mark.parametrize("page", sorted(generate.written()))
def test_the_reference_is_current(page: str) -> None:
    """Each page is what the generator writes from today's docstrings, tables and commands."""
    stored = (generate.FOLDER / page).read_text("utf-8")
    assert stored == generate.written()[page], "run: python -m tests.docs.generate"


def test_every_table_is_described() -> None:
    """Each table and each hand-written column note belongs to the schema as it is."""
    assert set(datamodel.TABLES) == set(schema.metadata.tables)
    columns = {f"{table.name}.{column.name}" for table in schema.metadata.tables.values() for column in table.columns}
    assert set(datamodel.WORDS) <= columns


def test_reserved_tables_are_used_by_nobody() -> None:
    """A table that the data model calls reserved is imported by no module of the store, and every other one is."""
    used: set[str] = set()
    for path in (CHECKOUT / "convokit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "convokit.store.schema":
                used |= {alias.name for alias in node.names}
    named = {value.name for name, value in vars(schema).items() if name in used and isinstance(value, Table)}
    assert set(schema.metadata.tables) - named == datamodel.RESERVED, "tests/docs/datamodel.py: correct RESERVED"


def test_every_command_is_in_the_how_to() -> None:
    """docs/how-to/command-line.md shows every command there is."""
    text = (CHECKOUT / "docs" / "how-to" / "command-line.md").read_text("utf-8")
    for path, _ in commands.every():
        assert f"convokit {' '.join(path)}" in text or f"`{path[-1]}`" in text, path
