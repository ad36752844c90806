"""Read, list and update conversations."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import Engine, event

from convokit import Conversation, Limits, NewMessage
from convokit.errors import InvalidInput, NotFound, StoreUnavailable, TooLarge
from convokit.history import conversation_flows
from convokit.store import conversations
from convokit.store.conversation_pages import find_prefix_end
from tests.history.helpers import change, rows
from tests.support.faces import Face
from tests.support.server import LoopbackServer

HELLO = NewMessage("assistant", "Hello")


def _append(face: Face, kit: Any, key: str, **given: Any) -> Any:
    chat = kit.chat(key, **given)
    face.settle(chat.append([HELLO]))
    return chat


def _keys(face: Face, kit: Any, **given: Any) -> list[str | None]:
    return [each.key for each in face.settle(kit.conversations(**given))]


def _count(work: Callable[[], object]) -> int:
    """Return the number of statements that `work` executes, without BEGIN and COMMIT."""
    seen: list[str] = []

    def take(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.split(maxsplit=1)[0] in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"):
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", take)
    try:
        work()
    finally:
        event.remove(Engine, "before_cursor_execute", take)
    return len(seen)


def test_a_turn_and_an_append_fill_what_is_empty(face: Face, kit: Any) -> None:
    """Title, subject and metadata that are there stay; an empty mapping is no metadata."""
    _append(face, kit, "k", metadata={})
    face.settle(kit.chat("k", title="旅", metadata={"a": 1}).append([HELLO]))
    face.settle(kit.chat("k", title="other", subject="花子", metadata={"b": 2}).send("hi"))
    face.settle(kit.chat("k", title="third", subject="花子", metadata={"c": 3}).append([HELLO]))
    found = face.settle(kit.conversation("k"))
    assert (found.title, found.subject, found.metadata) == ("旅", "花子", {"a": 1})
    face.settle(kit.chat("k", model="m-2").send("hi"))
    assert face.settle(kit.conversation("k")).settings == {"model": "m-2"}


REFUSED: dict[str, Callable[[Any], Any]] = {
    "send": lambda chat: chat.send("again"),
    "repeat": lambda chat: chat.send("hi", idempotency_key="first"),
    "append": lambda chat: chat.append([HELLO]),
    "edit": lambda chat: chat.edit(1, "again"),
    "regenerate": lambda chat: chat.regenerate(),
    "resume": lambda chat: chat.resume(),
    "fork": lambda chat: chat.fork(after=1),
    "checkout": lambda chat: chat.checkout(1),
    "copy": lambda chat: chat.copy("new"),
    "pin": lambda chat: chat.pin(1),
    "redact": lambda chat: chat.redact(1),
    "erase": lambda chat: chat.erase(),
}


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("method", REFUSED)
def test_another_subject_is_refused_before_anything_is_written(
    face: Face, kit: Any, server: LoopbackServer, method: str
) -> None:
    face.settle(kit.chat("k", subject="花子").send("hi", idempotency_key="first"))
    before = face.settle(kit.conversation("k"))
    with pytest.raises(InvalidInput, match=r"is 'taro', but conversation k belongs to '花子'.*chat.update"):
        face.settle(REFUSED[method](kit.chat("k", subject="taro", title="x")))
    assert face.settle(kit.conversations()).items == [before]
    assert len(face.settle(kit.chat("k").branches())) == 1
    assert len(server.requests) == 1


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("what", ["key", "subject"])
def test_a_key_or_subject_that_no_index_takes_is_named(face: Face, database: str, backend: str, what: str) -> None:
    """PostgreSQL takes 2,704 bytes. A higher `Limits.key_chars` does not change that."""
    chance = random.Random(0)
    long = "".join(
        chr(chance.randint(0x4E00, 0x9FFF)) for _ in range(1500)
    )  # PostgreSQL would compress a repeated text
    kit = face.kit(database, model="m", limits=Limits(key_chars=4000))
    chat = kit.chat(long) if what == "key" else kit.chat("k", subject=long)
    if backend == "postgresql":
        with pytest.raises(StoreUnavailable, match="too long for an index"):
            face.settle(chat.append([HELLO]))
        assert face.settle(kit.conversations()).items == []
    else:
        face.settle(chat.append([HELLO]))


@pytest.mark.once
@pytest.mark.parametrize("zone", [timedelta(hours=-14), timedelta(hours=14)])
def test_the_ends_of_the_calendar_in_every_zone(face: Face, kit: Any, zone: timedelta) -> None:
    """Their times in UTC are before the year 1 and after the year 9999, which no datetime can express."""
    _append(face, kit, "k")
    first, last = (each.replace(tzinfo=timezone(zone)) for each in (datetime.min, datetime.max))
    assert _keys(face, kit, since=first, until=last) == ["k"]
    assert len(face.settle(kit.search("hello", since=first, until=last)).conversations) == 0
    with pytest.raises(InvalidInput, match="no time in UTC"):
        face.settle(kit.usage(since=first if zone > timedelta() else last))


def test_a_description_that_another_process_wrote_meanwhile_stays(
    face: Face, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that has read no title does not overwrite the title that was given before it writes."""
    chat = kit.chat("k")
    face.settle(chat.send("hi"))
    identity = face.settle(kit.conversation("k")).id
    original = conversations.fill_description

    def rename_first(connection: Any, row: Any) -> None:
        changed = conversations.find(connection, "default", identity)
        assert changed is not None
        changed.title = "first"
        conversations.update_description(connection, changed)
        original(connection, row)

    monkeypatch.setattr(conversations, "fill_description", rename_first)
    face.settle(kit.chat("k", title="second").send("hi"))
    monkeypatch.undo()
    assert face.settle(kit.conversation("k")).title == "first"
    page = face.settle(kit.search("first"))
    assert [each.key for each in page.conversations] == ["k"]


