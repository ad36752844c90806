"""The built wheel, alone: it carries the migrations and runs a turn in an empty environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.server import LoopbackServer

PROGRAM = """
import convokit, pathlib, sys
from convokit.store.migrations import find_scripts
kit = convokit.Convokit("sqlite:///" + sys.argv[1], model="loop-1", base_url=sys.argv[2])
kit.migrate()
assert kit.chat("k").send("hello").text == "echo: hello"
assert "site-packages" in str(find_scripts()), find_scripts()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = Path(__file__).resolve().parents[2]
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("convokit", "migrations"):
        shutil.copytree(checkout / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(checkout / name, source / name)
    subprocess.run(
        ["uv", "build", "--wheel", "--quiet", "--out-dir", str(out), str(source)],
        check=True,
        env=_environment(),
    )
    return next(out.glob("*.whl"))


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}


def test_the_wheel_carries_what_it_needs_and_nothing_else(wheel: Path) -> None:
    """Migrations, type marker, data file and license are in it; tests and stray .pth files are not."""
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("convokit/migrations/env.py", "convokit/migrations/versions/0001_first.py", "convokit/py.typed"):
        assert wanted in names
    assert any(name.endswith("profiles.json") for name in names)
    assert any(name.endswith("LICENSE") for name in names)
    assert not [name for name in names if name.startswith("tests") or name.endswith(".pth")]


@pytest.mark.soak(sample=True)
def test_the_wheel_runs_a_turn_in_an_empty_environment(wheel: Path, tmp_path: Path, server: LoopbackServer) -> None:
    """Installed alone, it upgrades an empty database from its own migrations and completes a turn."""
    target = tmp_path / "venv"
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(target)], check=True, env=_environment())
    python = target / "bin" / "python"
    install = ["uv", "pip", "install", "--quiet", "--python", str(python), str(wheel)]
    subprocess.run(install, check=True, env=_environment())
    arguments = [str(tmp_path / "chat.db"), server.url]
    subprocess.run([str(python), "-c", PROGRAM, *arguments], check=True, cwd=tmp_path, env=_environment())
    bare = subprocess.run(
        [str(target / "bin" / "convokit"), "ls"], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert bare.returncode == 1
    assert "convokit-sql[cli]" in bare.stdout + bare.stderr


def test_an_editable_install_finds_the_migrations_in_the_checkout(checkout: Path) -> None:
    """Without the wheel the scripts are those of the checkout."""
    from convokit.store.migrations import find_scripts  # noqa: PLC0415

    assert find_scripts() == checkout / "migrations"
