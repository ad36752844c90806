"""Child processes in a hurry: one process imports everything once and forks a child for each job.

A job names a function of `tests.faults.jobs`; what the child says (JSON lines, each written at once) and how it ended come
back.
A child can be held before its first line of work, so that a tracer may attach to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent.parent
_PATIENCE_S = 60
"""A child that hangs dies of SIGALRM, which no test takes for its own kill."""
_FAILED = 70


@dataclass(slots=True)
class Outcome:
    """How a child ended: its wait status, what it said, and what it printed as it failed."""

    status: int
    said: list[dict[str, Any]]
    errors: str

    @property
    def killed(self) -> bool:
        """Whether it died of SIGKILL."""
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL

    def all(self, kind: str) -> list[Any]:
        """Return what was said of one kind, in order."""
        return [each[kind] for each in self.said if kind in each]

    def check(self) -> Outcome:
        """Return the outcome if the child was killed or ended well."""
        assert self.killed or self.status == 0, f"status {self.status}: {self.errors}"
        return self


@dataclass(slots=True)
class Child:
    """A running child. `wait()` must be called before the next one is started."""

    fork_server: ForkServer
    pid: int
    said: Path

    def wait(self) -> Outcome:
        """Return how it ended, once it has."""
        status = int(self.fork_server.answer())
        lines = self.said.read_text().splitlines()
        errors = self.said.with_suffix(".err").read_text()
        self.said.unlink()
        self.said.with_suffix(".err").unlink()
        return Outcome(status, [json.loads(line) for line in lines], errors)


class ForkServer:
    """The process that forks, seen from the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )

    def start(self, job: str, *, held: bool = False, **arguments: Any) -> Child:
        """Start a function of `tests.faults.jobs` in a child; a held one waits for SIGCONT."""
        said = self._folder / "said"
        self._ask({"job": job, "arguments": arguments, "said": str(said), "held": held})
        return Child(self, int(self.answer()), said)

    def run(self, job: str, **arguments: Any) -> Outcome:
        """Run a function of `tests.faults.jobs` in a child, to whatever end it comes."""
        return self.start(job, **arguments).wait().check()

    def warm(self, face: str, url: str, server: str) -> None:
        """Have a kit ready, for children that use this database."""
        self._ask({"warm": {"face": face, "url": url, "server": server}})
        self.answer()

    def _ask(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Return the next line from the process."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the fork server ended"
        return line

    def close(self) -> None:
        """End the process."""
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[ForkServer]:
    """A fork server for as long as the block lasts."""
    fork_server = ForkServer(folder)
    try:
        yield fork_server
    finally:
        fork_server.close()


def say(**facts: Any) -> None:
    """Tell the test something, at once: what a killed child has said stays said."""
    os.write(1, json.dumps(facts).encode() + b"\n")


def _child(request: dict[str, Any]) -> None:
    from tests.faults import jobs  # noqa: PLC0415  # jobs imports this module

    signal.alarm(_PATIENCE_S)
    for descriptor, suffix in ((1, ""), (2, ".err")):
        path = Path(request["said"]).with_suffix(suffix)
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        os.dup2(target, descriptor)
    if request["held"]:
        _let_anyone_trace()
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        getattr(jobs, request["job"])(**request["arguments"])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(_FAILED)
    os._exit(0)


def _let_anyone_trace() -> None:
    """Let a tracer that is no ancestor attach, where the Yama module would only let ancestors."""
    set_ptracer, anyone = 0x59616D61, ctypes.c_ulong(-1)
    ctypes.CDLL(None).prctl(set_ptracer, anyone, 0, 0, 0)


def _serve() -> None:
    from tests.faults import jobs  # noqa: PLC0415  # imported once, for all children

    for line in sys.stdin:
        request = json.loads(line)
        if "warm" in request:
            jobs.warm(**request["warm"])
            print("warm", flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _child(request)
        if request["held"]:
            os.waitpid(pid, os.WUNTRACED)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    _serve()
