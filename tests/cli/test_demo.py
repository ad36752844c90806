"""`convokit demo`, and commands that run as they are printed."""

from __future__ import annotations

import contextlib
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
from tests.cli.conftest import Terminal

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


@pytest.mark.soak(sample=True)
def test_ctrl_c_ends_the_demo_and_its_program(
    terminal: type[Terminal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo exits with 130, prints no traceback and leaves no process."""
    monkeypatch.chdir(tmp_path)
    shown = terminal("demo", "--lang", "en")
    shown.wait_for("Be at")
    shown.type("\x03")
    assert shown.end() == 130
    assert "Traceback" not in shown.seen
    monkeypatch.undo()  # this process leaves the folder
    assert tmp_path not in _list_working_folders()


def _list_working_folders() -> list[Path]:
    """Return the working folder of each process."""
    folders = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):  # the process has ended since, or is another user's
            folders.append(link.readlink())
    return folders


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


def test_an_encoding_without_japanese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to set, and no folder is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "error: the demo searches Japanese, which the encoding ascii lacks: set PYTHONUTF8=1"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A shell in an empty folder, without programs and without uv's variables."""
    for name in ("UV", "UV_RUN_RECURSION_DEPTH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def test_a_printed_command_uses_the_active_environment(shell: pytest.MonkeyPatch) -> None:
    """Without an active environment, the command names its Python by its path."""
    assert invocation.find_convokit() == [sys.executable, "-m", "convokit"]
    shell.setenv("PATH", str(Path(sys.executable).parent))
    assert invocation.find_convokit() == ["convokit"]
    shell.setenv("UV", "uv")
    assert invocation.find_convokit() == [sys.executable, "-m", "convokit"], "only uvx has this PATH, not the shell"


def test_a_printed_command_uses_uv_run(shell: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the checkout with its group, elsewhere with the checkout's path, and in a project of the user's own without both."""
    shell.setenv("UV_RUN_RECURSION_DEPTH", "1")
    shell.setenv("UV", str(tmp_path / ".uv" / "bin" / "uv"))
    assert invocation.find_convokit()[0] == ".uv/bin/uv", "the shell does not find uv"
    (tmp_path / "uv").write_text("#!/bin/sh\n")
    (tmp_path / "uv").chmod(0o755)
    outside = ["uv", "run", "--project", str(invocation.CHECKOUT), "--group", "local"]
    assert invocation.find_convokit() == [*outside, "convokit"]
    assert invocation.find_python() == [*outside, "python"]
    shell.chdir(invocation.CHECKOUT / "docs")
    assert invocation.find_convokit() == ["uv", "run", "--group", "local", "convokit"]
    (tmp_path / "pyproject.toml").write_text("")
    shell.chdir(tmp_path)
    shell.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert invocation.find_convokit() == ["uv", "run", "convokit"]
    shell.setattr(sys, "prefix", str(invocation.CHECKOUT / ".venv"))
    assert invocation.find_convokit() == [*outside, "convokit"], "uv run --project, in another project"


def test_a_link_to_the_program_is_a_command(shell: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pipx and `uv tool` put a link to the program of their environment on the PATH, and no link to its Python."""
    environment = tmp_path / "tools" / "bin"
    environment.mkdir(parents=True)
    for name in ("convokit", "python"):
        (environment / name).write_text("#!/bin/sh\n")
        (environment / name).chmod(0o755)
        (tmp_path / name).symlink_to(environment / name)
    shell.setattr(sys, "executable", str(environment / "python"))
    assert invocation.find_convokit() == ["convokit"]
    (tmp_path / "convokit").unlink()
    assert invocation.find_convokit() == ["tools/bin/python", "-m", "convokit"]


def test_python_of_the_environment_is_named_by_its_path(shell: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A `python` of another environment on the PATH would not find convokit."""
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    assert invocation.find_python() == [sys.executable]
    shell.chdir(Path(sys.executable).parent)
    assert invocation.find_python() == [f"./{Path(sys.executable).name}"]
