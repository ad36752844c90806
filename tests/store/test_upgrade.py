"""A database of version 0.1 upgrades, verifies and goes on."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, text

from convokit import Convokit
from convokit.audit.references import find_prompt_digests
from convokit.errors import SchemaOutdated
from convokit.runtime.sync_store import open_store
from convokit.store import indexes, keys, migrations
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.schema import completion, prompt_use, search
from tests.support.faces import Face
from tests.support.server import LoopbackServer

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def old_database(empty_database: str) -> str:
    """Return a database as version 0.1 left it: a SQLite file, or a dump of PostgreSQL 18."""
    if empty_database.startswith("sqlite"):
        content = gzip.decompress((FIXTURES / "version_0_1.db.gz").read_bytes())
        Path(empty_database.removeprefix("sqlite:///")).write_bytes(content)
        return empty_database
    dump = gzip.decompress((FIXTURES / "version_0_1.sql.gz").read_bytes())
    with psycopg.connect(empty_database.replace("+psycopg", "")) as connection:
        connection.execute(dump)
        connection.execute("RESET search_path")  # a dump names its schema everywhere
    return empty_database


def test_a_database_of_version_0_1_upgrades(face: Face, old_database: str, server: LoopbackServer) -> None:
    """Old rows verify, are sent, found and exported as before; the new columns are null until the next reply."""
    settings: dict[str, Any] = {"model": "m", "base_url": server.url}
    with pytest.raises(SchemaOutdated, match="0001"):
        face.settle(face.kit(old_database, **settings).chat("k").messages())
    Convokit(old_database, **settings).migrate()
    kit = face.kit(old_database, **settings)
    chat = kit.chat("k")
    before = [message.text for message in face.settle(chat.messages())]
    assert "何が待っていますか" in before
    face.settle(chat.verify())
    assert face.settle(kit.search("待って"))
    reply = face.settle(chat.send("まだ続きます"))
    sent = [message["content"] for message in server.requests[-1].body["messages"]]
    assert "何が待っていますか" in sent
    assert [message.text for message in face.settle(chat.messages())] == [*before, "まだ続きます", reply.text]
    face.settle(chat.verify())
    assert face.settle(kit.conversation("k")).preview.text == reply.text[:200]
    assert face.settle(kit.conversations(prefix="k"))[0].id == chat.id
    face.settle(chat.update(title="古い会話", archived=True))
    assert face.settle(kit.search("会話")).conversations == face.settle(kit.conversations(archived=True)).items
    engine = open_engine(parse_database_url(old_database))
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT count(*), count(window_counted) FROM convokit_message")).one()
    engine.dispose()
    assert (rows[0] > 10, rows[1]) == (True, 1)


def test_upgrade_records_the_prompts_of_all_requests(face: Face, old_database: str) -> None:
    """Each manifest of version 0.1 that names a prompt or a tool set has its use."""
    Convokit(old_database, model="m").migrate()
    engine = open_engine(parse_database_url(old_database))
    with engine.connect() as connection:
        calls = connection.execute(select(completion.c.conversation_id, completion.c.manifest)).all()
        uses = connection.execute(select(prompt_use.c.conversation_id, prompt_use.c.digest)).all()
    engine.dispose()
    named = {(conversation_id, digest) for conversation_id, each in calls for digest in find_prompt_digests(each)}
    assert {(conversation_id, bytes(digest)) for conversation_id, digest in uses} == named
    assert len(named) > 3
    chat = face.kit(old_database, model="m").chat("k")
    face.settle(chat.verify())
    assert face.settle(chat.erase()).removed["prompt"] > 0


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_upgrade_computes_the_search_keys_anew(face: Face, old_database: str) -> None:
    """Each row of the index is the one that `reindex` writes."""
    kit = face.kit(old_database, model="m")
    face.settle(kit.migrate())
    engine = open_engine(parse_database_url(old_database)).execution_options(**{WRITE: True})
    query = select(search.c.conversation_id, search.c.seq, search.c.words).where(search.c.words.is_not(None))
    with engine.begin() as connection:
        upgraded = connection.execute(query).all()
        connection.execute(search.delete())
    assert face.settle(kit.reindex()) >= len(upgraded) > 10
    with engine.connect() as connection:
        assert set(map(repr, upgraded)) <= set(map(repr, connection.execute(query)))
    engine.dispose()


def test_titles_of_version_0_1_are_indexed_by_reindex(face: Face, old_database: str, server: LoopbackServer) -> None:
    """A title that stood in the database before the upgrade is found afterwards, and leaves the index again."""
    engine = open_engine(parse_database_url(old_database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(text("UPDATE convokit_conversation SET title = '昔の題名'"))
    engine.dispose()
    kit = face.kit(old_database, model="m", base_url=server.url)
    face.settle(kit.migrate())
    assert face.settle(kit.search("題名")).conversations == []
    count = len(face.settle(kit.conversations()))
    assert face.settle(kit.reindex()) == count
    assert len(face.settle(kit.search("題名")).conversations) == count
    face.settle(kit.chat("k").update(title="今"))
    assert len(face.settle(kit.search("題名")).conversations) == count - 1


@pytest.mark.parametrize("revision", ["0001", "0006"])
def test_an_upgrade_creates_the_tables_of_the_gateway(
    face: Face, old_database: str, server: LoopbackServer, revision: str
) -> None:
    """Old messages have no anchors. New ones and keys are stored and removed, and the schema is the one of a new database."""
    store = open_store(parse_database_url(old_database), "test")
    store.run(lambda connection: migrations.upgrade(connection, revision), write=True)
    with pytest.raises(SchemaOutdated, match=revision):
        face.settle(face.kit(old_database, model="m").chat("k").messages())
    kit = face.kit(old_database, model="m", base_url=server.url)
    face.settle(kit.migrate())
    assert store.run(indexes.list_differences, write=False) == []
    chat = kit.chat("k")
    face.settle(chat.send("まだ続きます", anchor=lambda message: b"digest"))
    face.settle(chat.verify())
    assert face.settle(chat.erase()).removed["anchor"] == 2
    row = keys.ApiKeyRow(b"digest", "会社", "鍵", ("chat",), None, 5, 1)
    store.run(lambda connection: keys.insert_key(connection, row), write=True)
    assert store.run(keys.list_keys, write=False) == [row]
    taken = store.run(lambda connection: keys.take_permits(connection, b"digest", "requests", 1, 9, 5), write=True)
    assert taken == 5
    store.close()


def test_code_that_knows_no_anchors_is_refused(
    face: Face, old_database: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code of revision 0006 would leave the anchors of text that it removes. Until the upgrade it works."""
    with monkeypatch.context() as older:
        older.setattr(migrations, "REVISION", "0006")
        older.setattr(migrations, "GENERATION", 2)
        store = open_store(parse_database_url(old_database), "test")
        store.run(lambda connection: migrations.upgrade(connection, "0006"), write=True)
        store.run(lambda connection: migrations.check_schema(connection, "test"), write=False)
        store.run(migrations.upgrade, write=True)
        store.close()
        kit = face.kit(old_database, model="m", base_url=server.url)
        calls: list[tuple[str, list[Any]]] = [("messages", []), ("redact", [1]), ("send", ["x"])]
        for name, arguments in calls:
            with pytest.raises(SchemaOutdated, match="upgrade the convokit-sql package"):
                face.settle(getattr(kit.chat("k"), name)(*arguments))
    assert server.requests == []
    face.settle(face.kit(old_database, model="m").chat("k").verify())
