"""How far back a search looks: no further than it must, and never past a message that is there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, text

from convokit.domain import hashchain, search_words
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import keyed_id
from convokit.domain.message import MessageRow
from convokit.store import conversations, messages, migrations, search_query
from convokit.store.engine import WRITE, database_url, open_engine
from tests.support.selection import keep

SECOND = 1_000_000
DAY = 86_400 * SECOND
WORD = "言葉"
OWN = [f"own{number}" for number in range(30)]


@pytest.fixture
def engine(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(search_query, "_FEW", -2)  # PostgreSQL is asked how far back to look, however little there is
    opened = open_engine(database_url(database)).execution_options(**{WRITE: True})
    yield opened
    opened.dispose()


def said_at(engine: Engine, times: list[int], *own: str) -> UUID:
    """Store a conversation with a message for each of these times, each with the word and some of its own."""
    with engine.begin() as connection:
        made = keyed_id(migrations.check(connection, "it"), "default", "k")
        names = ("default", "k", None, None, None, None, None)
        row = ConversationRow(made, *names, len(times), 0, hashchain.genesis(made), 1, max(times), None)
        conversations.create(connection, row)
        rows = []
        for seq, at in enumerate(times, 1):
            said = " ".join([WORD, *(f"{word}x{seq}" for word in own)])
            rows.append(MessageRow(seq, seq - 1 or None, 1, None, "user", "complete", 1, "none", seq, at, content=said))
        messages.append(connection, made, rows)
    return made


def walked(connection: Connection, wanted: search_query.Wanted, limit: int) -> list[list[search_query.Candidate]]:
    """Return all that is found, block by block, as a search asks for it."""
    blocks: list[list[search_query.Candidate]] = []
    below = None
    while True:
        blocks.append(search_query.candidates(connection, "default", wanted, limit=limit, below=below))
        if len(blocks[-1]) < limit:
            return blocks
        below = blocks[-1][-1].order


def scattered(seed: int) -> list[int]:
    """Return times as they may come: bursts, pauses of years, some before 1970, many at once."""
    drawn = random.Random(seed)
    at, times = drawn.choice([-5 * DAY, 0, 1_700_000_000 * SECOND]), []
    for _ in range(120):
        at += drawn.choice([0, 1, SECOND, 600 * SECOND, DAY, 40 * DAY, 3_000 * DAY, (2 << 22) * SECOND])
        times.append(at)
    return times


@pytest.mark.parametrize("seed", keep(range(6), 0, 1, sample=True))
@pytest.mark.parametrize("limit", [1, 7])
def test_every_message_is_found_in_order_whenever_it_was(engine: Engine, seed: int, limit: int) -> None:
    """Blocks hold every message once, newest first, and a block that is asked for by its ends is the same again."""
    times = scattered(seed)
    said_at(engine, times)
    wanted = search_query.Wanted(["言葉"], ["言", "葉"])
    with engine.connect() as connection:
        blocks = walked(connection, wanted, limit)
        assert [each.place[1] for block in blocks for each in block] == list(range(len(times), 0, -1))
        for block in blocks[:: 9 // limit or 1]:
            if block:
                ends = {"top": block[0].order, "bottom": block[-1].order}
                assert search_query.candidates(connection, "default", wanted, limit=limit, **ends) == block


@pytest.mark.parametrize("seed", keep(range(3), 0, sample=True))
def test_what_else_is_asked_does_not_hide_what_is_older(engine: Engine, seed: int) -> None:
    """A time, or a role that only some have, narrows the answer and nothing else."""
    times = scattered(seed)
    made = said_at(engine, times)
    since, until = times[30], times[90]
    expected = [seq for seq in range(len(times), 0, -1) if since <= times[seq - 1] < until]
    for wanted in (
        search_query.Wanted([WORD], since=since, until=until),
        search_query.Wanted([WORD], since=since, until=until, conversation_id=made),
        search_query.Wanted([WORD], since=since, until=until, role="user"),
    ):
        with engine.connect() as connection:
            found = [each.place[1] for block in walked(connection, wanted, 5) for each in block]
        assert found == expected


def test_a_word_of_every_message_costs_what_the_newest_cost(engine: Engine) -> None:
    """Of 6,000 messages that hold a word, no statement for the newest looks at more than two periods' worth."""
    if engine.dialect.name != "postgresql":
        pytest.skip("FTS5 gives its rows out newest first")
    made = said_at(engine, [number * 60 * SECOND for number in range(6_000)], *OWN)
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    asked: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    for wanted in (search_query.Wanted([WORD]), search_query.Wanted([WORD], conversation_id=made)):
        with engine.connect() as connection:
            asked.clear()
            block = search_query.candidates(connection, "default", wanted, limit=256)
            first = _most_rows(connection, asked.copy())
            asked.clear()
            ends = {"top": block[0].order, "bottom": block[-1].order}
            assert search_query.candidates(connection, "default", wanted, limit=256, **ends) == block
            again = _most_rows(connection, asked.copy())
        assert len(block) == 256
        assert len(first) == 3  # when the newest was, how far back, and what is there
        assert 256 <= max(first) <= 2 * 256
        assert len(again) == 1
        assert 256 <= max(again) <= 4 * 256


