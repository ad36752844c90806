"""Commands that the pages show are commands that exist, with these options."""

from __future__ import annotations

import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.docs import commands
from tests.docs.pages import CHECKOUT, blocks, calls, lines, name, pages

KNOWN = {
    ".",
    "alembic",
    "convokit",
    "export",
    "git",
    "pg_dump",
    "pg_restore",
    "pip",
    "pytest",
    "python",
    "python3",
    "sqlite3",
    "uv",
}


def _calls() -> list[Any]:
    found = []
    for page in pages():
        for block in blocks(page, "sh"):
            for line in lines(str(block.parsed)):
                found += [pytest.param(part, id=f"{name(page)}:{part}") for part in calls(line)]
    return found


@pytest.mark.parametrize("call", _calls())
def test_a_command_that_is_shown_exists(call: str) -> None:
    """The program is one we know of; a call of convokit parses; groups and extras are those of pyproject.toml."""
    words = shlex.split(call)
    assert words[0] in KNOWN, call
    project = _load_project()
    if words[:2] == ["uv", "run"]:
        words = words[2:]
        if words[0] == "--group":
            assert words[1] in project["dependency-groups"]
            words = words[2:]
        while words[0] == "--with":
            words = words[2:]
        assert words[0] in ("convokit", "pytest", "python")
        if words[0] == "python":
            assert (CHECKOUT / words[1]).is_file(), call
    if words[0] == "pip":
        _check_install(words, project)
    if words[0] == "convokit":
        commands.parse(words[1:])


@cache
def _load_project() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))


def _check_install(words: list[str], project: dict[str, Any]) -> None:
    assert words[1] == "install"
    for wanted in words[2:]:
        distribution, _, extra = wanted.rstrip("]").partition("[")
        assert distribution in (project["project"]["name"], "uv", "."), wanted
        assert not extra or set(extra.split(",")) <= set(project["project"]["optional-dependencies"]), wanted


@pytest.mark.parametrize(("page", "language"), [("README.md", ""), ("README.ja.md", " --lang ja")])
def test_the_first_commands_stand_in_the_readme(page: str, language: str) -> None:
    """Both READMEs show the demo, the local model and the tests word for word."""
    text = Path(CHECKOUT / page).read_text("utf-8")
    demo = f"uv run --group local convokit demo{language}"
    local = 'uv run --group local convokit chat --local "Why is the sky blue? Answer in one sentence."'
    for command in (demo, local, "uv run --group test pytest -n 2"):
        assert f"\npip install uv && {command}\n" in text
