"""Test that a search also finds conversations: by id, by the beginning of the key, and by the title."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from convokit import NewMessage
from convokit.store.dialects import postgresql_search
from convokit.store.engine import open_engine, parse_database_url
from tests.support.faces import Face
from tests.support.server import LoopbackServer
from tests.support.statements import count_statements

HELLO = NewMessage("assistant", "東京 hello")
TITLES = {
    "a-1": "東京への旅",
    "a-2": "Café à Strasbourg",
    "b_1": "東京タワー と 京都",
    "b-2": 'The "red" car',
    "c": None,
}


@pytest.fixture
def titled(face: Face, kit: Any) -> Any:
    """A kit with conversations that have titles, and one message each."""
    for key, title in TITLES.items():
        face.settle(kit.chat(key, title=title, subject="花子" if key[0] == "a" else "太郎").append([HELLO]))
    return kit


def _keys(face: Face, kit: Any, query: str, **given: Any) -> list[str | None]:
    return [each.key for each in face.settle(kit.search(query, **given)).conversations]


def _index(database: str) -> list[int]:
    """Return the seqs of the rows of the search index."""
    engine = open_engine(parse_database_url(database))
    with engine.connect() as connection:
        found = list(connection.execute(text("SELECT seq FROM convokit_search ORDER BY seq")).scalars())
    engine.dispose()
    return found


QUERIES: dict[str, set[str]] = {
    "東京": {"a-1", "b_1"}, "東": {"a-1", "b_1"}, "東京 京都": {"b_1"}, "京東": set(),
    "ｶﾌｪ": set(), "CAFE": {"a-2"}, "caf": set(), '"the red"': {"b-2"}, '"red the"': set(),
    "a-": {"a-1", "a-2"}, "b_": {"b_1"}, "c": {"c"}, "A-1": set(), "b%": set(), "title": set(),
}  # fmt: skip


def test_keys_and_titles(face: Face, titled: Any) -> None:
    """A key is compared as it is; a title is folded, and two Japanese characters are enough."""
    assert {query: set(_keys(face, titled, query)) for query in QUERIES} == QUERIES


def test_hits_are_messages_only(face: Face, titled: Any) -> None:
    """No title is a hit, in a search of the tenant or of a conversation; counts and pages stay those of messages."""
    page = face.settle(titled.search("東京", limit=2))
    rest = face.settle(titled.search("東京", limit=50, before=page.next))
    assert sorted(hit.key for hit in [*page, *rest]) == sorted(TITLES)
    assert {hit.message.seq for hit in [*page, *rest]} == {1}
    assert ({each.key for each in page.conversations}, rest.conversations) == ({"a-1", "b_1"}, [])
    only = face.settle(titled.search("東京", key="a-1"))
    assert ([hit.key for hit in only], only.conversations) == (["a-1"], [])
    assert face.settle(titled.search("strasbourg", role="assistant")).conversations == []
    assert len(face.settle(titled.search("strasbourg"))) == 0


def test_ids(face: Face, titled: Any) -> None:
    """A conversation's id, and the id of one of its messages; another tenant's finds nothing."""
    chat = titled.chat("c")
    face.settle(chat.messages())
    for query in (str(chat.id), f" {chat.id}:1 ", str(chat.id).upper()):
        (found,) = face.settle(titled.search(query)).conversations
        assert (found.key, found.preview.text) == ("c", "東京 hello")
        assert _keys(face, titled.tenant("other"), query) == []
    for odd in ("東京\x00", "\ud800東京", "\U0010ffff 東京"):
        face.settle(titled.search(odd))


def test_filters_hold_for_conversations(face: Face, titled: Any) -> None:
    now = datetime.now(UTC)
    assert _keys(face, titled, "東京", subject="花子") == ["a-1"]
    assert _keys(face, titled, "b", subject="花子") == []
    assert _keys(face, titled, "東京", until=now - timedelta(hours=1)) == []
    assert set(_keys(face, titled, "東京", since=now - timedelta(hours=1))) == {"a-1", "b_1"}
    face.settle(titled.chat("b_1").update(metadata={"x": 1}))
    assert _keys(face, titled, "東京", metadata={"x": 1}) == ["b_1"]
    assert _keys(face, titled, "a", metadata={"x": 1}) == []


def test_the_order_and_the_number(face: Face, kit: Any) -> None:
    """First the keys in order, then the titles; a conversation once; at most 20."""
    for number in range(30):
        face.settle(kit.chat(f"n{number:02}", title="word").append([HELLO]))
    face.settle(kit.chat("word", title="word").append([HELLO]))
    found = _keys(face, kit, "word")
    assert (found[0], len(found), len(set(found))) == ("word", 20, 20)
    assert _keys(face, kit, "n") == [f"n{number:02}" for number in range(20)]


def test_a_title_is_indexed_wherever_it_is_written(face: Face, kit: Any, database: str) -> None:
    """By the turn that creates the conversation, by a later turn, an append, an update, an import and a restore."""
    face.settle(kit.chat("new", title="旅行 一").send("hi"))
    face.settle(kit.chat("later").send("hi"))
    face.settle(kit.chat("later", title="旅行 二").send("hi"))
    face.settle(kit.chat("appended").append([HELLO]))
    face.settle(kit.chat("appended", title="旅行 三").append([HELLO]))
    face.settle(kit.chat("updated").append([HELLO]))
    face.settle(kit.chat("updated").update(title="旅行 四"))
    file = io.StringIO()
    face.settle(kit.export(file))
    other = kit.tenant("other")
    face.settle(other.import_(io.StringIO(file.getvalue()), trusted=True))
    for each in (kit, other):
        assert set(_keys(face, each, "旅行")) == {"new", "later", "appended", "updated"}
    face.settle(kit.chat("new", title="other").send("hi"))
    assert _keys(face, kit, "other") == []
    face.settle(kit.chat("new").update(title="別の題"))
    assert (_keys(face, kit, "旅行 一"), _keys(face, kit, "別の題")) == ([], ["new"])
    for key in ("new", "later", "appended", "updated"):
        face.settle(kit.chat(key).update(title=None))
        face.settle(other.chat(key).erase())
    assert 0 not in _index(database)
    for each in (kit, other):
        assert _keys(face, each, "旅行") == _keys(face, each, "別の題") == []
    face.settle(other.chat("new").update(title="旅行 五"))
    assert _keys(face, other, "旅行") == ["new"]
    face.settle(kit.verify())


def test_reindex_adds_titles(face: Face, database: str, server: LoopbackServer, kit: Any) -> None:
    """Titles that a kit without an index wrote, or code before revision 0005, are added once."""
    bare = face.kit(database, model="m", base_url=server.url, search=False)
    face.settle(bare.chat("bare", title="題名").append([HELLO]))
    face.settle(kit.chat("known", title="題名").append([HELLO]))
    assert _keys(face, kit, "題名") == ["known"]
    assert face.settle(kit.reindex()) == 2
    assert set(_keys(face, kit, "題名")) == {"known", "bare"}
    assert face.settle(kit.reindex()) == 0
    face.settle(bare.chat("bare").update(title="改題"))
    assert _keys(face, kit, "題名") == ["known"]
    assert face.settle(kit.reindex()) == 1
    assert _keys(face, kit, "改題") == ["bare"]


def test_a_search_takes_six_statements(face: Face, titled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With titles and keys that match, and where PostgreSQL is asked how far back to look."""
    monkeypatch.setattr(postgresql_search, "SORT_AT_ONCE", -2)
    for query in ("東京", "a-", "hello"):
        _keys(face, titled, query)  # PostgreSQL is asked for the size of the index once a minute
        with count_statements() as statements:
            _keys(face, titled, query)
        assert len(statements) <= 6, statements
