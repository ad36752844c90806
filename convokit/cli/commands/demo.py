"""Define `convokit demo`: show what convokit keeps, finds and proves."""

from __future__ import annotations

import contextlib
import json
import locale
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from convokit.cli import output
from convokit.cli.demo.texts import DEVELOPER_PROMPT, FOLLOW_UP, FOLLOW_UP_REPLY, LANGUAGES, SEARCH, DemoTexts
from convokit.cli.invocation import find_convokit, find_python, format_command
from convokit.errors import ConvokitError

_NAME = "convokit-demo"
_PROGRAMS = ("ask.py", "alter.py")
_FILES = (*_PROGRAMS, "script.json", "demo.db", "demo.db-wal", "demo.db-shm")
_MAX_FOLDERS = 100
_CONTEXT_TOKENS = "180"
_READING_S = 0.9
"""The pause before a step, in a terminal."""


def demo(
    context: typer.Context,
    *,
    lang: Annotated[Literal["en", "ja"] | None, typer.Option("--lang", help="Language; default: the system's.")] = None,
) -> None:
    """Show what convokit does, in twenty seconds: no model and no key are needed.

    A process is killed in the middle of a reply, and another one finishes the reply. Then come a search, an altered row that
    `verify` names, and the window of the next request. Each step prints its command. The files are in ./convokit-demo. The next
    demo replaces them.
    """
    language = lang or ("ja" if (locale.getlocale()[0] or "").lower().startswith("ja") else "en")
    _check_encoding()
    folder = _prepare_folder(Path.cwd())
    texts = LANGUAGES[language]
    for name in _PROGRAMS:
        shutil.copyfile(Path(__file__).parent.parent / "demo" / name, folder / name)
    replies = {texts.question: texts.reply, FOLLOW_UP: FOLLOW_UP_REPLY}
    script = {"developer_prompt": DEVELOPER_PROMPT, "replies": replies, "altered_text": texts.altered_text}
    (folder / "script.json").write_text(json.dumps(script, ensure_ascii=False, indent=1), "utf-8")
    _Demo(folder, texts, context.find_root().command).run(language)


def _check_encoding() -> None:
    """Raise if the commands of the demo cannot be printed or started: they contain Japanese characters."""
    for encoding in (sys.getfilesystemencoding(), sys.stdout.encoding):
        try:
            FOLLOW_UP.encode(encoding)
        except UnicodeEncodeError:
            problem = f"the demo searches Japanese, which the encoding {encoding} lacks: set PYTHONUTF8=1, then start it again"
            raise ConvokitError(problem) from None


def _prepare_folder(parent: Path) -> Path:
    """Return an empty folder for the demo. Only the files of an earlier demo are removed."""
    for number in range(1, _MAX_FOLDERS):
        folder = parent / (_NAME if number == 1 else f"{_NAME}-{number}")
        if folder.is_symlink() or (folder.exists() and not _is_demo(folder)):
            continue  # it is somebody else's
        try:
            folder.mkdir(exist_ok=True)
            for name in _FILES:
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            problem = f"the folder {folder} cannot be written ({error.strerror}): start the demo in another folder"
            raise ConvokitError(problem) from None
        return folder
    raise ConvokitError(f"{parent} is full of folders named {_NAME}: start the demo in another folder")


def _is_demo(folder: Path) -> bool:
    return folder.is_dir() and all(file.name in _FILES or file.name == "__pycache__" for file in folder.iterdir())


class _Demo:
    """Runs the steps, and prints each command as the user's shell takes it.

    Each program runs in a separate process. The commands of convokit run in this process, because a new process would first
    import everything again.
    """

    def __init__(self, folder: Path, texts: DemoTexts, convokit: Any) -> None:
        self._convokit = convokit
        self._console: Console = output.get_console()
        self._texts = texts
        self._program = os.path.relpath(folder / "ask.py")
        self._database = os.path.relpath(folder / "demo.db")
        self._folder = os.path.relpath(folder)
        self._step = 0

    def run(self, language: str) -> None:
        texts = self._texts
        self._print(Text(texts.introduction.format(folder=f"./{self._folder}"), style="dim"))
        self._start_step(texts.ask)
        self._run_python(self._program, texts.question, "--kill")
        self._print(Text(texts.killed, style="bold red"))
        self._start_step(texts.recover)
        self._run_convokit("recover")
        self._run_convokit("show", "trip")
        self._start_step(texts.resume)
        self._run_python(self._program)
        self._run_python(self._program, FOLLOW_UP)
        self._start_step(texts.search)
        self._run_convokit("search", SEARCH)
        self._start_step(texts.alter)
        self._run_python(os.path.join(self._folder, "alter.py"))
        self._run_convokit("verify", "trip")
        self._start_step(texts.window)
        self._run_convokit("context", "trip", "--model", "demo", "--context-tokens", _CONTEXT_TOKENS)
        again = format_command("demo", *(["--lang", language] if language != "en" else []))
        self._console.print()
        self._print(Text(texts.end.format(program=self._program, demo=again), style="dim"))

    def _start_step(self, heading: str) -> None:
        self._step += 1
        self._pause()
        self._console.print()
        self._print(Text(f"{self._step}. {heading}", style="bold"))

    def _run_python(self, *arguments: str) -> None:
        self._print_command(find_python(), arguments)
        environment = {**os.environ, "COLUMNS": str(self._console.width)} if self._console.is_terminal else None
        command = [sys.executable, *arguments]
        # Ctrl-C in a terminal reaches a process group: outside of it, the program prints no traceback before it is killed.
        subprocess.run(command, check=False, env=environment, stderr=subprocess.STDOUT, process_group=0)  # noqa: S603  # our own interpreter

    def _run_convokit(self, *arguments: str) -> None:
        placed = [*arguments, "-d", self._database]
        self._print_command(find_convokit(), placed)
        with contextlib.redirect_stderr(sys.stdout):
            self._convokit.main(placed, prog_name="convokit", standalone_mode=False)

    def _print_command(self, program: Sequence[str], arguments: Sequence[str]) -> None:
        line = Text(f"$ {shlex.join([*program, *arguments])}", style="cyan")
        self._console.print(line, soft_wrap=True)  # a copied command must not contain line breaks
        sys.stdout.flush()

    def _print(self, text: Text) -> None:
        output.print_wrapped(self._console, text)

    def _pause(self) -> None:
        if self._console.is_terminal:
            time.sleep(_READING_S)
