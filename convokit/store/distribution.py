"""Distribute the tables over the servers of a Citus cluster.

Each conversation has all its rows on one server: the tables below a conversation are distributed by `conversation_id`. The few
rows that belong to no conversation are copied to every server, as reference tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Literal

from sqlalchemy import Connection, Table, event
from sqlalchemy.exc import DBAPIError

from convokit.errors import SettingsError, StoreUnavailable
from convokit.store.dialects import dialect_of
from convokit.store.dialects.protocol import DatabaseFacts
from convokit.store.fast_execute import plain_connection
from convokit.store.schema import PREFIX, VERSION_TABLE, conversation, key_window, metadata

Kind = Literal["distributed", "reference", "schema"]
"""`schema`: the table belongs to a schema that Citus keeps on one server as a whole."""
OLDEST_CITUS = 12
MAX_SHARDS = 64_000
_KEY = "conversation_id"
TABLES = (VERSION_TABLE, *(table.name for table in metadata.sorted_tables))
"""All tables, in an order in which foreign keys allow to distribute them."""
# Citus changes the placements of several tables in one transaction only if it works on one shard at a time.
_SEQUENTIAL = "SET LOCAL citus.multi_shard_modify_mode = 'sequential'"
_SELECT_CITUS = "SELECT extversion FROM pg_extension WHERE extname = 'citus'"
_SELECT_NODES = (
    "SELECT nodename, nodeport, groupid = 0, shouldhaveshards, isactive FROM pg_dist_node "
    "WHERE noderole = 'primary' ORDER BY groupid"
)
# The condition leaves out tables that Citus knows, but keeps on the coordinator.
_SELECT_TABLES = (
    "SELECT relname, CASE WHEN partmethod = 'h' THEN 'distributed' WHEN repmodel = 't' THEN 'reference' ELSE 'schema' END "
    "FROM pg_dist_partition JOIN pg_class ON pg_class.oid = logicalrelid "
    "WHERE pg_table_is_visible(pg_class.oid) AND (partmethod = 'h' OR repmodel = 't' OR colocationid <> 0)"
)
_COUNT_SHARDS = (
    "SELECT n.nodename, n.nodeport, count(p.shardid) FROM pg_dist_node n "
    "LEFT JOIN (pg_dist_placement p JOIN pg_dist_shard s ON s.shardid = p.shardid "
    "AND s.logicalrelid = to_regclass('convokit_conversation')) ON p.groupid = n.groupid "
    "WHERE n.noderole = 'primary' AND n.shouldhaveshards GROUP BY n.nodename, n.nodeport, n.groupid ORDER BY n.groupid"
)


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A server of the cluster. `holds_shards` is False for a coordinator that only plans."""

    host: str
    port: int
    is_coordinator: bool = False
    holds_shards: bool = True
    is_active: bool = True

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A database with Citus, as the connected server sees it. `kinds` has the tables that are distributed."""

    version: str
    is_coordinator: bool
    nodes: Sequence[ClusterNode]
    kinds: Mapping[str, Kind]

    @property
    def is_distributed(self) -> bool:
        """True if conversations are on several servers."""
        return self.kinds.get(conversation.name) == "distributed"

    @property
    def missing(self) -> list[str]:
        """The tables that are on the coordinator alone."""
        return [name for name in TABLES if name not in self.kinds]


@dataclass(slots=True)
class DistributionPlan:
    """What `db distribute` does, as SQL in the order of execution."""

    statements: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    """The tables that become distributed."""
    workers: list[ClusterNode] = field(default_factory=list)
    """The workers that join the cluster."""


def parse_worker(given: str) -> ClusterNode:
    """Return the worker that `HOST:PORT` names. Raises: ValueError."""
    host, _, port = given.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    # The host becomes part of an SQL statement.
    is_host = host != "" and all(letter.isalnum() or letter in ".-_:" for letter in host)
    if not (is_host and port.isdecimal() and port.isascii() and 0 < int(port) < 65536):
        raise ValueError(f"{given!r} is not HOST:PORT, such as 10.0.0.7:5432")
    return ClusterNode(host, int(port))


def read_cluster(connection: Connection) -> Cluster | None:
    """Return the cluster of a database; None without Citus."""
    if not dialect_of(connection).can_be_distributed:
        return None
    version = connection.exec_driver_sql(_SELECT_CITUS).scalar_one_or_none()
    if version is None:
        return None
    group = connection.exec_driver_sql("SELECT groupid FROM pg_dist_local_group").scalar_one()
    nodes = [ClusterNode(*row) for row in connection.exec_driver_sql(_SELECT_NODES)]
    found = connection.exec_driver_sql(_SELECT_TABLES)
    kinds: dict[str, Kind] = {name: kind for name, kind in found if name in TABLES}
    return Cluster(version, group == 0, nodes, kinds)


def count_shards(connection: Connection) -> dict[str, int]:
    """Return the number of conversation shards on each server that may hold some."""
    return {str(ClusterNode(row[0], row[1])): row[2] for row in connection.exec_driver_sql(_COUNT_SHARDS)}


def describe_cluster(connection: Connection) -> DatabaseFacts | None:
    """Return the facts about the cluster for `doctor`; None without Citus."""
    cluster = read_cluster(connection)
    if cluster is None:
        return None
    version = cluster.version.split("-")[0]
    if "schema" in cluster.kinds.values():
        return DatabaseFacts(f"Citus {version}; all tables are in a schema that is on one server as a whole")
    if not cluster.is_distributed:
        return DatabaseFacts(f"Citus {version}; no table is distributed: `convokit db distribute` does that")
    counts = count_shards(connection)
    workers = sum(not node.is_coordinator for node in cluster.nodes)
    is_balanced = max(counts.values()) - min(counts.values()) <= 1
    found = (
        f"Citus {version}, {workers} worker{'' if workers == 1 else 's'}, {sum(counts.values())} shards"
        f" ({'balanced' if is_balanced else 'not balanced: ' + ', '.join(f'{n} on {node}' for node, n in counts.items())});"
        f" {len(TABLES) - len(cluster.missing)} of {len(TABLES)} tables are distributed"
    )
    if cluster.missing:
        return DatabaseFacts(found, f"`convokit db distribute` distributes {', '.join(cluster.missing)}")
    if inactive := [str(node) for node in cluster.nodes if not node.is_active]:
        return DatabaseFacts(found, f"activate {', '.join(inactive)} with SELECT citus_activate_node('HOST', PORT)")
    return DatabaseFacts(found, None if is_balanced else "move shards with SELECT citus_rebalance_start()")


def plan_distribution(
    connection: Connection, database: str, *, workers: Sequence[ClusterNode] = (), shards: int | None = None
) -> DistributionPlan:
    """Return the statements that distribute the tables; none for what is distributed already.

    Args:
        connection: A connection to the coordinator.
        database: The database's name for error messages.
        workers: Servers that join the cluster. Those that it has are skipped.
        shards: The number of shards of each table; None takes the setting `citus.shard_count`.

    Raises: SettingsError with the reason.
    """
    cluster = _read_usable_cluster(connection, database)
    plan = DistributionPlan()
    known = {(node.host, node.port) for node in cluster.nodes}
    plan.workers = [node for node in dict.fromkeys(workers) if (node.host, node.port) not in known]
    if not plan.workers and not any(node.holds_shards and node.is_active for node in cluster.nodes):
        raise _refuse(database, "the cluster has no active worker: pass --worker HOST:PORT for each one")
    if plan.workers and not any(node.is_coordinator for node in cluster.nodes):
        host, port = _find_own_address(connection, database, plan.workers)
        plan.statements.append(f"SELECT citus_set_coordinator_host('{host}', {port})")
    plan.statements += [f"SELECT citus_add_node('{node.host}', {node.port})" for node in plan.workers]
    plan.tables = cluster.missing
    if plan.tables:
        plan.statements += _list_table_statements(plan.tables, shards, is_first=not cluster.is_distributed)
    return plan


def run_plan(connection: Connection, database: str, plan: DistributionPlan) -> None:
    """Execute a plan in the caller's writing transaction. Writers wait until it ends.

    Raises: StoreUnavailable with the message of Citus.
    """
    for statement in plan.statements:
        try:
            connection.exec_driver_sql(statement)
        except DBAPIError as error:
            message = getattr(getattr(error.orig, "diag", None), "message_primary", None)
            if message is None or error.connection_invalidated:
                raise
            raise StoreUnavailable(database, f"refused {statement}: {message}; nothing was changed") from None


@contextmanager
def distribute_new_tables(connection: Connection, database: str, *, is_current: bool) -> Iterator[None]:
    """Distribute the tables that migrations create in this block, if conversations are distributed.

    A table is distributed when it is created: until then its foreign key would refuse each row, because the coordinator has no
    conversation itself. `is_current` tells that there is nothing to migrate.

    Raises: SettingsError on a worker, where a new table would be on that server alone.
    """
    cluster = read_cluster(connection)
    if cluster is None or not cluster.is_distributed:
        yield
        return
    if not cluster.is_coordinator and not is_current:
        raise SettingsError("database", f"{database} is on a worker of the cluster: upgrade over the coordinator's URL")

    plain = plain_connection(connection)

    def distribute(table: Table[Any], target: Connection, **options: Any) -> None:
        if target.connection is plain.connection and table.name.startswith(PREFIX):
            target.exec_driver_sql(_build_statement(table.name, is_below=_KEY in table.c))

    if cluster.is_coordinator:
        connection.exec_driver_sql(_SEQUENTIAL)
    event.listen(Table, "after_create", distribute)
    try:
        yield
    finally:
        event.remove(Table, "after_create", distribute)
    if cluster.is_coordinator:
        _distribute_missing(connection)


def _distribute_missing(connection: Connection) -> None:
    """Distribute the tables that a migration created in literal SQL, which the listener does not hear."""
    after = read_cluster(connection)
    assert after is not None
    names = [name for name in after.missing if connection.exec_driver_sql(f"SELECT to_regclass('{name}')").scalar()]
    for statement in _list_table_statements(names, None, is_first=False) if names else ():
        connection.exec_driver_sql(statement)


def _refuse(database: str, reason: str) -> SettingsError:
    return SettingsError("database", f"{database} cannot be distributed: {reason}")


def _read_usable_cluster(connection: Connection, database: str) -> Cluster:
    if not dialect_of(connection).can_be_distributed:
        raise _refuse(database, "only PostgreSQL with Citus can be distributed: move to it by export and import")
    cluster = read_cluster(connection)
    if cluster is None:
        advice = "install Citus on each server, and run CREATE EXTENSION citus in this database on each"
        raise _refuse(database, f"the extension citus is missing: {advice}")
    if int(cluster.version.split(".")[0]) < OLDEST_CITUS:
        raise _refuse(database, f"Citus {cluster.version} is too old: update to {OLDEST_CITUS} or newer")
    if not cluster.is_coordinator:
        raise _refuse(database, "this server is a worker of the cluster: use the coordinator's URL")
    if "schema" in cluster.kinds.values():
        raise _refuse(database, "its schema is one that Citus keeps on one server as a whole, which is the other way")
    return cluster


def _find_own_address(connection: Connection, database: str, workers: Sequence[ClusterNode]) -> tuple[str, int]:
    """Return the address under which the workers reach this server."""
    host, port = connection.exec_driver_sql("SELECT host(inet_server_addr()), inet_server_port()").one()
    if host is None or (ip_address(host).is_loopback and not all(_is_loopback(each.host) for each in workers)):
        advice = "run SELECT citus_set_coordinator_host('HOST', PORT) with the address at which the workers reach it"
        raise _refuse(database, f"the coordinator does not know its own address: {advice}")
    return str(host), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _list_table_statements(names: Sequence[str], shards: int | None, *, is_first: bool) -> list[str]:
    statements = [_SEQUENTIAL]
    if is_first:
        # A turn locks its conversation first. In another order, a turn and this transaction could wait for each other.
        statements.append(f"LOCK TABLE {conversation.name} IN ACCESS EXCLUSIVE MODE")
        if shards is not None:
            statements.append(f"SET LOCAL citus.shard_count = {shards}")
    below = {table.name for table in metadata.sorted_tables if _KEY in table.c}
    statements += [_build_statement(name, is_below=name in below) for name in names]
    # The coordinator still has the old rows, where no erasure would find them. Foreign keys lead to the other tables.
    roots = [name for name in names if name == conversation.name or name not in below]
    return statements + [f"SELECT truncate_local_data_after_distributing_table('{name}')" for name in roots]


def _build_statement(name: str, *, is_below: bool) -> str:
    """Return the statement that distributes a table. `is_below` tells whether its rows belong to a conversation."""
    if name == conversation.name:
        return f"SELECT create_distributed_table('{name}', 'id', colocate_with => 'none')"
    if name == key_window.name:
        # One row is written for each minute of a key. A reference table would be written on all servers each time.
        return f"SELECT create_distributed_table('{name}', 'digest', colocate_with => 'none')"
    if is_below:
        return f"SELECT create_distributed_table('{name}', '{_KEY}', colocate_with => '{conversation.name}')"
    return f"SELECT create_reference_table('{name}')"
