"""Check that the search index holds no word of removed text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from convokit import Convokit
from convokit.domain import search_words
from convokit.domain.removal import VACUUM_COMMAND
from convokit.store.dialects.postgresql_search import hash_keys
from convokit.store.engine import open_engine, parse_database_url
from convokit.store.schema import conversation, search
from tests.support.canaries import change, in_bytes
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion

ASKED, TOLD, LOOKED_UP = "Qzvjkrumpel 鸞鳳", "qzvjwimpel ｶﾞﾗｽ靁霆", "qzvjpumpel 鼈甲"
EVERY = sorted(search_words.build_keys(" ".join((ASKED, TOLD, LOOKED_UP))))
VOCABULARY = "CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, convokit_search_words, row)"


def lookup() -> str:
    """Look it up."""
    return LOOKED_UP


def indexed(database: str) -> dict[str, set[str]]:
    """Return the canaries' keys that each table of the index holds: as terms, in the bytes it stores, or as numbers."""

    def terms(connection: Connection) -> dict[str, set[str]]:
        if connection.dialect.name == "postgresql":
            # The rows of "other" stay. They have hashes of owners and times.
            words = select(search.c.words).join(conversation, conversation.c.id == search.c.conversation_id)
            rows = connection.execute(words.where(conversation.c.key == "k")).scalars()
            kept = {number for row in rows for number in row or ()}
            return {"convokit_search": {key for key in EVERY if kept.intersection(hash_keys([key]))}}
        driver: Any = connection.connection.driver_connection
        driver.execute(VOCABULARY)
        known = {term for (term,) in driver.execute("SELECT term FROM temp.vocabulary")}
        driver.execute("DROP TABLE temp.vocabulary")
        found = {"terms": known & set(EVERY)}
        shadows = "SELECT name FROM sqlite_master WHERE name LIKE 'convokit_search%' AND type = 'table' ORDER BY name"
        for (name,) in driver.execute(shadows).fetchall():
            if name == "convokit_search_words":
                continue  # it keeps no text: its shadow tables are what there is
            rows = driver.execute(f"SELECT * FROM {name}").fetchall()
            held = b" ".join(value for row in rows for value in row if isinstance(value, bytes))
            found[name] = {key for key in EVERY if key.encode() in held}
        return found

    told: dict[str, set[str]] = change(database, terms)
    return told


@pytest.mark.parametrize("what", ["redact", "erase"])
def test_search_index_holds_no_removed_word(
    face: Face, kit: Any, database: str, server: LoopbackServer, what: str
) -> None:
    """Words of a question, a tool result and a reply, also Japanese and half-width ones, in no table and no byte."""
    with Convokit(database, model="m", base_url=server.url) as beside:
        beside.chat("other").send("what others say stays")
        chat = kit.chat("k", tools=[lookup])
        call = {"id": "c", "type": "function", "function": {"name": "lookup", "arguments": "{}"}}
        server.script(completion(None, tool_calls=[call]), completion(TOLD))
        face.settle(chat.send(ASKED))
        before = indexed(database)
        assert set.union(*before.values()) == set(EVERY), "the test would prove nothing of the others"
        if what == "erase":
            assert face.settle(chat.erase()).complete
        else:
            for message in face.settle(chat.messages()):
                assert face.settle(chat.redact(message)).complete
        assert {name: keys for name, keys in indexed(database).items() if keys} == {}
        assert [key for key in EVERY if len(key.encode()) > 4 and in_bytes(database, key)] == []
        assert len(beside.search("others say").items) == 2


@pytest.mark.parametrize("backend", ["postgresql"])
def test_only_vacuum_full_removes_erased_words_from_the_files_of_postgresql(
    database: str, server: LoopbackServer, backend: str
) -> None:
    """The command that the pages, `erase` and `doctor` name leaves no word. A plain VACUUM does not suffice."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("k", title=ASKED).send(ASKED)
        kit.chat("k").send(ASKED * 200)
        kit.chat("k").erase()
    assert _count_in_files(database, "CHECKPOINT") > 0
    assert _count_in_files(database, "VACUUM", "CHECKPOINT") > 0
    assert _count_in_files(database, VACUUM_COMMAND, "CHECKPOINT") == 0


def _count_in_files(database: str, *commands: str) -> int:
    """Run commands outside a transaction. Return how often the data files of the database contain the first canary."""
    engine = open_engine(parse_database_url(database))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for command in commands:
            connection.exec_driver_sql(command)
        files = "SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database"
        folder = connection.exec_driver_sql(f"{files} WHERE datname = current_database()").scalar_one()
    engine.dispose()
    word = ASKED.split(maxsplit=1)[0].encode()
    return sum(path.read_bytes().count(word) for path in Path(folder).iterdir() if path.is_file())
