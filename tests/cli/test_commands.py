"""Test the help, the version and the start of the command line."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from convokit.cli import main
from convokit.cli.app import app
from tests.cli.conftest import CommandLine


def _commands(command: Any, name: str = "convokit") -> list[tuple[str, Any]]:
    found = [(name, command)]
    for each, inner in getattr(command, "commands", {}).items():
        found += _commands(inner, f"{name} {each}")
    return found


COMMANDS = _commands(typer.main.get_command(app))


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_and_every_option_has_help(name: str, command: Any) -> None:
    assert command.help
    assert command.get_short_help_str(limit=200).endswith(".")
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_help_page_fits_80_columns(name: str, command: Any, cli: CommandLine) -> None:
    shown = cli(*name.split(" ")[1:], "--help").stdout
    assert shown.startswith("Usage: ")
    assert max(map(len, shown.splitlines())) <= 80


def test_every_command_has_a_json_option() -> None:
    for name, command in COMMANDS:
        if not hasattr(command, "commands") and name not in ("convokit demo", "convokit serve", "convokit view"):
            assert "--json" in {option for each in command.params for option in each.opts}, name


def test_version_names_the_distribution(cli: CommandLine) -> None:
    assert cli("--version").stdout.startswith("convokit-sql 0.")


def test_module_runs_like_the_console_script() -> None:
    ran = subprocess.run([sys.executable, "-m", "convokit", "--version"], capture_output=True, check=True)
    assert ran.stdout.startswith(b"convokit-sql ")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_missing_extra_is_reported_with_the_install_command(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("convokit.cli.", "typer", "rich"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == 'convokit: the command line needs its extra: pip install "convokit-sql[cli]"\n'


def test_import_convokit_loads_no_command_line() -> None:
    script = "import sys, convokit; print([name for name in ('typer', 'convokit.cli') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert ran.stdout == "[]\n"


def test_the_command_line_loads_no_gateway() -> None:
    """`convokit serve` imports it and the model of its demo when it runs."""
    script = "import sys, convokit.cli.app; print([name for name in sys.modules if name.startswith(%r)])"
    packages = ("starlette", "uvicorn", "convokit.server", "convokit.testing")
    ran = subprocess.run([sys.executable, "-c", script % (packages,)], capture_output=True, check=True, text=True)
    assert ran.stdout == "[]\n"


def test_wrong_options_exit_with_2(cli: CommandLine) -> None:
    assert "No such option" in cli("ls", "--nonsense", code=2).stderr
    assert "exclude each other" in cli("chat", "--key", "k", "--continue", "hi", code=2).stderr
    assert "exclude each other" in cli("chat", "--local", "--model", "m", "hi", code=2).stderr
    assert "NAME=VALUE" in cli("chat", "-o", "top_p", "hi", code=2).stderr
