"""Checkpoints: what a chain alone cannot show, and that a checkpoint which proves nothing here is told as such."""

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
from tests.audit.tampering import rewritten
from tests.support.faces import Face
from tests.support.server import LoopbackServer

KEY = "a secret of the auditor's own"


@pytest.fixture
def talked(face: Face, kit: Any) -> Any:
    """A kit with three conversations, the first of which has four turns."""
    for number in range(4):
        face.settle(kit.chat("long").send(f"question {number}"))
    for key in ("second", "第三"):
        face.settle(kit.chat(key).send("こんにちは"))
    return kit


def _change(database: str, *work: Any) -> None:
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


def _cut(conversation_id: UUID) -> Any:
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


def test_a_tail_that_was_cut_off(face: Face, talked: Any, database: str) -> None:
    """Taken away with every trace, the last turn is missed only by who knows from elsewhere that it was there."""
    made = face.settle(talked.checkpoint(key=KEY))
    long = talked.chat("long")
    whole = face.settle(long.verify(against=made, key=KEY))
    _change(database, _cut(long.id))
    assert face.settle(long.verify()).entries < whole.entries
    with pytest.raises(ChainBroken, match="cut off") as caught:
        face.settle(long.verify(against=made, key=KEY))
    assert (caught.value.entry, caught.value.ref) == (whole.entries - 3, "head")
    with pytest.raises(ChainBroken, match="cut off"):
        face.settle(talked.verify(against=made, key=KEY))


def test_a_history_that_was_made_anew(face: Face, talked: Any, database: str) -> None:
    """Rewritten from its first word on, with every hash made anew, it is whole in itself, and not what it was."""
    made = face.settle(talked.checkpoint(key=KEY))
    long = talked.chat("long")
    entries = face.settle(long.verify()).entries
    _change(database, lambda connection: rewritten(connection, long.id))
    face.settle(long.verify())
    with pytest.raises(ChainBroken, match="rewritten") as caught:
        face.settle(long.verify(against=made, key=KEY))
    assert caught.value.entry == entries


def test_a_conversation_that_is_gone(face: Face, talked: Any, database: str) -> None:
    """A conversation that the checkpoint knows and the database does not is told as missing, wherever it stood in the list."""
    made = face.settle(talked.checkpoint(key=KEY))
    ids = [_id(face, talked, key) for key in ("long", "second", "第三")]
    _change(database, lambda connection: connection.execute(delete(conversation)))
    seen: list[ChainBroken] = []
    found = face.settle(talked.verify(against=made, key=KEY, broken=seen.append))
    assert (found.conversations, found.broken) == (0, 3)
    assert [each.conversation for each in seen] == [str(each) for each in sorted(ids)]
    for each in ids:
        with pytest.raises(ChainBroken, match="missing"):
            face.settle(talked.chat(id=each).verify(against=made, key=KEY))
        with pytest.raises(NotFound):
            face.settle(talked.chat(id=each).verify())


def test_what_came_later_is_no_fault(face: Face, talked: Any, database: str) -> None:
    """Later turns, later conversations and a lawful erasure extend the chain: an older checkpoint still holds."""
    made = face.settle(talked.checkpoint(key=KEY))
    face.settle(talked.chat("long").send("one more"))
    face.settle(talked.chat("new").send("hello"))
    _change(database, lambda connection: histories.remove(connection, _id(face, talked, "second"), "*"))
    told: list[tuple[int, int]] = []
    found = face.settle(talked.verify(against=made, key=KEY, progress=lambda *each: told.append(each)))
    assert (found.conversations, found.broken) == (4, 0)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert face.settle(talked.chat("second").verify(against=made, key=KEY)).removals == 1


def test_every_broken_one_is_told(face: Face, talked: Any, database: str) -> None:
    """Without anybody to tell, verifying all stops at the first; with somebody, it goes through all of them."""
    _change(
        database, lambda connection: connection.execute(update(message).where(message.c.seq == 1).values(content="x"))
    )
    with pytest.raises(ChainBroken):
        face.settle(talked.verify())
    seen: list[ChainBroken] = []
    found = face.settle(talked.verify(broken=seen.append))
    assert (found.conversations, found.broken, len(seen)) == (3, 3, 3)
    assert {each.ref for each in seen} == {"1"}


