"""Conversations to tamper with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.audit import histories as written
from tests.audit.histories import Histories
from tests.support.databases import Files, Postgres
from tests.support.server import LoopbackServer


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def told(request: pytest.FixtureRequest) -> Iterator[Histories]:
    """Conversations that hold everything, on each database: each test leaves them as they were."""
    held: Files | Postgres = request.getfixturevalue("files" if request.param == "sqlite" else "postgres")
    database, server = held.migrated(), LoopbackServer().start()
    made = written.write(database, server)
    yield made
    made.engine.dispose()
    server.stop()
    if isinstance(held, Postgres):
        held.release(database)
