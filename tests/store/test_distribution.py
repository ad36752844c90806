"""Tests of the distribution over a cluster that need no cluster. `tests/cluster` has those that do."""

from __future__ import annotations

import pytest

from convokit.errors import SettingsError
from convokit.store import distribution
from convokit.store.distribution import ClusterNode, parse_worker, plan_distribution, read_cluster
from convokit.store.engine import open_engine, parse_database_url
from convokit.store.schema import metadata


@pytest.mark.parametrize(
    ("given", "node"),
    [
        ("10.0.0.7:5432", ClusterNode("10.0.0.7", 5432)),
        ("db-1.internal:5433", ClusterNode("db-1.internal", 5433)),
        ("[::1]:5432", ClusterNode("::1", 5432)),
    ],
)
def test_a_worker_is_host_and_port(given: str, node: ClusterNode) -> None:
    assert parse_worker(given) == node
    assert str(node) == given


@pytest.mark.parametrize(
    "given", ["", "db", "db:", ":5432", "db:x", "db:0", "db:70000", "d'b:5432", "d b:5432", "db:５４３２"]
)
def test_another_worker_is_refused(given: str) -> None:
    """The host becomes part of a statement."""
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        parse_worker(given)


def test_a_database_without_citus_is_refused(empty_database: str, backend: str) -> None:
    """SQLite has no cluster, and a plain PostgreSQL names the extension."""
    reason = "only PostgreSQL with Citus" if backend == "sqlite" else "CREATE EXTENSION citus"
    engine = open_engine(parse_database_url(empty_database), create=True)
    with engine.connect() as connection:
        assert read_cluster(connection) is None
        with pytest.raises(SettingsError, match=reason) as caught:
            plan_distribution(connection, "the database")
    engine.dispose()
    assert str(caught.value).startswith("database: the database cannot be distributed: ")


def test_each_table_has_a_place() -> None:
    """Every table below a conversation follows it, and every other one is copied to all servers."""
    statements = {
        name: distribution._build_statement(name, is_below="conversation_id" in table.c)
        for name, table in metadata.tables.items()
    }
    assert set(metadata.tables) < set(distribution.TABLES)
    assert [name for name, statement in statements.items() if "create_reference_table" in statement] == [
        "convokit_schema",
        "convokit_prompt",
        "convokit_key",
    ]
    # Written for each minute of a key: a reference table would be written on all servers.
    assert statements["convokit_key_window"].endswith("'digest', colocate_with => 'none')")
    assert statements["convokit_conversation"].endswith("'id', colocate_with => 'none')")
    assert statements["convokit_turn"].endswith("'conversation_id', colocate_with => 'convokit_conversation')")
