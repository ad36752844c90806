"""Test that statements use indexes and read a constant number of rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import Engine, event, text

from convokit import Budget, Chat, Convokit
from convokit.domain.message import MessageRow
from convokit.errors import ModelError
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.support.large_databases import fill, grow
from tests.support.selection import keep
from tests.support.server import LoopbackServer, failure

_ALLOWED = {"convokit_schema"}
"""Tables that may be scanned: the schema table has one row."""
_WHOLE = "(conversation_id=?)"
"""Bound by nothing but its conversation, a search reads all there is of it."""
_COLUMN = re.compile(r"(\w+) (?:=|<|>|IS)")
_OURS = re.compile(r"SCAN (?!CONSTANT|run\b|\(|SUBQUERY)(\S+)(.*)")
_CTE = re.compile(r"(?:WITH RECURSIVE|WITH|,)\s+(\w+)\s*(?:\([^()]*\)\s*)?AS\s")


@pytest.fixture
def long(database: str, server: LoopbackServer) -> Iterator[Convokit]:
    budget = Budget(context_tokens=2000, reply_tokens=50)
    with Convokit(database, model="loop-1", base_url=server.url, budget=budget) as kit:
        yield kit


def _change(database: str, *work: Callable[[Any], None], analyze: bool = True) -> None:
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        for each in work:
            each(connection)
    if analyze or engine.dialect.name == "postgresql":
        with engine.execution_options(**{WRITE: True}).begin() as connection:
            connection.execute(text("ANALYZE"))
    engine.dispose()


class Statements:
    """Every statement a kit executes, with its values."""

    def __init__(self, engine: Engine) -> None:
        self.seen: dict[str, Any] = {}
        self.count = 0
        event.listen(engine, "before_cursor_execute", self._take)

    def _take(self, connection: Any, cursor: Any, statement: str, values: Any, context: Any, many: bool) -> None:
        self.count += not statement.startswith("BEGIN")
        if statement.split(maxsplit=1)[0] in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"):
            self.seen.setdefault(statement, values[0] if many else values)


def _scanned(connection: Any, statement: str, values: Any) -> list[str]:
    """Return what the database would read from end to end for a statement."""
    own = set(_CTE.findall(statement))
    if connection.dialect.name == "sqlite":
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        lines = [row[3] for row in plan]
        found = [match for line in lines if (match := _OURS.match(line))]
        scans = [match.group() for match in found if match[1] not in own | _ALLOWED]
        return [*scans, *(line for line in lines if line.endswith(_WHOLE))]
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", values).scalar_one()
    tree = plan if isinstance(plan, list) else json.loads(plan)
    return [name for name in _full(tree[0]["Plan"]) if name.split()[-1] not in _ALLOWED]


def _full(node: dict[str, Any]) -> Iterator[str]:
    kind = node["Node Type"]
    used = set(_COLUMN.findall(node.get("Index Cond", "")))
    if kind == "Seq Scan" or (kind.startswith(("Index", "Bitmap Index")) and used <= {"conversation_id"}):
        yield f"{kind} of {node.get('Relation Name', node.get('Index Name'))}"
    for child in node.get("Plans", ()):
        yield from _full(child)


def _everything(kit: Convokit, chat: Chat) -> None:
    """Do what an application does with a conversation."""
    chat.send("hello", idempotency_key="once")
    chat.send("hello", idempotency_key="once")
    with chat.stream("streamed") as events:
        for _ in events:
            pass
    found = chat.messages(limit=40)
    chat.messages(limit=40, before=found[0].seq)
    chat.messages(limit=40, after=found[0].seq)
    chat.messages(limit=40, around=found[0].seq)
    chat.messages(limit=40, after=0)
    chat.history(limit=40)
    chat.history(limit=40, before=found[0].seq)
    chat.history(limit=40, after=found[0].seq)
    chat.history(limit=40, around=found[0].seq)
    chat.pin(2)
    chat.context("and now?")
    chat.send("with a pin")
    chat.unpin(2)
    listed = chat.turns(limit=5)
    chat.turns(limit=5, before=listed[0].id)
    with chat.follow() as followed:
        for _ in followed:
            pass
    chat.regenerate()
    chat.edit(found[-2].seq, "hello again", passages=["a passage"])
    chat.siblings(found[-2].seq)
    chat.siblings(found[1])
    chat.siblings(1)
    chat.resume()
    forked = chat.fork(found[-1].seq, name="other")
    forked.send("on a branch")
    forked.regenerate()
    kit.chat("k", branch="other").checkout(2)
    chat.turn_records(chat.turns(limit=5))
    for call in (chat.window, chat.replay):
        call(chat.turns(limit=1)[0])
        call()
    chat.removals()
    chat.branches()
    chat.log(limit=40, before=chat.log(limit=40)[0].seq)
    page = kit.conversations(limit=10)
    kit.conversations(limit=10, before=page.next)
    kit.conversations(limit=10, subject="hanako")
    kit.conversation("k")
    chat.update(metadata={"a": 1}, archived=True)


@pytest.mark.parametrize("run", keep([None, 4], 4, sample=True))
@pytest.mark.parametrize("analyze", keep([True, False], True, sample=True))
def test_no_statement_scans_a_table(long: Convokit, database: str, run: int | None, analyze: bool) -> None:
    """Turns and listings find their rows by an index, in a long and in a branched conversation.

    No SQLite file has statistics until someone runs ANALYZE. PostgreSQL makes them itself.
    """
    identity = _grown(long, database, "k", 5000, run, analyze=analyze)
    _change(database, lambda connection: fill(connection, identity, 3000), analyze=analyze)
    statements = Statements(long._runtime._store.engine)
    _everything(long, long.chat("k"))
    assert len(statements.seen) > 15
    engine = open_engine(parse_database_url(database))
    with engine.connect() as connection:
        scans = {statement: _scanned(connection, statement, values) for statement, values in statements.seen.items()}
    engine.dispose()
    assert {statement: found for statement, found in scans.items() if found} == {}


def _count_rows(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> int:
    """Return how many rows of messages `work` reads or makes."""
    count = 0
    original = MessageRow.__init__

    def counting(self: MessageRow, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(MessageRow, "__init__", counting)
        work()
    return count


def _read(kit: Convokit, key: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Return how many rows of messages a turn and three looks at a conversation read, and in how many statements."""

    def work() -> None:
        chat = kit.chat(key)
        chat.context("and now?")
        chat.send("and now?")
        chat.messages(limit=200)
        chat.turns(limit=1)

    statements = Statements(kit._runtime._store.engine)
    read = _count_rows(monkeypatch, work)
    return read, statements.count


