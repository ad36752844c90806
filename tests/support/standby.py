"""A hot standby of a PostgreSQL server: it streams what the primary commits, and accepts statements that read."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from tests.support.restarting_postgres import RestartingPostgres


class Standby:
    """A standby of `primary`; `url` is the same database on it."""

    def __init__(self, primary: RestartingPostgres) -> None:
        self._primary = primary
        self._folder = Path(tempfile.mkdtemp(prefix="convokit-standby-"))
        self._data = self._folder / "data"
        self._data.mkdir(0o700)
        user = primary.system_user
        if user is not None:
            for folder in (self._folder, self._data):
                shutil.chown(folder, user)
        address = make_url(primary.url)
        source = f"host={address.host} port={address.port} user={address.username} password={address.password}"
        primary.run("pg_basebackup", "-D", str(self._data), "-d", source, "-R", "-X", "stream", "-c", "fast")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = f"-h 127.0.0.1 -p {port} -k {self._data} -c fsync=off"
        primary.run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._data / "log"), "-o", options, "start")
        self.url = address.set(port=port).render_as_string(hide_password=False)

    def catch_up(self) -> None:
        """Wait until the standby has replayed what the primary has written."""
        with psycopg.connect(self._primary.url, autocommit=True) as primary:
            (position,) = primary.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone() or ("",)
        with psycopg.connect(self.url, autocommit=True) as standby:
            query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            while standby.execute(query, (position,)).fetchone() != (True,):
                time.sleep(0.01)

    def make_synchronous(self) -> None:
        """Make each commit of the primary wait until the standby has it too."""
        with psycopg.connect(self._primary.url, autocommit=True) as primary:
            primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.execute("SELECT pg_reload_conf()")
            query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            while primary.execute(query).fetchone() != (1,):
                time.sleep(0.01)

    def promote(self) -> None:
        """Make the standby a primary. It goes on alone."""
        self._primary.run("pg_ctl", "-D", str(self._data), "-w", "promote")

    def close(self) -> None:
        """Stop the standby and remove its folder."""
        self._primary.run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)
