"""The pages of the documentation, and what it means to run one.

A page is a story: its blocks run in order, in an empty folder, and share one namespace. `python` is executed, top-level `await`
included; a block whose first line is `# name.py` is written to that file instead. In `sh`, `export` sets the environment and
`python name.py` and `pytest name.py` run such a file in a process of their own. `output` is what the block before it printed;
`...` stands for anything. Calls of `convokit` are run too, but for those that need what is not here: a terminal, a pipe, a
host, a local model, and for `serve`, which does not end.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sybil.document import Document
from sybil.example import Example
from sybil.parsers.markdown.codeblock import CodeBlockParser
from typer.testing import CliRunner

from convokit import AsyncConvokit, Convokit
from convokit.cli.app import app

CHECKOUT = Path(__file__).resolve().parents[2]
_FILE = re.compile(r"# ([\w/]+\.py)\n")
_ABSENT = re.compile(r"--local|group local|^convokit (?:demo|serve)\b|\$|example/|\| convokit|^convokit chat$")
_MATCH = doctest.ELLIPSIS | doctest.REPORT_NDIFF


def pages() -> list[Path]:
    """Return every page there is: the READMEs first, then everything below docs/."""
    return [CHECKOUT / "README.md", CHECKOUT / "README.ja.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    """Return a page's path in the checkout, for test ids."""
    return page.relative_to(CHECKOUT).as_posix()


def blocks(page: Path, language: str) -> list[Example]:
    """Return a page's blocks of one language."""
    return list(Document.parse(str(page), CodeBlockParser(language, lambda example: None)).examples())


def prose(page: Path) -> str:
    """Return a page's text without its blocks, for what must hold of words alone."""
    return re.sub(r"^([ \t]*)```.*?^\1```[ \t]*$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


class Story:
    """Runs one page in the current folder. `export` sets a variable of the environment that the page asks for."""

    def __init__(self, page: Path, export: Callable[[str, str], None], namespace: dict[str, Any]) -> None:
        self._export = export
        self._printed = ""
        self._runner = asyncio.Runner()
        self._kits: list[Convokit | AsyncConvokit] = []
        parsers = [
            CodeBlockParser("python", self._python),
            CodeBlockParser("sh", self._shell),
            CodeBlockParser("output", self._output),
        ]
        self._document = Document.parse(str(page), *parsers)
        self._document.namespace.update(namespace)

    def tell(self) -> int:
        """Run the page's blocks; return how many there were."""
        try:
            return sum(1 for _ in self._told())
        finally:
            self._close()

    def _told(self) -> Iterator[None]:
        for example in self._document.examples():
            example.evaluate()
            self._kits += [
                each
                for each in example.namespace.values()
                if isinstance(each, Convokit | AsyncConvokit) and each not in self._kits
            ]
            yield

    def _python(self, example: Example) -> None:
        source = str(example.parsed)
        named = _FILE.match(source)
        if named is not None:
            path = Path(named[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, "utf-8")
            return
        if source.startswith(">>>"):
            self._session(example, source)
            return
        padded = "\n" * (example.line + example.parsed.line_offset) + source
        code = compile(padded, str(example.path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if code.co_flags & inspect.CO_COROUTINE:
                self._runner.run(eval(code, example.namespace))
            else:
                exec(code, example.namespace)
        self._printed = printed.getvalue()

    def _session(self, example: Example, source: str) -> None:
        test = doctest.DocTestParser().get_doctest(source, example.namespace, str(example.path), None, example.line)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            failed, _ = doctest.DocTestRunner(optionflags=_MATCH).run(test)
        assert not failed, printed.getvalue()

    def _shell(self, example: Example) -> None:
        self._printed = ""
        for line in lines(str(example.parsed)):
            words = shlex.split(line, comments=True)
            if words[0] == "export":
                variable, _, value = words[1].partition("=")
                self._export(variable, value)
            elif words[0] == "python" and Path(words[1]).is_file():
                self._run(example, words[1:])
            elif words[0] == "pytest" and Path(words[-1]).is_file():
                self._run(example, ["-m", *words])
            elif not _ABSENT.search(line):
                self._commands(line)

    def _run(self, example: Example, arguments: list[str]) -> None:
        # The plugins of pytest that happen to be installed take seconds to load.
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        ran = subprocess.run([sys.executable, *arguments], check=False, capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, f"{example.path}:{example.line}: {ran.stdout}{ran.stderr}"
        self._printed += ran.stdout

    def _commands(self, line: str) -> None:
        for call in calls(line):
            words = shlex.split(call)
            if words[:2] in (["convokit", "demo"], ["convokit", "view"]):
                words.append("--help")  # one takes twenty seconds, and one waits for Ctrl-C; tests/cli runs both
            if words[0] == "convokit":
                ran = CliRunner().invoke(app, words[1:], prog_name="convokit")
                assert ran.exit_code == 0, f"{call}: {ran.output}"
                self._printed += ran.stdout

    def _output(self, example: Example) -> str | None:
        wanted, printed = str(example.parsed).rstrip() + "\n", self._printed.rstrip() + "\n"
        if doctest.OutputChecker().check_output(wanted, printed, _MATCH):
            return None
        return f"expected:\n{wanted}\nprinted:\n{printed}"

    def _close(self) -> None:
        """Close what the page left open."""
        for value in self._document.namespace.values():
            if isinstance(value, Engine):
                value.dispose()
        for kit in self._kits:
            closing = kit.close()
            if inspect.iscoroutine(closing):
                self._runner.run(closing)
        self._runner.close()


def calls(line: str) -> list[str]:
    """Return the simple commands of a line: `a && b | c  # words` is three."""
    lexer = shlex.shlex(line, posix=False, punctuation_chars="&|")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in ("&&", "|", "||"):
            found.append([])
        else:
            found[-1].append(word)
    return [" ".join(words) for words in found]


def lines(source: str) -> list[str]:
    """Return the commands of a shell block: continued lines joined, prompts, blank lines and comments left out."""
    joined = source.replace("\\\n", " ")
    found = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    return [line for line in found if line and not line.startswith("#")]
