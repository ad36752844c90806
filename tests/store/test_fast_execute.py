"""Test statements that bypass SQLAlchemy: their results, and when they do not bypass it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, bindparam, event, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, ProgrammingError, StatementError

from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import new_id
from convokit.domain.message import MessageRow
from convokit.store import conversations, messages
from convokit.store.engine import open_engine, parse_database_url
from convokit.store.fast_execute import fast_connection, plain_connection
from convokit.store.schema import conversation, message

ID = new_id()
SECOND = 3
"""The execution from which a constant is known as one."""


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = open_engine(parse_database_url(database))
    yield made
    made.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as opened, opened.begin():
        row = ConversationRow(ID, "t", "鍵", None, None, None, None, None, 0, 0, b"\x00\xff", 1, 2, None)
        conversations.create(opened, row)
        yield opened


@dataclass
class Spy:
    """Counts what SQLAlchemy itself executes."""

    connection: Connection
    executed: int = 0

    def __enter__(self) -> Spy:
        self._execute = self.connection.execute
        self.connection.execute = self._count  # type: ignore[method-assign]
        return self

    def __exit__(self, *raised: object) -> None:
        del self.connection.execute

    def _count(self, *given: Any, **named: Any) -> Any:
        self.executed += 1
        return self._execute(*given, **named)


def test_a_constant_bypasses_sqlalchemy_with_equal_results(connection: Connection) -> None:
    """A constant statement bypasses SQLAlchemy from its third execution on, and every value stays the same."""
    rows = [
        MessageRow(
            seq,
            seq - 1 or None,
            1,
            new_id(),
            "user",
            "complete",
            5,
            "c",
            seq,
            7,
            content="日本語 \\ % : ?",
            salt=b"\x00s",
        )
        for seq in (1, 2)
    ]
    fast = fast_connection(connection)
    with Spy(connection) as spy:
        for row in rows:
            messages.append(fast, ID, [row])
        found = [messages.find(fast, ID, 2) for _ in range(SECOND)]
        before = spy.executed
        found += [messages.find(fast, ID, 2), messages.find(fast, ID, 1)]
        assert messages.find(fast, ID, 3) is None
        assert [conversations.find(fast, "t", ID) for _ in range(SECOND + 1)][-1] == conversations.find(
            connection, "t", ID
        )
    assert spy.executed - before <= SECOND, "it went through SQLAlchemy"
    assert found == [rows[1]] * (SECOND + 1) + [rows[0]]
    assert [type(getattr(found[0], each.name)) for each in fields(MessageRow)] == [
        type(getattr(rows[1], each.name)) for each in fields(MessageRow)
    ]


def test_rows_give_columns_by_position_and_name(connection: Connection) -> None:
    """A row gives its columns by position, by name and as a mapping; the result has the row count."""
    fast = fast_connection(connection)
    look = select(conversation.c.id, conversation.c.key).where(conversation.c.id == bindparam("id"))
    change = update(conversation).where(conversation.c.id == bindparam("b_id")).values(title=bindparam("new"))
    for _ in range(SECOND):
        row = fast.execute(look, {"id": ID}).one()
        assert (row[0], row.key, tuple(row), row._mapping["key"]) == (ID, "鍵", (ID, "鍵"), "鍵")
        assert [dict(each) for each in fast.execute(look, {"id": ID}).mappings()] == [{"id": ID, "key": "鍵"}]
        assert fast.execute(look, {"id": new_id()}).scalar_one_or_none() is None
        assert list(fast.execute(look, {"id": ID}).scalars()) == [ID]
        assert fast.execute(change, {"b_id": ID, "new": None}).rowcount == 1
        assert fast.execute(change, {"b_id": new_id(), "new": "x"}).rowcount == 0


def test_dynamic_statements_use_sqlalchemy(connection: Connection) -> None:
    """Expanded lists and statements that are built for one execution are executed by SQLAlchemy."""
    fast = fast_connection(connection)
    listed = select(conversation.c.id).where(conversation.c.id.in_(bindparam("ids", expanding=True)))
    for _ in range(SECOND):
        assert fast.execute(listed, {"ids": [ID, new_id()]}).scalars().all() == [ID]
        assert len(conversations.list_recent(fast, "t", subject=None, limit=5, before=None)) == 1
        assert fast.execute(text("SELECT 1")).scalar_one() == 1
    assert plain_connection(fast) is connection
    assert plain_connection(connection) is connection


def test_errors_equal_those_of_sqlalchemy(connection: Connection) -> None:
    """A rejected row, a missing value and an unknown table raise the same errors with and without the bypass."""
    fast = fast_connection(connection)
    row = MessageRow(1, None, 1, None, "user", "complete", 5, "c", 5, 7, salt=b"s")
    for seq in range(1, SECOND + 1):
        row.seq = seq
        messages.append(fast, ID, [row])
    with pytest.raises(IntegrityError), connection.begin_nested():
        messages.append(fast, ID, [row])
    look = select(conversation.c.id).where(conversation.c.id == bindparam("id"))
    absent = select(text("1")).select_from(text("not_there"))
    for _ in range(SECOND):
        assert fast.execute(look, {"id": ID}).scalar_one() == ID
        with pytest.raises(StatementError), connection.begin_nested():
            fast.execute(look, {})
        with pytest.raises((OperationalError, ProgrammingError)), connection.begin_nested():
            fast.execute(absent)


def test_a_lost_connection_is_invalidated(engine: Engine) -> None:
    """If the driver reports a lost connection, the pool opens another one."""
    look = select(conversation.c.id).where(conversation.c.id == bindparam("id"))
    with engine.connect() as connection:
        fast = fast_connection(connection)
        for _ in range(SECOND):
            fast.execute(look, {"id": ID})
        driver: Any = connection.connection.dbapi_connection
        driver.close()
        with pytest.raises((OperationalError, ProgrammingError, InterfaceError)):
            fast.execute(look, {"id": ID})
        if engine.dialect.name == "postgresql":
            assert connection.invalidated
    with engine.connect() as connection:
        assert fast_connection(connection).execute(look, {"id": ID}).scalar_one_or_none() is None


def test_listeners_receive_every_statement(engine: Engine) -> None:
    """While a listener observes an engine, SQLAlchemy executes every statement."""
    heard: list[str] = []
    with engine.connect() as connection:
        assert fast_connection(connection) is not connection

        def take(conn: Any, cursor: Any, statement: str, *more: Any) -> None:
            heard.append(statement)

        event.listen(engine, "before_cursor_execute", take)
        for _ in range(SECOND):
            conversations.find(fast_connection(connection), "t", ID)
        event.remove(engine, "before_cursor_execute", take)
    assert len(heard) == SECOND


def test_several_rows_are_inserted_by_one_call(connection: Connection) -> None:
    fast, add = fast_connection(connection), insert(message)
    for first in range(1, 3 * SECOND, 2):
        fast.execute(add, [_values(seq) for seq in (first, first + 1)])
    assert connection.execute(select(func.count()).select_from(message)).scalar_one() == 3 * SECOND - 1


def _values(seq: int) -> dict[str, Any]:
    row = MessageRow(seq, None, 1, None, "user", "complete", 5, "c", 5, 7, salt=b"s")
    return {"conversation_id": ID, **{each.name: getattr(row, each.name) for each in fields(row)}}


def test_literal_sql_returns_its_rows_each_time(database: str) -> None:
    """SQLAlchemy's `text` does not say whether it returns rows, so it is executed by SQLAlchemy."""
    statement = text("SELECT count(*) FROM convokit_conversation")
    engine = open_engine(parse_database_url(database))
    for _ in range(3):
        with engine.begin() as connection:
            assert fast_connection(connection).execute(statement).scalar_one() == 0
    engine.dispose()