def test_update_changes_what_is_given(face: Face, kit: Any, database: str) -> None:
    """Unset keeps, None clears, a mapping is merged; neither `updated_at` nor the chain changes."""
    chat = _append(face, kit, "k", title="旅", subject="花子", metadata={"a": 1, "n": None})
    before = face.settle(kit.conversation("k"))
    assert face.settle(chat.update()) == before
    changed = face.settle(chat.update(title="京都への旅", metadata={"b": [2], "a": None}))
    assert (changed.title, changed.subject, changed.metadata) == ("京都への旅", "花子", {"n": None, "b": [2]})
    assert face.settle(kit.conversation("k")) == changed
    cleared = face.settle(chat.update(title=None, subject=None, metadata=None))
    assert (cleared.title, cleared.subject, cleared.metadata) == (None, None, {})
    assert rows(database, "SELECT metadata FROM convokit_conversation") == [(None,)]
    assert (cleared.updated_at, cleared.last_entry) == (before.updated_at, before.last_entry)
    assert face.settle(chat.update(metadata={"x": 1})).metadata == {"x": 1}
    assert face.settle(chat.update(metadata={"x": None})).metadata == {}
    face.settle(chat.verify())


def test_update_archives_until_the_next_turn(face: Face, kit: Any) -> None:
    """A second `archived=True` keeps the time; a turn and an append end the archiving, the end of a turn does not."""
    chat = _append(face, kit, "k")
    first = face.settle(chat.update(archived=True))
    assert first.archived_at is not None
    assert face.settle(chat.update(archived=True, title="t")).archived_at == first.archived_at
    assert face.settle(chat.update(archived=False)).archived_at is None
    writes: list[Callable[[], Any]] = [
        lambda: chat.send("hi"),
        lambda: chat.append([HELLO]),
        lambda: kit.chat("k", model="m").send("hi"),
    ]
    for write in writes:
        face.settle(chat.update(archived=True))
        face.settle(write())
        assert face.settle(kit.conversation("k")).archived_at is None
    face.settle(chat.update(archived=True))
    assert face.settle(chat.update(archived=None)).archived_at is None


def test_a_conversation_can_be_archived_while_a_turn_runs(face: Face, kit: Any) -> None:
    """The reply that ends the turn leaves it archived."""
    chat = kit.chat("k")
    other = kit.chat("k")

    async def send_and_archive() -> None:
        async with chat.stream("one two") as events:
            async for _ in events:
                await other.update(archived=True)

    if face.name == "async":
        face.loop.run_until_complete(send_and_archive())
    else:
        with chat.stream("one two") as events:
            for _ in events:
                other.update(archived=True)
    found = face.settle(kit.conversation("k"))
    assert found.archived_at is not None
    assert (found.preview.role, found.open) == ("assistant", False)