def test_of_few_messages_all_are_put_in_order(database: str) -> None:
    """PostgreSQL is not asked how far back to look where that takes longer than to look at all of them."""
    opened = open_engine(database_url(database)).execution_options(**{WRITE: True})
    made = said_at(opened, list(range(50)))
    asked: list[str] = []
    event.listen(opened, "before_cursor_execute", lambda *given: asked.append(given[2]))
    for wanted in (search_query.Wanted([WORD]), search_query.Wanted([WORD], conversation_id=made)):
        asked.clear()
        with opened.connect() as connection:
            assert len(search_query.candidates(connection, "default", wanted, limit=10)) == 10
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


def test_a_word_that_nobody_said_is_in_no_message(engine: Engine) -> None:
    """Two numbers tell a word, and its characters two of Japanese. By one number, 37 of 2,000 messages hold one of these."""
    said_at(engine, list(range(2_000)), *OWN)
    words = [search_query.Wanted([f"nobody{number}"]) for number in range(20)]
    pairs = [search_query.Wanted([f"{chr(0x9000 + number)}靁"], [chr(0x9000 + number), "靁"]) for number in range(20)]
    with engine.connect() as connection:
        for asked in (words, pairs):
            found = [len(search_query.candidates(connection, "default", each, limit=2_000)) for each in asked]
            assert sum(found) <= 2


@pytest.mark.parametrize("length", search_words.LENGTHS)
@pytest.mark.parametrize("at", [0, -1, 5, 1_700_000_000 * SECOND, 1_700_000_000 * SECOND - 1])
def test_a_span_holds_all_since_its_beginning(at: int, length: int) -> None:
    """Each message of it, and none before, has one of its keys; a span between two moments holds both, or there is none."""
    for count in (2, 3, search_words.MOST):
        span = search_words.before(at, length, count)
        assert (count - 1 << length) * SECOND <= at - span.since < (count << length) * SECOND
        for moment in (at, span.since, (at + span.since) // 2):
            assert set(search_words.period_keys(moment)) & set(span.keys)
        assert not set(search_words.period_keys(span.since - 1)) & set(span.keys)
        found = search_words.between(span.since, at)
        assert found is not None
        assert found.since <= span.since
    assert search_words.between(at - (search_words.MOST << 22) * SECOND, at) is None


def test_what_is_estimated_is_neither_short_nor_endless() -> None:
    """As many periods as hold what is wanted and a quarter more, as far as that is known; then those that surely do."""
    at = 1_700_000_000 * SECOND
    for found, count in ((255, 3), (200, 4), (64, 11), (20, 32), (19, 0), (0, 0)):
        *first, sure = search_words.spans(at, 1, found, 256)
        assert sure == search_words.before(at, 16)
        assert first == ([search_words.before(at, 10, count)] if count else []), found
    assert search_words.spans(at, 0, 0, 256) == [search_words.before(at, 10)]
