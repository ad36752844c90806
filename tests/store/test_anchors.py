"""Test how anchors are stored and found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from convokit.domain.conversation import ConversationRow
from convokit.domain.hashchain import genesis_hash
from convokit.domain.ids import new_id
from convokit.domain.message import MessageRow
from convokit.runtime.sync_store import SyncStore, open_store
from convokit.store import anchors, conversations
from convokit.store.anchors import AnchorRow
from convokit.store.engine import parse_database_url

QUESTION = MessageRow(1, None, 1, None, "user", "complete", 1, "none", 1, 10)


@pytest.fixture
def store(database: str) -> Iterator[SyncStore]:
    opened = open_store(parse_database_url(database), "test")
    yield opened
    opened.close()


def _create(store: SyncStore, tenant: str = "会社") -> ConversationRow:
    identity = new_id()
    row = ConversationRow(
        identity, tenant, None, None, None, None, None, None, 0, 0, genesis_hash(identity), 1, 1, None
    )
    store.run(lambda connection: conversations.create(connection, row), write=True)
    return row


def _insert(store: SyncStore, row: ConversationRow, seq: int, digest: bytes, at: int = 10) -> None:
    message = replace(QUESTION, seq=seq, created_at=at)
    store.run(lambda connection: anchors.insert_anchor(connection, row, message, digest), write=True)


Found = tuple[UUID, AnchorRow]


def _find(store: SyncStore, tenant: str, *digests: bytes) -> list[Found]:
    found = store.run(lambda connection: anchors.find_conversations(connection, tenant, digests), write=False)
    return [(each.id, anchor) for each in found for anchor in each.anchors]


def _find_here(store: SyncStore, row: UUID, *digests: bytes, tenant: str = "会社") -> list[Found]:
    found = store.run(lambda connection: anchors.find_conversation(connection, tenant, row, digests), write=False)
    return [] if found is None else [(found.id, anchor) for anchor in found.anchors]


def test_anchors_of_a_tenant_are_found_the_newest_first(store: SyncStore) -> None:
    """In all its conversations. Several messages may have the same digest, as the same history in two conversations."""
    one, two, other = _create(store), _create(store), _create(store, "acme")
    _insert(store, one, 1, b"a", at=10)
    _insert(store, two, 1, b"a", at=30)
    _insert(store, one, 2, b"b\x00\xff", at=20)
    _insert(store, other, 1, b"a", at=40)
    assert _find(store, "会社", b"a", b"b\x00\xff", b"c") == [
        (two.id, AnchorRow(b"a", 1, 30)),
        (one.id, AnchorRow(b"b\x00\xff", 2, 20)),
        (one.id, AnchorRow(b"a", 1, 10)),
    ]
    assert _find(store, "会社", b"b\x00\xff") == [(one.id, AnchorRow(b"b\x00\xff", 2, 20))]
    assert _find(store, "acme", b"a") == [(other.id, AnchorRow(b"a", 1, 40))]
    assert _find(store, "nobody", b"a") == []
    assert _find(store, "会社") == []
    assert _find_here(store, one.id, b"a", b"c") == [(one.id, AnchorRow(b"a", 1, 10))]
    assert _find_here(store, new_id(), b"a") == []
    assert _find_here(store, one.id) == []
    assert _find_here(store, one.id, b"a", tenant="acme") == []
    both = store.run(lambda connection: anchors.find_conversation(connection, "会社", two.id, [b"c"]), write=False)
    assert both == anchors.AnchoredConversation(two.id, None, 0, False, ())


def test_at_most_256_anchors_are_returned(store: SyncStore) -> None:
    """The newest."""
    row = _create(store)
    for seq in range(1, 301):
        _insert(store, row, seq, b"hello", at=seq)
    assert [each.seq for _, each in _find(store, "会社", b"hello")] == list(range(300, 44, -1))
    many = [str(number).encode() for number in range(255)]
    assert len(_find(store, "会社", *many, b"hello")) == 256


def test_a_message_keeps_its_first_anchor(store: SyncStore) -> None:
    row = _create(store)
    _insert(store, row, 1, b"a")
    _insert(store, row, 1, b"b")
    assert _find_here(store, row.id, b"a", b"b") == [(row.id, AnchorRow(b"a", 1, 10))]


def test_anchors_are_counted_and_deleted_from_a_message_on(store: SyncStore) -> None:
    row, other = _create(store), _create(store)
    for seq in range(1, 6):
        _insert(store, row, seq, b"a")
    _insert(store, other, 5, b"a")

    def count(from_seq: int) -> int:
        return store.run(lambda connection: anchors.count_anchors(connection, row.id, from_seq), write=False)

    def delete(*from_seq: int) -> None:
        store.run(lambda connection: anchors.delete_anchors(connection, row.id, *from_seq), write=True)

    assert (count(0), count(4)) == (5, 2)
    delete(4)
    assert sorted(each.seq for _, each in _find_here(store, row.id, b"a")) == [1, 2, 3]
    delete()
    assert count(0) == 0
    assert len(_find_here(store, other.id, b"a")) == 1


def test_anchors_are_found_through_indexes(sqlite_file: str) -> None:
    """Neither lookup scans the table."""
    opened = open_store(parse_database_url(sqlite_file), "test")
    plans = []

    def observe(connection: Any, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        if statement.startswith("SELECT"):
            plan = cursor.connection.execute("EXPLAIN QUERY PLAN " + statement, values)
            plans.append(" ".join(row[3] for row in plan))

    event.listen(opened.engine, "before_cursor_execute", observe)
    assert _find(opened, "会社", b"a", b"b") == []
    assert _find_here(opened, new_id(), b"a", b"b") == []
    assert "INDEX convokit_anchor_digest (tenant=? AND digest=?)" in plans[0]
    assert "USING PRIMARY KEY (conversation_id=?)" in plans[1]
    opened.close()