@pytest.mark.once
@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"title": ""}, "title: is empty: pass None"),
        ({"title": 7}, "title: must be text"),
        ({"title": "x" * 11}, "title"),
        ({"subject": "a\x00"}, "NUL"),
        ({"metadata": [1]}, "metadata: must be a mapping or None, not list"),
        ({"metadata": {"a": float("nan")}}, "metadata.a"),
        ({"metadata": {"a": "x" * 100}}, "metadata"),
        ({"archived": "yes"}, "archived: must be True, False or None, not 'yes'"),
    ],
)
def test_update_refuses_bad_input(
    face: Face, database: str, server: LoopbackServer, given: dict[str, Any], problem: str
) -> None:
    """Nothing is written, not even the good part."""
    limits = Limits(key_chars=10, metadata_bytes=100)
    kit = face.kit(database, model="m", base_url=server.url, limits=limits)
    chat = _append(face, kit, "k", title="old", metadata={"b": 1})
    with pytest.raises((InvalidInput, TooLarge), match=problem):
        face.settle(chat.update(**{"title": "new", **given}))
    assert face.settle(kit.conversation("k")).title == "old"


def test_update_of_a_conversation_that_does_not_exist(face: Face, kit: Any) -> None:
    with pytest.raises(NotFound, match="conversation nothing"):
        face.settle(kit.chat("nothing").update(title="x"))
    assert face.settle(kit.conversation("nothing")) is None
    assert len(face.settle(kit.conversations())) == 0


