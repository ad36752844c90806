"""Test that the cost of `verify` is linear: statements by page, constant memory, no scan inside a scan."""

from __future__ import annotations

import re
import tracemalloc
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, event

from convokit.audit import consistency
from convokit.audit.verify import verify_conversation
from convokit.domain.ids import new_id
from convokit.store import chain
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.benchmarks.verify import fill
from tests.support.selection import Effort


@pytest.fixture
def engine(database: str) -> Any:
    made = open_engine(parse_database_url(database))
    yield made
    made.dispose()


def _create_history(engine: Engine, count: int) -> UUID:
    place = new_id()
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        if count > 100:
            connection.exec_driver_sql("DELETE FROM convokit_prompt")
        fill(connection, place, count)
    return place


def test_each_page_takes_at_most_four_statements(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other statements do not depend on the length of the history."""
    monkeypatch.setattr(chain, "PAGE", 30)
    seen: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: seen.append(given[2]))
    counts = []
    for count in (200, 400):
        place = _create_history(engine, count)
        seen.clear()
        with engine.connect() as connection:
            found = verify_conversation(connection, "bench", place)
        assert found is not None
        assert found.entries == count * 3 // 2
        counts.append(len(seen))
    assert counts[1] - counts[0] <= 10 * 4


@pytest.mark.soak(sample=True)
@pytest.mark.once
def test_peak_memory_is_independent_of_history_length(engine: Engine, effort: Effort) -> None:
    peaks = []
    for count in (3000, 12_000) if effort == "soak" else (600, 2400):
        place = _create_history(engine, count)
        with engine.connect() as connection:
            verify_conversation(connection, "bench", place)
            tracemalloc.start()
            verify_conversation(connection, "bench", place)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] * 2  # rows held would be four times as many


def test_no_statement_scans_a_conversation_per_row(sqlite_file: str) -> None:
    """A statement reads the rows of one table once, and finds rows of other tables by their key."""
    engine = open_engine(parse_database_url(sqlite_file))
    place = _create_history(engine, 200)
    seen: dict[str, Any] = {}
    event.listen(engine, "before_cursor_execute", lambda *given: seen.setdefault(given[2], given[3]))
    with engine.connect() as connection:
        verify_conversation(connection, "bench", place)
        statements = {each: values for each, values in seen.items() if each.startswith("SELECT")}
        assert len(statements) > len(consistency.RULES)
        for statement, values in statements.items():
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
            looked = [line for line in plan if re.match(r"(SCAN|SEARCH) ", line) and "convokit_schema" not in line]
            assert not [line for line in looked if line.startswith("SCAN") and "CONSTANT" not in line], (
                statement,
                plan,
            )
            assert len([line for line in looked if line.endswith("(conversation_id=?)")]) <= 1, (statement, plan)
    engine.dispose()
