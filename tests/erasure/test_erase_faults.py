"""Erasing under fire: killed in the middle, beside running turns and readers; and bytes that only look as if they were gone."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.engine import make_url

from convokit import Convokit
from convokit.completion import call as calls
from convokit.completion import resume, turn
from convokit.domain.removal import Order, traces
from convokit.erasure import erase, residue
from convokit.errors import ConversationBusy, ConvokitError, Interrupted
from convokit.store import schema
from convokit.store.engine import WRITE, database_url, open_engine
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
engine = kit._store.engine
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


@pytest.mark.once
@pytest.mark.parametrize("action", keep(["redact", "erase"], "erase", sample=True))
def test_killed_before_its_commit_nothing_happened(
    database: str, server: LoopbackServer, checkout: Path, action: str, effort: Effort
) -> None:
    """At whatever statement the process dies, and right before the commit, every row is what it was; again, it is done."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("0", title=CANARY).send(CANARY)
    engine = open_engine(database_url(database))
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
def test_killed_between_two_conversations_it_is_run_again(
    database: str, server: LoopbackServer, checkout: Path
) -> None:
    """Each conversation is erased or whole, and a second run does the rest."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        for number in range(5):
            kit.chat(str(number), subject="alice", developer_prompt=f"{CANARY} {number}").send(f"{CANARY} {number}")
    assert _killed(checkout, database, "many", "2")
    with Convokit(database, model="m", base_url=server.url) as kit:
        assert [len(kit.chat(str(number)).messages()) for number in range(5)] == [0, 0, 2, 2, 2]
        assert all(kit.chat(str(number)).verify() for number in range(5))
        assert kit.erase(subject="alice").conversations == 3
    assert everywhere(database, CANARY) == []


def test_killed_before_the_prompts_went_they_go_with_the_next_run(database: str, server: LoopbackServer) -> None:
    """Prompts that an erasure left behind go with the next one of the tenant, even when that finds nothing else to do."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        chat = kit.chat("k", developer_prompt=CANARY)
        chat.send("hello")
        change(database, lambda connection: erase.erase(connection, "default", chat.id, Order(None, None, 1)))  # type: ignore[arg-type]
        assert in_rows(database, CANARY) == ["convokit_prompt.body"]
        receipt = kit.erase(subject="nobody")
        assert (receipt.conversations, receipt.removed) == (0, {"prompt": 1})
    assert everywhere(database, CANARY) == []


def test_without_the_checkpoint_the_words_are_found(sqlite_file: str, server: LoopbackServer) -> None:
    """The control: committed and gone from every row, they still stand in the log; then the checkpoint takes them."""
    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        chat.send(CANARY)
        order = Order(None, None, 1)
        change(sqlite_file, lambda connection: erase.erase(connection, "default", chat.id, order))  # type: ignore[arg-type]
        assert in_rows(sqlite_file, CANARY) == []
        assert in_bytes(sqlite_file, CANARY) != []
        assert chat.erase().bytes == "gone"
        assert in_bytes(sqlite_file, CANARY) == []


def test_without_secure_delete_the_words_are_found(sqlite_file: str, server: LoopbackServer, tmp_path: Path) -> None:
    """The control: over a connection that does not overwrite what it deletes, the same statements leave them in the file."""
    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        chat.send(CANARY * 100)
    for secure in ("OFF", "ON"):
        copy = tmp_path / f"{secure}.db"
        shutil.copy(_path(sqlite_file), copy)
        engine = open_engine(database_url(copy))

        @event.listens_for(engine, "connect")
        def connect(connection: Any, record: Any, secure: str = secure) -> None:
            connection.execute(f"PRAGMA secure_delete={secure}").fetchall()

        with engine.execution_options(**{WRITE: True}).begin() as connection:
            assert erase.erase(connection, "default", chat.id, Order(None, None, 1)) is not None  # type: ignore[arg-type]
        engine.dispose()
        found = residue.scrub(str(copy), traces(texts=[CANARY * 100], documents=[], binaries=[]))
        assert bool(found) is (secure == "OFF")


