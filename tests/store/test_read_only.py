"""Tests that a read-only kit reads everything, writes nothing, and refuses each writing method before anything is sent."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import event
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.pool import StaticPool

from convokit import AsyncChat, AsyncConvokit, Convokit
from convokit.completion import call as calls
from convokit.errors import Interrupted, ReadOnly, SettingsError, StoreUnavailable
from tests.support.abandoned_turns import leave_stream
from tests.support.faces import Face
from tests.support.public_calls import (
    CHAT_READS,
    CHAT_WRITES,
    DRY_RUNS,
    KIT_READS,
    KIT_WRITES,
    WORDS,
    run_reads,
    write_history,
)
from tests.support.server import LoopbackServer, stream

SENDS_NOTHING = {"chat", "tenant", "close"}
# The full-text index of SQLite runs statements of its own, which begin with "--" in a trace.
READING = re.compile(
    r"(?:SELECT|WITH .*\bSELECT|SAVEPOINT|RELEASE|ROLLBACK|COMMIT|BEGIN|SHOW|PRAGMA (?:'main'\.)?\w+$)", re.DOTALL
)


@pytest.fixture(autouse=True)
def _store_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CHUNK_S", 0.0)


def list_methods(owner: type) -> set[str]:
    """Return the public methods of a class, properties left out."""
    return {name for name, value in vars(owner).items() if inspect.isfunction(value) and name[0] != "_"}


def test_every_public_method_is_known_to_read_or_to_write() -> None:
    """A new method must be put into one of the lists above, so that the tests below run it."""
    assert list_methods(AsyncConvokit) == set(KIT_READS) | set(KIT_WRITES) | SENDS_NOTHING
    assert list_methods(AsyncChat) == set(CHAT_READS) | set(CHAT_WRITES)


class Statements(list[str]):
    """Records the statements of all engines, and whether PostgreSQL runs each transaction as READ ONLY."""

    def __init__(self) -> None:
        super().__init__()
        self.read_only: list[str] = []

    def hear(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not _is_scratch(connection):
            self.append(statement)

    def begin(self, connection: Any) -> None:
        if _is_scratch(connection):
            return
        driver = connection.connection.dbapi_connection
        if connection.dialect.name == "sqlite":
            driver.set_trace_callback(self.append)  # pragmas and BEGIN too
            return
        cursor = driver.cursor()
        cursor.execute("SHOW transaction_read_only")
        self.read_only.append(cursor.fetchone()[0])
        cursor.close()


def _is_scratch(connection: Any) -> bool:
    """Return whether this is the database in memory in which a read-only kit rehearses an import."""
    return isinstance(connection.engine.pool, StaticPool)


@pytest.fixture
def statements() -> Iterator[Statements]:
    recorded = Statements()
    event.listen(Engine, "before_cursor_execute", recorded.hear)
    event.listen(Engine, "begin", recorded.begin)
    yield recorded
    event.remove(Engine, "before_cursor_execute", recorded.hear)
    event.remove(Engine, "begin", recorded.begin)


@pytest.fixture
def history(face: Face, database: str, server: LoopbackServer, tmp_path: Path) -> str:
    write_history(face, database, server, tmp_path)
    return database


def read_content(database: str) -> object:
    """Return the bytes of a SQLite file, or a digest of all rows and of the transactions that wrote them."""
    url = make_url(database)
    if url.get_backend_name() == "sqlite":
        return Path(str(url.database)).read_bytes()
    with psycopg.connect(database) as connection:
        tables = connection.execute("SELECT relname FROM pg_class WHERE relname LIKE 'convokit%' AND relkind = 'r'")
        digest = "SELECT count(*), max(xmin::text::bigint), sum(hashtext(t::text)) FROM {} t"
        names = [name for (name,) in tables.fetchall()]
        return {name: connection.execute(sql.SQL(digest).format(sql.Identifier(name))).fetchone() for name in names}


def test_reads_and_dry_runs_write_nothing(
    face: Face, history: str, server: LoopbackServer, statements: Statements, tmp_path: Path
) -> None:
    """Every statement reads, PostgreSQL runs each transaction as READ ONLY, and file and rows stay as they are."""
    before = read_content(history)
    kit = face.kit(history, model="loop-1", base_url=server.url, read_only=True)
    run_reads(face, kit, tmp_path)
    for call in DRY_RUNS.values():
        face.settle(call(kit, tmp_path))
    face.settle(kit.close())
    assert len(statements) > 40
    assert [each for each in statements if not READING.match(each.removeprefix("-- ").strip())] == []
    assert set(statements.read_only) <= {"on"}
    assert bool(statements.read_only) == history.startswith("postgresql")
    assert read_content(history) == before
    assert server.requests == []


def test_a_dry_run_returns_what_it_returns_in_another_kit(
    face: Face, history: str, server: LoopbackServer, tmp_path: Path
) -> None:
    """Dry runs of erasures read the same rows. That of an import rehearses in a database in memory."""
    kits = [face.kit(history, base_url=server.url, read_only=read_only) for read_only in (False, True)]
    assert len(DRY_RUNS) == 7
    for call in DRY_RUNS.values():
        answers = [face.settle(call(kit, tmp_path)).model_dump(exclude={"at"}) for kit in kits]
        assert answers[0] == answers[1]


def test_a_dry_run_of_a_damaged_export_fails_as_in_another_kit(
    face: Face, history: str, server: LoopbackServer, tmp_path: Path
) -> None:
    """The rehearsal checks rows and chain."""
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text((tmp_path / "export.jsonl").read_text("utf-8").replace("hello", "hullo"), "utf-8")
    problems = []
    for read_only in (False, True):
        kit = face.kit(history, base_url=server.url, read_only=read_only).tenant("b")
        imported = face.settle(kit.import_(damaged, trusted=True, dry_run=True, on_error="skip"))
        problems.append([each.problem for each in imported.problems])
    assert problems[0] == problems[1] != []


def test_each_writing_method_is_refused_before_anything_is_sent(
    face: Face, history: str, server: LoopbackServer, statements: Statements, tmp_path: Path
) -> None:
    """The call itself raises, a stream's too. Neither the database nor the model server hears of it."""
    kit = face.kit(history, model="loop-1", base_url=server.url, read_only=True)
    for owner, methods in ((kit, KIT_WRITES), (kit.chat("a"), CHAT_WRITES), (kit.tenant("b"), KIT_WRITES)):
        for name, call in methods.items():
            with pytest.raises(ReadOnly, match=f"{name} was refused, because the kit is read-only") as caught:
                face.settle(call(owner, tmp_path))
            assert caught.value.action == name
            assert caught.value.database in str(caught.value)
    assert statements == []
    assert server.requests == []


