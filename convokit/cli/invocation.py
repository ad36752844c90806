"""Find the command that starts convokit, for hints that the program prints.

A printed command must run as it is. `convokit` is on the shell's PATH after an install, but not in a checkout that `uv run`
prepares, and not in a virtual environment that is not activated.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
_UV_RUN = "UV_RUN_RECURSION_DEPTH"
"""`uv run` sets this variable, and puts the environment's programs on a PATH that the user's shell does not have."""


def format_command(*arguments: str) -> str:
    """Return the shell command that runs convokit with these arguments."""
    return shlex.join([*find_convokit(), *arguments])


def find_convokit() -> list[str]:
    """Return the words that start convokit in the user's shell."""
    if _UV_RUN in os.environ:
        return [*_find_uv_run(), "convokit"]
    if _is_ours(shutil.which("convokit")):
        return ["convokit"]
    return [*find_python(), "-m", "convokit"]


def find_python() -> list[str]:
    """Return the words that start this environment's Python in the user's shell."""
    if _UV_RUN in os.environ:
        return [*_find_uv_run(), "python"]
    for name in ("python", "python3"):
        if _is_ours(shutil.which(name)):
            return [name]
    return [_shorten(sys.executable)]


def _find_uv_run() -> list[str]:
    """Return `uv run`, in a checkout with the group that contains the command line."""
    return ["uv", "run", "--group", "local"] if (CHECKOUT / "migrations").is_dir() else ["uv", "run"]


def _is_ours(program: str | None) -> bool:
    """Return whether a program on the PATH belongs to the environment that runs now."""
    # Not resolved: the Python of a virtual environment is a link to one outside of it.
    return program is not None and Path(program).parent == Path(sys.executable).parent


def _shorten(path: str) -> str:
    """Return a path relative to the current folder where it is below the folder."""
    relative = os.path.relpath(path)
    # A word without a slash is looked up on the PATH.
    return path if relative.startswith("..") else relative if os.sep in relative else os.path.join(".", relative)
