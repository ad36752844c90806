"""Test checkpoints: changes that only a checkpoint shows, and checkpoints that must be refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, select, update

from convokit.audit import checkpoint as checkpoints
from convokit.audit import flows as audit_flows
from convokit.audit import sql as audit_sql
from convokit.domain.verification import Checkpoint
from convokit.errors import ChainBroken, CheckpointError, NotFound, SettingsError
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.schema import completion, conversation, entry, message, turn
from tests.audit import histories
from tests.audit.tampering import rewrite_chain
from tests.support.faces import Face
from tests.support.server import LoopbackServer

pytestmark = pytest.mark.once

KEY = "a secret of the auditor's own"


@pytest.fixture
def kit_with_history(face: Face, kit: Any) -> Any:
    """A kit with three conversations, the first of which has four turns."""
    for number in range(4):
        face.settle(kit.chat("long").send(f"question {number}"))
    for key in ("second", "第三"):
        face.settle(kit.chat(key).send("こんにちは"))
    return kit


def _write_rows(database: str, *work: Any) -> None:
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        for each in work:
            each(connection)
    engine.dispose()


def _id(face: Face, kit: Any, key: str) -> UUID:
    chat = kit.chat(key)
    face.settle(chat.messages(limit=1))
    found: UUID = chat.id
    return found


def _delete_last_turn(conversation_id: UUID) -> Any:
    """Return the change that takes the last turn away, and leaves everything as if it had never been."""

    def change(connection: Any) -> None:
        last = (
            connection.execute(
                select(turn)
                .where(turn.c.conversation_id == conversation_id)
                .order_by(turn.c.question_seq.desc())
                .limit(1)
            )
            .mappings()
            .one()
        )
        ends = {"last_seq": last["question_seq"] - 1, "head_seq": last["question_seq"] - 1}
        first = connection.execute(
            select(entry.c.number).where(
                entry.c.conversation_id == conversation_id, entry.c.ref == str(last["question_seq"])
            )
        ).scalar_one()
        before = connection.execute(
            select(entry.c.hash).where(entry.c.conversation_id == conversation_id, entry.c.number == first - 1)
        ).scalar_one()
        for table, condition in (
            (entry, entry.c.number >= first),
            (message, message.c.seq >= last["question_seq"]),
            (completion, completion.c.turn_id == last["id"]),
            (turn, turn.c.id == last["id"]),
        ):
            connection.execute(delete(table).where(table.c.conversation_id == conversation_id, condition))
        values = {**ends, "last_entry": first - 1, "chain_hash": before}
        connection.execute(update(conversation).where(conversation.c.id == conversation_id).values(values))

    return change


def test_checkpoint_shows_a_deleted_last_turn(face: Face, kit_with_history: Any, database: str) -> None:
    """A last turn that was deleted with its entries leaves a valid chain. Only the checkpoint shows that it is missing."""
    made = face.settle(kit_with_history.checkpoint(key=KEY))
    long = kit_with_history.chat("long")
    whole = face.settle(long.verify(against=made, key=KEY))
    _write_rows(database, _delete_last_turn(long.id))
    assert face.settle(long.verify()).entries < whole.entries
    with pytest.raises(ChainBroken, match="cut off") as caught:
        face.settle(long.verify(against=made, key=KEY))
    assert (caught.value.entry, caught.value.ref) == (whole.entries - 3, "head")
    with pytest.raises(ChainBroken, match="cut off"):
        face.settle(kit_with_history.verify(against=made, key=KEY))


def test_checkpoint_shows_a_rewritten_chain(face: Face, kit_with_history: Any, database: str) -> None:
    """A history that was rewritten with new hashes is a valid chain. Only the checkpoint shows that it is another one."""
    made = face.settle(kit_with_history.checkpoint(key=KEY))
    long = kit_with_history.chat("long")
    entries = face.settle(long.verify()).entries
    _write_rows(database, lambda connection: rewrite_chain(connection, long.id))
    face.settle(long.verify())
    with pytest.raises(ChainBroken, match="rewritten") as caught:
        face.settle(long.verify(against=made, key=KEY))
    assert caught.value.entry == entries


def test_checkpoint_shows_deleted_conversations(face: Face, kit_with_history: Any, database: str) -> None:
    """A deleted conversation is reported as missing, at any position in the checkpoint."""
    made = face.settle(kit_with_history.checkpoint(key=KEY))
    ids = [_id(face, kit_with_history, key) for key in ("long", "second", "第三")]
    _write_rows(database, lambda connection: connection.execute(delete(conversation)))
    seen: list[ChainBroken] = []
    found = face.settle(kit_with_history.verify(against=made, key=KEY, broken=seen.append))
    assert (found.conversations, found.broken) == (0, 3)
    assert [each.conversation for each in seen] == [str(each) for each in sorted(ids)]
    for each in ids:
        with pytest.raises(ChainBroken, match="missing"):
            face.settle(kit_with_history.chat(id=each).verify(against=made, key=KEY))
        with pytest.raises(NotFound):
            face.settle(kit_with_history.chat(id=each).verify())


def test_checkpoint_accepts_later_turns_and_erasures(face: Face, kit_with_history: Any, database: str) -> None:
    """Later turns, later conversations and a lawful erasure extend the chain: an older checkpoint still matches."""
    made = face.settle(kit_with_history.checkpoint(key=KEY))
    face.settle(kit_with_history.chat("long").send("one more"))
    face.settle(kit_with_history.chat("new").send("hello"))
    _write_rows(database, lambda connection: histories.remove(connection, _id(face, kit_with_history, "second"), "*"))
    reported: list[tuple[int, int]] = []
    found = face.settle(kit_with_history.verify(against=made, key=KEY, progress=lambda *each: reported.append(each)))
    assert (found.conversations, found.broken) == (4, 0)
    assert reported == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert face.settle(kit_with_history.chat("second").verify(against=made, key=KEY)).removals == 1


def test_verify_all_raises_at_the_first_failure_or_reports_each(
    face: Face, kit_with_history: Any, database: str
) -> None:
    """Without `broken`, verification stops at the first failure. With it, verification reports every failure."""
    _write_rows(
        database, lambda connection: connection.execute(update(message).where(message.c.seq == 1).values(content="x"))
    )
    with pytest.raises(ChainBroken):
        face.settle(kit_with_history.verify())
    seen: list[ChainBroken] = []
    found = face.settle(kit_with_history.verify(broken=seen.append))
    assert (found.conversations, found.broken, len(seen)) == (3, 3, 3)
    assert {each.ref for each in seen} == {"1"}


def test_checkpoint_file_has_one_line_for_each_conversation(face: Face, kit_with_history: Any, tmp_path: Path) -> None:
    """The lines are in the order of the ids. A path, an open file and memory get the same lines."""
    path = tmp_path / "頭.checkpoint"
    made = face.settle(kit_with_history.checkpoint(key=KEY, to=path))
    assert (made.path, made.text, made.conversations) == (str(path), None, 3)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert lines[0]["tenant"] == "default"
    ids = [UUID(line["conversation"]) for line in lines[1:-1]]
    assert ids == sorted(ids)
    assert sum(line["entries"] for line in lines[1:-1]) == made.entries
    assert lines[-1] == {"conversations": 3, "hmac_sha256": made.signature}
    for against in (made, path, str(path)):
        assert face.settle(kit_with_history.verify(against=against, key=KEY.encode())).conversations == 3
    opened = io.StringIO()
    face.settle(kit_with_history.checkpoint(key=KEY, to=opened))
    held = face.settle(kit_with_history.checkpoint(key=KEY))
    assert opened.getvalue().splitlines()[1:-1] == held.text.splitlines()[1:-1]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_checkpoint_pages_cover_every_conversation_once(
    face: Face, kit_with_history: Any, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With small pages, every conversation has one line, and is compared with its own head."""
    for number in range(7):
        face.settle(kit_with_history.chat(f"more {number}").send("x"))
    monkeypatch.setattr(audit_flows, "PAGE", 2)
    monkeypatch.setattr(checkpoints, "PAGE", 3)
    path = tmp_path / "c"
    assert face.settle(kit_with_history.checkpoint(key=KEY, to=path)).conversations == 10
    gone = [_id(face, kit_with_history, f"more {number}") for number in (0, 3, 6)]
    _write_rows(
        database, lambda connection: connection.execute(delete(conversation).where(conversation.c.id.in_(gone)))
    )
    _write_rows(database, _delete_last_turn(_id(face, kit_with_history, "long")))
    seen: list[ChainBroken] = []
    found = face.settle(kit_with_history.verify(against=path, key=KEY, broken=seen.append))
    assert (found.conversations, found.broken) == (7, 4)
    assert {each.conversation for each in seen} == {str(each) for each in (*gone, _id(face, kit_with_history, "long"))}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