def test_while_somebody_reads_it_is_pending(
    face: Face, sqlite_file: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of an older state keeps the log; the receipt says so, and erasing again when it has left is enough."""
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


def test_what_a_host_keeps_of_it_is_found(sqlite_file: str, server: LoopbackServer) -> None:
    """Words that stand in a table that is not ours are found in the file, and the receipt is not complete."""
    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        chat.send(CANARY)
        with closing(sqlite3.connect(_path(sqlite_file), isolation_level=None)) as host:
            host.execute("CREATE TABLE theirs (note TEXT)")
            host.execute("INSERT INTO theirs VALUES (?)", [f"she wrote: {CANARY}"])
        receipt = chat.erase()
        assert (receipt.bytes, receipt.complete) == ("found", False)


def test_whoever_said_the_same_is_not_betrayed(sqlite_file: str, server: LoopbackServer) -> None:
    """What another tenant wrote word for word is that tenant's: the receipt is the same whether it is there or not."""
    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:
        receipts = []
        for number in range(2):
            chat = kit.chat(str(number))
            chat.send(CANARY)
            receipts.append(chat.erase().model_dump(exclude={"at"}))
            kit.tenant("other").chat("k").send(CANARY)
        assert receipts[0] == receipts[1]
        assert receipts[0]["bytes"] == "gone"


def test_the_search_reads_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece is found where it stands across two blocks, in the file and in its log, and no piece that is not there."""
    monkeypatch.setattr(residue, "BLOCK_BYTES", 10)
    for at in range(25):
        path = tmp_path / f"{at}.db"
        path.write_bytes(b"." * at + b"needle-one" + b"." * 7)
        Path(f"{path}-wal").write_bytes(b"," * at + b"needle-two")
        assert residue.standing(str(path), [b"needle-one", b"needle-two", b"no"]) == [b"needle-one", b"needle-two"]


def test_looking_into_the_file_keeps_its_locks(sqlite_file: str, server: LoopbackServer, checkout: Path) -> None:
    """A process that closes any descriptor of a file loses its locks on it: the search must not let SQLite's go."""
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
def test_pieces_are_looked_for_as_they_may_be_written(text: str) -> None:
    """At most three pieces of 48 bytes of each form, none under 12 bytes: those stand anywhere by chance."""
    found = traces(texts=[text], documents=[], binaries=[b"0123456789abcdef"])
    assert found[0] == b"0123456789abcdef"
    assert all(12 <= len(piece) <= 48 for piece in found)
    assert len(found) <= 1 + 3 * 3
    assert bool(found[1:]) is (len(text.encode()) >= 12 or "東" in text)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PIECE_S", 0.05)


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("what", ["erase", "redact"])
def test_a_worker_whose_turn_was_cancelled_writes_nothing_back(
    face: Face, kit: Any, server: LoopbackServer, database: str, what: str
) -> None:
    """Its reply would be kept, off the path; where the question is gone meanwhile, the reply to it is not kept either."""
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
def test_a_late_reply_keeps_no_salt_of_what_it_was_told(
    face: Face, kit: Any, server: LoopbackServer, database: str
) -> None:
    """A reply on its way while an earlier message is redacted is kept; what its request could be guessed with is not."""
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
    assert [row.body_salt for row in late if row.number > 1000] == [None]
    assert [row.body_salt is None for row in late] == [True] * len(late)
    face.settle(chat.verify())


@pytest.mark.parametrize("how", ["send", "resume"])
def test_a_request_that_was_built_before_a_redaction_is_built_again(
    face: Face, kit: Any, server: LoopbackServer, database: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read before, begun after: the turn does not begin with what is gone, whether it is new or taken up again."""
    chat = kit.chat("k")
    face.settle(chat.send(CANARY))
    if how == "resume":
        server.script(failure(400, "no"))
        with pytest.raises(ConvokitError):
            face.settle(chat.send("and?"))
    module, name = (turn, "prepare") if how == "send" else (resume, "prepare_again")
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


def test_a_dead_workers_turn_is_closed_first(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """A turn whose worker is gone hinders nobody: it is closed, and what it left goes with the rest."""
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


def test_a_prompt_that_a_turn_is_about_to_use_stays(postgres: Any, server: LoopbackServer) -> None:
    """A turn that refers to a prompt and has not committed yet is waited for, and its prompt is kept."""
    database = postgres.migrated()
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("k", developer_prompt="a prompt").send("hello")
        copied = "SELECT * FROM convokit_completion"
        with psycopg.connect(database) as beginning:
            row = beginning.execute(copied).fetchone()
            assert row is not None
            beginning.execute("UPDATE convokit_completion SET error = 'a turn that has not committed yet'")
            erased: list[Any] = []
            engine = open_engine(database_url(database))
            thread = threading.Thread(target=lambda: erased.append(_drop(engine, kit)))
            thread.start()
            thread.join(0.5)
            assert not erased, "it must wait"
            beginning.commit()
        thread.join(10)
        engine.dispose()
        assert erased == [0]
    postgres.release(database)


def _drop(engine: Engine, kit: Convokit) -> int:
    with engine.begin() as connection:
        digests = list(connection.execute(select(schema.prompt.c.digest)).scalars())
        return residue.drop_prompts(connection, "default", [bytes(each) for each in digests])


def test_busy_is_seen_within_the_transaction(database: str, server: LoopbackServer) -> None:
    """A turn that opens after the first look is seen under the lock: nothing is removed beside it."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        chat.send("hello")
        change(database, lambda connection: connection.execute(schema.turn.update().values(state="open", claim=0)))
        for work in (erase.erase, erase.redact):
            with pytest.raises(ConversationBusy):
                change(
                    database,
                    lambda connection, work=work: work(connection, "default", chat.id, Order(None, None, 1, seq=1)),
                )
        assert in_rows(database, "echo: hello")
