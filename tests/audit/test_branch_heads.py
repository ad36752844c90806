"""Test branch heads: what `verify` returns of them, and heads that a checkpoint signs."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, delete, insert, update

from convokit.audit.branch_heads import check_heads
from convokit.domain.ids import new_id
from convokit.domain.message import ASSISTANT, PASSAGE, SUMMARY, USER
from convokit.domain.verification import CheckpointHead, MovedHead
from convokit.errors import CheckpointError
from convokit.store import conversations
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.schema import branch, conversation, message
from tests.audit.tampering import open_rolled_back
from tests.support.faces import Face

pytestmark = pytest.mark.once

KEY = "a secret of the auditor's own"


def _execute(database: str, statement: Any) -> None:
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(statement)
    engine.dispose()


def _send(face: Face, chat: Any, *questions: str) -> None:
    for question in questions:
        face.settle(chat.send(question))


def test_head_moved_in_sql_is_shown_and_reported_against_a_checkpoint(face: Face, kit: Any, database: str) -> None:
    """The chain stays whole. The heads and the count show the hidden messages, and the checkpoint shows the old head."""
    for key in ("first", "第二"):
        _send(face, kit.chat(key), "こんにちは", "and then?")
    made = face.settle(kit.checkpoint(key=KEY))
    chat = kit.chat("第二")
    before = face.settle(chat.verify(against=made, key=KEY))
    assert (before.heads, before.unreachable_messages, before.moved_heads) == ({"main": 4}, 0, ())
    _execute(database, update(conversation).where(conversation.c.key == "第二").values(head_seq=2))
    after = face.settle(chat.verify(against=made, key=KEY))
    assert (after.heads, after.unreachable_messages) == ({"main": 2}, 2)
    moved = (MovedHead(conversation_id=chat.id, branch="main", checkpoint_seq=4, seq=2),)
    assert after.moved_heads == moved
    assert face.settle(chat.verify()).moved_heads == ()
    found = face.settle(kit.verify(against=made, key=KEY))
    assert (found.broken, found.unreachable_messages, found.moved_heads) == (0, 2, moved)
    assert face.settle(kit.verify()).moved_heads == ()


def test_later_turns_and_new_branches_move_no_head_of_a_checkpoint(face: Face, kit: Any, database: str) -> None:
    """A head may go on to descendants of its message. An empty branch may go anywhere."""
    main = kit.chat("k")
    _send(face, main, "one", "two")
    other = face.settle(main.fork(2, name="枝"))
    _execute(
        database, insert(branch).values(conversation_id=main.id, number=2, name="empty", head_seq=None, created_at=1)
    )
    made = face.settle(kit.checkpoint(key=KEY))
    _send(face, main, "three")
    _send(face, other, "four")
    late = face.settle(main.fork(2, name="7"))
    _send(face, late, "five")
    _execute(database, update(branch).where(branch.c.number == 2).values(head_seq=6))
    found = face.settle(main.verify(against=made, key=KEY))
    assert found.heads == {"main": 6, "枝": 8, "empty": 6, 3: 10}  # JSON would confuse the name "7" with branch 7
    assert (found.unreachable_messages, found.moved_heads) == (0, ())


def test_edit_regenerate_and_checkout_are_reported_and_counted(face: Face, kit: Any) -> None:
    """These move heads lawfully. The replaced messages are on no branch, and nothing is broken."""
    changes: dict[str, Callable[[Any], Any]] = {
        "edited": lambda chat: chat.edit(3, "other"),
        "again": lambda chat: chat.regenerate(),
        "back": lambda chat: chat.checkout(2),
    }
    for key, change in changes.items():
        _send(face, kit.chat(key), "one", "two")
        made = face.settle(kit.checkpoint(key=KEY))
        chat = kit.chat(key)
        face.settle(change(chat))
        found = face.settle(chat.verify(against=made, key=KEY))
        head = {"edited": 6, "again": 5, "back": 2}[key]
        assert [(each.branch, each.checkpoint_seq, each.seq) for each in found.moved_heads] == [("main", 4, head)], key
        assert found.unreachable_messages == {"edited": 2, "again": 1, "back": 2}[key], key


def test_checkpoint_compares_branches_by_number(face: Face, kit: Any, database: str) -> None:
    """A branch that has another name is the same branch. A branch whose row is gone has moved."""
    main = kit.chat("k")
    _send(face, main, "one", "two")
    other = face.settle(main.fork(2, name="draft"))
    _send(face, other, "three")
    made = face.settle(kit.checkpoint(key=KEY))
    _execute(database, update(branch).values(name="下書き"))
    renamed = face.settle(main.verify(against=made, key=KEY))
    assert (renamed.heads, renamed.moved_heads) == ({"main": 4, "下書き": 6}, ())
    _execute(database, update(branch).values(head_seq=4))
    beside = face.settle(main.verify(against=made, key=KEY)).moved_heads
    assert [(each.branch, each.checkpoint_seq, each.seq) for each in beside] == [("下書き", 6, 4)]
    engine = open_engine(parse_database_url(database))
    with open_rolled_back(engine) as connection:
        connection.execute(delete(branch))
        row = conversations.find(connection, "default", main.id)
        assert row is not None
        report = check_heads(connection, row, CheckpointHead(main.id, 6, "", branch_heads={0: 4, 1: 6}))
    engine.dispose()
    assert [(each.branch, each.checkpoint_seq, each.seq) for each in report.moved_heads] == [(1, 6, None)]
    assert report.unreachable_messages == 2


def test_erasure_since_the_checkpoint_moves_no_head(face: Face, kit: Any, database: str) -> None:
    """The chain has the erasure. A checkpoint from after it compares the heads again."""
    chat = kit.chat("k")
    _send(face, chat, "one", "two")
    earlier = face.settle(kit.checkpoint(key=KEY))
    face.settle(chat.erase())
    _send(face, chat, "three", "four")
    erased = face.settle(chat.verify(against=earlier, key=KEY))
    assert (erased.heads, erased.unreachable_messages, erased.moved_heads) == ({"main": 8}, 0, ())
    made = face.settle(kit.checkpoint(key=KEY))
    _execute(database, update(conversation).values(head_seq=6))
    found = face.settle(chat.verify(against=made, key=KEY))
    assert (found.unreachable_messages, [each.checkpoint_seq for each in found.moved_heads]) == (2, [8])


def _sign(lines: list[str]) -> str:
    body = "".join(lines)
    signature = hmac.new(KEY.encode(), body.encode(), hashlib.sha256).hexdigest()
    return body + json.dumps({"conversations": len(lines) - 1, "hmac_sha256": signature}) + "\n"


def test_checkpoint_of_an_earlier_version_has_no_branch_heads(
    face: Face, kit: Any, database: str, tmp_path: Any
) -> None:
    """The chain is compared, and no head is reported as moved."""
    _send(face, kit.chat("k"), "one", "two")
    lines = face.settle(kit.checkpoint(key=KEY)).text.splitlines(keepends=True)[:-1]
    values = json.loads(lines[1])
    assert values.pop("branch_heads") == {"0": 4}
    path = tmp_path / "old"
    path.write_text(_sign([lines[0], json.dumps(values) + "\n"]), "utf-8")
    _execute(database, update(conversation).values(head_seq=2))
    for verify in (kit.verify, kit.chat("k").verify):
        found = face.settle(verify(against=path, key=KEY))
        assert (found.entries, found.moved_heads, found.unreachable_messages) == (6, (), 2)


@pytest.mark.once
@pytest.mark.parametrize("heads", ['{"0":5}', "null", "{}", '{"x":1}', '{"0":"a"}', "[1]", "7", '{"0":Infinity}'])
def test_branch_heads_are_signed(face: Face, kit: Any, tmp_path: Any, heads: str) -> None:
    _send(face, kit.chat("k"), "one", "two")
    text = face.settle(kit.checkpoint(key=KEY)).text
    path = tmp_path / "altered"
    path.write_text(text.replace('"branch_heads":{"0":4}', f'"branch_heads":{heads}'), "utf-8")
    assert path.read_text("utf-8") != text
    for verify in (kit.verify, kit.chat("k").verify):
        with pytest.raises(CheckpointError) as caught:
            face.settle(verify(against=path, key=KEY))
        assert caught.value.reason == "signature"


def test_checkpoint_holds_the_heads_of_thousands_of_branches(
    face: Face, kit: Any, database: str, tmp_path: Any
) -> None:
    """One conversation is one line, however long."""
    chat = kit.chat("k")
    _send(face, chat, "one", "two")
    rows = [
        {"conversation_id": chat.id, "number": number, "name": None, "head_seq": 2 + number % 2, "created_at": 1}
        for number in range(1, 3001)
    ]
    _execute(database, insert(branch).values(rows[:1500]))
    _execute(database, insert(branch).values(rows[1500:]))
    made = face.settle(kit.checkpoint(key=KEY, to=tmp_path / "heads"))
    _execute(database, update(branch).where(branch.c.number == 2999).values(head_seq=1))
    found = face.settle(chat.verify(against=made, key=KEY))
    assert len(found.heads) == 3001
    assert [(each.branch, each.checkpoint_seq, each.seq) for each in found.moved_heads] == [(2999, 3, 1)]
    assert face.settle(kit.verify(against=made, key=KEY)).moved_heads == found.moved_heads


def _insert_tree(connection: Connection, place: UUID, rows: list[dict[str, Any]], heads: dict[int, int | None]) -> None:
    """Insert a conversation of bare messages."""
    connection.execute(
        insert(conversation).values(
            id=place,
            tenant="t",
            head_seq=heads[0],
            last_seq=len(rows),
            last_entry=0,
            chain_hash=b"",
            created_at=1,
            updated_at=1,
        )
    )
    common = {
        "conversation_id": place,
        "counter": "",
        "path_tokens": 0,
        "created_at": 1,
        "content": "",
        "run_start_seq": 1,
    }
    connection.execute(insert(message), [{**common, **row} for row in rows])
    branches = [{"conversation_id": place, "number": n, "head_seq": h, "created_at": 1} for n, h in heads.items() if n]
    if branches:
        connection.execute(insert(branch), branches)


def test_messages_beside_the_tree_do_not_count_as_unreachable(database: str) -> None:
    """Late replies, summaries and passages are beside the paths. A redacted message has no text that could be hidden."""
    kinds = [
        (USER, "complete", 1), (ASSISTANT, "late", 1), (USER, SUMMARY, 1), (USER, PASSAGE, 1), (USER, "redacted", 0),
        (USER, "redacted", 1), (ASSISTANT, "redacted", 1), (ASSISTANT, "partial", 1), (USER, "complete", 0),
    ]  # fmt: skip
    rows = [
        {"seq": seq, "parent_seq": None if seq == 1 else 1, "role": role, "status": status, "tokens": tokens}
        for seq, (role, status, tokens) in enumerate(kinds, 1)
    ]
    engine, place = open_engine(parse_database_url(database)), new_id()
    with open_rolled_back(engine) as connection:
        _insert_tree(connection, place, rows, {0: 1})
        row = conversations.find(connection, "t", place)
        assert row is not None
        assert check_heads(connection, row, None).unreachable_messages == 2
    engine.dispose()


@pytest.mark.parametrize("seed", range(4))
def test_walk_agrees_with_the_paths_of_a_random_tree(database: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and moved heads are those that following every path by itself gives."""
    monkeypatch.setattr("convokit.audit.sql.PAGE", 7)
    chosen = random.Random(seed)
    engine = open_engine(parse_database_url(database))
    for _ in range(5):
        size, place = chosen.randint(1, 40), new_id()
        parents: dict[int, int | None] = {seq: chosen.choice([None, *range(1, seq)][-6:]) for seq in range(1, size + 1)}
        rows = [
            {"seq": seq, "parent_seq": parent, "role": USER, "status": "complete", "tokens": 1}
            for seq, parent in parents.items()
        ]
        heads = {n: chosen.choice([None, *parents]) for n in range(chosen.randint(1, 9))}
        known = {n: chosen.choice([None, *parents]) for n in range(chosen.randint(1, 11))}
        paths: dict[int, list[int]] = {}
        for number, head in heads.items():
            paths[number], seq = [], head
            while seq is not None:
                paths[number].append(seq)
                seq = parents[seq]
        with open_rolled_back(engine) as connection:
            _insert_tree(connection, place, rows, heads)
            row = conversations.find(connection, "t", place)
            assert row is not None
            report = check_heads(connection, row, CheckpointHead(place, 0, "", branch_heads=known))
        assert report.unreachable_messages == size - len(set().union(*paths.values()))
        expected = {n for n, seq in known.items() if seq is not None and seq not in paths.get(n, [])}
        assert {0 if each.branch == "main" else each.branch for each in report.moved_heads} == expected
    engine.dispose()