@pytest.mark.parametrize("run", keep([None, 4], 4, sample=True))
@pytest.mark.parametrize("count", keep([20_000, 1_000_000], 20_000))
def test_rows_read_do_not_grow(
    long: Convokit, database: str, count: int, run: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn and three reads take as many rows and statements as with 1,000 messages, also on a branched path."""
    costs = []
    for key, messages in (("first", 10), ("short", 1000), ("long", count)):
        identity = _grown(long, database, key, messages, run)
        costs.append(_read(long, key, monkeypatch))
        assert long.chat(id=identity).messages(limit=1)[0].role == "assistant"
    # The texts of the longer conversation have larger numbers, so its window may hold a turn less.
    assert abs(costs[1][0] - costs[2][0]) <= 64
    assert abs(costs[1][1] - costs[2][1]) <= 2
    assert costs[1][0] > costs[0][0]


def test_a_path_over_many_branches_takes_one_more_statement_for_each_page(long: Convokit, database: str) -> None:
    """Runs of one message are read in order and completely."""
    _grown(long, database, "branched", 2000, 1)
    _grown(long, database, "straight", 2000, None)
    counts = []
    for key in ("branched", "straight"):
        chat = long.chat(key)
        statements = Statements(long._runtime._store.engine)
        found = chat.messages(limit=900)
        counts.append(statements.count)
        assert len(found) == 900
        assert [each.parent_seq for each in found[1:]] == [each.seq for each in found[:-1]]
    assert counts[0] == counts[1] + 2


def _grown(kit: Convokit, database: str, key: str, count: int, run: int | None, *, analyze: bool = True) -> UUID:
    """Return the id of a conversation that now has so many messages."""
    chat = kit.chat(key, subject="hanako")
    chat.send("first")
    assert chat.id is not None
    identity = chat.id
    _change(database, lambda connection: grow(connection, identity, count, run=run), analyze=analyze)
    return identity


def test_turns_do_not_read_imported_messages(
    long: Convokit, server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path without turns is not read to its beginning. A turn that answers an imported question is still found."""
    said = [{"role": ("user", "assistant")[at % 2], "content": f"m{at}"} for at in range(2000)]
    (tmp_path / "said.json").write_text(json.dumps({"messages": [{"role": "user", "content": "first"}, *said]}))
    long.import_(tmp_path / "said.json", format="messages")
    chat = long.chat(id=long.conversations().items[0].id)
    assert chat.turns() == []
    assert _count_rows(monkeypatch, lambda: chat.turns(limit=1000)) <= 32
    asked = [chat.send(f"q{number}").turn_id for number in range(3)]
    assert [turn.id for turn in chat.turns()] == asked
    assert _count_rows(monkeypatch, lambda: chat.turns(limit=1000)) <= 32
    assert [turn.id for turn in chat.turns(limit=2, before=asked[2])] == asked[:2]
    last = chat.messages(limit=1)[0]
    server.script(failure(400))
    with pytest.raises(ModelError):
        chat.regenerate(1)
    failed = chat.turns()
    assert [turn.state for turn in failed] == ["failed"]
    chat.checkout(last)
    assert [turn.id for turn in chat.turns()] == [failed[0].id, *asked]


def test_usage_reads_only_conversations_used_since(long: Convokit, database: str) -> None:
    """The index by last use gives the conversations, and their key gives the calls."""
    _grown(long, database, "long", 10, None)
    statements = Statements(long._runtime._store.engine)
    identity = long.chat("long")
    identity.send("and now?")
    assert identity.id is not None
    _change(database, lambda connection: fill(connection, cast("UUID", identity.id), 3000), _spread)
    since = datetime.now(UTC) - timedelta(hours=1)
    statements.seen.clear()
    assert long.usage(since=since).total.calls >= 2
    assert long.usage(since=since, by="conversation", subject="hanako").rows
    engine = open_engine(parse_database_url(database))
    with engine.connect() as connection:
        plans = [_plan(connection, *each) for each in statements.seen.items() if "sum(" in each[0].lower()]
    engine.dispose()
    assert len(plans) == 2
    for plan in plans:
        assert "convokit_conversation_recent" in plan or "convokit_conversation_subject" in plan, plan
        assert "Seq Scan" not in plan, plan
        assert "SCAN convokit" not in plan, plan


LISTINGS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "recent": ({}, {"convokit_conversation_recent"}),
    "since": ({"since": datetime(2020, 1, 1, tzinfo=UTC)}, {"convokit_conversation_recent"}),
    "subject": ({"subject": "person 7"}, {"convokit_conversation_subject"}),
    "prefix": ({"prefix": "key_12"}, {"convokit_conversation_key"}),
    "prefix and subject": ({"prefix": "鍵", "subject": "person 7"}, {"convokit_conversation_key"}),
    "archived": ({"archived": True}, {"convokit_conversation_archived"}),
    "not archived": ({"archived": False}, {"convokit_conversation_recent"}),
    "open": ({"open": True}, {"convokit_turn_open", "convokit_turn_claim"}),
}


