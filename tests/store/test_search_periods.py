"""Test which periods of time a search reads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, text

from convokit.domain import hashchain, search_periods
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import derive_conversation_id
from convokit.domain.message import MessageRow
from convokit.store import conversations, messages, migrations, search_query
from convokit.store.dialects import postgresql_search
from convokit.store.dialects.protocol import SearchFilter, SortRange
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.support.selection import keep

SECOND = 1_000_000
DAY = 86_400 * SECOND
WORD = "言葉"
OWN = [f"own{number}" for number in range(30)]


@pytest.fixture
def engine(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(
        postgresql_search, "SORT_AT_ONCE", -2
    )  # PostgreSQL is asked how far back to look, however little there is
    opened = open_engine(parse_database_url(database)).execution_options(**{WRITE: True})
    yield opened
    opened.dispose()


def said_at(engine: Engine, times: list[int], *own: str) -> UUID:
    """Store a conversation with a message for each of these times, each with the word and some of its own."""
    with engine.begin() as connection:
        made = derive_conversation_id(migrations.check_schema(connection, "it"), "default", "k")
        names = ("default", "k", None, None, None, None, None)
        row = ConversationRow(made, *names, len(times), 0, hashchain.genesis_hash(made), 1, max(times), None)
        conversations.create(connection, row)
        rows = []
        for seq, at in enumerate(times, 1):
            said = " ".join([WORD, *(f"{word}x{seq}" for word in own)])
            rows.append(MessageRow(seq, seq - 1 or None, 1, None, "user", "complete", 1, "none", seq, at, content=said))
        messages.append(connection, made, rows)
    return made


def walked(connection: Connection, wanted: SearchFilter, limit: int) -> list[list[search_query.SearchCandidate]]:
    """Return all that is found, block by block, as a search asks for it."""
    blocks: list[list[search_query.SearchCandidate]] = []
    below = None
    while True:
        blocks.append(
            search_query.find_candidates(connection, "default", wanted, limit=limit, within=SortRange(below=below))
        )
        if len(blocks[-1]) < limit:
            return blocks
        below = blocks[-1][-1].sort_key


def scattered(seed: int) -> list[int]:
    """Return times as they may come: bursts, pauses of years, some before 1970, many at once."""
    drawn = random.Random(seed)
    at, times = drawn.choice([-5 * DAY, 0, 1_700_000_000 * SECOND]), []
    for _ in range(120):
        at += drawn.choice([0, 1, SECOND, 600 * SECOND, DAY, 40 * DAY, 3_000 * DAY, (2 << 22) * SECOND])
        times.append(at)
    return times


@pytest.mark.once
@pytest.mark.parametrize("seed", keep(range(6), 0, 1, sample=True))
@pytest.mark.parametrize("limit", [1, 7])
def test_blocks_contain_every_message_once_newest_first(engine: Engine, seed: int, limit: int) -> None:
    """A block that is read again by its two ends is the same."""
    times = scattered(seed)
    said_at(engine, times)
    wanted = SearchFilter(["言葉"])
    with engine.connect() as connection:
        blocks = walked(connection, wanted, limit)
        assert [each.message_ref[1] for block in blocks for each in block] == list(range(len(times), 0, -1))
        for block in blocks[:: 9 // limit or 1]:
            if block:
                ends = SortRange(top=block[0].sort_key, bottom=block[-1].sort_key)
                assert search_query.find_candidates(connection, "default", wanted, limit=limit, within=ends) == block


@pytest.mark.parametrize("seed", keep(range(3), 0, sample=True))
def test_filters_do_not_hide_older_messages(engine: Engine, seed: int) -> None:
    """A time or a rare role restricts the result and nothing else."""
    times = scattered(seed)
    made = said_at(engine, times)
    since, until = times[30], times[90]
    expected = [seq for seq in range(len(times), 0, -1) if since <= times[seq - 1] < until]
    for wanted in (
        SearchFilter([WORD], since=since, until=until),
        SearchFilter([WORD], since=since, until=until, conversation_id=made),
        SearchFilter([WORD], since=since, until=until, role="user"),
    ):
        with engine.connect() as connection:
            found = [each.message_ref[1] for block in walked(connection, wanted, 5) for each in block]
        assert found == expected


@pytest.mark.soak(sample=True)
def test_a_frequent_word_reads_only_the_newest_periods(engine: Engine) -> None:
    """Of 6,000 messages with a word, no statement for the newest reads more than two periods."""
    if engine.dialect.name != "postgresql":
        pytest.skip("FTS5 gives its rows out newest first")
    made = said_at(engine, [number * 60 * SECOND for number in range(6_000)], *OWN)
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    asked: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    for wanted in (SearchFilter([WORD]), SearchFilter([WORD], conversation_id=made)):
        with engine.connect() as connection:
            asked.clear()
            block = search_query.find_candidates(connection, "default", wanted, limit=256)
            first = _most_rows(connection, asked.copy())
            asked.clear()
            ends = SortRange(top=block[0].sort_key, bottom=block[-1].sort_key)
            assert search_query.find_candidates(connection, "default", wanted, limit=256, within=ends) == block
            again = _most_rows(connection, asked.copy())
        assert len(block) == 256
        # How many messages there are, when the newest was (one statement for a conversation), how far back, what is there.
        assert len(first) == (4 if wanted.conversation_id is None else 3)
        assert 256 <= max(first) <= 2 * 256
        assert len(again) == 1
        assert 256 <= max(again) <= 4 * 256


def test_a_small_table_is_sorted_at_once(database: str) -> None:
    """PostgreSQL does not count periods if sorting all messages is faster."""
    opened = open_engine(parse_database_url(database)).execution_options(**{WRITE: True})
    made = said_at(opened, list(range(50)))
    asked: list[str] = []
    event.listen(opened, "before_cursor_execute", lambda *given: asked.append(given[2]))
    for wanted in (SearchFilter([WORD]), SearchFilter([WORD], conversation_id=made)):
        asked.clear()
        with opened.connect() as connection:
            assert len(search_query.find_candidates(connection, "default", wanted, limit=10)) == 10
        assert len(asked) == (1 if opened.dialect.name == "sqlite" else 2)
    opened.dispose()


def _most_rows(connection: Connection, asked: list[tuple[str, Any]]) -> list[float]:
    """Return the most rows that a step of each of these statements gives out."""
    most = []
    for statement, values in asked:
        plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values).scalar_one()
        most.append(max(_rows(plan[0]["Plan"])))
    return most


def _rows(plan: dict[str, Any]) -> Iterator[float]:
    yield plan["Actual Rows"] * plan["Actual Loops"]
    for each in plan.get("Plans", ()):
        yield from _rows(each)


@pytest.mark.once
def test_an_unused_word_rarely_matches(engine: Engine) -> None:
    """A hash of 32 bits identifies a word or a pair of characters. By 16 bits, 37 of 2,000 messages match."""
    said_at(engine, list(range(2_000)), *OWN)
    words = [SearchFilter([f"nobody{number}"]) for number in range(20)]
    pairs = [SearchFilter([f"{chr(0x9000 + number)}靁"]) for number in range(20)]
    with engine.connect() as connection:
        for asked in (words, pairs):
            found = [len(search_query.find_candidates(connection, "default", each, limit=2_000)) for each in asked]
            assert sum(found) <= 2


@pytest.mark.parametrize("length", search_periods.LENGTHS)
@pytest.mark.parametrize("at", [0, -1, 5, 1_700_000_000 * SECOND, 1_700_000_000 * SECOND - 1])
def test_a_span_covers_all_times_since_its_beginning(at: int, length: int) -> None:
    """Each time in it has one of its keys and no earlier time has; a span that covers two times contains both."""
    for count in (2, 3, search_periods.MAX_PERIODS):
        span = search_periods.build_span(at, length, count)
        assert (count - 1 << length) * SECOND <= at - span.since < (count << length) * SECOND
        for moment in (at, span.since, (at + span.since) // 2):
            assert set(search_periods.build_period_keys(moment)) & set(span.keys)
        assert not set(search_periods.build_period_keys(span.since - 1)) & set(span.keys)
        found = search_periods.find_covering_span(span.since, at)
        assert found is not None
        assert found.since <= span.since
    assert search_periods.find_covering_span(at - (search_periods.MAX_PERIODS << 22) * SECOND, at) is None


def test_estimated_spans_have_a_margin_and_a_fallback() -> None:
    """The first span is a quarter longer than the estimate; the second surely contains enough."""
    at = 1_700_000_000 * SECOND
    for found, count in ((255, 3), (200, 4), (64, 11), (20, 32), (19, 0), (0, 0)):
        *first, sure = search_periods.estimate_spans(at, 1, found, 256)
        assert sure == search_periods.build_span(at, 16)
        assert first == ([search_periods.build_span(at, 10, count)] if count else []), found
    assert search_periods.estimate_spans(at, 0, 0, 256) == [search_periods.build_span(at, 10)]
