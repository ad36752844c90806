"""The page about logging names every logger and every line that the library writes."""

from __future__ import annotations

import ast
import re

from tests.docs.pages import CHECKOUT

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def test_the_page_has_every_logger_and_every_line() -> None:
    """Each call of a logger in the package has a row: its logger, its level and the constant parts of its line."""
    rows = [
        line
        for line in (CHECKOUT / "docs" / "how-to" / "logging.md").read_text("utf-8").splitlines()
        if line.startswith("| `convokit.")
    ]
    found = 0
    for path in (CHECKOUT / "convokit").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
        names = [
            node.args[0].value
            for node in calls
            if ast.unparse(node.func) == "logging.getLogger"
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ]
        for call in calls:
            if not isinstance(call.func, ast.Attribute) or ast.unparse(call.func.value) != "log" or not names:
                continue
            assert call.func.attr in LEVELS, ast.unparse(call)
            text = call.args[0]
            assert isinstance(text, ast.Constant), "a line has a constant format"
            assert isinstance(text.value, str)
            assert call.func.attr != "exception", "a traceback contains text"
            parts = [part.strip("`. ") for part in re.split(r"%s|`", text.value) if part.strip("`. ")]
            name = str(*names)
            row = [each for each in rows if f"`{name}` | {call.func.attr} |" in each]
            assert any(all(part in each for part in parts) for each in row), text.value
            found += 1
    assert found == len(rows) + 1  # two drivers write the same line
