"""Test what `verify` finds in turns that start with tool results from the caller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convokit import Convokit
from convokit.errors import ChainBroken
from convokit.store.engine import open_engine, parse_database_url
from convokit.store.schema import message, tool_call, turn
from tests.audit.tampering import make_deletion, make_update, read_rows, verify_after
from tests.support.server import LoopbackServer, calls

SCHEMA = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object", "properties": {}}}}


def look() -> str:
    """Look."""
    return "seen"


@pytest.fixture(params=["written", "imported"])
def kit(request: pytest.FixtureRequest, database: str, server: LoopbackServer, tmp_path: Path) -> Any:
    """A kit with a conversation whose second question has calls; they are answered, and a function runs in that turn.

    Imported calls belong to no turn.
    """
    with Convokit(database, model="loop-1", base_url=server.url) as made:
        if request.param == "written":
            chat = made.chat("t")
            chat.send("first")
            server.script(calls(("c1", "pay", "{}"), ("c2", "pay", "{}")))
            chat.send("second", tools=[SCHEMA])
        else:
            asked = [
                {"id": f"c{n}", "type": "function", "function": {"name": "pay", "arguments": "{}"}} for n in (1, 2)
            ]
            asking = {"role": "assistant", "content": None, "tool_calls": asked}
            said = [{"role": role, "content": "first"} for role in ("user", "assistant")]
            file = tmp_path / "chat.json"
            file.write_text(json.dumps([*said, {"role": "user", "content": "second"}, asking]), "utf-8")
            made.import_(file, format="messages", key="t")
            chat = made.chat("t")
        server.script(calls(("c3", "look", "{}")))
        chat.send(tool_results={"c1": "one", "c2": "two"}, tools=[SCHEMA, look])
        chat.send("third")
        assert [each.role for each in chat.messages()][4:8] == ["tool", "tool", "assistant", "tool"]
        yield made


def test_changed_turns_are_found(kit: Convokit, database: str) -> None:
    """The turn names the question of the calls. Results of functions need their tool calls, results of the caller need none."""
    chat = kit.chat("t")
    assert chat.verify().tool_calls == 1
    assert chat.id is not None
    engine = open_engine(parse_database_url(database))
    rows = {row["seq"]: row for row in read_rows(engine, message, chat.id)}
    answering = next(row for row in read_rows(engine, turn, chat.id) if row["id"] == rows[5]["turn_id"])
    assert answering["question_seq"] == 3
    found = {
        seq: verify_after(engine, chat.id, make_update(turn, answering, question_seq=seq))
        for seq, row in rows.items()
        if row["role"] == "user" and seq != 3
    }
    assert set(found) == {1, 10}
    assert all(isinstance(each, ChainBroken) for each in found.values()), found
    (called,) = read_rows(engine, tool_call, chat.id)
    assert isinstance(verify_after(engine, chat.id, make_deletion(tool_call, called)), ChainBroken)
    assert isinstance(verify_after(engine, chat.id, make_deletion(turn, answering)), ChainBroken)
    engine.dispose()
