"""Test how the search index is written, read and cleaned."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, text

from convokit import Convokit
from convokit.domain import hashchain, search_words
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import derive_conversation_id
from convokit.domain.message import MessageRow
from convokit.store import conversations, messages, migrations, search_index, search_query
from convokit.store.dialects import postgresql_search
from convokit.store.dialects.protocol import SearchFilter
from convokit.store.engine import SEARCH, WRITE, open_engine, parse_database_url
from tests.search.test_search import SAID
from tests.support.selection import keep
from tests.support.server import LoopbackServer


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    opened = open_engine(parse_database_url(database)).execution_options(**{WRITE: True})
    yield opened
    opened.dispose()


@pytest.fixture
def kit(database: str, server: LoopbackServer) -> Iterator[Convokit]:
    with Convokit(database, model="loop-1", base_url=server.url) as made:
        yield made


def _conversation(connection: Connection, key: str, tenant: str = "default") -> UUID:
    made = derive_conversation_id(migrations.check_schema(connection, "it"), tenant, key)
    names = (tenant, key, None, None, None, None, None)
    conversations.create(connection, ConversationRow(made, *names, 0, 0, hashchain.genesis_hash(made), 1, 1, None))
    return made


def _row(seq: int, content: str, at: int | None = None) -> MessageRow:
    role = "user" if seq % 2 else "assistant"
    return MessageRow(seq, seq - 1 or None, 1, None, role, "complete", 1, "none", seq, at or seq, content=content)


def _say(engine: Engine, key: str, said: list[str], tenant: str = "default") -> UUID:
    with engine.begin() as connection:
        made = _conversation(connection, key, tenant)
        messages.append(connection, made, [_row(seq, content) for seq, content in enumerate(said, 1)])
    return made


@pytest.mark.parametrize("count", [1, 600])
def test_index_rows_are_written_with_the_message(engine: Engine, kit: Convokit, count: int) -> None:
    """Message and index rows are committed or rolled back together, few rows or many."""
    with engine.connect() as connection, connection.begin() as transaction:
        made = _conversation(connection, "k")
        messages.append(connection, made, [_row(seq, f"消えた言葉 {seq}") for seq in range(1, count + 1)])
        assert len(search_query.find_candidates(connection, "default", SearchFilter(["消え"]), limit=1000)) == count
        transaction.rollback()
    assert len(kit.search("消え")) == 0
    _say(engine, "k", [f"残った言葉 {seq}" for seq in range(1, count + 1)])
    assert len(kit.search("消え")) == 0
    assert len(kit.search("残った")) == min(count, 20)


def test_a_connection_can_skip_the_index(engine: Engine, kit: Convokit) -> None:
    """`index_missing` later indexes exactly the missing messages, 200 at a time."""
    _say(engine, "a", ["言葉"] * 3)
    _say(engine.execution_options(**{SEARCH: False}), "b", ["言葉", "", "..."] * 300)
    place, filled = None, []
    for _ in range(4):
        with engine.begin() as connection:
            place, count = search_index.index_missing(connection, "default", place)
            filled.append(count)
    assert max(filled) <= 200
    assert sum(filled) + kit.reindex() == 300
    assert len(_all(kit, "言葉")) == 303


def _all(kit: Convokit, query: str, **given: Any) -> list[tuple[str | None, int]]:
    page = kit.search(query, **given)
    found = [(hit.key, hit.message.seq) for hit in page]
    while page.next is not None:
        page = kit.search(query, before=page.next, **given)
        found += [(hit.key, hit.message.seq) for hit in page]
    return found


@pytest.mark.parametrize("limit", keep([1, 7, 100], 1, 100, sample=True))
def test_pages_contain_every_hit_once(engine: Engine, kit: Convokit, limit: int) -> None:
    """Pages stay complete across blocks of candidates while messages are written and removed between them."""
    count = 700 if limit > 1 else 20
    said = [f"頁 {'頁 ' * (number % 5)}{number}" if number % 7 else f"別 {number}" for number in range(count)]
    made = _say(engine, "k", said)
    wanted = {number + 1 for number in range(count) if number % 7}
    page = kit.search("頁", limit=limit)
    found = [hit.message.seq for hit in page]
    late = 0
    while page.next is not None:
        if late < 5:  # one is said, and one that was not seen yet is forgotten
            late += 1
            gone = min(wanted - set(found))
            wanted.discard(gone)
            with engine.begin() as connection:
                messages.append(connection, made, [_row(count + late, "頁 頁 頁 頁 頁 頁 new")])
                search_index.remove_messages(connection, made, [gone])
        page = kit.search("頁", limit=limit, before=page.next)
        found += [hit.message.seq for hit in page]
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_other_tenants_do_not_change_the_result(engine: Engine, kit: Convokit) -> None:
    """Hits, ranks and pages stay the same whatever other tenants have written."""
    mine = ["共有の port 80", "共有", "port 80 port 80"]
    _say(engine, "k", mine)

    def seen() -> list[Any]:
        page = kit.search("port 80", limit=1)
        rest = kit.search("port 80", limit=1, before=page.next)
        return [*((hit.message.seq, hit.rank) for hit in (*page, *rest)), page.next, rest.next]

    before = seen()
    _say(engine, "k", mine * 200, tenant="other")
    assert seen() == before
    with engine.connect() as connection:
        assert search_query.find_sort_key(connection, "default", (_id_of(connection, "other"), 1)) is None
        assert len(search_query.find_candidates(connection, "default", SearchFilter(["port"]), limit=1000)) == 2


def _id_of(connection: Connection, tenant: str) -> UUID:
    return derive_conversation_id(migrations.check_schema(connection, "it"), tenant, "k")


def test_a_search_in_a_conversation_matches_its_key_only(engine: Engine) -> None:
    """The key of the tenant is not matched as well: it may have a million rows."""
    made = _say(engine, "k", SAID)
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(str(given[3])))
    of_tenant, inside = search_words.build_owner_keys("default", made)
    if engine.dialect.name == "postgresql":
        of_tenant, inside = str(postgresql_search.hash_key(of_tenant)), str(postgresql_search.hash_key(inside))
    for wanted, key, other in (
        (SearchFilter(["京都"]), of_tenant, inside),
        (SearchFilter(["京都"], conversation_id=made), inside, of_tenant),
    ):
        with engine.connect() as connection:
            assert search_query.find_candidates(connection, "default", wanted, limit=10)
        assert key in asked[-1]
        assert other not in asked[-1]


def test_removed_messages_are_not_found(engine: Engine, kit: Convokit) -> None:
    """`remove_messages` removes the words of these messages only; a second call changes nothing."""
    made = _say(engine, "k", SAID)
    other = _say(engine, "other", SAID)
    with engine.begin() as connection:
        search_index.remove_messages(connection, made, [1, 2, 99])
    assert sorted(_all(kit, "京都")) == [("other", 1), ("other", 2)]
    with engine.begin() as connection:
        search_index.remove_messages(connection, made, [1, 2])
        search_index.remove_conversation(connection, made)
        search_index.optimize(connection)
    assert {key for key, _ in _all(kit, "北京")} == {"other"}
    assert kit.reindex() == 0, "what was forgotten is not indexed again"
    with engine.begin() as connection:
        search_index.remove_conversation(connection, other)
    assert not any(_all(kit, word) for word in ("東京", "tower", "서울", "cafe"))


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("blanked", [False, True])
def test_no_byte_of_a_removed_word_is_left(database: str, engine: Engine, kit: Convokit, blanked: bool) -> None:
    """After `remove_messages` and `optimize`, the SQLite file contains none of the words, even if the text is gone."""
    _say(engine, "k", [f"ordinary words {number}" for number in range(200)])
    made = _say(engine, "secret", ["plain", "zanzibarcode 秘匿情報", "plain zanzibarish"])
    with engine.begin() as connection:
        if blanked:
            connection.execute(text("UPDATE convokit_message SET content = NULL WHERE content LIKE 'zanzibar%'"))
        search_index.remove_messages(connection, made, [2])
        if not blanked:
            connection.execute(text("UPDATE convokit_message SET content = NULL WHERE content LIKE 'zanzibar%'"))
    path = Path(str(parse_database_url(database).database))
    with sqlite3.connect(path) as driver:
        driver.execute("PRAGMA secure_delete = ON")
        driver.execute("INSERT INTO convokit_search_words (convokit_search_words) VALUES ('optimize')")
    driver.close()
    vocabulary = "CREATE VIRTUAL TABLE temp.v USING fts5vocab(main, convokit_search_words, row)"
    with engine.begin() as connection:
        connection.exec_driver_sql(vocabulary)
        terms = set(connection.exec_driver_sql("SELECT term FROM temp.v").scalars())
        connection.exec_driver_sql(
            "INSERT INTO convokit_search_words (convokit_search_words) VALUES ('integrity-check')"
        )
    assert not terms & {"zanzibarcode", "秘", "秘匿", "匿", "匿情", "情報", "報"}
    assert {"plain", "zanzibarish", "ordinary"} <= terms
    assert [seq for _, seq in _all(kit, "plain")] == [1, 3] or [seq for _, seq in _all(kit, "plain")] == [3, 1]
    engine.dispose()
    kit.close()
    held = b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))
    for word in ("zanzibarcode", "秘匿", "匿情", "情報"):
        assert word.encode() not in held


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_vacuum_keeps_the_rowids_of_the_index(database: str, engine: Engine, kit: Convokit) -> None:
    """FTS5 identifies a message by a rowid that VACUUM must not change, even if rows before it were deleted."""
    gone = _say(engine, "gone", ["消える言葉"] * 50)
    _say(engine, "kept", ["残る言葉", "plain", "京都"])
    with engine.begin() as connection:
        search_index.remove_conversation(connection, gone)
        connection.execute(text("PRAGMA foreign_keys = ON"))
        connection.execute(text("DELETE FROM convokit_search WHERE conversation_id = :id"), {"id": gone.hex})
    driver = sqlite3.connect(str(parse_database_url(database).database))
    driver.execute("VACUUM")
    driver.close()
    assert _all(kit, "京都") == [("kept", 3)]
    assert _all(kit, "残る") == [("kept", 1)]


def _plans(engine: Engine, kit: Convokit, *searches: dict[str, Any]) -> list[str]:
    """Return how the database would run every statement of these searches."""
    seen: list[tuple[str, Any]] = []

    def take(connection: Any, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            seen.append((statement, values))

    event.listen(kit._runtime._store.engine, "before_cursor_execute", take)
    for given in searches:
        kit.search(**given)
    plans = []
    with engine.connect() as connection:
        explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        for statement, values in seen:
            rows = connection.exec_driver_sql(f"{explain} {statement}", values).all()
            plans.append("\n".join(str(row[-1]) for row in rows))
    return plans


@pytest.mark.soak(sample=True)
def test_a_search_uses_the_index(engine: Engine, kit: Convokit, monkeypatch: pytest.MonkeyPatch) -> None:
    """No search scans a table of messages: the index is read first, and each row by its key."""
    monkeypatch.setattr(postgresql_search, "SORT_AT_ONCE", 100)
    filler = [" ".join(f"w{seq}x{word}" for word in range(80)) for seq in range(30)]
    for number in range(20):
        _say(engine, f"k{number}", [f"{said} {number} {seq} {filler[seq]}" for seq in range(30) for said in SAID])
    with engine.begin() as connection:
        if (
            engine.dialect.name == "postgresql"
        ):  # a table that is smaller than the list of pending keys is scanned instead
            connection.execute(text("SELECT gin_clean_pending_list('convokit_search_found')"))
        connection.execute(text("ANALYZE"))
    since = datetime(2020, 1, 1, tzinfo=UTC)
    first = kit.search("天気 18", limit=1)
    plans = _plans(
        engine,
        kit,
        {"query": "天気 18"},
        {"query": "京 18 7", "role": "user"},
        {"query": "東京tower 3 4", "since": since, "subject": "hanako", "metadata": {"a": 1}},
        {"query": "天気 18", "limit": 1, "before": first.next},
        {"query": "サウル", "key": "k3"},
    )
    assert len(plans) > 10
    sqlite = engine.dialect.name == "sqlite"
    # A search also looks for titles and keys: these plans read the last message of each conversation.
    of_messages = [plan for plan in plans if not sqlite or ("convokit_message" in plan and "LEFT-JOIN" not in plan)]
    asking = [
        plan for plan in of_messages if ("convokit_search_words VIRTUAL" if sqlite else "convokit_search_found") in plan
    ]
    # PostgreSQL is asked first how far back to look, where a whole tenant is searched by words, roles and times; the few rows
    # of a conversation it may take by their key
    assert len(asking) in ((5,) if sqlite else (6, 7)), "\n\n".join(plans)
    if sqlite:  # FTS5 gives its rows out in order: nothing is gathered to be sorted before the first 256 are taken
        assert not [plan for plan in asking if "TEMP B-TREE" in plan.partition("SCAN likely")[0]]
    scans = [
        f"SCAN {table}" if sqlite else f"Seq Scan on {table}" for table in ("convokit_message", "convokit_search\n")
    ]
    for plan in plans:
        assert not any(scan in f"{plan}\n" for scan in scans), plan


def test_statements_of_a_turn_with_and_without_search(database: str, kit: Convokit) -> None:
    """The index adds a statement to each write on PostgreSQL, in no further round trip, and two on SQLite."""
    counts = {}
    with Convokit(database, model="loop-1", base_url=kit._state.base_url, search=False) as plain:
        for name, each in (("with", kit), ("without", plain)):
            chat = each.chat(name)
            chat.send("warm up")
            seen: list[str] = []
            event.listen(
                each._runtime._store.engine, "before_cursor_execute", lambda *given, seen=seen: seen.append(given[2])
            )
            chat.send("hello")
            counts[name] = len(seen)
    assert counts["with"] - counts["without"] == (2 if kit._runtime._store.engine.dialect.name == "postgresql" else 4)