def test_a_transaction_that_writes_is_refused_by_store_and_database(face: Face, history: str) -> None:
    """A flow that writes all the same fails at once, without a second try, and so does a statement in a reading transaction."""
    kit = face.kit(history, read_only=True)
    store = kit._runtime._store
    with pytest.raises(ReadOnly):
        face.settle(store.run(lambda connection: None, write=True))
    with pytest.raises(ReadOnly, match="a statement that writes"):
        face.settle(store.run(lambda connection: connection.exec_driver_sql("DELETE FROM convokit_turn"), write=False))


def test_following_a_turn_whose_worker_is_gone_ends(face: Face, history: str, server: LoopbackServer) -> None:
    """The turn stays open: the follower gets the stored text and an error, and does not wait for ever."""
    kit = face.kit(history, read_only=True)
    with pytest.raises(Interrupted) as caught:
        face.collect(kit.chat("gone").follow())
    assert caught.value.code == "open"
    assert "worker of this turn is gone" in str(caught.value)
    assert "word0" in caught.value.partial
    writer = face.kit(history, model="loop-1", base_url=server.url)
    (turn,) = face.settle(writer.chat("gone").turns())
    assert (turn.state, turn.worker) == ("abandoned", None)


@pytest.mark.once
def test_an_open_turn_of_a_living_worker_has_no_mark(face: Face, database: str, server: LoopbackServer) -> None:
    """`worker` says nothing of a turn that is being answered."""
    reader = face.kit(database, read_only=True).chat("k")
    server.script(stream(["a ", "b ", "c "], pause_s=0.05))

    def list_turns() -> list[tuple[str, str | None]]:
        return [(turn.state, turn.worker) for turn in face.settle(reader.turns())]

    with Convokit(database, model="m", base_url=server.url) as writer, writer.chat("k").stream("hello") as events:
        next(iter(events))
        assert list_turns() == [("open", None)]
        for _ in events:
            pass
    assert list_turns() == [("completed", None)]


@pytest.mark.once
def test_a_gone_worker_on_another_branch_is_marked(face: Face, database: str, server: LoopbackServer) -> None:
    """`turns(question=)` lists turns of all branches, and closes only one of its own."""
    kit = face.kit(database, model="m", base_url=server.url)
    face.settle(kit.chat("k").send("hello"))
    other = face.settle(kit.chat("k").fork(name="other"))
    server.script(stream(WORDS))
    leave_stream(face, kit, other.stream_regenerate)
    turns = face.settle(kit.chat("k").turns(question=1))
    assert [(turn.state, turn.worker) for turn in turns] == [("completed", None), ("open", "gone")]


@pytest.mark.parametrize("value", [None, 1, "yes"])
@pytest.mark.once
def test_read_only_must_be_a_bool(face: Face, sqlite_file: str, value: Any) -> None:
    with pytest.raises(SettingsError, match="read_only"):
        face.kit(sqlite_file, read_only=value)


@pytest.mark.once
def test_tables_and_files_that_are_missing_are_named(face: Face, tmp_path: Path) -> None:
    """A read-only kit does not advise to create a database."""
    with pytest.raises(StoreUnavailable, match="no such file; check the path"):
        face.settle(face.kit(str(tmp_path / "none.db"), read_only=True).conversations())
    assert list(tmp_path.iterdir()) == []