def test_update_is_repeated_after_a_lost_acknowledgement(face: Face, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt is committed and its answer is lost: the second one writes the same."""
    chat = _append(face, kit, "k", metadata={"a": 1})
    original, lost = conversation_flows._write_update, [True]

    def write_and_lose(*arguments: Any) -> Any:
        found = original(*arguments)
        if lost and lost.pop():
            arguments[0].commit()
            raise StoreUnavailable("database", "the connection was lost", transient=True)
        return found

    monkeypatch.setattr(conversation_flows, "_write_update", write_and_lose)
    found = face.settle(chat.update(title="京都", metadata={"a": None, "b": 2}, archived=True))
    assert not lost
    assert (found.title, found.metadata, found.archived_at is None) == ("京都", {"b": 2}, False)
    assert [each.key for each in face.settle(kit.search("京都")).conversations] == ["k"]
    face.settle(chat.update(title=None))
    assert face.settle(kit.search("京都")).conversations == []


def test_an_erased_conversation_can_be_named(face: Face, kit: Any) -> None:
    """The new title is a text: another erasure removes it, and `purge` waits for that."""
    chat = _append(face, kit, "k", subject="花子")
    face.settle(chat.erase(author="taro"))
    found = face.settle(chat.update(title="秘密の題", subject="花子"))
    assert (found.title, found.erased_by, found.preview) == ("秘密の題", "taro", None)
    assert face.settle(kit.purge()).conversations == 0
    assert face.settle(kit.erase(subject="花子")).conversations == 1
    found = face.settle(kit.conversation("k"))
    assert (found.title, found.subject) == (None, None)
    assert face.settle(kit.search("秘密")).conversations == []
    face.settle(chat.verify())
    assert face.settle(kit.purge()).conversations == 1


def test_a_conversation_is_read_by_key_and_by_id(face: Face, kit: Any) -> None:
    """One read returns what listings return, in two statements."""
    chat = kit.chat("k", title="旅", model="m-2", temperature=0.5, developer_prompt="短く。")
    reply = face.settle(chat.send("こんにちは" * 100))
    face.settle(chat.pin(1))
    found = face.settle(kit.conversation("k"))
    assert (found.head, found.last_seq, found.last_entry) == (f"{chat.id}:2", 2, 3)
    assert found.pins == [f"{chat.id}:1"]
    assert found.settings == {"model": "m-2", "developer_prompt": "短く。", "params": {"temperature": 0.5}}
    assert (found.preview.id, found.preview.role, found.preview.status) == (f"{chat.id}:2", "assistant", "complete")
    assert found.preview.text == reply.text[:200] + "…"
    assert found == face.settle(kit.conversation(id=chat.id)) == face.settle(kit.conversations())[0]
    assert isinstance(found, Conversation)
    face.settle(chat.checkout(0))
    found = face.settle(kit.conversation("k"))
    assert (found.head, found.preview, found.last_seq) == (None, None, 2)
    for bad in ({}, {"key": "k", "id": chat.id}):
        with pytest.raises(InvalidInput, match="key"):
            face.settle(kit.conversation(**bad))


def test_previews_of_messages_without_plain_text(face: Face, kit: Any) -> None:
    """Text of long content parts is found although they are cut; calls of tools and redacted messages have none."""
    long = '引用 "text": \\ ' * 60
    parts = [{"type": "text", "text": "まず "}, {"type": "text", "text": long * 30}]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    face.settle(kit.chat("parts").append([{"role": "user", "content": parts}]))
    face.settle(kit.chat("call").append([{"role": "assistant", "tool_calls": [call]}]))
    gone = _append(face, kit, "gone")
    face.settle(gone.redact(1))
    found = {each.key: each.preview for each in face.settle(kit.conversations())}
    assert found["parts"].text == f"まず {long}"[:200] + "…"
    assert (found["call"].role, found["call"].text) == ("assistant", "")
    assert (found["gone"].status, found["gone"].text) == ("redacted", "")


@pytest.mark.once
def test_listings_take_a_fixed_number_of_statements(face: Face, kit: Any) -> None:
    """Previews and open turns cost no query for each row."""
    counts = []
    for number in range(6):
        _append(face, kit, f"k{number}")
        counts.append(_count(lambda: face.settle(kit.conversations())))
    assert set(counts) == {1}
    assert _count(lambda: face.settle(kit.conversation("k1"))) == 1


@pytest.mark.once
def test_a_turn_that_fills_nothing_takes_no_further_statement(face: Face, kit: Any) -> None:
    """A title that is given with every turn costs one statement, in the turn that stores it."""
    face.settle(kit.chat("plain").send("hi"))
    face.settle(kit.chat("k", title="旅").send("hi"))
    plain = _count(lambda: face.settle(kit.chat("plain").send("hi")))
    face.settle(kit.chat("k").update(archived=True))
    assert _count(lambda: face.settle(kit.chat("k", title="旅", subject=None).send("hi"))) == plain


def test_filters_select_conversations(face: Face, kit: Any, database: str) -> None:
    """By archive mark, open turn, subject and time of the last use, alone and together."""
    for key in ("a", "b", "c"):
        _append(face, kit, key, subject="花子" if key != "c" else "太郎")
    face.settle(kit.chat("b").update(archived=True))
    assert _keys(face, kit) == ["c", "b", "a"]
    assert _keys(face, kit, archived=True) == ["b"]
    assert _keys(face, kit, archived=False) == ["c", "a"]
    assert _keys(face, kit, archived=False, subject="花子") == ["a"]
    middle = face.settle(kit.conversation("b")).updated_at
    assert _keys(face, kit, since=middle) == ["c", "b"]
    assert _keys(face, kit, until=middle) == ["a"]
    assert _keys(face, kit, since=middle, until=middle + timedelta(microseconds=1), subject="花子") == ["b"]
    assert _keys(face, kit, open=True) == []
    with_turn = face.settle(kit.conversation("a"))
    face.settle(kit.chat("a").send("hi"))
    change(database, "UPDATE convokit_turn SET claim = 0, state = 'running'")
    assert (face.settle(kit.conversation("a")).open, with_turn.open) == (True, False)
    assert _keys(face, kit, open=True) == ["a"]
    assert _keys(face, kit, open=True, prefix="b") == []
    assert _keys(face, kit, open=False) == ["c", "b"]
    assert _keys(face, kit.tenant("other"), open=True) == []


LITERAL = [
    "user_1",
    "user%1",
    "userx1",
    "User_1",
    "東京_1",
    "東京_2",
    "東亭",
    "京都",
    "\U0010ffff",
    "\U0010ffffx",
    "퟿x",
]


def test_a_prefix_lists_by_key(face: Face, kit: Any) -> None:
    """Characters are compared by their code points, and none has a special meaning."""
    for key in LITERAL:
        _append(face, kit, key)
    for prefix in ("user_", "user%", "user", "東京", "東", "京", "\U0010ffff", "\ud7ff", "x"):
        assert _keys(face, kit, prefix=prefix) == sorted(key for key in LITERAL if key.startswith(prefix))
    face.settle(kit.chat("東京_1").update(archived=True))
    assert _keys(face, kit, prefix="東京", archived=True) == ["東京_1"]
    first = face.settle(kit.conversations(prefix="user", limit=2))
    assert [each.key for each in first] == ["user%1", "user_1"]
    assert _keys(face, kit, prefix="user", limit=2, before=first.next) == ["userx1"]


def test_prefix_ends_skip_surrogates() -> None:
    assert find_prefix_end("a\U0010ffff") == "b"
    assert find_prefix_end("\ud7ff") == "\ue000"
    assert find_prefix_end("\U0010ffff") is None


@pytest.mark.once
def test_a_cursor_serves_its_own_listing_only(face: Face, kit: Any) -> None:
    """A page's `next` with other filters is refused, also one that was tampered with."""
    for key in ("a1", "a2", "a3"):
        _append(face, kit, key, subject="s")
    page = face.settle(kit.conversations(limit=1))
    by_key = face.settle(kit.conversations(limit=1, prefix="a"))
    assert _keys(face, kit, limit=1, before=page.next) == ["a2"]
    now = datetime.now(UTC)
    others: list[dict[str, Any]] = [
        {"subject": "s"}, {"prefix": "a"}, {"archived": False}, {"open": False}, {"since": now}, {"until": now},
    ]  # fmt: skip
    for given in others:
        with pytest.raises(InvalidInput, match="not a cursor of this listing"):
            face.settle(kit.conversations(before=page.next, **given))
    for bad in (by_key.next, "", "x", "MTIz", 7, page.next[:-8]):
        with pytest.raises(InvalidInput, match="before"):
            face.settle(kit.conversations(before=bad))


@pytest.mark.once
@pytest.mark.parametrize(
    "given",
    [
        {"prefix": ""}, {"prefix": 7}, {"prefix": "\x00"}, {"archived": 1}, {"open": "yes"}, {"since": "today"},
        {"until": datetime(2026, 1, 1)}, {"limit": 0}, {"subject": "x" * 10_000},
    ],
)  # fmt: skip
def test_bad_filters_are_refused(face: Face, kit: Any, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(given))):
        face.settle(kit.conversations(**given))


