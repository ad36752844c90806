"""Tests that each statement about one conversation names it at every level: a distributed database then asks one server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import and_, bindparam, delete, exists, select, update
from sqlalchemy import event as events
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Engine

from convokit.completion import call as calls
from convokit.store.schema import completion, conversation, message, turn
from tests.support.databases import Postgres
from tests.support.faces import Face
from tests.support.public_calls import CHAT_WRITES, KIT_CALLS_OF_ONE, list_writes, run_chat_reads, write_history
from tests.support.server import LoopbackServer
from tests.support.shard_conditions import find_unnamed

ID: Any = bindparam("id")
DIALECT: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
TABLES = re.compile(r"\bconvokit_(?!alembic_version|schema\b|prompt\b)\w+")
"""Tables below a conversation in a statement that SQLAlchemy did not build."""


class Recorder:
    """Collects the statements in which a table does not name the conversation."""

    def __init__(self) -> None:
        self.count = 0
        self.unnamed: list[str] = []

    def hear(self, connection: Any, cursor: Any, sql: str, parameters: Any, context: Any, many: bool) -> None:
        self.count += 1
        compiled = getattr(context, "compiled", None)
        statement = None if compiled is None else compiled.statement
        unnamed = TABLES.findall(sql) if statement is None else find_unnamed(statement, connection.dialect)
        if unnamed:
            self.unnamed.append(f"{sorted(set(unnamed))} in {' '.join(sql.split())}")


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    events.listen(Engine, "before_cursor_execute", made.hear)
    yield made
    events.remove(Engine, "before_cursor_execute", made.hear)


@pytest.fixture
def kit(
    face: Face, postgres: Postgres, server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A kit with the conversations of `write_history`, on the database that can be distributed."""
    monkeypatch.setattr(calls, "CHUNK_S", 0.0)
    url = postgres.migrated()
    write_history(face, url, server, tmp_path)
    made = face.kit(url, model="loop-1", base_url=server.url)
    face.settle(made.conversation("a"))  # the first use of a kit reads the schema's row
    yield made
    face.close_kits()
    postgres.release(url)


@pytest.mark.once
def test_every_call_on_one_conversation_names_it(
    face: Face, kit: Any, server: LoopbackServer, recorder: Recorder, tmp_path: Path
) -> None:
    """A table at some level without the condition makes Citus ask all servers, and wait for one that is down."""
    run_chat_reads(face, kit.chat("a"), tmp_path)
    for call in KIT_CALLS_OF_ONE.values():
        face.settle(call(kit, tmp_path))
    called = set()
    for name, write in list_writes(server):
        if name != "erase":
            (face.collect if "stream" in name else face.settle)(write(kit))
        called.add(name)
    assert called == set(CHAT_WRITES)
    face.settle(kit.chat("copied").verify())
    assert recorder.count > 300
    assert recorder.unnamed == []


@pytest.mark.once
def test_an_erasure_names_the_conversation_but_for_its_prompts(
    face: Face, kit: Any, server: LoopbackServer, recorder: Recorder, tmp_path: Path
) -> None:
    """An erasure works on one conversation, until it asks whether another conversation uses its prompts."""
    face.settle(kit.chat("a").erase())
    assert recorder.unnamed
    assert all(each.startswith("['convokit_conversation', 'convokit_prompt_use']") for each in recorder.unnamed)


@pytest.mark.parametrize(
    ("statement", "unnamed"),
    [
        (select(message.c.seq).where(message.c.conversation_id == ID), []),
        (select(message.c.seq).where(message.c.seq == 1), ["convokit_message"]),
        (select(message.c.seq).where((message.c.conversation_id == ID) | (message.c.seq == 1)), ["convokit_message"]),
        (select(conversation.c.key).where(conversation.c.id == ID), []),
        (select(conversation.c.key).where(conversation.c.tenant == ID), ["convokit_conversation"]),
        (
            select(turn.c.id, exists().where(completion.c.conversation_id == turn.c.conversation_id)).where(
                turn.c.conversation_id == ID
            ),
            ["convokit_completion"],
        ),
        (
            select(turn.c.id)
            .join(message, message.c.conversation_id == turn.c.conversation_id)
            .where(turn.c.conversation_id == ID),
            ["convokit_message"],
        ),
        (
            select(turn.c.id)
            .join(message, and_(message.c.conversation_id == ID, message.c.turn_id == turn.c.id))
            .where(turn.c.conversation_id == ID, message.c.seq.in_(select(turn.alias("other").c.question_seq))),
            ["other"],
        ),
        (select(select(message.c.seq).cte("all")), ["convokit_message"]),
        (update(turn).where(turn.c.conversation_id == ID).values(state="open"), []),
        (delete(turn).where(turn.c.id == ID), ["convokit_turn"]),
    ],
)
def test_a_level_without_the_condition_is_found(statement: Any, unnamed: list[str]) -> None:
    """In the statement itself, a join, a sub-select or a CTE."""
    assert find_unnamed(statement, DIALECT) == unnamed
