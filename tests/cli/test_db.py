"""Test `db upgrade`, `db current` and `db check`."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from convokit.store.schema import REVISION
from tests.cli.conftest import CommandLine


def test_upgrade_creates_the_tables_once(cli: CommandLine, tmp_path: Path) -> None:
    assert cli("db", "upgrade", "-d", "new.db").stdout == f"upgraded from nothing to revision {REVISION}\n"
    assert cli("db", "upgrade", "-d", "new.db").stdout == f"already at revision {REVISION}\n"
    assert cli.json("db", "upgrade", "-d", str(tmp_path / "other.db")) == {"before": None, "after": REVISION}
    assert "no conversations yet" in cli("ls", "-d", "new.db").stderr


def test_current_prints_the_revision(cli: CommandLine, tmp_path: Path) -> None:
    """A database without tables has none, and stderr names the command that creates them."""
    assert cli("db", "current").stdout == f"{REVISION}\n"
    (tmp_path / "empty.db").touch()
    result = cli("db", "current", "-d", "empty.db")
    assert result.stdout == "none\n"
    assert "convokit db upgrade" in result.stderr
    assert cli.json("db", "current", "-d", "empty.db") == {"current": None, "needs": REVISION}


def test_check_compares_the_tables(cli: CommandLine) -> None:
    assert cli("db", "check").stdout == "the tables match this release\n"
    file = sqlite3.connect(str(make_url(cli.database).database))
    file.execute("ALTER TABLE convokit_message DROP COLUMN name")
    file.close()
    assert "name" in cli("db", "check", code=1).stdout
    found = cli.json("db", "check", code=1)
    assert found["ok"] is False
    assert len(found["differences"]) == 1


def test_check_without_tables_is_an_error(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    assert "`convokit db upgrade`" in cli.mistake("db", "check", "-d", "empty.db")


def test_commands_work_on_postgresql(cli: CommandLine, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres").empty()
    assert "has no convokit tables" in cli.chat("-d", url, "hi", code=1).stderr
    assert cli.json("db", "upgrade", "-d", url) == {"before": None, "after": REVISION}
    assert cli.chat("-d", url, "hi").stdout == "echo: hi\n"
    assert len(cli.json("show", "-d", url)["messages"]) == 2
    checks = {check["name"]: check for check in cli.json("doctor", "-d", url)["checks"]}
    assert checks["server"]["found"].startswith("PostgreSQL 1")
    request.getfixturevalue("postgres").release(url)


def test_distribute_needs_a_cluster(cli: CommandLine) -> None:
    """A SQLite file has none. The message says what to do."""
    assert "only PostgreSQL with Citus can be distributed" in cli("db", "distribute", code=1).stderr
    assert "only PostgreSQL with Citus can be distributed" in cli("db", "distribute", "--dry-run", code=1).stderr
    assert "'db' is not HOST:PORT" in cli("db", "distribute", "--worker", "db", code=2).stderr
    assert "--shards" in cli("db", "distribute", "--shards", "0", code=2).stderr
