"""Read the state of PostgreSQL replication, and how durable commits are."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from convokit.store.dialects.protocol import DatabaseFacts

_WAITS_FOR = {
    "on": "on the disk of a standby too: a failover to it loses no acknowledged turn",
    "remote_apply": "applied by a standby too: a failover to it loses no acknowledged turn, and it shows each one at once",
    "remote_write": "in the memory of a standby too: a failover to it loses no acknowledged turn, unless both machines crash",
}
"""What is true of a commit with synchronous standbys, by `synchronous_commit`."""


def read_replication(connection: Connection) -> Mapping[str, DatabaseFacts]:
    """Return the facts for `doctor`: "replication", and "durability" of a primary."""
    is_standby, behind_s, standbys = connection.exec_driver_sql(
        "SELECT pg_is_in_recovery(), "
        "extract(epoch FROM statement_timestamp() - pg_last_xact_replay_timestamp()), "
        "(SELECT count(*) FROM pg_stat_replication)"
    ).one()
    if is_standby:
        # The clock of the last transaction: an idle primary makes it old without any lag.
        age = "" if behind_s is None else f"; the last change that it has is {max(float(behind_s), 0):,.1f} s old"
        advice = "writes need the primary: list all servers in the URL, postgresql://user@host1,host2/name"
        return {"replication": DatabaseFacts(f"a standby in recovery, which only reads{age}", advice)}
    found = {
        row.name: str(row.setting)
        for row in connection.exec_driver_sql(
            "SELECT name, setting FROM pg_settings "
            "WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names')"
        )
    }
    counted = {0: "no standby is", 1: "1 standby is"}.get(standbys, f"{standbys} standbys are")
    return {
        "replication": DatabaseFacts(f"a primary; {counted} connected"),
        "durability": describe_durability(found, standbys),
    }


def describe_durability(found: Mapping[str, str], standbys: int) -> DatabaseFacts:
    """Return what a crash or a failover may lose under these settings of a primary, with `standbys` connected."""
    commit, names = found["synchronous_commit"], found["synchronous_standby_names"]
    shown = f"synchronous_commit={commit}, synchronous_standby_names={names!r}"
    if found["fsync"] == "off" or found["full_page_writes"] == "off":
        setting = "fsync" if found["fsync"] == "off" else "full_page_writes"
        problem = f"{setting}=off: a crash of the machine may destroy the database"
        return DatabaseFacts(problem, f"set {setting}=on, except for tests")
    if commit == "off":
        problem = (
            f"{shown}: a crash of the server may lose the turns of the last second, also those that were acknowledged"
        )
        return DatabaseFacts(problem, "set synchronous_commit=on, for this role or database at least")
    if not names or commit == "local":
        return DatabaseFacts(f"{shown}: a commit is on the primary's disk; a failover may lose what no standby has yet")
    if not standbys:
        advice = "start a standby that synchronous_standby_names names, or clear the setting"
        return DatabaseFacts(f"{shown}: each commit waits until a standby connects", advice)
    return DatabaseFacts(f"{shown}: a commit is {_WAITS_FOR.get(commit, _WAITS_FOR['on'])}")