ALTERATIONS: dict[str, Callable[[str], str]] = {
    "a head changed": lambda text: text.replace('"entries":', '"entries":1', 1),
    "a line taken out": lambda text: "".join([*_lines(text)[:1], *_lines(text)[2:]]),
    "a line twice": lambda text: "".join([*_lines(text)[:2], *_lines(text)[1:]]),
    "two lines swapped": lambda text: "".join([_lines(text)[0], *_lines(text)[1:3][::-1], *_lines(text)[3:]]),
    "the tenant changed": lambda text: text.replace("default", "another", 1),
    "the time changed": lambda text: text.replace('"created_at":"2', '"created_at":"3', 1),
    "the number changed": lambda text: text.replace('"conversations":3', '"conversations":4'),
    "the signature changed": lambda text: text.replace('_sha256":"', '_sha256":"0')[:-5] + '"}\n',
    "cut off": lambda text: "".join(_lines(text)[:-1]),
    "cut in the middle of a line": lambda text: text[: len(text) // 2],
    "nothing": lambda text: "",
    "no checkpoint": lambda text: "hello\nworld\n",
    "other JSON": lambda text: '{"a": 1}\n[2]\n',
    "a later form": lambda text: text.replace("checkpoint.1", "checkpoint.9"),
    "binary": lambda text: "\x00\xff" * 50_000,
}


@pytest.mark.once
@pytest.mark.parametrize("name", ALTERATIONS)
def test_altered_checkpoint_raises_checkpoint_error(
    face: Face, kit_with_history: Any, tmp_path: Path, name: str
) -> None:
    """An altered file raises CheckpointError, not ChainBroken: it says nothing about the history."""
    whole = face.settle(kit_with_history.checkpoint(key=KEY)).text
    path = tmp_path / "c"
    path.write_text(ALTERATIONS[name](whole), "utf-8")
    assert path.read_text("utf-8") != whole
    for verify in (kit_with_history.verify, kit_with_history.chat("long").verify):
        with pytest.raises(CheckpointError) as caught:
            face.settle(verify(against=path, key=KEY))
        assert caught.value.reason in ("signature", "format")
        assert str(path) in str(caught.value)


def test_checkpoint_of_another_key_database_or_tenant_is_refused(
    face: Face, kit_with_history: Any, files: Any, server: LoopbackServer, tmp_path: Path
) -> None:
    """`reason` names the mismatch: signature, database, tenant or file."""
    made = face.settle(kit_with_history.checkpoint(key=KEY))
    other = face.kit(files.empty(), model="m", base_url=server.url)
    face.settle(other.migrate())
    face.settle(other.chat("long").send("x"))
    foreign, rival = (
        face.settle(other.checkpoint(key=KEY)),
        face.settle(kit_with_history.tenant("rival").checkpoint(key=KEY)),
    )
    cases = [(made, KEY + "!", "signature"), (foreign, KEY, "database"), (rival, KEY, "tenant")]
    cases += [(tmp_path / "missing", KEY, "file"), (tmp_path, KEY, "file"), ("a\x00b", KEY, "file")]
    for against, key, reason in cases:
        for verify in (kit_with_history.verify, kit_with_history.chat("long").verify):
            with pytest.raises(CheckpointError) as caught:
                face.settle(verify(against=against, key=key))
            assert caught.value.reason == reason, against
            assert KEY not in str(caught.value)


def test_invalid_keys_and_sources_are_refused(face: Face, kit_with_history: Any, tmp_path: Path) -> None:
    """A short key, a key without a checkpoint and a checkpoint without a key raise before anything is read."""
    made = face.settle(kit_with_history.checkpoint(key=KEY))
    for key in ("", "short", b"", None, 5, "\ud800" * 16):
        with pytest.raises(SettingsError):
            face.settle(kit_with_history.checkpoint(key=key, to=tmp_path / "c"))
        with pytest.raises(SettingsError):
            face.settle(kit_with_history.verify(against=made, key=key))
    for given in (5, b"path", [made]):
        with pytest.raises(SettingsError):
            face.settle(kit_with_history.verify(against=given, key=KEY))
    with pytest.raises(SettingsError):
        face.settle(kit_with_history.verify(key=KEY))
    with pytest.raises(CheckpointError) as caught:
        face.settle(kit_with_history.checkpoint(key=KEY, to=tmp_path / "no folder" / "c"))
    assert caught.value.reason == "file"
    assert not list(tmp_path.iterdir())
    with pytest.raises(CheckpointError):
        face.settle(kit_with_history.verify(against=made.model_copy(update={"text": None}), key=KEY))


def test_failed_checkpoint_keeps_the_old_file(
    face: Face, kit_with_history: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure in the middle leaves the earlier file as it was, and no temporary file."""
    path = tmp_path / "c"
    first = face.settle(kit_with_history.checkpoint(key=KEY, to=path))

    def fail(*values: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(audit_sql, "read_heads", fail)
    with pytest.raises(ZeroDivisionError):
        face.settle(kit_with_history.checkpoint(key=KEY, to=path))
    assert [each.name for each in tmp_path.iterdir()] == ["c"]
    assert json.loads(path.read_text("utf-8").splitlines()[-1])["hmac_sha256"] == first.signature


def test_checkpoint_value_has_counts_time_and_signature(face: Face, kit_with_history: Any) -> None:
    """The value contains no message text."""
    made = face.settle(kit_with_history.checkpoint(key=KEY))
    assert isinstance(made, Checkpoint)
    assert made.tenant == "default"
    assert made.created_at.tzinfo is not None
    assert "こんにちは" not in str(made.text)
    assert len(bytes.fromhex(made.signature)) == 32