@pytest.mark.once
def test_a_page_is_used_like_a_list(face: Face, kit: Any) -> None:
    assert not face.settle(kit.conversations())
    for key in ("a", "b", "c"):
        _append(face, kit, key)
    page = face.settle(kit.conversations())
    assert (page[0].key, page[-1].key, len(page), bool(page)) == ("c", "a", 3, True)
    assert [each.key for each in page[1:]] == ["b", "a"]
    assert page[1] in page
    assert "b" not in page
    with pytest.raises(IndexError):
        page[3]


@pytest.mark.once
def test_exports_keep_the_archive_mark_and_copies_do_not(face: Face, kit: Any) -> None:
    """Both keep the title. A copy is a new conversation, so it is not archived."""
    chat = _append(face, kit, "k", title="旅")
    archived_at = face.settle(chat.update(archived=True)).archived_at
    face.settle(chat.copy("copy"))
    file = io.StringIO()
    face.settle(kit.export(file, key="k"))
    other = kit.tenant("other")
    face.settle(other.import_(io.StringIO(file.getvalue()), trusted=True))
    for each, key, expected in ((kit, "copy", None), (other, "k", archived_at)):
        found = face.settle(each.conversation(key))
        assert (found.title, found.archived_at) == ("旅", expected)
    assert {each.key for each in face.settle(kit.search("旅")).conversations} == {"k", "copy"}
