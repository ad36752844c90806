"""Test that a write of a turn is stored completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, select

from convokit.domain import hashchain as chains
from convokit.domain.conversation import BranchRow, ConversationRow
from convokit.domain.ids import new_id
from convokit.domain.message import MessageRow
from convokit.domain.profiles import Profile
from convokit.domain.stored_request import Manifest
from convokit.domain.turn import CallRow, IdempotencyKey
from convokit.store import api_calls, conversations, message_tree, schema, turns
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.fast_execute import fast_connection
from convokit.store.turn_end import TurnEnd
from convokit.store.turn_start import TurnStart, Written
from convokit.store.write_batch import Conflict, TurnLost

TABLES = (schema.conversation, schema.message, schema.turn, schema.completion, schema.entry)


@pytest.fixture(params=["together", "one by one"])
def store(request: pytest.FixtureRequest, database: str) -> Iterator[Any]:
    """Begin transactions that send statements together, as the store does, and one by one, as an observed engine does."""
    opened = open_engine(parse_database_url(database)).execution_options(**{WRITE: True})

    @contextmanager
    def begin() -> Iterator[Connection]:
        with opened.begin() as connection:
            yield fast_connection(connection) if request.param == "together" else connection

    yield SimpleNamespace(begin=begin)
    opened.dispose()


def _conversation(conversation_id: UUID) -> ConversationRow:
    genesis = chains.genesis_hash(conversation_id)
    return ConversationRow(conversation_id, "t", None, None, None, None, None, None, 0, 0, genesis, 1, 1, None)


def _message(seq: int, role: str, parent: int | None) -> MessageRow:
    return MessageRow(seq, parent, 1, None, role, "complete", 1, "none", seq, 1, content=f"no. {seq}", salt=b"s" * 16)


def _beginning(row: ConversationRow, *, key: IdempotencyKey | None = None, branch: int = 0) -> TurnStart:
    completion = CallRow(new_id(), 1, "sending", "{}", b"s" * 16, b"d" * 32, "m", 1)
    question = _message(row.last_seq + 1, "user", row.head_seq)
    return TurnStart(
        row,
        branch,
        None,
        question,
        [question],
        completion,
        Manifest(1, [], Profile()),
        "me",
        60_000_000,
        1,
        created=row.last_seq == 0,
        movable=False,
        key=key,
    )


def _settlement(row: ConversationRow, completion: CallRow, replies: int = 1) -> TurnEnd:
    rows = [_message(row.last_seq + n, "assistant", row.last_seq) for n in range(1, replies + 1)]
    ended = replace(completion, state="ok", ended_at=2, salt=b"c" * 16)
    return TurnEnd(
        conversation=row,
        branch=0,
        turn_id=completion.turn_id,
        at=2,
        rows=rows,
        call=ended,
        epoch=1,
        state="completed",
    )


def _stored(store: Any) -> list[list[Any]]:
    with store.begin() as connection:
        return [sorted(map(repr, connection.execute(select(table)))) for table in TABLES]


def _begun(store: Any, beginning: TurnStart) -> ConversationRow:
    with store.begin() as connection:
        return beginning.write(connection).conversation


@pytest.mark.parametrize("replies", [0, 1, 3, 9])
def test_a_turn_is_stored_completely(store: Any, replies: int) -> None:
    """Question, turn, call, replies and chain are stored, for any number of rows."""
    beginning = _beginning(_conversation(new_id()))
    row = _begun(store, beginning)
    with store.begin() as connection:
        settled = _settlement(row, beginning.call, replies).write(connection)
        found = turns.find(connection, row.id, beginning.call.turn_id)
        call = api_calls.find_call(connection, row.id, beginning.call.turn_id, 1)
        stored = conversations.find(connection, "t", row.id)
        entries = connection.execute(select(schema.entry.c.hash).order_by(schema.entry.c.number)).scalars().all()
        contents = connection.execute(select(schema.message.c.content).order_by(schema.message.c.seq)).scalars().all()
    assert found is not None
    assert call is not None
    assert stored is not None
    assert stored == settled.conversation
    assert (found.state, found.reply_seq, call.state) == ("completed", 2 if replies else None, "ok")
    assert contents == [f"no. {n}" for n in range(1, replies + 2)]
    assert len(entries) == replies + 2
    assert bytes(entries[-1]) == bytes(stored.chain_hash)


@pytest.mark.parametrize("taken", ["moved", "claim", "key", "created", "foreign"])
def test_a_rejected_turn_start_writes_nothing(store: Any, taken: str) -> None:
    """A moved conversation, an open turn, a used key, a used id and a row of another tenant raise Conflict."""
    key = IdempotencyKey(b"h" * 32, b"s" * 16, b"f" * 32)
    first = _conversation(new_id())
    row = _begun(store, _beginning(first, key=key))
    before = _stored(store)
    beginning = {
        "moved": lambda: _beginning(replace(row, last_entry=0), branch=1),
        "claim": lambda: _beginning(row),
        "key": lambda: _beginning(row, key=key, branch=1),
        "created": lambda: _beginning(first),
        "foreign": lambda: _beginning(replace(row, tenant="other"), branch=1),
    }[taken]()
    with pytest.raises(Conflict):
        _begun(store, beginning)
    assert _stored(store) == before


@pytest.mark.parametrize("lost", ["epoch", "closed"])
def test_a_lost_turn_is_not_changed(store: Any, lost: str) -> None:
    """If the epoch differs or the turn was ended, the write raises TurnLost and changes nothing."""
    beginning = _beginning(_conversation(new_id()))
    settlement = _settlement(_begun(store, beginning), beginning.call)
    with store.begin() as connection:
        if lost == "closed":
            settlement.write(connection)
        else:
            settlement.epoch = 2
    before = _stored(store)
    with pytest.raises(TurnLost), store.begin() as connection:
        settlement.write(connection)
    assert _stored(store) == before


def test_a_reply_gets_the_next_seq_when_another_branch_wrote_first(store: Any) -> None:
    """The turn ends once and its row names the new seq of the reply."""
    beginning = _beginning(_conversation(new_id()))
    row = _begun(store, beginning)
    with store.begin() as connection:
        message_tree.create_branch(connection, row.id, BranchRow(0, None, 1, 1))
    other = _begun(store, replace(_beginning(row, branch=1), head=1))
    with store.begin() as connection:
        settled = _settlement(row, beginning.call).write(connection)
        found = turns.find(connection, row.id, beginning.call.turn_id)
        _check(connection, settled, other.last_seq + 1)
    assert found is not None
    assert (found.state, found.reply_seq) == ("completed", other.last_seq + 1)


def _check(connection: Connection, settled: Written, seq: int) -> None:
    assert [row.seq for row in settled.rows] == [seq]
    stored = connection.execute(select(schema.message.c.seq).order_by(schema.message.c.seq)).scalars().all()
    assert stored == list(range(1, seq + 1))
    assert connection.execute(
        select(schema.completion.c.state).order_by(schema.completion.c.state)
    ).scalars().all() == [
        "ok",
        "sending",
    ]
