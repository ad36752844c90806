"""Test migrations and the check of the schema."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from convokit import Convokit
from convokit.errors import SchemaOutdated, StoreUnavailable
from convokit.store import indexes, migrations, schema
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.support.faces import Face


def _run(url: str, statement: str) -> None:
    engine = open_engine(parse_database_url(url))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_migrations_equal_the_tables(database: str) -> None:
    """A migrated database has no difference from the tables in the code."""
    engine = open_engine(parse_database_url(database))
    with engine.connect() as connection:
        assert indexes.list_differences(connection) == []
        assert migrations.read_revision(connection) == schema.REVISION
    engine.dispose()


def test_revision_is_the_only_head() -> None:
    """`schema.REVISION` is the head of the scripts, and there is one head."""
    config = Config()
    config.set_main_option("script_location", str(migrations.find_scripts()))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [schema.REVISION]


@pytest.mark.soak(sample=True)
def test_alembic_check_finds_no_difference(checkout: Path, tmp_path: Path) -> None:
    """`alembic upgrade head` and `alembic check` work with alembic.ini."""
    arguments = [
        sys.executable,
        "-m",
        "alembic",
        "-c",
        str(checkout / "alembic.ini"),
        "-x",
        f"url=sqlite:///{tmp_path}/a.db",
    ]
    for command in (["upgrade", "head"], ["check"], ["downgrade", "base"]):
        done = subprocess.run([*arguments, *command], check=False, capture_output=True, text=True, cwd=checkout)
        assert done.returncode == 0, done.stderr


def test_migrating_twice_changes_nothing(face: Face, empty_database: str) -> None:
    """The second `migrate` keeps the id of the database."""
    kit = face.kit(empty_database, model="m")
    face.settle(kit.migrate())
    engine = open_engine(parse_database_url(empty_database))
    with engine.connect() as connection:
        before = migrations.check_schema(connection, "it")
    face.settle(kit.migrate())
    with engine.connect() as connection:
        assert migrations.check_schema(connection, "it") == before
    engine.dispose()


def test_concurrent_migrations_create_one_schema(empty_database: str) -> None:
    """Eight concurrent `migrate` calls leave one schema and raise no error."""

    def run(_: int) -> None:
        with Convokit(empty_database, model="m") as kit:
            kit.migrate()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    engine = open_engine(parse_database_url(empty_database))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM convokit_schema")).scalar_one() == 1
    engine.dispose()


def test_a_database_without_tables_is_rejected(face: Face, backend: str, empty_database: str) -> None:
    """SchemaOutdated says what to do, and no missing file is created."""
    kit = face.kit(empty_database, model="m")
    expected = StoreUnavailable if backend == "sqlite" else SchemaOutdated
    with pytest.raises(expected, match="migrate"):
        face.settle(kit.chat("k").send("hello"))
    if backend == "sqlite":
        assert not Path(str(parse_database_url(empty_database).database)).exists()


def test_older_tables_are_rejected(face: Face, database: str) -> None:
    """SchemaOutdated names the revision of the tables and the required one."""
    _run(database, "UPDATE convokit_alembic_version SET version_num = '0000'")
    with pytest.raises(SchemaOutdated, match="revision 0000") as caught:
        face.settle(face.kit(database, model="m").chat("k").messages())
    assert (caught.value.has, caught.value.needs) == ("0000", schema.REVISION)


def test_newer_tables_are_accepted_if_they_allow_this_code(face: Face, database: str) -> None:
    """Old and new code may run side by side during a release."""
    _run(database, "UPDATE convokit_alembic_version SET version_num = '9999'")
    assert len(face.settle(face.kit(database, model="m").conversations())) == 0


def test_newer_tables_are_rejected_if_they_exclude_this_code(face: Face, database: str) -> None:
    """The error says to upgrade the package."""
    _run(database, f"UPDATE convokit_schema SET oldest_code = {schema.GENERATION + 1}")
    with pytest.raises(SchemaOutdated, match="upgrade the convokit-sql package"):
        face.settle(face.kit(database, model="m").chat("k").messages())


def test_tables_of_other_programs_are_kept(face: Face, empty_database: str, backend: str) -> None:
    """The error names them, and `migrate` adds the tables of convokit without changing them."""
    engine = open_engine(parse_database_url(empty_database), create=True)
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(text("CREATE TABLE invoices (id INTEGER PRIMARY KEY)"))
        connection.execute(text("INSERT INTO invoices VALUES (7)"))
    kit = face.kit(empty_database, model="m")
    with pytest.raises(SchemaOutdated, match="invoices"):
        face.settle(kit.chat("k").messages())
    face.settle(kit.migrate())
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id FROM invoices")).scalar_one() == 7
    engine.dispose()


@pytest.mark.parametrize("content", [b"this is no database at all, but long enough to look like one" * 40])
def test_a_file_that_is_not_a_database_is_rejected(face: Face, tmp_path: Path, content: bytes) -> None:
    """The file stays as it is."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    kit: Any = face.kit(f"sqlite:///{path}", model="m")
    calls: list[Callable[[], Any]] = [kit.migrate, lambda: kit.chat("k").send("hello")]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="not a usable SQLite database"):
            face.settle(call())
    assert path.read_bytes() == content
