"""SQLite files that cannot grow, cannot be written, are locked, or are not the file they were.

PostgreSQL out of room is not tried here: it needs a file system of its own, made full.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from convokit.errors import StoreError, StoreFull, StoreUnavailable
from convokit.store.dialects import sqlite
from convokit.store.engine import parse_database_url
from tests.faults import oracles
from tests.faults.child_process import CHECKOUT, Child, hurried, rows
from tests.support.databases import Files
from tests.support.faces import Face
from tests.support.selection import keep
from tests.support.server import LoopbackServer, completion, stream

pytestmark = pytest.mark.soak(sample=True)


def path_of(database: str) -> Path:
    """Return a database's file."""
    return Path(str(parse_database_url(database).database))


class Room:
    """How many pages a kit's database may have; None for as many as it wants."""

    def __init__(self, kit: Any, database: str) -> None:
        self.pages: int | None = None
        self._database = database
        event.listen(getattr(kit._runtime._store, "_store", kit._runtime._store).engine, "checkout", self._set)

    def _set(self, connection: Any, record: object, proxy: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {self.pages or 2**30}").fetchall()

    def none(self) -> None:
        """Leave no room at all."""
        self.pages = int(rows(self._database, "PRAGMA page_count")[0][0])


@pytest.mark.once
def test_a_full_database_says_so_and_loses_nothing(face: Face, sqlite_file: str, server: LoopbackServer) -> None:
    """Out of pages, a send is `StoreFull`, and no more than that: with room again, all goes on, the failed send too."""
    kit = hurried(face.kit(sqlite_file, model="m", base_url=server.url))
    chat = kit.chat("k")
    told = {"first": face.settle(chat.send("first")).text}
    room = Room(kit, sqlite_file)
    room.none()
    failed = []
    for number in range(40):
        name = f"question {number} " + "x" * 900
        try:
            told[name] = face.settle(chat.send(name, idempotency_key=f"k{number}")).text
        except StoreFull:
            failed.append((name, f"k{number}"))
    assert failed
    assert [message.text for message in face.settle(chat.messages(limit=2))]
    oracles.check_once(oracles.check_conversation(sqlite_file, "k"), told)
    room.pages = None
    for name, key in failed[:3]:
        told[name] = face.settle(chat.send(name, idempotency_key=key)).text
    told["after"] = face.settle(chat.send("after")).text
    found = oracles.check_conversation(sqlite_file, "k")
    oracles.check_once(found, told)
    oracles.check_calls([found], [request.raw for request in server.requests])


@pytest.mark.once
@pytest.mark.parametrize("streamed", keep([False, True], True, sample=True))
def test_no_room_for_the_reply(face: Face, sqlite_file: str, server: LoopbackServer, streamed: bool) -> None:
    """A reply that finds no room any more is `StoreFull`; with room again the same send has one question and one reply."""
    kit = hurried(face.kit(sqlite_file, model="m", base_url=server.url))
    chat = kit.chat("k")
    face.settle(chat.send("first"))
    room = Room(kit, sqlite_file)
    text = "a long reply " * 4000

    def fill(body: Any) -> Any:
        room.none()
        return stream([text, " and more"], pause_s=0.01) if streamed else completion(text)

    server.answer = fill
    ask = chat.stream if streamed else chat.send
    answered = face.collect if streamed else face.settle
    with pytest.raises(StoreFull):
        answered(ask("second", idempotency_key="once"))
    room.pages = None
    server.answer = lambda body: completion("short")
    reply = face.settle(chat.send("second", idempotency_key="once"))
    told = {"second": reply.text, "third": face.settle(chat.send("third")).text}
    oracles.check_once(oracles.check_conversation(sqlite_file, "k"), told)


@pytest.mark.soak(sample=True)
def test_a_file_that_may_not_grow(sqlite_file: str, server: LoopbackServer) -> None:
    """Under a quota, which SQLite reports as a failed write, all that was acknowledged is there, and the rest can follow."""
    with Child("full_disk_process", sqlite_file, server.url) as child:
        said = child.rest()
    assert [each["error"] for each in said if "error" in each] == ["StoreFull"]
    found = oracles.check_conversation(sqlite_file, "k")
    oracles.check_once(found, {each["name"]: each["text"] for each in said if "text" in each})
    oracles.check_calls([found], [request.raw for request in server.requests])


READ_ONLY = """
import os, sys
from convokit import Convokit
from convokit.errors import StoreUnavailable
with Convokit(sys.argv[2], model="m", base_url=sys.argv[3]) as kit:
    kit.chat("k").send("first")
if os.geteuid() == 0:  # who may write everything
    os.setuid(65534)
with Convokit(sys.argv[1], model="m", base_url=sys.argv[3]) as kit:
    try:
        kit.chat("k").send("second")
    except StoreUnavailable as error:
        print(error)
        sys.exit(7)
"""


@pytest.mark.soak(sample=True)
@pytest.mark.parametrize("what", keep(["file", "folder"], "file", sample=True))
def test_what_may_only_be_read(files: Files, server: LoopbackServer, what: str) -> None:
    """A file or folder without the right to write is named as such, and nothing is asked of the model."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        file = folder / "chat.db"
        shutil.copy(path_of(files.migrated()), file)
        file.chmod(0o444 if what == "file" else 0o666)
        folder.chmod(0o777 if what == "file" else 0o555)
        command = [sys.executable, "-c", READ_ONLY, f"sqlite:///{file}", files.migrated(), server.url]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        folder.chmod(0o777)
    assert done.returncode == 7, done.stderr
    assert "permissions" in done.stdout
    assert len(server.requests) == 1


HOLDING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(database: str) -> Iterator[None]:
    """Have another process hold the write lock."""
    command = [sys.executable, "-c", HOLDING, str(path_of(database))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.2)


@pytest.mark.once
@pytest.mark.usefixtures("impatient")
def test_a_lock_that_is_held_too_long(face: Face, sqlite_file: str, server: LoopbackServer) -> None:
    """Another process that writes for longer than we wait is named; nothing is asked of the model; reading goes on."""
    kit = face.kit(sqlite_file, model="m", base_url=server.url)
    chat = kit.chat("k")
    face.settle(chat.send("first"))
    with locked(sqlite_file):
        with pytest.raises(StoreUnavailable, match="locked"):
            face.settle(chat.send("second"))
        assert len(face.settle(chat.messages())) == 2
        assert len(server.requests) == 1
    assert face.settle(chat.send("second")).text == "echo: second"
    oracles.check_conversation(sqlite_file, "k")


@pytest.mark.once
def test_a_file_that_was_deleted(face: Face, sqlite_file: str, server: LoopbackServer) -> None:
    """A kit whose file was deleted says so, and neither writes where nobody will find it nor makes a new file."""
    kit = face.kit(sqlite_file, model="m", base_url=server.url)
    chat = kit.chat("k")
    face.settle(chat.send("first"))
    for name in (sqlite_file, f"{sqlite_file}-wal", f"{sqlite_file}-shm"):
        path_of(name).unlink(missing_ok=True)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            face.settle(chat.send("second"))
        with pytest.raises(StoreUnavailable):
            face.settle(chat.messages())
    assert not path_of(sqlite_file).exists()
    assert len(server.requests) == 1


def replace_file(database: str, other: Path) -> None:
    """Put another file under a database's name, as restoring a backup does."""
    for ending in ("-wal", "-shm"):
        path_of(database + ending).unlink(missing_ok=True)
    other.replace(path_of(database))


@pytest.mark.once
def test_a_file_that_was_restored(face: Face, sqlite_file: str, server: LoopbackServer) -> None:
    """A kit whose file was replaced by its backup goes on where the backup ends: what it writes is where others look."""
    kit = face.kit(sqlite_file, model="m", base_url=server.url)
    chat = kit.chat("k")
    face.settle(chat.send("first"))
    rows(sqlite_file, "PRAGMA wal_checkpoint(TRUNCATE)")
    backup = path_of(sqlite_file + ".backup")
    shutil.copy(path_of(sqlite_file), backup)
    face.settle(chat.send("second"))
    replace_file(sqlite_file, backup)
    assert face.settle(chat.send("third")).text == "echo: third"
    fresh = face.kit(sqlite_file, model="m", base_url=server.url)
    for each in (kit, fresh):
        texts = [message.text for message in face.settle(each.chat("k").messages())]
        assert texts == ["first", "echo: first", "third", "echo: third"]
    oracles.check_conversation(sqlite_file, "k")


@pytest.mark.once
def test_a_file_that_was_replaced(face: Face, files: Files, sqlite_file: str, server: LoopbackServer) -> None:
    """A kit whose file became another database refuses it, or keeps its chats where any other kit finds them."""
    other = files.empty()
    with_other = face.kit(other, model="m", base_url=server.url)
    face.settle(with_other.migrate())
    kit = face.kit(sqlite_file, model="m", base_url=server.url)
    face.settle(kit.chat("k").send("first"))
    replace_file(sqlite_file, path_of(other))
    fresh = face.kit(sqlite_file, model="m", base_url=server.url)
    try:
        face.settle(kit.chat("k").send("second"))
    except StoreUnavailable:
        assert face.settle(fresh.chat("k").messages()) == []
    else:
        assert [message.text for message in face.settle(fresh.chat("k").messages())] == ["second", "echo: second"]


@pytest.mark.once
@pytest.mark.parametrize("keep", [0, 0.5], ids=["empty", "half"])
def test_a_file_that_was_cut_short(face: Face, sqlite_file: str, server: LoopbackServer, keep: float) -> None:
    """A file that lost pages is named as damaged, or as no longer convokit's; nothing is started over in it."""
    kit = face.kit(sqlite_file, model="m", base_url=server.url)
    for number in range(5):
        face.settle(kit.chat("k").send(f"question {number} " + "x" * 4000))
    rows(sqlite_file, "PRAGMA wal_checkpoint(TRUNCATE)")
    file = path_of(sqlite_file)
    os.truncate(file, int(file.stat().st_size * keep))
    fresh = face.kit(sqlite_file, model="m", base_url=server.url)
    for each in (kit, fresh):
        with pytest.raises(StoreError):
            face.settle(each.chat("k").verify())
        with pytest.raises(StoreError):
            face.settle(each.chat("k").send("more"))
    assert len(server.requests) == 5