@pytest.mark.parametrize("analyze", [True, False])
def test_listings_use_the_index_of_their_filter(long: Convokit, database: str, analyze: bool) -> None:
    """A page reads no row outside of its filter, and neither sorts the tenant nor scans the messages for previews."""
    identity = _grown(long, database, "k", 5000, None, analyze=analyze)
    _change(database, lambda connection: fill(connection, identity, 3000), _name_and_archive, analyze=analyze)
    statements = Statements(long._runtime._store.engine)
    for name, (given, expected) in LISTINGS.items():
        statements.seen.clear()
        page = long.conversations(limit=5, **given)
        if name in ("recent", "since", "prefix", "archived", "not archived"):
            assert len(page) == 5
            long.conversations(limit=5, before=page.next, **given)
        engine = open_engine(parse_database_url(database))
        with engine.connect() as connection:
            plans = [_plan(connection, *each) for each in statements.seen.items() if "is_open" in each[0]]
        engine.dispose()
        assert plans
        for plan in plans:
            assert any(index in plan for index in expected), f"{name}: {plan}"
            assert "Seq Scan" not in plan, f"{name}: {plan}"
            assert "SCAN convokit_conversation" not in plan, f"{name}: {plan}"
            assert name == "open" or not re.search("Sort|TEMP B-TREE", plan), f"{name}: {plan}"


def _name_and_archive(connection: Any) -> None:
    """Give the conversations that were filled in keys and subjects, and archive one in a hundred."""
    parts = "key = :key || CAST(updated_at % 3000 AS TEXT), subject = 'person ' || CAST(updated_at % 100 AS TEXT)"
    named = f"UPDATE convokit_conversation SET {parts}"
    connection.execute(text(f"{named} WHERE key IS NULL AND updated_at % 2 = 0"), {"key": "key_"})
    connection.execute(text(f"{named} WHERE key IS NULL"), {"key": "鍵_"})
    connection.execute(text("UPDATE convokit_conversation SET archived_at = 1 WHERE updated_at % 100 = 0"))


def _spread(connection: Any) -> None:
    """Give each conversation that was filled in its own call, 40 days ago."""
    ago = {"us": 40 * 86_400_000_000}
    calls = "UPDATE convokit_completion SET conversation_id = turn_id, started_at = started_at - :us"
    connection.execute(text(f"{calls} WHERE turn_id IN (SELECT id FROM convokit_conversation)"), ago)
    moved = "UPDATE convokit_conversation SET updated_at = updated_at - :us"
    connection.execute(text(f"{moved} WHERE key IS NULL"), ago)


def _plan(connection: Any, statement: str, values: Any) -> str:
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}", values))
