"""Citus accepts every statement. One node is enough: its planner is that of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from convokit.store.distribution import TABLES
from tests.cluster.calls import run_every_call
from tests.cluster.conftest import distribute, migrate
from tests.cluster.servers import CitusServers
from tests.support.faces import Face
from tests.support.public_calls import CHAT_WRITES
from tests.support.server import LoopbackServer


@pytest.fixture(scope="module")
def one_node(citus: CitusServers) -> Iterator[str]:
    """A database whose coordinator holds the shards."""
    name = citus.create_database(nodes=1)
    url = citus.url(name)
    host, port = citus.worker(0).split(":")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT citus_set_coordinator_host(%s, %s)", (host, int(port)))
        connection.execute("SELECT citus_set_node_property(%s, %s, 'shouldhaveshards', true)", (host, int(port)))
    migrate(url)
    assert distribute(url, "--shards", "4") == f"distributed {len(TABLES)} tables\n"
    yield url
    citus.drop_database(name)


@pytest.mark.usefixtures("store_each_chunk")
def test_every_public_call_is_accepted(face: Face, one_node: str, server: LoopbackServer, tmp_path: Path) -> None:
    called: set[str] = set()
    run_every_call(face, one_node, server, tmp_path, face.name, called.add)
    assert called == set(CHAT_WRITES)
