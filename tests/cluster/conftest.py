"""Fixtures: a Citus cluster, and databases on it. The tests are skipped without one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from convokit import Convokit
from convokit.cli.app import app
from convokit.completion import call as calls
from convokit.store.distribution import TABLES
from tests.cluster.servers import VARIABLE, CitusServers, find_programs

SHARDS = 8


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("cluster")


def distribute(url: str, *arguments: str) -> str:
    """Run `convokit db distribute` and return what it prints."""
    result = CliRunner().invoke(app, ["db", "distribute", "--database", url, *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def read_cluster_line(url: str) -> str:
    """Return what `convokit doctor` finds about the cluster, and its advice."""
    result = CliRunner().invoke(app, ["doctor", "--database", url, "--json"])
    (check,) = [each for each in json.loads(result.stdout)["checks"] if each["name"] == "cluster"]
    return f"{check['found']} {check['do']}".strip()


def migrate(url: str) -> None:
    with Convokit(url, model="none") as kit:
        kit.migrate()


@pytest.fixture(scope="session")
def citus() -> Iterator[CitusServers]:
    """Servers that a test may kill."""
    programs = find_programs()
    if programs is None:
        pytest.skip(f"{VARIABLE} names no folder with the programs `start` and `stop`")
    servers = CitusServers(programs)
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def cluster_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database that is distributed. All tests of a session share it."""
    given = os.environ.get(VARIABLE)
    if not given:
        pytest.skip(f"{VARIABLE} is not set: a folder with the programs `start` and `stop`, or a database's URL")
    if "://" not in given:
        servers: CitusServers = request.getfixturevalue("citus")
        url = servers.url(servers.create_database())
        migrate(url)
        distribute(url, "--worker", servers.worker(1), "--worker", servers.worker(2), "--shards", str(SHARDS))
        yield url
        return
    migrate(given)
    distribute(given, "--shards", str(SHARDS))
    yield given
    with psycopg.connect(make_url(given).render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {', '.join(TABLES)} CASCADE".encode())


@pytest.fixture
def store_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CHUNK_S", 0.0)


@pytest.fixture
def new_database(citus: CitusServers) -> Iterator[str]:
    """The name of a database on all servers that has no tables."""
    name = citus.create_database()
    yield name
    citus.drop_database(name)
