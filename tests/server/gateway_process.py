"""Run `convokit serve` in a process, in front of a model server that waits."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from tests.support.server import chunk, event


class WaitingUpstream:
    """A model server that streams "one ", waits for `release`, and streams "two"."""

    def __init__(self) -> None:
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                with contextlib.suppress(OSError):  # the gateway left
                    self.wfile.write(chunk({"role": "assistant", "content": "one "}))
                    outer.release.wait(60)
                    self.wfile.write(chunk({"content": "two"}) + chunk({}, "stop") + event(b"[DONE]"))

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


class GatewayProcess:
    """A process of `convokit serve` on a free port."""

    def __init__(self, *arguments: str, folder: Path) -> None:
        command = [sys.executable, "-m", "convokit", "serve", "--port", "0", *arguments]
        self._log = (folder / "stderr.txt").open("w+")
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        self.facts: dict[str, str] = {}
        assert self.process.stdout is not None
        last = "workers" if "--workers" in arguments else "API keys"
        for line in self.process.stdout:
            self.facts[line[:10].strip()] = line[10:].strip()
            if last in self.facts:
                break
        assert "base URL" in self.facts, self.read_log()
        self.client = httpx.Client(base_url=self.facts["base URL"].removesuffix("/v1"), timeout=30)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def list_children(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def read_log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait()
        self._log.close()


@contextlib.contextmanager
def running(*arguments: str, folder: Path) -> Iterator[GatewayProcess]:
    process = GatewayProcess(*arguments, folder=folder)
    try:
        yield process
    finally:
        process.close()
