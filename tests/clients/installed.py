"""Install the clients of the gateway, and run their programs in separate processes.

The clients need exact versions, and packages that the project's own settings leave out. So Python clients get an environment,
and JavaScript clients a folder, below pytest's cache. Both are made once for the versions in `requirements.txt` and
`package.json`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".pytest_cache" / "clients"
INSTALL_TIMEOUT_S = 180.0
ANSWER_TIMEOUT_S = 60.0
NO_NETWORK = (
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ETIMEDOUT",
    "ENETUNREACH",
    "dns error",
    "error sending request",
)
"""What npm and uv report when they reach no registry."""


def install_python() -> Path:
    """Return the folder of the programs of an environment with the Python clients. Skips the test without a network."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed, which installs the Python clients")
    requirements = HERE / "requirements.txt"
    folder = _name_folder("python", requirements, sys.version)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    if not (folder / "done").exists():
        _install(
            [uv, "venv", "-q", "--clear", "-p", sys.executable, str(folder)], "the environment of the Python clients"
        )
        # The project's own settings leave llm out.
        install = [uv, "pip", "install", "-q", "--no-config", "-p", str(programs / "python"), "-r", str(requirements)]
        _install(install, "the Python clients")
        (folder / "done").touch()
    return programs


def install_node() -> Path:
    """Return a folder with the JavaScript clients and their programs. Skips the test without Node, npm or a network."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed, which run the JavaScript clients")
    package = HERE / "package.json"
    folder = _name_folder("node", package)
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(package, folder)
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--fetch-retries=1", "--loglevel=error"]
        _install([npm, "install", *options, "--prefix", str(folder)], "the JavaScript clients")
        (folder / "done").touch()
    # A module finds packages in the folders above its own.
    shutil.copytree(HERE / "programs", folder / "programs", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py"))
    return folder


def _name_folder(kind: str, versions: Path, *others: str) -> Path:
    digest = hashlib.sha256("\n".join([versions.read_text("utf-8"), *others]).encode()).hexdigest()
    return CACHE / f"{kind}-{digest[:12]}"


def _install(command: Sequence[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{what} could not be installed within {INSTALL_TIMEOUT_S:g} s")
    if done.returncode and any(each in done.stderr for each in NO_NETWORK):
        pytest.skip(f"{what} could not be installed without a network: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, f"{what} could not be installed: {done.stderr.strip()[-2000:]}"


def make_environment(home: str, further: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of a client's process: no keys, no tracing, and a separate home folder."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE") if name in os.environ}
    silent = {"OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1"}
    return {**kept, **silent, "PYTHONIOENCODING": "utf-8", "HOME": home, **(further or {})}


class ClientProgram:
    """A running program of `tests/clients/programs`."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="convokit-client-")
        self._errors = open(Path(self._home.name) / "errors", "w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(each) for each in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=make_environment(self._home.name),
        )

    def run(self, scenario: str, **arguments: Any) -> Any:
        """Run a scenario, and return its result. Raises: AssertionError with the traceback of the program."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"scenario": scenario, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise AssertionError(f"the program ended: {self._read_errors()}") from None
        readable, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)
        assert readable, f"no result of {scenario} within {ANSWER_TIMEOUT_S:g} s: {self._read_errors()}"
        line = self._process.stdout.readline()
        assert line, f"the program ended: {self._read_errors()}"
        answer = json.loads(line)
        assert "error" not in answer, f"{scenario} failed: {answer['error'][-1500:]}"
        return answer["result"]

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()
        self._home.cleanup()

    def _read_errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-2000:]
