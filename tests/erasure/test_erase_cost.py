"""Count the statements of a removal, and check the indexes it uses."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from convokit import Convokit
from convokit.erasure import removals
from convokit.store.engine import open_engine, parse_database_url
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


@pytest.mark.soak(sample=True)
@pytest.mark.once
@pytest.mark.parametrize("action", keep(["redact", "erase"], "erase", sample=True))
def test_statement_count_does_not_depend_on_the_conversations_length(
    database: str, server: LoopbackServer, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 messages take as many statements as 30: rows are emptied together and read in pages of 1,000."""
    # `verify` reads the whole history.
    monkeypatch.setattr(removals, "verify_conversation", lambda *given: None)
    counts = []
    with Convokit(database, model="m", base_url=server.url) as kit:
        statements = Statements(kit._runtime._store.engine)
        for number, turns in enumerate((15, 150)):
            chat = kit.chat(str(number))
            chat.send("hello", passages=["a passage"])
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


def test_erase_of_20000_messages_takes_as_many_writes_as_of_two(database: str, server: LoopbackServer) -> None:
    """Only `verify` reads more."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        statements = Statements(kit._runtime._store.engine)
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


def test_conversations_of_a_subject_are_read_through_the_index(database: str, server: LoopbackServer) -> None:
    """Listing, counting and erasing them sorts nothing."""
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
        statements = Statements(kit._runtime._store.engine)
        kit.conversations(subject="alice")
        kit.erase(subject="alice", dry_run=True, progress=lambda done, total: None)
    asked = [each for each in statements.seen if "convokit_conversation.subject = " in each[0]]
    assert len(asked) == 3
    engine = open_engine(parse_database_url(database))
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
