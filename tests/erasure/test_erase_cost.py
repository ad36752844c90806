"""What a removal costs: statements counted, and indexes used."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from convokit import Convokit
from convokit.erasure import erase
from convokit.store.engine import database_url, open_engine
from tests.support.canaries import change
from tests.support.large_databases import fill, grow
from tests.support.selection import keep
from tests.support.server import LoopbackServer


class Statements:
    """Counts what a kit executes, but for BEGIN."""

    def __init__(self, engine: Engine) -> None:
        self.seen: list[tuple[str, Any]] = []
        event.listen(engine, "before_cursor_execute", self._take)

    def _take(self, connection: Any, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        if not statement.startswith("BEGIN"):
            self.seen.append((statement, values))


@pytest.mark.once
@pytest.mark.parametrize("action", keep(["redact", "erase"], "erase", sample=True))
def test_statements_do_not_grow_with_the_conversation(
    database: str, server: LoopbackServer, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many statements for 300 messages as for 30: rows are emptied together, and read a thousand at a time."""
    monkeypatch.setattr(erase, "verify", lambda *given: None)  # it reads the whole history, at a cost of its own
    counts = []
    with Convokit(database, model="m", base_url=server.url) as kit:
        statements = Statements(kit._store.engine)
        for number, turns in enumerate((15, 150)):
            chat = kit.chat(str(number))
            chat.send("hello", context=["a passage"])
            for _ in range(turns - 1):
                chat.send("hello")
            statements.seen.clear()
            if action == "redact":
                chat.redact(2)
            else:
                chat.erase()
            counts.append(len(statements.seen))
    assert counts[0] == counts[1]
    assert counts[0] < 60


def test_a_long_conversation_is_erased_in_pages(database: str, server: LoopbackServer) -> None:
    """Twenty thousand messages go in as many updates as two; only reading back for `verify` takes more."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        statements = Statements(kit._store.engine)
        written = []
        for number, count in enumerate((2, 20_000)):
            chat = kit.chat(str(number))
            chat.send("hello")
            identity = chat.id
            assert identity is not None
            if count > 2:
                change(database, lambda connection, identity=identity: grow(connection, identity, 20_000))
            statements.seen.clear()
            assert chat.erase().removed["message"] == count
            written.append(sum(each.startswith(("UPDATE", "DELETE", "INSERT")) for each, _ in statements.seen))
        assert written[0] == written[1]


def test_a_persons_conversations_come_from_an_index(database: str, server: LoopbackServer) -> None:
    """Listing, counting and erasing a subject's conversations reads the index of subjects, in its order: nothing is sorted."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        chat = kit.chat("k", subject="alice")
        chat.send("hello")
        identity = chat.id
        assert identity is not None
        change(database, lambda connection: fill(connection, identity, 3000))
        change(
            database, lambda connection: connection.execute(text("UPDATE convokit_conversation SET subject = 'bob'"))
        )
        kit.chat("mine", subject="alice").send("hello")
        change(database, lambda connection: connection.execute(text("ANALYZE")))
        statements = Statements(kit._store.engine)
        kit.conversations(subject="alice")
        kit.erase(subject="alice", dry_run=True, progress=lambda done, total: None)
    asked = [each for each in statements.seen if "convokit_conversation.subject = " in each[0]]
    assert len(asked) == 3
    engine = open_engine(database_url(database))
    with engine.connect() as connection:
        for statement, values in asked:
            plan = _plan(connection, statement, values)
            assert "convokit_conversation_subject" in plan
            assert "TEMP B-TREE" not in plan
            assert "Sort" not in plan
    engine.dispose()


def _plan(connection: Any, statement: str, values: Any) -> str:
    how = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    return "\n".join(str(row) for row in connection.exec_driver_sql(f"{how} {statement}", values).all())
