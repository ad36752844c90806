"""Create files that only their owner can read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TextIO

_PRIVATE = 0o600
_OTHERS_READ = 0o004


def create_private_file(path: str | Path) -> None:
    """Create an empty file, unless the file exists. An existing file keeps its mode. Raises: OSError."""
    # O_EXCL follows no symbolic link, so a link to a missing file is resolved first.
    with contextlib.suppress(FileExistsError):
        os.close(_open_new(os.path.realpath(path)))


def open_replacement(temporary: Path, target: Path) -> TextIO:
    """Create a text file that is to replace `target`, and has its mode if `target` exists. Raises: OSError."""
    file = open(_open_new(temporary), "w", encoding="utf-8", newline="\n")  # noqa: SIM115
    with contextlib.suppress(OSError):  # no such target, or a file system without modes
        temporary.chmod(target.stat().st_mode & 0o777)
    return file


def is_readable_by_others(path: str | Path) -> bool:
    """Return whether the file's mode lets every user of this machine read the file. Windows has no such modes."""
    try:
        return os.name == "posix" and bool(os.stat(path).st_mode & _OTHERS_READ)
    except (OSError, ValueError):
        return False


def _open_new(path: str | Path) -> int:
    # The mode is given at the creation: a later chmod would leave a moment in which others can open the file.
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), _PRIVATE)
