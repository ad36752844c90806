"""Fixtures: conversations for the tampering tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.audit.histories import Histories, write_histories
from tests.support.databases import Files, Postgres
from tests.support.server import LoopbackServer


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def histories(request: pytest.FixtureRequest) -> Iterator[Histories]:
    """Conversations with rows in every table, on each database. Tests must leave them unchanged."""
    held: Files | Postgres = request.getfixturevalue("files" if request.param == "sqlite" else "postgres")
    database, server = held.migrated(), LoopbackServer().start()
    made = write_histories(database, server)
    yield made
    made.engine.dispose()
    server.stop()
    if isinstance(held, Postgres):
        held.release(database)
