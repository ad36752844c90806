"""A pgbouncer in transaction mode before a real PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from sqlalchemy.engine import URL, make_url

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
_SETTINGS = """
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 200
server_idle_timeout = 60
"""


class PgBouncer:
    """The pooler: any number of clients share `size` connections to the server, a transaction at a time."""

    def __init__(self, server: URL, size: int) -> None:
        assert PROGRAM is not None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._folder = Path(tempfile.mkdtemp(prefix="convokit-pgbouncer-"))
        self._folder.chmod(0o755)
        settings = self._folder / "pgbouncer.ini"
        text = _SETTINGS.format(server=_address(server), port=self.port, size=size)
        settings.write_text(text + ("max_prepared_statements = 0\n" if _version() >= (1, 21) else ""))
        settings.chmod(0o644)
        self._log = (self._folder / "log").open("wb")
        self._process = subprocess.Popen([PROGRAM, str(settings)], stderr=self._log, user=_user(server))
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return

    def through(self, url: str) -> str:
        """Return the URL that reaches `url`'s database through the pooler."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{make_url(url).database}"

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _version() -> tuple[int, ...]:
    """Return the program's version: from 1.21 on it can pass prepared statements on, and may do so unasked."""
    said = subprocess.run([str(PROGRAM), "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.split()[1].split(".")[:2])


def _user(server: URL) -> int | str | None:
    """Return whom to run it as: it refuses to be root, and must reach the server's socket."""
    if os.geteuid() != 0:
        return None
    folder = server.host or str(server.query.get("host", ""))
    return Path(folder).stat().st_uid if folder.startswith("/") else "nobody"


def _address(server: URL) -> str:
    """Return the server's address as pgbouncer writes it. The user is named here: `auth_type = any` asks nobody."""
    fields = {
        "host": server.host or server.query.get("host"),
        "port": server.port,
        "user": server.username,
        "password": server.password,
    }
    return " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
