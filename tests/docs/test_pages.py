"""Every page runs as it is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import convokit
from convokit.testing import ScriptedModel
from tests.docs import answers
from tests.docs.pages import Story, blocks, name, pages
from tests.support.selection import keep

PAGES = [page for page in pages() if blocks(page, "python") or blocks(page, "sh")]
SLOW = ("test-your-application", "command-line", "logging", "resuming", "summaries", "README.ja", "tutorial.ja")
"""Pages that take a second or more. The Japanese ones have the blocks of the English ones."""
FAST = [page for page in PAGES if page.stem not in SLOW]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkout: Path) -> Iterator[str]:
    """An empty folder to run in, and a model at the address that the library takes from the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-key")
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    with ScriptedModel(answers.answer).serve() as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        yield url


@pytest.mark.parametrize("page", keep(PAGES, *FAST, sample=True), ids=name)
def test_every_block_of_a_page_runs(
    page: Path, written: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page's Python runs from top to bottom, and what it says is printed is printed."""
    databases: list[str] = []

    def export(variable: str, value: str) -> None:
        if value.startswith("postgresql://"):
            value = str(request.getfixturevalue("postgres").empty())
            databases.append(value)
        monkeypatch.setenv(variable, written if variable == "OPENAI_BASE_URL" else value)

    reference = page.parent.name == "reference"
    namespace: dict[str, Any] = {each: getattr(convokit, each) for each in convokit.__all__} if reference else {}
    known = set(sys.modules)
    try:
        assert Story(page, export, namespace).tell() >= 1
    finally:
        for module in set(sys.modules) - known:
            if str(getattr(sys.modules[module], "__file__", "")).startswith(str(Path.cwd())):
                del sys.modules[module]
        for url in databases:
            request.getfixturevalue("postgres").release(url)
