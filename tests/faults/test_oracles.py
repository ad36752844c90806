"""The oracles themselves: what is whole passes, and each kind of damage is named."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text as sql

from convokit.errors import ChainBroken
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.faults import oracles
from tests.support.faces import Face
from tests.support.server import LoopbackServer

DAMAGE = {
    "a gap": ("DELETE FROM convokit_message WHERE seq = 2", "dense"),
    "a question twice": ("UPDATE convokit_message SET role = 'user' WHERE seq = 2", "has the questions"),
    "a reply twice": ("UPDATE convokit_turn SET reply_seq = 1 WHERE question_seq = 3", "its reply is 1"),
    "a reply elsewhere": ("UPDATE convokit_message SET parent_seq = 1 WHERE seq = 4", "its own turn"),
    "a claim": ("UPDATE convokit_turn SET claim = 0 WHERE question_seq = 1", "its claim"),
    "a call left": ("UPDATE convokit_completion SET ended_at = NULL", "is still"),
    "words": ("UPDATE convokit_message SET content = 'x' WHERE seq = 1", "not what was written"),
}


@pytest.fixture
def two_turns(face: Face, kit: Any) -> Any:
    for text in ("one", "two"):
        face.settle(kit.chat("k").send(text))
    return kit


def test_what_is_whole_passes(two_turns: Any, database: str, server: LoopbackServer) -> None:
    """Two plain turns hold every rule, and a conversation that is not there holds them too."""
    found = oracles.check_conversation(database, "k")
    oracles.check_calls([found], [each.raw for each in server.requests])
    oracles.check_acknowledged(found, ["one", "two"], ["echo: one", "echo: two"])
    oracles.check_once(found, {"one": "echo: one", "two": "echo: two"})
    assert oracles.check_conversation(database, "another").row is None


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str, two_turns: Any, database: str) -> None:
    """Each rule, when it is broken in the tables, is the one that is reported."""
    statement, said = DAMAGE[kind]
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(sql(statement))
    engine.dispose()
    with pytest.raises((oracles.Broken, ChainBroken), match=said):
        oracles.check_conversation(database, "k")


def test_what_was_promised_is_looked_for(two_turns: Any, database: str, server: LoopbackServer) -> None:
    """A lost question or reply, a request without a row, and a question whose reply is another are all seen."""
    found = oracles.check_conversation(database, "k")
    with pytest.raises(oracles.Broken, match="lost"):
        oracles.check_acknowledged(found, ["three"], [])
    with pytest.raises(oracles.Broken, match="lost"):
        oracles.check_acknowledged(found, [], ["echo: one", "echo: one"])
    with pytest.raises(oracles.Broken, match="has no row"):
        oracles.check_calls([found], [server.requests[0].raw, server.requests[0].raw])
    with pytest.raises(oracles.Broken, match="whole replies"):
        oracles.check_once(found, {"one": "echo: two"})
    with pytest.raises(oracles.Broken, match="0 times"):
        oracles.check_once(found, {"three": "x"})
