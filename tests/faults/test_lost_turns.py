"""A failover to an asynchronous standby loses the newest commits, and a turn that runs meanwhile loses its question."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, delete, insert, select

from convokit.errors import Interrupted
from convokit.store.engine import open_engine, parse_database_url
from convokit.store.schema import metadata
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, completion, stream

TABLES = [table for table in metadata.sorted_tables if table.name not in ("convokit_schema", "convokit_search")]


class LostCommits:
    """Takes the rows of a database, and puts them back: what was committed in between is lost."""

    def __init__(self, database: str) -> None:
        self._engine: Engine = open_engine(parse_database_url(database), search=False)
        with self._engine.connect() as connection:
            self._rows = {table: connection.execute(select(table)).mappings().all() for table in TABLES}

    def lose(self) -> None:
        with self._engine.begin() as connection:
            for table in reversed(TABLES):
                connection.execute(delete(table))
            for table in TABLES:
                if self._rows[table]:
                    connection.execute(insert(table), [dict(row) for row in self._rows[table]])
        self._engine.dispose()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("key", ["new", "old"])
def test_a_reply_whose_question_was_lost_is_handed_over(
    face: Face, database: str, server: LoopbackServer, key: str, streaming: bool
) -> None:
    """Nothing is written that refers to the lost rows. A repeat under the key asks again."""
    kit = face.kit(database, model="loop-1", base_url=server.url, search=False)
    face.settle(kit.chat("old").send("one"))
    face.settle(kit.chat("old").append([{"role": "user", "content": "two"}]))
    lost = LostCommits(database)

    def answer(body: Any) -> Script:
        lost.lose()
        return stream(["paid"]) if streaming else completion("paid")

    server.answer = answer
    chat = kit.chat(key)
    with pytest.raises(Interrupted, match=r"does not have this turn any more.* only copy") as caught:
        _ask(face, chat, streaming)
    assert caught.value.partial == "paid"
    server.answer = lambda body: stream(["again"]) if streaming else completion("again")
    assert _ask(face, chat, streaming).text == "again"
    before = ["one", "echo: one", "two"] if key == "old" else []
    assert [each.text for each in face.settle(chat.messages())] == [*before, "three", "again"]
    assert face.settle(kit.verify()).conversations == (1 if key == "old" else 2)


def _ask(face: Face, chat: Any, streaming: bool) -> Any:
    if not streaming:
        return face.settle(chat.send("three", idempotency_key="k"))
    events = chat.stream("three", idempotency_key="k")
    face.collect(events)
    return events.reply