def test_a_file_of_lines(face: Face, talked: Any, tmp_path: Path) -> None:
    """Written to a file it is a line for each conversation in the order of ids; the same list is kept in memory without one."""
    path = tmp_path / "頭.checkpoint"
    made = face.settle(talked.checkpoint(key=KEY, to=path))
    assert (made.path, made.text, made.conversations) == (str(path), None, 3)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert lines[0]["tenant"] == "default"
    ids = [UUID(line["conversation"]) for line in lines[1:-1]]
    assert ids == sorted(ids)
    assert sum(line["entries"] for line in lines[1:-1]) == made.entries
    assert lines[-1] == {"conversations": 3, "hmac_sha256": made.signature}
    for against in (made, path, str(path)):
        assert face.settle(talked.verify(against=against, key=KEY.encode())).conversations == 3
    opened = io.StringIO()
    face.settle(talked.checkpoint(key=KEY, to=opened))
    held = face.settle(talked.checkpoint(key=KEY))
    assert opened.getvalue().splitlines()[1:-1] == held.text.splitlines()[1:-1]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_it_is_read_and_written_by_pages(
    face: Face, talked: Any, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the pages: every conversation is in the list once, and every one is held against its own head."""
    for number in range(7):
        face.settle(talked.chat(f"more {number}").send("x"))
    monkeypatch.setattr(audit_flows, "PAGE", 2)
    monkeypatch.setattr(checkpoints, "PAGE", 3)
    path = tmp_path / "c"
    assert face.settle(talked.checkpoint(key=KEY, to=path)).conversations == 10
    gone = [_id(face, talked, f"more {number}") for number in (0, 3, 6)]
    _change(database, lambda connection: connection.execute(delete(conversation).where(conversation.c.id.in_(gone))))
    _change(database, _cut(_id(face, talked, "long")))
    seen: list[ChainBroken] = []
    found = face.settle(talked.verify(against=path, key=KEY, broken=seen.append))
    assert (found.conversations, found.broken) == (7, 4)
    assert {each.conversation for each in seen} == {str(each) for each in (*gone, _id(face, talked, "long"))}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


SPOILT: dict[str, Callable[[str], str]] = {
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


@pytest.mark.parametrize("name", SPOILT)
def test_a_checkpoint_that_was_altered(face: Face, talked: Any, tmp_path: Path, name: str) -> None:
    """Whatever was done to the file, it proves nothing any more, and that is what is said: the history is not blamed."""
    whole = face.settle(talked.checkpoint(key=KEY)).text
    path = tmp_path / "c"
    path.write_text(SPOILT[name](whole), "utf-8")
    assert path.read_text("utf-8") != whole
    for verify in (talked.verify, talked.chat("long").verify):
        with pytest.raises(CheckpointError) as caught:
            face.settle(verify(against=path, key=KEY))
        assert caught.value.reason in ("signature", "format")
        assert str(path) in str(caught.value)


def test_a_checkpoint_of_something_else(
    face: Face, talked: Any, files: Any, server: LoopbackServer, tmp_path: Path
) -> None:
    """Another key, another database, another tenant, no file: told apart, as reasons a program can read."""
    made = face.settle(talked.checkpoint(key=KEY))
    other = face.kit(files.empty(), model="m", base_url=server.url)
    face.settle(other.migrate())
    face.settle(other.chat("long").send("x"))
    foreign, rival = face.settle(other.checkpoint(key=KEY)), face.settle(talked.tenant("rival").checkpoint(key=KEY))
    cases = [(made, KEY + "!", "signature"), (foreign, KEY, "database"), (rival, KEY, "tenant")]
    cases += [(tmp_path / "missing", KEY, "file"), (tmp_path, KEY, "file"), ("a\x00b", KEY, "file")]
    for against, key, reason in cases:
        for verify in (talked.verify, talked.chat("long").verify):
            with pytest.raises(CheckpointError) as caught:
                face.settle(verify(against=against, key=key))
            assert caught.value.reason == reason, against
            assert KEY not in str(caught.value)


def test_bad_arguments(face: Face, talked: Any, tmp_path: Path) -> None:
    """A key that can be guessed, one without a checkpoint, a checkpoint without one: refused before anything is read."""
    made = face.settle(talked.checkpoint(key=KEY))
    for key in ("", "short", b"", None, 5, "\ud800" * 16):
        with pytest.raises(SettingsError):
            face.settle(talked.checkpoint(key=key, to=tmp_path / "c"))
        with pytest.raises(SettingsError):
            face.settle(talked.verify(against=made, key=key))
    for given in (5, b"path", [made]):
        with pytest.raises(SettingsError):
            face.settle(talked.verify(against=given, key=KEY))
    with pytest.raises(SettingsError):
        face.settle(talked.verify(key=KEY))
    with pytest.raises(CheckpointError) as caught:
        face.settle(talked.checkpoint(key=KEY, to=tmp_path / "no folder" / "c"))
    assert caught.value.reason == "file"
    assert not list(tmp_path.iterdir())
    with pytest.raises(CheckpointError):
        face.settle(talked.verify(against=made.model_copy(update={"text": None}), key=KEY))


def test_half_a_checkpoint_is_left_nowhere(
    face: Face, talked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it fails in the middle, the file that was there before is still the one that is there."""
    path = tmp_path / "c"
    first = face.settle(talked.checkpoint(key=KEY, to=path))

    def fail(*values: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(audit_sql, "heads", fail)
    with pytest.raises(ZeroDivisionError):
        face.settle(talked.checkpoint(key=KEY, to=path))
    assert [each.name for each in tmp_path.iterdir()] == ["c"]
    assert json.loads(path.read_text("utf-8").splitlines()[-1])["hmac_sha256"] == first.signature


def test_a_checkpoint_says_what_it_is(face: Face, talked: Any) -> None:
    """Its value holds the counts, the time and the signature; none of it is anybody's words."""
    made = face.settle(talked.checkpoint(key=KEY))
    assert isinstance(made, Checkpoint)
    assert made.tenant == "default"
    assert made.created_at.tzinfo is not None
    assert "こんにちは" not in str(made.text)
    assert len(bytes.fromhex(made.signature)) == 32
