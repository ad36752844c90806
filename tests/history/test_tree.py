"""The tree as it is: siblings, leaves and the log, found without reading what lies between."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from convokit import Convokit
from convokit.errors import InvalidInput, NotFound
from convokit.store.engine import open_engine, parse_database_url
from tests.history.helpers import change, rows, seqs
from tests.support.faces import Face
from tests.support.server import LoopbackServer

pytestmark = pytest.mark.usefixtures("numbered_replies")


def _tree(face: Face, chat: Any) -> None:
    """Say two things, then another second one, another reply to that, and another first one."""
    for text in ("one", "two"):
        face.settle(chat.send(text))
    face.settle(chat.edit(3, "zwei"))
    face.settle(chat.regenerate())
    face.settle(chat.edit(1, "uno"))


def test_siblings_are_what_follows_the_same_message(face: Face, kit: Any) -> None:
    """In the order of writing, the message itself among them: questions beside questions, replies beside replies."""
    chat = kit.chat("k")
    _tree(face, chat)
    found = {seq: seqs(face.settle(chat.siblings(seq))) for seq in range(1, 10)}
    assert found == {
        1: [1, 8],
        8: [1, 8],
        2: [2],
        3: [3, 5],
        5: [3, 5],
        4: [4],
        6: [6, 7],
        7: [6, 7],
        9: [9],
    }


def test_leaves_are_what_nothing_follows(face: Face, kit: Any) -> None:
    """Newest first and page by page; a message from which something was forked is none any more."""
    chat = kit.chat("k")
    _tree(face, chat)
    assert seqs(face.settle(chat.leaves())) == [9, 7, 6, 4]
    assert seqs(face.settle(chat.leaves(limit=2))) == [9, 7]
    assert seqs(face.settle(chat.leaves(limit=2, before=7))) == [6, 4]
    face.settle(face.settle(chat.fork(4)).send("more"))
    assert seqs(face.settle(chat.leaves())) == [11, 9, 7, 6]


def test_the_log_is_everything_in_the_order_of_writing(face: Face, kit: Any) -> None:
    """All branches, passages too, oldest first and page by page, whatever the chat's own path is."""
    chat = kit.chat("k")
    face.settle(chat.send("one", passages=["passage"]))
    face.settle(chat.edit(2, "uno"))
    assert [each.text for each in face.settle(chat.log())] == ["passage", "one", "1: one", "uno", "2: uno"]
    assert seqs(face.settle(chat.log(limit=2))) == [4, 5]
    assert seqs(face.settle(chat.log(limit=2, before=face.settle(chat.log(limit=2))[0].id))) == [2, 3]
    assert seqs(face.settle(chat.log(limit=9, before=1))) == []


def test_looks_at_what_is_not_there_say_so(face: Face, kit: Any) -> None:
    """No message is NotFound; a limit or place that is none is InvalidInput."""
    with pytest.raises(NotFound):
        face.settle(kit.chat("never").siblings(1))
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    for look in ("leaves", "log", "branches"):
        for limit in (0, -1, 1001, True, "5"):
            with pytest.raises(InvalidInput, match="limit"):
                face.settle(getattr(chat, look)(limit=limit))
        with pytest.raises(InvalidInput):
            face.settle(getattr(chat, look)(before="nonsense"))


def test_only_partings_are_indexed(face: Face, kit: Any, database: str) -> None:
    """A conversation without branches has one message in the index that siblings and leaves are found by."""
    chat = kit.chat("k")
    for number in range(6):
        face.settle(chat.send(f"turn {number}"))
    parting = "SELECT seq FROM convokit_message WHERE run_start_seq = seq ORDER BY seq"
    assert [row[0] for row in rows(database, parting)] == [1]
    face.settle(chat.regenerate())
    face.settle(chat.send("on"))
    assert [row[0] for row in rows(database, parting)] == [1, 13]


@pytest.mark.parametrize("look", ["leaves", "siblings", "children", "roots", "runs"])
def test_the_tree_is_found_by_its_partings(database: str, server: LoopbackServer, look: str) -> None:
    """No messages in between are read: both engines go through the index of partings."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        for number in range(4):
            chat.send(f"turn {number}")
        chat.regenerate(2)
        _grow(database)
        seen: list[tuple[str, Any]] = []
        engine = kit._runtime._store.engine
        event.listen(engine, "before_cursor_execute", lambda *given: seen.append((given[2], given[3])))
        given = {"siblings": (2,), "children": (2,)}.get(look, ())
        getattr(chat, "children" if look == "roots" else look)(*given)
        with open_engine(parse_database_url(database)).connect() as connection:
            plans = [_plan(connection, *each) for each in seen if each[0].split()[0] in ("SELECT", "WITH")]
        connection.engine.dispose()
    read = "\n".join(plans)
    assert "convokit_message_parting" in read
    assert "SCAN convokit_message\n" not in read
    assert "Seq Scan on convokit_message" not in read
    # SQLite takes a range of seqs for cheaper than the index of partings, and then reads most of the conversation.
    assert "(conversation_id=? AND seq<?)" not in read


def _grow(database: str) -> None:
    """Add 3,000 messages of other conversations' shape behind the last one, and tell the planner."""
    columns = [row[0] for row in _columns(database) if row[0] not in ("seq", "parent_seq", "run_start_seq")]
    listed = ", ".join(columns)
    change(
        database,
        f"INSERT INTO convokit_message (seq, parent_seq, run_start_seq, {listed})"
        " WITH RECURSIVE n (i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
        f" SELECT i, i - 1, 9, {listed} FROM n, (SELECT * FROM convokit_message WHERE seq = 8) h",
    )
    change(database, "UPDATE convokit_conversation SET last_seq = 3000")
    change(database, "ANALYZE")


def _columns(database: str) -> list[Any]:
    from convokit.store.schema import message  # noqa: PLC0415  # for this list only

    return [(column.name,) for column in message.columns]


def _plan(connection: Any, statement: str, values: Any) -> str:
    word = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{word} {statement}", values))
