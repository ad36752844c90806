"""Test that `verify` accepts a database that was copied, vacuumed or moved to the other engine (invariant I6)."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select
from sqlalchemy.engine import make_url

from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.schema import metadata, search
from tests.audit.histories import write_histories
from tests.support.faces import Face
from tests.support.server import LoopbackServer

KEY = "a secret of the auditor's own"


def test_moved_database_verifies_with_the_same_checkpoint(
    face: Face,
    kit: Any,
    database: str,
    server: LoopbackServer,
    backend: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    write_histories(database, server).engine.dispose()
    made = face.settle(kit.checkpoint(key=KEY))
    held = request.getfixturevalue("postgres" if backend == "sqlite" else "files")
    elsewhere = held.migrated()
    _carry(database, elsewhere)
    _vacuum(database)
    places = [database, elsewhere]
    if backend == "sqlite":
        copied = tmp_path / "copy.db"
        shutil.copy(str(make_url(database).database), copied)
        places.append(f"sqlite:///{copied}")
    for place in places:
        there = face.kit(place, model="m")
        found = face.settle(there.verify(against=made, key=KEY))
        assert (found.conversations, found.entries, found.broken) == (4, made.entries, 0)
        face.settle(there.close())
    if backend == "sqlite":
        held.release(elsewhere)


def _vacuum(database: str) -> None:
    url = parse_database_url(database)
    if url.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(url.database))) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return
    engine = open_engine(url)
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("VACUUM FULL")
    engine.dispose()


def _carry(source: str, target: str) -> None:
    """Insert every row of one database into another one, the table of the database itself included."""
    engines = [open_engine(parse_database_url(each)) for each in (source, target)]
    with engines[0].connect() as there, engines[1].execution_options(**{WRITE: True}).begin() as here:
        for table in metadata.sorted_tables:
            here.execute(delete(table))
        for table in metadata.sorted_tables:
            if table is search:  # each engine has its own: `reindex` makes it again
                continue
            found = [dict(row) for row in there.execute(select(table)).mappings()]
            if found:
                here.execute(insert(table), found)
    for engine in engines:
        engine.dispose()
