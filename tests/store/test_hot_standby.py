"""Tests that a read-only kit reads on a hot standby, which refuses every write, and that no other kit writes there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from convokit import NewMessage
from convokit.errors import ReadOnly
from convokit.store.dialects.postgresql_replication import read_replication
from tests.support.faces import Face
from tests.support.public_calls import CHAT_READS, KEY, KIT_READS
from tests.support.restarting_postgres import RestartingPostgres
from tests.support.server import LoopbackServer
from tests.support.standby import Standby

pytestmark = pytest.mark.soak(sample=True)


@pytest.fixture(scope="module")
def primary() -> Iterator[RestartingPostgres]:
    server = RestartingPostgres()
    yield server
    server.close()


@pytest.fixture(scope="module")
def standby(primary: RestartingPostgres) -> Iterator[Standby]:
    made = Standby(primary)
    yield made
    made.close()


def test_a_read_only_kit_reads_everything_on_a_standby(
    face: Face, primary: RestartingPostgres, standby: Standby, server: LoopbackServer, tmp_path: Path
) -> None:
    """The standby would refuse a statement that writes. Turns of the primary are seen when they are replayed."""
    writer = face.kit(primary.url, model="m", base_url=server.url, developer_prompt="Be brief.")
    chat = writer.chat(face.name, subject="anna")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    face.settle(chat.append([NewMessage("user", [image])]))
    face.settle(chat.send("hello 東京"))
    face.settle(chat.send("and now?"))
    face.settle(chat.regenerate())
    face.settle(writer.checkpoint(key=KEY, to=tmp_path / "checkpoint"))
    standby.catch_up()
    kit = face.kit(standby.url, model="m", base_url=server.url, read_only=True)
    reader = kit.chat(face.name)
    reader.first, reader.second = (turn.id for turn in face.settle(reader.turns(limit=2)))
    (tmp_path / "turn").write_text(str(reader.first), "utf-8")
    reader.prompt_digest = face.settle(reader.turn(reader.first)).calls[0].window.prompt
    reader.digest = face.settle(reader.messages())[0].content[0]["image_url"]["url"]
    for call in KIT_READS.values():
        face.settle(call(kit, tmp_path))
    for name, call in CHAT_READS.items():
        (face.collect if name == "follow" else face.settle)(call(reader, tmp_path))
    face.settle(chat.send("one more"))
    standby.catch_up()
    assert face.settle(reader.messages())[-1].text == "echo: one more"
    with pytest.raises(ReadOnly):
        face.settle(reader.send("hello"))


def test_another_kit_cannot_write_on_a_standby(
    face: Face, primary: RestartingPostgres, standby: Standby, server: LoopbackServer, impatient: None
) -> None:
    """The error names the state of the server, and that it may change. No call is made, and reading goes on."""
    face.settle(face.kit(primary.url, model="m", base_url=server.url).chat(f"w {face.name}").send("hello"))
    standby.catch_up()
    calls = len(server.requests)
    kit = face.kit(standby.url, model="m", base_url=server.url)
    with pytest.raises(
        ReadOnly, match=r"the server is read-only \(SQLSTATE 25006\).* connect to the primary"
    ) as caught:
        face.settle(kit.chat(f"w {face.name}").send("hello"))
    assert caught.value.transient
    assert len(server.requests) == calls
    assert len(face.settle(kit.chat(f"w {face.name}").messages())) == 2


def test_no_session_setting_stays_on_a_server_connection(
    face: Face, primary: RestartingPostgres, server: LoopbackServer
) -> None:
    """A pooler gives the session to other programs afterwards: only transactions are READ ONLY."""
    kit = face.kit(primary.url, model="m", base_url=server.url, read_only=True)
    face.settle(kit.conversations())

    def read_settings(connection: Any) -> Any:
        query = (
            "SELECT current_setting('transaction_read_only'), current_setting('default_transaction_read_only'),"
            " (SELECT count(*) FROM pg_settings WHERE source = 'session' AND name LIKE '%read_only%')"
        )
        return tuple(connection.exec_driver_sql(query).one())

    assert face.settle(kit._runtime._store.run(read_settings, write=False)) == ("on", "off", 1)
    with psycopg.connect(primary.url) as connection:
        assert connection.execute("SHOW default_transaction_read_only").fetchone() == ("off",)


def test_doctor_names_a_standby_and_what_a_failover_loses(
    face: Face, primary: RestartingPostgres, standby: Standby
) -> None:
    """The primary counts its standbys. Without fsync nothing else matters."""
    found = {
        url: face.settle(face.kit(url, read_only=True)._runtime._store.run(read_replication, write=False))
        for url in (primary.url, standby.url)
    }
    assert found[primary.url]["replication"].found == "a primary; 1 standby is connected"
    assert "fsync=off" in found[primary.url]["durability"].found
    assert list(found[standby.url]) == ["replication"]
    assert found[standby.url]["replication"].found.startswith("a standby in recovery, which only reads")
    assert "list all servers" in str(found[standby.url]["replication"].advice)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon."""
    monkeypatch.setattr("convokit.completion.write_retry._FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("convokit.completion.begin.START_S", 0.1)
