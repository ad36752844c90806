"""`convokit demo`, and commands that run as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convokit.cli import invocation
from convokit.cli.app import app
from convokit.cli.commands import demo
from convokit.cli.demo.texts import ENGLISH, FOLLOW_UP, JAPANESE
from convokit.errors import ConvokitError

_ALTERED = "message 3 is not what was written"


def _run(folder: Path, *command: str, code: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UV")}
    done = subprocess.run(
        command, cwd=folder, env=environment, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.mark.soak(sample=True)
@pytest.mark.parametrize("lang", ["en", "ja"])
def test_each_command_of_the_demo_runs_again_as_printed(tmp_path: Path, lang: str) -> None:
    """The demo shows a killed turn that is finished, a search, an altered row and a window; then its commands are repeated."""
    texts = ENGLISH if lang == "en" else JAPANESE
    shown = _run(tmp_path, sys.executable, "-m", "convokit", "demo", "--lang", lang)
    assert "(partial)" in shown
    assert texts.reply in shown, "the next process finished the reply"
    assert shown.count(FOLLOW_UP) >= 3, "asked, found and sent"
    assert _ALTERED in shown
    assert "before the window (step window)" in shown
    commands = re.findall(r"^\$ (.+)$", shown, flags=re.MULTILINE)
    assert len(commands) == 9
    for command in commands:
        code = 137 if command.endswith("--kill") else 1 if " verify " in command else 0
        _run(tmp_path, "sh", "-c", f"{command} 2>&1; exit $?", code=code)
    assert texts.reply in _run(tmp_path, sys.executable, "-m", "convokit", "demo", "--lang", lang), "safe to repeat"
    assert [each.name for each in tmp_path.iterdir()] == ["convokit-demo"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """Only files of an earlier demo are replaced, and no link is followed."""
    own = tmp_path / "convokit-demo"
    own.mkdir()
    (own / "demo.db").write_text("mine")
    (own / "notes.txt").write_text("mine")
    (tmp_path / "convokit-demo-2").symlink_to(own)
    assert demo._prepare_folder(tmp_path) == tmp_path / "convokit-demo-3"
    (tmp_path / "convokit-demo-3" / "demo.db").write_text("of the demo before")
    assert demo._prepare_folder(tmp_path) == tmp_path / "convokit-demo-3"
    assert list((tmp_path / "convokit-demo-3").iterdir()) == []
    assert (own / "demo.db").read_text() == "mine"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to do."""

    def refuse(path: Path, *, exist_ok: bool) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConvokitError, match=r"Permission denied\): start the demo in another folder"):
        demo._prepare_folder(tmp_path)


@pytest.mark.parametrize(
    ("variables", "on_path", "expected"),
    [
        ({"UV_RUN_RECURSION_DEPTH": "1"}, False, ["uv", "run", "--group", "local", "convokit"]),
        ({}, True, ["convokit"]),
        ({}, False, [sys.executable, "-m", "convokit"]),
    ],
)
def test_a_printed_command_is_one_that_the_shell_finds(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variables: dict[str, str],
    on_path: bool,
    expected: list[str],
) -> None:
    """`uv run` in a checkout, the program of an active environment, else this Python."""
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent if on_path else tmp_path))
    monkeypatch.chdir(tmp_path)
    assert invocation.find_convokit() == expected


def test_python_of_the_environment_is_named_by_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A `python` of another environment on the PATH would not find convokit."""
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert invocation.find_python() == [sys.executable]
    monkeypatch.chdir(Path(sys.executable).parent)
    assert invocation.find_python() == [f"./{Path(sys.executable).name}"]


def test_the_module_runs() -> None:
    """`python -m convokit` is the command line."""
    done = subprocess.run([sys.executable, "-m", "convokit", "--version"], check=True, text=True, capture_output=True)
    assert done.stdout.startswith("convokit-sql ")
    assert CliRunner().invoke(app, ["demo", "--help"]).exit_code == 0
