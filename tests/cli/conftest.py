"""Run the command line in this process, or in a pseudo-terminal of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from convokit.cli.app import app
from tests.support.server import LoopbackServer

_SPAWN = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


class CommandLine:
    """Run commands in this process, on one database and against one server."""

    def __init__(self, database: str, base_url: str) -> None:
        self.database = database
        self.base_url = base_url

    def __call__(
        self,
        *arguments: str,
        code: int = 0,
        given: str | bytes | None = None,
        env: Mapping[str, str | None] | None = None,
    ) -> Result:
        """Run a command. It must exit with `code` and raise nothing."""
        variables = {"CONVOKIT_DATABASE_URL": self.database, **(env or {})}
        result = CliRunner().invoke(app, arguments, input=given, env=variables, catch_exceptions=False)
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
        return result

    def chat(self, *arguments: str, **options: Any) -> Result:
        """Run `chat` against the loopback server."""
        return self("chat", "--model", "loop-1", "--base-url", self.base_url, *arguments, **options)

    def json(self, *arguments: str, **options: Any) -> Any:
        """Run a command with `--json` and return what it printed."""
        return json.loads(self(*arguments, "--json", **options).stdout)

    def mistake(self, *arguments: str, **options: Any) -> str:
        """Run a command that must fail with one line on stderr, and return that line."""
        result = self(*arguments, code=1, **options)
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert lines[0].startswith("error: ")
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), lines
        return lines[0]


@pytest.fixture
def cli(sqlite_file: str, server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Run in an empty folder, on a migrated SQLite file and against the loopback server."""
    monkeypatch.chdir(tmp_path)
    return CommandLine(sqlite_file, server.url)


class Terminal:
    """Run a command in a pseudo-terminal with 60 columns."""

    def __init__(self, *arguments: str, **env: str) -> None:
        variables = {**os.environ, "TERM": "xterm", "COLUMNS": "60", "LINES": "24", "LC_ALL": "C.UTF-8", **env}
        command = [sys.executable, "-c", _SPAWN, sys.executable, "-m", "convokit", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables)
        self.seen = ""
        self._bytes = b""
        self._from = 0

    def type(self, text: str) -> None:
        """Type text. Enter is a carriage return."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait_for(self, text: str, timeout_s: float = 60.0) -> None:
        """Wait until the terminal shows `text` after the text of the previous wait."""
        deadline = time.monotonic() + timeout_s
        while (found := self.seen.find(text, self._from)) < 0:
            assert self._more(deadline), f"{text!r} never came; the terminal shows {self.seen[-1000:]!r}"
        self._from = found + len(text)

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the command, which is the only child of the process that makes the terminal."""
        pid = self.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(child), number)

    def end(self, timeout_s: float = 60.0) -> int:
        """Wait for the end of the command and return its exit code."""
        deadline = time.monotonic() + timeout_s
        while self._more(deadline):
            pass
        assert time.monotonic() < deadline, f"it did not end; the terminal shows {self.seen[-1000:]!r}"
        return self.process.wait(timeout_s)

    def _more(self, deadline: float) -> bool:
        """Read more output. Return False at the end of the output or at the deadline."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
            return False
        data = os.read(self.process.stdout.fileno(), 65536)
        self._bytes += data
        self.seen = self._bytes.decode("utf-8", "replace")
        return bool(data)

    def close(self) -> None:
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.process.wait()


@pytest.fixture
def terminal() -> Iterator[type[Terminal]]:
    """Return a Terminal class whose terminals are closed after the test."""
    opened: list[Terminal] = []

    class Kept(Terminal):
        def __init__(self, *arguments: str, **env: str) -> None:
            super().__init__(*arguments, **env)
            opened.append(self)

    yield Kept
    for each in opened:
        each.close()
