"""Tests how a read-only kit opens a SQLite file: by a user who may write the folder, and by one who may not."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from convokit import Convokit, NewMessage
from convokit.errors import SchemaOutdated, StoreUnavailable
from tests.support.databases import Files
from tests.support.faces import Face
from tests.support.server import LoopbackServer

pytestmark = pytest.mark.once

READER = """
import asyncio, json, os, sys
from convokit import AsyncConvokit, Convokit
from convokit.errors import ConvokitError
other, user = sys.argv[1:]

async def read_async(path):
    async with AsyncConvokit(path, read_only=True) as kit:
        return [each.text for each in await kit.chat("a").messages()]

def read(api, path):
    if api == "async":
        return asyncio.run(read_async(path))
    with Convokit(path, read_only=True) as kit:
        return [each.text for each in kit.chat("a").messages()]

for api in ("sync", "async"):
    read(api, other)  # loads every module: the other user may not be allowed to read them
if user:
    os.setgid(int(user))
    os.setuid(int(user))
for line in sys.stdin:
    try:
        answer = read(*json.loads(line))
    except ConvokitError as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)
"""
NOBODY = 65534


class Reader:
    """A process of another user, who may read files and not write their folders. It makes a new kit for each file."""

    def __init__(self, checkout: Path, other: Path) -> None:
        user = str(NOBODY) if os.geteuid() == 0 else ""
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        command = [sys.executable, "-c", READER, str(other), user]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def read(self, api: str, path: Path) -> Any:
        """Return the texts in a file, or the error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([api, str(path)]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def reader(files: Files) -> Iterator[Reader]:
    """The process, started once for all tests of this file."""
    other = Path(str(make_url(files.migrated()).database))
    with Convokit(other, model="m") as kit:
        kit.chat("a").append([NewMessage("user", "hello")])
    started = Reader(Path(__file__).resolve().parents[2], other)
    yield started
    started.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter: pytest's own folders are closed to others."""
    made = Path(tempfile.mkdtemp(prefix="convokit-read-only-"))
    yield made
    made.chmod(0o755)
    shutil.rmtree(made)


@pytest.fixture
def writer(folder: Path, server: LoopbackServer) -> Iterator[Convokit]:
    """A kit that has written a turn, and is still connected."""
    with Convokit(folder / "chat.db", model="m", base_url=server.url) as kit:
        kit.migrate()
        kit.chat("a").send("hello")
        yield kit


@pytest.fixture
def read_closed(folder: Path, face: Face, reader: Reader) -> Callable[[], Any]:
    """Return a function that closes the folder to the reader's user and reads the file there."""

    def read() -> Any:
        for each in folder.iterdir():
            each.chmod(0o644)
        folder.chmod(0o755 if os.geteuid() == 0 else 0o555)
        if os.geteuid() != 0 and os.access(folder, os.W_OK):
            pytest.skip("this user may write everywhere")
        return reader.read(face.name, folder / "chat.db")

    return read


TEXTS = ["hello", "echo: hello"]


def list_names(folder: Path) -> list[str]:
    """Return the names of the files beside the database."""
    return sorted(each.name for each in folder.iterdir())


def test_a_file_alone_in_a_closed_folder_is_read_as_immutable(
    folder: Path, writer: Convokit, read_closed: Callable[[], Any]
) -> None:
    """No log is there, so nobody is writing. Nothing is created."""
    writer.close()
    assert list_names(folder) == ["chat.db"]
    before = (folder / "chat.db").read_bytes()
    assert read_closed() == TEXTS
    assert list_names(folder) == ["chat.db"]
    assert (folder / "chat.db").read_bytes() == before


def test_a_reader_in_a_closed_folder_sees_what_a_connected_writer_commits(
    folder: Path, writer: Convokit, read_closed: Callable[[], Any]
) -> None:
    """The writer's log and its index are there: every commit is seen."""
    assert {"chat.db-wal", "chat.db-shm"} <= set(list_names(folder))
    assert read_closed() == TEXTS
    writer.chat("a").send("more")
    assert read_closed() == [*TEXTS, "more", "echo: more"]


def test_a_log_without_its_index_in_a_closed_folder_is_an_error(
    folder: Path, writer: Convokit, read_closed: Callable[[], Any]
) -> None:
    """The file alone lacks the newest turns. Reading it as immutable would show an old state as if it were all."""
    copy_while_open(folder)
    (folder / "chat.db-shm").unlink()
    answer = read_closed()
    assert answer.startswith("StoreUnavailable: SQLite database ")
    assert "copy the file together with its -wal into a writable folder, or open it once for writing" in answer


def test_a_log_whose_writer_was_killed_is_read(folder: Path, writer: Convokit, read_closed: Callable[[], Any]) -> None:
    """A log and its index were left behind: SQLite rebuilds the index in memory."""
    copy_while_open(folder)
    assert read_closed() == TEXTS


def test_an_empty_log_without_its_index_is_not_missed(
    folder: Path, writer: Convokit, read_closed: Callable[[], Any]
) -> None:
    """A log without a page holds nothing that the file lacks."""
    writer.close()
    (folder / "chat.db-wal").write_bytes(b"")
    assert read_closed() == TEXTS


def copy_while_open(folder: Path) -> None:
    """Put copies in the place of the file, its log and its index, as a killed writer leaves them."""
    for name in list_names(folder):
        shutil.copy(folder / name, folder / f"copy-{name}")
    for name in list_names(folder):
        if name.startswith("copy-"):
            os.replace(folder / name, folder / name.removeprefix("copy-"))


def test_a_pooled_connection_to_an_immutable_file_is_opened_anew_after_a_write(
    folder: Path, writer: Convokit, face: Face, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user wrote although this one may not: a kept connection would show the old pages."""
    writer.close()
    monkeypatch.setattr("convokit.store.dialects.sqlite_files._is_folder_writable", lambda path: False)
    reader = face.kit(str(folder / "chat.db"), read_only=True).chat("a")
    assert [each.text for each in face.settle(reader.messages())] == TEXTS
    with Convokit(folder / "chat.db", model="m", base_url=server.url) as other:
        other.chat("a").send("more")
        assert len(face.settle(reader.messages())) == 4  # through the log of the writer
    assert len(face.settle(reader.messages())) == 4  # the log is merged and gone


def test_a_folder_that_is_writable_gets_a_log_and_keeps_its_journal_mode(
    folder: Path, face: Face, writer: Convokit
) -> None:
    """`mode=ro` sees a writer's commits. The file is not written, and no pragma changes it."""
    writer.close()
    before = (folder / "chat.db").read_bytes()
    reader = face.kit(str(folder / "chat.db"), read_only=True).chat("a")
    assert [each.text for each in face.settle(reader.messages())] == TEXTS
    assert (folder / "chat.db").read_bytes() == before


def test_a_file_with_a_rollback_journal_keeps_it(folder: Path, face: Face, writer: Convokit) -> None:
    """A file of another program, without write-ahead logging, is read as it is."""
    writer.close()
    with sqlite3.connect(folder / "chat.db") as connection:
        connection.execute("PRAGMA journal_mode=delete")
    connection.close()
    reader = face.kit(str(folder / "chat.db"), read_only=True).chat("a")
    assert [each.text for each in face.settle(reader.messages())] == TEXTS
    assert list_names(folder) == ["chat.db"]


@pytest.mark.parametrize("content", [b"", b"not a database" * 100])
def test_a_file_that_is_no_database_is_a_typed_error(folder: Path, face: Face, content: bytes) -> None:
    """An empty file has no tables; any other is not usable. Neither changes."""
    (folder / "chat.db").write_bytes(content)
    with pytest.raises(StoreUnavailable if content else SchemaOutdated):
        face.settle(face.kit(str(folder / "chat.db"), read_only=True).conversations())
    assert (folder / "chat.db").read_bytes() == content
