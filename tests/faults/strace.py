"""A child under strace: killed, or refused, at the n-th write to its database files. Only ptrace is needed, no rights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.fork_server import ForkServer, Outcome

CALLS = ("pwrite64", "fdatasync", "ftruncate", "unlink")
"""How SQLite changes a file. strace counts each of them by itself."""
MISSING = shutil.which("strace") is None


Point = tuple[str, int]
"""A call, and which one of its kind."""


def run(
    fork_server: ForkServer, file: Path, fault: str | None, at: Point | None, job: str, **arguments: Any
) -> Outcome:
    """Run a job; with `fault` (strace's own notation) done to it `at` one of its writes to `file` or that one's log."""
    child = fork_server.start(job, held=True, **arguments)
    command = ["strace", "-f", "-p", str(child.pid), "-o", str(_log(file)), "-P", str(file), "-P", f"{file}-wal"]
    command += ["-e", f"trace={','.join(CALLS)}", "-e", "signal=none"]
    if fault is not None and at is not None:
        command += ["-e", f"inject={at[0]}:{fault}:when={at[1]}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        os.kill(child.pid, signal.SIGCONT if "attached" in said else signal.SIGKILL)
        outcome = child.wait()
    assert "attached" in said, said
    return outcome


def points(file: Path) -> list[Point]:
    """Return the writes of the last run, in order."""
    counted: Counter[str] = Counter()
    found: list[Point] = []
    for line in _log(file).read_text().splitlines():
        name = line.split(None, 1)[1].partition("(")[0]
        if name in CALLS:
            counted[name] += 1
            found.append((name, counted[name]))
    return found


def _log(file: Path) -> Path:
    return file.with_suffix(".log")
