"""A database becomes distributed while it is used, migrations distribute new tables, and a way leads back."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection
from typer.testing import CliRunner

from convokit import Convokit
from convokit.cli.app import app
from convokit.errors import SettingsError
from convokit.runtime.sync_store import open_store
from convokit.store import distribution, migrations
from convokit.store.distribution import TABLES
from convokit.store.engine import parse_database_url
from convokit.store.schema import REVISION
from tests.cluster.conftest import distribute, migrate, read_cluster_line
from tests.cluster.load import Load
from tests.cluster.servers import CitusServers
from tests.support.server import LoopbackServer

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_0_1.sql.gz"
UNDISTRIBUTE = (
    "SELECT undistribute_table('convokit_conversation', cascade_via_foreign_keys => true)",
    "SELECT undistribute_table('convokit_prompt')",
    "SELECT undistribute_table('convokit_key')",
    "SELECT undistribute_table('convokit_key_window')",
    "SELECT undistribute_table('convokit_schema')",
    "SELECT undistribute_table('convokit_alembic_version')",
)
LOCAL_ROWS = (
    "SELECT relname FROM pg_class WHERE relname LIKE 'convokit%' AND relkind = 'r' AND pg_relation_size(oid) > 0"
)
"""Tables of the coordinator that still have local rows. Citus hides its shards from this statement."""
NEW_SCRIPT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "0099", {newest!r}, None, None


def upgrade():
    op.create_table(
        "convokit_note",
        sa.Column("conversation_id", sa.Uuid, sa.ForeignKey("convokit_conversation.id"), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.execute("INSERT INTO convokit_note SELECT id, key FROM convokit_conversation")
    op.add_column("convokit_turn", sa.Column("note", sa.Text))
    op.create_table("convokit_color", sa.Column("name", sa.Text, primary_key=True))
"""


@pytest.fixture
def next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release with one more migration, which creates tables and fills one of them."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrations.find_scripts(), folder)
    (folder / "versions" / "0099_note.py").write_text(NEW_SCRIPT.format(newest=REVISION))
    monkeypatch.setattr(migrations, "find_scripts", lambda: folder)
    monkeypatch.setattr(migrations, "REVISION", "0099")


def _distribute(citus: CitusServers, url: str, *arguments: str) -> str:
    return distribute(url, "--worker", citus.worker(1), "--worker", citus.worker(2), "--shards", "4", *arguments)


def test_a_database_is_distributed_while_it_is_used(
    citus: CitusServers, new_database: str, server: LoopbackServer
) -> None:
    """No call fails, and all rows are there afterwards. A second run changes nothing."""
    url = citus.url(new_database)
    migrate(url)
    assert "no table is distributed" in read_cluster_line(url)
    with Load(url, server.url, [f"live {number}" for number in range(8)]) as load:
        load.wait_for_turns()
        statements = _distribute(citus, url, "--dry-run")
        assert _distribute(citus, url) == (
            f"added {citus.worker(1)}, {citus.worker(2)}\ndistributed {len(TABLES)} tables\n"
        )
        load.wait_for_turns()
        assert _distribute(citus, url) == "all tables are distributed already\n"
        load.wait_for_turns()
    load.check()
    assert statements.splitlines()[0] == "BEGIN;"
    assert statements.count("create_") == len(TABLES)
    with psycopg.connect(url) as connection:
        assert connection.execute(LOCAL_ROWS).fetchall() == []
    line = read_cluster_line(url)
    assert "2 workers, 4 shards (balanced)" in line
    assert f"{len(TABLES)} of {len(TABLES)} tables are distributed" in line


