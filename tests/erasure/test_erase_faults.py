"""Erase under faults: killed processes, running turns, open readers, and bytes that stay in the file."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.engine import make_url

from convokit import Convokit
from convokit.completion import begin, resume
from convokit.completion import call as calls
from convokit.erasure import residue
from convokit.erasure.removals import ErasureRequest, erase_conversation, redact_message
from convokit.errors import ConversationBusy, ConvokitError, Interrupted
from convokit.store import schema
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.faults.shared_kit import dump
from tests.support.canaries import change, everywhere, in_bytes, in_rows
from tests.support.faces import Face
from tests.support.selection import Effort, keep
from tests.support.server import LoopbackServer, failure, stream

CANARY = "canary: the words that must be gone 消去"
KILLED = """
import os, signal, sys
from sqlalchemy import event
from convokit import Convokit
url, action, moment = sys.argv[1:]
kit = Convokit(url, model="m")
chat = kit.chat("0")
chat.messages()
def die(*given):
    os.kill(os.getpid(), signal.SIGKILL)
def progress(done, total):
    if action == "many" and done == int(moment):
        die()
statements = []
def count(connection, cursor, statement, *rest):
    if statement.split()[0] in ("UPDATE", "INSERT", "DELETE"):
        statements.append(statement)
        if moment.isdigit() and len(statements) > int(moment):
            die()
engine = kit._runtime._store.engine
def committing(connection):
    if connection.get_execution_options().get("convokit_write"):
        die()
if moment == "commit":
    event.listen(engine, "commit", committing)
elif action != "many":
    event.listen(engine, "before_cursor_execute", count)
if action == "erase":
    chat.erase()
elif action == "redact":
    chat.redact(1)
else:
    kit.erase(subject="alice", progress=progress)
print("done")
"""


def _path(database: str) -> str:
    return str(make_url(database).database)


def _killed(checkout: Path, database: str, action: str, moment: str) -> bool:
    """Run an erasure in a child. Return whether it was killed."""
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, database, action, moment],
        check=False,
        capture_output=True,
        text=True,
        cwd=checkout,
        env={"PYTHONPATH": str(checkout), "PATH": ""},
    )
    assert ran.returncode in (0, -9), ran.stderr
    return ran.returncode != 0


@pytest.mark.soak(sample=True)
@pytest.mark.once
@pytest.mark.parametrize("action", keep(["redact", "erase"], "erase", sample=True))
def test_kill_before_commit_leaves_all_rows_unchanged(
    database: str, server: LoopbackServer, checkout: Path, action: str, effort: Effort
) -> None:
    """At any statement, and right before COMMIT. A second run erases."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("0", title=CANARY).send(CANARY)
    engine = open_engine(parse_database_url(database))
    before = dump(engine)
    for moment in ("2", "commit") if effort == "quick" else ("0", "2", "4", "commit"):
        assert _killed(checkout, database, action, moment), "it must not get through"
        assert dump(engine) == before
    engine.dispose()
    with Convokit(database, model="m", base_url=server.url) as kit:
        receipt = kit.chat("0").erase()
        assert (receipt.chain, receipt.remaining) == ("whole", 0)
    assert everywhere(database, CANARY) == []


@pytest.mark.soak(sample=True)
def test_kill_between_two_conversations_leaves_the_rest_to_the_next_run(
    database: str, server: LoopbackServer, checkout: Path
) -> None:
    """Each conversation is either erased or unchanged."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        for number in range(5):
            kit.chat(str(number), subject="alice", developer_prompt=f"{CANARY} {number}").send(f"{CANARY} {number}")
    assert _killed(checkout, database, "many", "2")
    with Convokit(database, model="m", base_url=server.url) as kit:
        assert [len(kit.chat(str(number)).messages()) for number in range(5)] == [0, 0, 2, 2, 2]
        assert all(kit.chat(str(number)).verify() for number in range(5))
        assert kit.erase(subject="alice").conversations == 3
    assert everywhere(database, CANARY) == []


def test_kill_before_prompts_are_deleted_leaves_them_to_the_next_run(database: str, server: LoopbackServer) -> None:
    """Even a run that finds no conversation deletes them."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        chat = kit.chat("k", developer_prompt=CANARY)
        chat.send("hello")
        request = ErasureRequest(None, None, 1)
        change(database, lambda connection: erase_conversation(connection, "default", chat.id, request))  # type: ignore[arg-type]
        assert in_rows(database, CANARY) == ["convokit_prompt.body"]
        receipt = kit.erase(subject="nobody")
        assert (receipt.conversations, receipt.removed) == (0, {"prompt": 1})
    assert everywhere(database, CANARY) == []


