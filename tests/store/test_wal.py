"""Count the bytes of PostgreSQL's write-ahead log that a message takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, text

from convokit.domain.search_words import build_keys, build_owner_keys
from convokit.store.dialects import dialect_of
from convokit.store.dialects.protocol import IndexRow
from convokit.store.engine import open_engine, parse_database_url
from convokit.store.schema import conversation
from convokit.store.search_index import _Title
from tests.benchmarks.corpora import list_messages
from tests.benchmarks.wal import MESSAGE_BYTES, read_position, take_turns
from tests.support.databases import Postgres

MAX_BYTES = 6000
TURNS = 20
PENDING = 1500
"""Messages that the pending list of the search index holds before they are merged."""
_DISTANCE = text("SELECT pg_current_wal_insert_lsn() - CAST(:start AS pg_lsn)")
_MERGE = text("SELECT gin_clean_pending_list('convokit_search_found')")


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    url = postgres.migrated()
    yield url
    postgres.drop(url)


@pytest.mark.soak(sample=True)
def test_a_message_takes_at_most_6_kb_of_the_log(database: str) -> None:
    """Questions and replies of 529 bytes of English, and their part of a merge of the search index.

    The index keeps new entries in a list, and merges them into its tree when the list is full.
    """
    take_turns(database, "English", TURNS, search=True, seed=1)
    start = read_position(database)
    take_turns(database, "English", TURNS, search=True, seed=2)
    engine = open_engine(parse_database_url(database))
    with engine.connect() as connection:
        if connection.execute(text("SHOW full_page_writes")).scalar_one() == "on":
            pytest.skip("images of pages depend on the time since the last checkpoint")
        written = int(connection.execute(_DISTANCE, {"start": start}).scalar_one()) / TURNS / 2
    merged = [_merge(engine, database, seed) for seed in (3, 4)][1] / PENDING
    engine.dispose()
    assert 3000 < written + merged <= MAX_BYTES
    assert 100 < merged < written / 4


def _merge(engine: Engine, database: str, seed: int) -> int:
    """Add messages to the index and merge them. Return the bytes of the merge."""
    with engine.begin() as connection:
        connection.execute(_MERGE)
        owner = connection.execute(conversation.select()).first()
        assert owner is not None
        rows = list(_build_rows(connection, owner.id, seed))
        dialect_of(connection).search.insert_rows(connection, owner.id, rows)
    start = read_position(database)
    with engine.begin() as connection:
        assert connection.execute(_MERGE).scalar_one() > PENDING / 10, "the list was not merged before"
        return int(connection.execute(_DISTANCE, {"start": start}).scalar_one())


def _build_rows(connection: Connection, owner: UUID, seed: int) -> Iterator[IndexRow]:
    index, now_us = dialect_of(connection).search, int(time.time() * 1_000_000)
    for number, content in enumerate(islice(list_messages("English", MESSAGE_BYTES, seed=seed), PENDING)):
        placed = _Title(now_us + number * 1_000_000, seq=seed * 10**6 + number, role="user")
        yield index.build_row(placed, build_keys(content), build_owner_keys("default", owner))
