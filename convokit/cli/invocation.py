"""Find the words that start convokit in the user's shell.

A command that the program prints must run as it is. `convokit` is on the shell's PATH after an install, but not in a checkout
that `uv run` prepares, and not in a virtual environment that is not activated.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
_UV = "UV"
"""`uv run` and `uvx` set this variable, and put an environment's programs on a PATH that the user's shell does not have."""
_UV_RUN = "UV_RUN_RECURSION_DEPTH"
"""`uv run` sets this variable too."""


def format_command(*arguments: str) -> str:
    """Return the shell command that runs convokit with these arguments."""
    return shlex.join([*find_convokit(), *arguments])


def find_convokit() -> list[str]:
    """Return the words that start convokit in the user's shell."""
    if _UV_RUN in os.environ:
        return [*_find_uv_run(), "convokit"]
    if _is_on_path("convokit"):
        return ["convokit"]
    return [*find_python(), "-m", "convokit"]


def find_python() -> list[str]:
    """Return the words that start this environment's Python in the user's shell."""
    if _UV_RUN in os.environ:
        return [*_find_uv_run(), "python"]
    for name in ("python", "python3"):
        if _is_on_path(name):
            return [name]
    return [_shorten(sys.executable)]


def _find_uv_run() -> list[str]:
    """Return `uv run`, in a checkout with the group that contains the command line."""
    uv = "uv" if shutil.which("uv") else _shorten(os.environ.get(_UV, "uv"))
    folder = Path.cwd()
    project = next((each for each in (folder, *folder.parents) if (each / "pyproject.toml").is_file()), None)
    if not (CHECKOUT / "migrations").is_dir() or (project not in (CHECKOUT, None) and not _is_environment_of(CHECKOUT)):
        return [uv, "run"]
    return [uv, "run", *(["--project", str(CHECKOUT)] if project != CHECKOUT else []), "--group", "local"]


def _is_environment_of(project: Path) -> bool:
    return Path(sys.prefix).resolve().parent == project


def _is_on_path(name: str) -> bool:
    """Return whether the user's shell finds a program of the environment that runs now under this name."""
    program = None if _UV in os.environ else shutil.which(name)
    if program is None:
        return False
    environment = Path(sys.executable).parent
    # pipx and `uv tool` link convokit into a folder on the PATH. The Python of an environment is itself a link to one outside.
    return Path(program).parent == environment or (
        name == "convokit" and Path(program).resolve().parent == environment.resolve()
    )


def _shorten(path: str) -> str:
    """Return a path relative to the current folder where it is below the folder."""
    relative = os.path.relpath(path)
    # A word without a slash is looked up on the PATH.
    return path if relative.startswith("..") else relative if os.sep in relative else os.path.join(".", relative)