def test_log_holds_erased_text_until_the_checkpoint(sqlite_file: str, server: LoopbackServer) -> None:
    """Control test: committed and gone from every row, the text is still in the write-ahead log."""
    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        chat.send(CANARY)
        request = ErasureRequest(None, None, 1)
        change(sqlite_file, lambda connection: erase_conversation(connection, "default", chat.id, request))  # type: ignore[arg-type]
        assert in_rows(sqlite_file, CANARY) == []
        assert in_bytes(sqlite_file, CANARY) != []
        assert chat.erase().bytes == "gone"
        assert in_bytes(sqlite_file, CANARY) == []


def test_file_holds_erased_text_without_secure_delete(sqlite_file: str, server: LoopbackServer, tmp_path: Path) -> None:
    """Control test: without `secure_delete` the same statements leave the text in the file."""
    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        chat.send(CANARY * 100)
    for secure in ("OFF", "ON"):
        copy = tmp_path / f"{secure}.db"
        shutil.copy(_path(sqlite_file), copy)
        engine = open_engine(parse_database_url(copy))

        @event.listens_for(engine, "connect")
        def connect(connection: Any, record: Any, secure: str = secure) -> None:
            connection.execute(f"PRAGMA secure_delete={secure}").fetchall()

        with engine.execution_options(**{WRITE: True}).begin() as connection:
            assert erase_conversation(connection, "default", chat.id, ErasureRequest(None, None, 1)) is not None  # type: ignore[arg-type]
        engine.dispose()
        found = residue.truncate_and_search(
            str(copy), residue.make_samples(texts=[CANARY * 100], documents=[], binaries=[])
        )
        assert bool(found) is (secure == "OFF")


