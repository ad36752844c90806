"""Check that a PostgreSQL database that is used again is like a new one, and that a changed one is dropped."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from convokit import Convokit
from tests.support.databases import Files, Postgres
from tests.support.server import LoopbackServer

TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"


@pytest.fixture(scope="module")
def pool(postgres: Postgres) -> Iterator[Postgres]:
    """A pool of this module on the server of all tests."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CONVOKIT_TEST_DSN", postgres.url.render_as_string(hide_password=False))
        made = Postgres()
    yield made
    made.close()


def _rows(url: str) -> dict[str, int]:
    with psycopg.connect(url) as connection:
        names = [row[0] for row in connection.execute(TABLES)]
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchall() for name in names}
    return {name: count[0][0] for name, count in counts.items()}


def test_a_used_database_comes_back_empty(pool: Postgres, server: LoopbackServer) -> None:
    """A test that leaves rows in many tables hands over a database in which the next test finds none."""
    url = pool.migrated()
    new = _rows(url)
    with Convokit(url, model="m", base_url=server.url) as kit:
        kit.chat("k", developer_prompt="Be brief.").send("hello")
    assert _rows(url)["convokit_message"] == 2
    pool.release(url)
    assert pool.migrated() == url
    assert _rows(url) == new
    assert {name for name, count in new.items() if count} == {"convokit_alembic_version", "convokit_schema"}
    with Convokit(url, model="m", base_url=server.url) as kit:
        assert [each.key for each in kit.conversations()] == []
        assert kit.chat("k").send("hello").message.seq == 2


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE app_log (id serial)",
        "ALTER TABLE convokit_message ADD COLUMN another text",
        "ALTER TABLE convokit_message ALTER COLUMN name TYPE varchar(9)",
        "ALTER TABLE convokit_message ALTER COLUMN name SET DEFAULT 'x'",
        "DROP INDEX convokit_message_parting",
        "CREATE INDEX app_index ON convokit_message (name)",
        "ALTER TABLE convokit_message RENAME TO message",
        "CREATE SCHEMA app",
        "CREATE FUNCTION app() RETURNS int LANGUAGE sql RETURN 1",
        "UPDATE convokit_schema SET database_id = gen_random_uuid()",
        "UPDATE convokit_schema SET oldest_code = 99",
        "UPDATE convokit_alembic_version SET version_num = '0000'",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 64', current_database()); END $$",
        "ANALYZE convokit_message",
    ],
)
def test_a_changed_database_is_not_used_again(pool: Postgres, statement: str) -> None:
    """What TRUNCATE does not undo leads to a new database."""
    url = pool.migrated()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())
    pool.release(url)
    assert pool.migrated() != url


def test_a_database_with_a_session_is_not_used_again(pool: Postgres) -> None:
    """A leaked connection may still write: its database is dropped, and the connection with it."""
    url = pool.migrated()
    with psycopg.connect(url, autocommit=True) as leaked:
        pool.release(url)
        assert pool.migrated() != url
        with pytest.raises(psycopg.OperationalError):
            leaked.execute("SELECT 1")


def test_two_databases_of_a_test_differ_and_have_one_id(pool: Postgres) -> None:
    """`database` and `twin` are two copies of one migrated database."""
    urls = [pool.migrated(), pool.migrated()]
    for url in urls:
        pool.release(url)
    again = [pool.migrated(), pool.migrated()]
    assert sorted(again) == sorted(urls)
    ids = set()
    for url in again:
        with psycopg.connect(url) as connection:
            ids.add(connection.execute("SELECT database_id FROM convokit_schema").fetchone())
    assert len(ids) == 1


def test_every_sqlite_test_has_a_file_of_its_own(files: Files, server: LoopbackServer) -> None:
    """A file that was written to is not the source of the next one."""
    for _ in range(2):
        with Convokit(files.migrated(), model="m", base_url=server.url) as kit:
            assert kit.chat("k").send("hello").message.seq == 2