def test_a_single_table_is_distributed_again(citus: CitusServers, new_database: str) -> None:
    """As one that a script of somebody else created: `doctor` names it, and the others are left as they are."""
    url = citus.url(new_database)
    migrate(url)
    _distribute(citus, url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT undistribute_table('convokit_prompt')")
        migrate(url)  # as after a migration in SQL, which no listener hears
        assert read_cluster_line(url).endswith("tables are distributed")
        connection.execute("SELECT undistribute_table('convokit_prompt')")
    line = read_cluster_line(url)
    assert f"{len(TABLES) - 1} of {len(TABLES)} tables" in line
    assert line.endswith("`convokit db distribute` distributes convokit_prompt")
    assert distribute(url) == "distributed 1 table\n"
    assert read_cluster_line(url).endswith("tables are distributed")


def test_the_way_back(citus: CitusServers, new_database: str, server: LoopbackServer) -> None:
    """The statement that `docs/how-to/scale.md` names moves all rows to the coordinator."""
    url = citus.url(new_database)
    migrate(url)
    _distribute(citus, url)
    with Convokit(url, model="m", base_url=server.url, developer_prompt="Be brief.") as kit:
        kit.chat("a").send("hello")
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in UNDISTRIBUTE:
                connection.execute(statement)
            assert connection.execute("SELECT count(*) FROM citus_tables").fetchone() == (0,)
        kit.chat("a").send("hello again")
        assert len(kit.chat("a").messages()) == 4
        kit.verify()
    assert "no table is distributed" in read_cluster_line(url)


def test_a_worker_and_a_coordinator_without_workers_are_refused(citus: CitusServers, new_database: str) -> None:
    url = citus.url(new_database)
    migrate(url)

    def refuse(at: str, *arguments: str) -> str:
        result = CliRunner().invoke(app, ["db", "distribute", "--database", at, *arguments])
        assert result.exit_code == 1
        return " ".join(result.output.split())

    assert "no active worker: pass --worker HOST:PORT" in refuse(url)
    assert "Connection refused" in refuse(url, "--worker", "127.0.0.1:1")
    assert "nothing was changed" in refuse(url, "--worker", "127.0.0.1:1")
    assert "does not know its own address" in refuse(url, "--worker", "192.0.2.1:5432")
    _distribute(citus, url)
    assert "is a worker of the cluster" in refuse(citus.url(new_database, 1))


NEW_TABLES = {
    "0005": {"convokit_prompt_use", "convokit_anchor", "convokit_key", "convokit_key_window"},
    "0006": {"convokit_anchor", "convokit_key", "convokit_key_window"},
}
"""The tables that migrations after a revision create."""


@pytest.mark.parametrize("revision", list(NEW_TABLES))
def test_a_distributed_database_of_an_older_revision_upgrades(
    citus: CitusServers, new_database: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    """Migration 0006 fills a table from distributed rows, and 0007 creates one of each kind."""
    url = citus.url(new_database)
    with psycopg.connect(url) as connection:
        connection.execute(gzip.decompress(FIXTURE.read_bytes()))
    store = open_store(parse_database_url(url), "test")
    store.run(lambda connection: migrations.upgrade(connection, revision), write=True)
    with monkeypatch.context() as older:
        older.setattr(distribution, "TABLES", [name for name in TABLES if name not in NEW_TABLES[revision]])
        workers = [distribution.parse_worker(citus.worker(node)) for node in (1, 2)]

        def distribute_older_tables(connection: Connection) -> None:
            plan = distribution.plan_distribution(connection, "test", workers=workers, shards=4)
            distribution.run_plan(connection, "test", plan)

        store.run(distribute_older_tables, write=True)
    store.close()
    migrate(url)
    assert f"{len(TABLES)} of {len(TABLES)} tables are distributed" in read_cluster_line(url)
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT table_name::text, citus_table_type, distribution_column FROM citus_tables"
            " WHERE table_name::text ~ '^convokit_(key|key_window|anchor)$' ORDER BY 1"
        ).fetchall()
        assert found == [
            ("convokit_anchor", "distributed", "conversation_id"),
            ("convokit_key", "reference", "<none>"),
            ("convokit_key_window", "distributed", "digest"),
        ]
        same = "SELECT count(DISTINCT colocation_id) FROM citus_tables WHERE table_name::text = ANY(%s)"
        assert connection.execute(same, (["convokit_anchor", "convokit_turn"],)).fetchone() == (1,)
    with Convokit(url, model="m", base_url=server.url) as kit:
        kit.chat("k").verify()
        assert kit.search("待って", key="k")
        kit.chat("k").send("まだ続きます", anchor=lambda message: str(message["content"]).encode()[:64])
        kit.chat("k").verify()
        assert kit.chat("k").erase().removed["anchor"] == 2


def test_a_migration_distributes_new_tables(
    citus: CitusServers, new_database: str, server: LoopbackServer, request: pytest.FixtureRequest
) -> None:
    """The new table is distributed before its first row is written. A worker would create it for itself alone."""
    url = citus.url(new_database)
    migrate(url)
    _distribute(citus, url)
    with Convokit(url, model="m", base_url=server.url) as kit:
        for number in range(6):
            kit.chat(f"c{number}").send("hello")
    request.getfixturevalue("next_release")
    with pytest.raises(SettingsError, match="is on a worker of the cluster: upgrade over the coordinator's URL"):
        migrate(citus.url(new_database, 1))
    migrate(url)
    with psycopg.connect(url) as connection:
        kinds = connection.execute(
            "SELECT table_name::text, citus_table_type, colocation_id FROM citus_tables WHERE table_name::text = ANY(%s)"
            " ORDER BY 1",
            (["convokit_color", "convokit_conversation", "convokit_note"],),
        ).fetchall()
        assert [kind for _, kind, _ in kinds] == ["reference", "distributed", "distributed"]
        assert kinds[1][2] == kinds[2][2]
        assert connection.execute("SELECT count(*) FROM convokit_note").fetchone() == (6,)
        assert connection.execute(LOCAL_ROWS).fetchall() == []
    migrate(citus.url(new_database, 1))  # nothing is to do
