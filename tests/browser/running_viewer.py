"""Serve the viewer on a loopback port, and find a browser and axe."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from convokit import AsyncConvokit
from convokit.viewer import Viewer, create_app
from convokit.viewer.guard import LOOPBACK_HOSTS
from convokit.viewer.sign_in import OneTimeLink

AXE = "axe-core@4.14.1"
_CACHE = Path(__file__).parents[2] / ".pytest_cache" / "browser"
_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


class RunningViewer:
    """The viewer of a database in a thread."""

    def __init__(self, database: str, settings: dict[str, Any]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.access = OneTimeLink(Viewer(name="監査人"), port)
        self.link = f"{self.url}/-/in?token={self.access.token}"
        self.requests: list[str] = []
        """The paths of all requests."""
        self._database = database
        self._settings = settings
        self._server: uvicorn.Server | None = None
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._is_ready.wait(20)

    async def _serve(self) -> None:
        async with AsyncConvokit(self._database, read_only=True, model="gpt-4o", **self._settings) as kit:
            app: Any = create_app(kit, auth=self.access, allowed_hosts=LOOPBACK_HOSTS)

            async def record(scope: Any, receive: Any, send: Any) -> None:
                self.requests.append(scope["path"])
                await app(scope, receive, send)

            config = uvicorn.Config(record, log_config=None, ws="none", lifespan="off", timeout_graceful_shutdown=1)
            self._server = uvicorn.Server(config)
            self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
            self._is_ready.set()
            await self._server.serve([self._listener])

    def close(self) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(20)


@contextmanager
def running_viewer(database: str, **settings: Any) -> Iterator[RunningViewer]:
    """Return a viewer until the block ends. `settings` are those of its kit."""
    viewer = RunningViewer(database, settings)
    try:
        yield viewer
    finally:
        viewer.close()


def give_up(reason: str) -> Any:
    """Skip the test; in CI, where a browser was installed, fail it."""
    if os.environ.get("CONVOKIT_TEST_BROWSER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def find_browser() -> str:
    """Return the path of a Chromium."""
    for name in _BROWSERS:
        if (path := shutil.which(name)) is not None:
            return path
    give_up(f"no browser was found: install one of {', '.join(_BROWSERS)}")
    raise AssertionError


def load_axe() -> str:
    """Return the script of axe, from the npm registry, once."""
    script = _CACHE / f"{AXE}.js"
    if not script.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed, which brings axe")
        packed = subprocess.run(
            ["npm", "pack", AXE], cwd=_CACHE, capture_output=True, text=True, timeout=120, check=False
        )
        if packed.returncode:
            pytest.skip(f"npm could not bring axe: {packed.stderr.strip().splitlines()[-1:]}")
        with tarfile.open(_CACHE / packed.stdout.split()[-1]) as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member is not None
            script.write_bytes(member.read())
    return script.read_text("utf-8")
