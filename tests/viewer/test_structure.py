"""Rules of the viewer's code: who may make HTML, and how large it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

VIEWER = Path(__file__).parents[2] / "convokit" / "viewer"
_MAKERS = {"language.py", "markdown.py", "message_text.py", "rendering.py"}


def test_few_modules_make_html() -> None:
    """Everything else is escaped by the templates, which trust nothing."""
    makers = {path.name for path in VIEWER.rglob("*.py") if "Markup(" in path.read_text("utf-8")}
    assert makers == _MAKERS
    for template in (VIEWER / "templates").glob("*.html"):
        text = template.read_text("utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape|<script(?! src)|<style| style=|\son\w+=", text), template.name


def test_the_script_and_the_code_stay_small() -> None:
    """At most 300 lines of plain JavaScript, without a library, and 2,000 of Python without docstrings and blank lines."""
    script = (VIEWER / "static" / "view.js").read_text("utf-8")
    assert len(script.splitlines()) <= 300
    assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script)
    assert sum(_count_code(path.read_text("utf-8")) for path in VIEWER.rglob("*.py")) <= 2_000


def _count_code(source: str) -> int:
    """Return the number of lines that are not blank, and not part of a comment or a docstring."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(
        number not in docstrings and bool(line.strip()) and not line.strip().startswith("#") for number, line in lines
    )