def test_open_reader_makes_the_receipt_pending(
    face: Face, sqlite_file: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader keeps the log. Erasing again after it has left is enough."""
    monkeypatch.setattr(residue, "WAIT_S", 0.1)
    chat = face.kit(sqlite_file, model="m", base_url=server.url).chat("k")
    face.settle(chat.send(CANARY))
    with closing(sqlite3.connect(_path(sqlite_file), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM convokit_message").fetchall()
        receipt = face.settle(chat.erase())
        assert (receipt.bytes, receipt.complete, receipt.remaining, receipt.chain) == ("pending", False, 0, "whole")
        assert in_bytes(sqlite_file, CANARY) != []
        assert face.settle(chat.erase()).bytes == "pending"
        reader.execute("COMMIT")
    assert face.settle(chat.erase()).bytes == "gone"
    assert in_bytes(sqlite_file, CANARY) == []


def test_text_in_a_table_of_the_host_application_is_found(sqlite_file: str, server: LoopbackServer) -> None:
    """The receipt is not complete."""
    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        chat.send(CANARY)
        with closing(sqlite3.connect(_path(sqlite_file), isolation_level=None)) as host:
            host.execute("CREATE TABLE theirs (note TEXT)")
            host.execute("INSERT INTO theirs VALUES (?)", [f"she wrote: {CANARY}"])
        receipt = chat.erase()
        assert (receipt.bytes, receipt.complete) == ("found", False)


def test_receipt_does_not_reveal_the_same_text_of_another_tenant(sqlite_file: str, server: LoopbackServer) -> None:
    """The receipt is the same with and without that text."""
    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:
        receipts = []
        for number in range(2):
            chat = kit.chat(str(number))
            chat.send(CANARY)
            receipts.append(chat.erase().model_dump(exclude={"at"}))
            kit.tenant("other").chat("k").send(CANARY)
        assert receipts[0] == receipts[1]
        assert receipts[0]["bytes"] == "gone"


def test_search_finds_samples_across_two_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file and in its log, and no sample that is absent."""
    monkeypatch.setattr(residue, "BLOCK_BYTES", 10)
    for at in range(25):
        path = tmp_path / f"{at}.db"
        path.write_bytes(b"." * at + b"needle-one" + b"." * 7)
        Path(f"{path}-wal").write_bytes(b"," * at + b"needle-two")
        assert residue.search_files(str(path), [b"needle-one", b"needle-two", b"no"]) == [b"needle-one", b"needle-two"]


def test_search_keeps_sqlites_locks_on_the_file(sqlite_file: str, server: LoopbackServer, checkout: Path) -> None:
    """A process that closes any descriptor of a file loses its locks on it."""
    alone = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('PRAGMA journal_mode=DELETE')"

    def taken_over() -> bool:
        ran = subprocess.run([sys.executable, "-c", alone, _path(sqlite_file)], check=False, capture_output=True)
        return ran.returncode == 0

    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        chat.send(CANARY)
        assert chat.erase().bytes == "gone"
        assert not taken_over()
        Path(_path(sqlite_file)).open("rb").close()
        assert taken_over()  # the control: that is how it would have been lost


@pytest.mark.parametrize("text", ["short", "東京", 'a "quoted" word\nin 日本語', "x" * 1000, ""])
def test_samples_cover_every_form_of_a_text(text: str) -> None:
    """At most three samples of 48 bytes for each form, and none below 12 bytes."""
    found = residue.make_samples(texts=[text], documents=[], binaries=[b"0123456789abcdef"])
    assert found[0] == b"0123456789abcdef"
    assert all(12 <= len(piece) <= 48 for piece in found)
    assert len(found) <= 1 + 3 * 3
    assert bool(found[1:]) is (len(text.encode()) >= 12 or "東" in text)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CHUNK_S", 0.05)


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("what", ["erase", "redact"])
def test_cancelled_worker_writes_no_reply_to_a_redacted_question(
    face: Face, kit: Any, server: LoopbackServer, database: str, what: str
) -> None:
    """Otherwise its late reply would be kept."""
    chat = kit.chat("k")
    face.settle(chat.send("hello"))
    server.script(stream([f"{CANARY} {number} " for number in range(20)], pause_s=0.05))
    with Convokit(database, model="m", base_url=server.url) as worker:
        events = iter(worker.chat("k").stream(CANARY))
        for each in events:
            if each.text:
                break
        assert face.settle(chat.cancel())
        if what == "erase":
            face.settle(chat.erase())
        else:
            for seq in range(3, len(face.settle(chat.messages())) + 1):
                face.settle(chat.redact(seq))
        with pytest.raises(Interrupted):
            list(events)
    assert in_rows(database, CANARY) == []
    face.settle(chat.verify())


@pytest.mark.usefixtures("running")
def test_late_reply_keeps_no_salt_of_a_redacted_request(
    face: Face, kit: Any, server: LoopbackServer, database: str
) -> None:
    """The reply is kept, without the salt of a request that included the redacted message."""
    chat = kit.chat("k")
    face.settle(chat.send("hello"))
    server.script(stream([f"late {number} " for number in range(20)], pause_s=0.05))
    with Convokit(database, model="m", base_url=server.url) as worker:
        events = iter(worker.chat("k").stream("and?"))
        for each in events:
            if each.text:
                break
        face.settle(chat.cancel())
        face.settle(chat.redact(1))
        with pytest.raises(Interrupted):
            list(events)
    late = change(database, lambda connection: connection.execute(select(schema.completion)).all())
    assert [row.body_salt for row in late if row.state == "late"] == [None]
    assert [row.body_salt is None for row in late] == [True] * len(late)
    face.settle(chat.verify())


@pytest.mark.parametrize("how", ["send", "resume"])
def test_request_built_before_a_redaction_is_built_again(
    face: Face, kit: Any, server: LoopbackServer, database: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new or resumed turn never starts with a redacted message."""
    chat = kit.chat("k")
    face.settle(chat.send(CANARY))
    if how == "resume":
        server.script(failure(400, "no"))
        with pytest.raises(ConvokitError):
            face.settle(chat.send("and?"))
    module, name = (begin, "prepare") if how == "send" else (resume, "prepare_stored")
    original = getattr(module, name)
    done: list[bool] = []

    def between(*given: Any, **named: Any) -> Any:
        prepared = original(*given, **named)
        if not done:
            done.append(True)
            with Convokit(database, model="m", base_url=server.url) as other:
                other.chat("k").redact(1)
                other.chat("k").redact(2)
        return prepared

    monkeypatch.setattr(module, name, between)
    face.settle(chat.send("and?") if how == "send" else chat.resume())
    assert [each["content"] for each in server.requests[-1].body["messages"]] == ["and?"]
    found = change(
        database, lambda connection: connection.execute(select(schema.completion.c.manifest)).scalars().all()
    )
    assert sum('"window":[[1,' in manifest for manifest in found) == (1 if how == "send" else 2)
    face.settle(chat.verify())


def test_turn_of_a_dead_worker_is_closed_before_erasing(
    face: Face, kit: Any, server: LoopbackServer, database: str
) -> None:
    """What it left is erased with the rest."""
    chat = kit.chat("k")
    face.settle(chat.send("hello"))

    def leave(connection: Any) -> None:
        its = {"state": "open", "claim": 0, "lease_until": 1, "owner": None, "ended_at": None}
        connection.execute(schema.turn.update().values(**its))
        turn_id = connection.execute(select(schema.turn.c.id)).scalar_one()
        piece = {"turn_id": turn_id, "completion": 1, "number": 1, "text": CANARY}
        connection.execute(schema.chunk.insert(), {"conversation_id": chat.id, **piece})

    change(database, leave)
    assert in_rows(database, CANARY)
    receipt = face.settle(chat.erase())
    assert (receipt.chain, receipt.remaining) == ("whole", 0)
    assert everywhere(database, CANARY) == []


def test_turn_that_opens_after_the_first_read_is_seen_under_the_lock(database: str, server: LoopbackServer) -> None:
    """Nothing is removed beside it."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        chat.send("hello")
        change(database, lambda connection: connection.execute(schema.turn.update().values(state="open", claim=0)))
        for work in (erase_conversation, redact_message):
            with pytest.raises(ConversationBusy):
                change(
                    database,
                    lambda connection, work=work: work(
                        connection, "default", chat.id, ErasureRequest(None, None, 1, seq=1)
                    ),
                )
        assert in_rows(database, "echo: hello")
