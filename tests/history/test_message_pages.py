"""Pages of a path: before, after and around a message, whole paths, and where they part."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, event

from convokit import Message, NewMessage
from convokit.domain.message import MessageRow
from convokit.errors import InvalidInput, ModelError, NotFound, Redacted
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.history.helpers import change, seqs
from tests.support.faces import Face
from tests.support.large_databases import grow
from tests.support.selection import Effort, keep
from tests.support.server import LoopbackServer, failure

LISTINGS = ("messages", "log", "leaves", "branches", "turns", "children", "open_calls", "entries", "summaries")


def _line(face: Face, chat: Any, count: int) -> list[Any]:
    roles = ("user", "assistant")
    written = [{"role": roles[number % 2], "content": f"{number}件目"} for number in range(count)]
    found: list[Any] = face.settle(chat.append(written))
    return found


def test_pages_start_at_any_message_of_the_path(face: Face, kit: Any) -> None:
    """`before` and `after` exclude the message, `around` contains it; a message, its id and its seq mean the same."""
    chat = kit.chat("k")
    written = _line(face, chat, 9)
    assert seqs(face.settle(chat.messages(limit=None))) == list(range(1, 10))
    assert seqs(face.settle(chat.messages(limit=None, before=4))) == [1, 2, 3]
    assert seqs(face.settle(chat.messages(limit=None, after=7))) == [8, 9]
    assert seqs(face.settle(chat.messages(limit=None, around=5))) == list(range(1, 10))
    for given in (4, written[3], written[3].id):
        assert seqs(face.settle(chat.messages(limit=2, before=given))) == [2, 3]
        assert seqs(face.settle(chat.messages(limit=2, after=given))) == [5, 6]
        assert seqs(face.settle(chat.messages(limit=4, around=given))) == [2, 3, 4, 5]
    assert seqs(face.settle(chat.messages(limit=3, after=0))) == [1, 2, 3]
    assert face.settle(chat.messages(after=9)) == []
    assert face.settle(chat.messages(before=0)) == []
    assert seqs(face.settle(chat.messages(limit=1, around=5))) == [5]
    assert seqs(face.settle(chat.messages(limit=6, around=1))) == [1, 2, 3, 4, 5, 6]
    assert seqs(face.settle(chat.messages(limit=6, around=9))) == [6, 7, 8, 9]


def test_a_message_of_another_branch(face: Face, kit: Any) -> None:
    """`after` names it and what to do; `around` reads the path through it to the newest leaf behind it."""
    chat = kit.chat("k")
    _line(face, chat, 4)
    fork = face.settle(chat.fork(2))
    face.settle(fork.append([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]))
    face.settle(chat.append([{"role": "user", "content": "c"}]))
    face.settle(chat.append([{"role": "user", "content": "d"}], after=5))
    face.settle(chat.checkout(7))
    assert seqs(face.settle(chat.messages())) == [1, 2, 3, 4, 7]
    with pytest.raises(InvalidInput, match="message 5 is not on this branch; around=5"):
        face.settle(chat.messages(after=5))
    assert seqs(face.settle(chat.messages(around=5))) == [1, 2, 5, 8]
    assert seqs(face.settle(chat.messages(limit=None, around=6))) == [1, 2, 5, 6]
    assert seqs(face.settle(chat.messages(around=2))) == [1, 2, 3, 4, 7]
    assert seqs(face.settle(fork.messages(around=4))) == [1, 2, 3, 4, 7]
    assert seqs(face.settle(fork.messages(after=2))) == [5, 6]
    assert seqs(face.settle(chat.messages(before=6))) == [1, 2, 5]


@pytest.mark.once
def test_bad_places(face: Face, kit: Any) -> None:
    """A message that does not exist is NotFound; two places at once are refused."""
    chat = kit.chat("k")
    _line(face, chat, 2)
    for name in ("before", "after", "around"):
        with pytest.raises(NotFound, match="no message 9"):
            face.settle(chat.messages(**{name: 9}))
        with pytest.raises(InvalidInput):
            face.settle(chat.messages(**{name: "nonsense"}))
        with pytest.raises(NotFound, match="never"):
            face.settle(kit.chat("never").messages(**{name: 1}))
    with pytest.raises(InvalidInput, match="only one of before, after and around"):
        face.settle(chat.messages(after=1, around=1))
    assert face.settle(kit.chat("never").messages(after=0, limit=None)) == []


def test_listings_of_an_unused_key_are_empty(face: Face, kit: Any, database: str) -> None:
    """Every listing is empty, also of a chat without a key, and nothing is written. An id or a branch must exist."""
    for chat in (kit.chat("never"), kit.chat()):
        assert {name: face.settle(getattr(chat, name)()) for name in LISTINGS} == {name: [] for name in LISTINGS}
    missing = "0191f0a0-0000-7000-8000-000000000000"
    for chat in (kit.chat(id=missing), kit.chat("never", branch=3), kit.chat("never", branch="name")):
        for name in LISTINGS:
            with pytest.raises(NotFound):
                face.settle(getattr(chat, name)())
    assert not list(face.settle(kit.conversations()))


def test_parts_at_names_the_message_that_versions_follow(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Questions part across their passages, replies at their question, first questions at 0."""
    chat = kit.chat("k")
    face.settle(chat.send("一", passages=["資料", "別"]))
    face.settle(chat.send("二", passages=["資料"]))
    assert [each.parts_at for each in face.settle(chat.messages(passages=True))] == [None] * 7
    face.settle(chat.regenerate())
    face.settle(chat.edit(6, "弐", passages=["a", "b"]))
    face.settle(chat.edit(3, "壱"))
    first, second = face.settle(chat.leaves())[0], face.settle(chat.messages(around=6))
    assert [each.parts_at for each in face.settle(chat.messages())] == [0, None]
    assert {each.seq: each.parts_at for each in second} == {3: 0, 4: None, 6: 4, 8: 6}
    shown = face.settle(chat.messages(around=6, passages=True))
    assert {each.seq: each.parts_at for each in shown if each.parts_at is not None} == {3: 0, 6: 4, 8: 6}
    for page in (second, face.settle(chat.messages(around=first))):
        for each in page:
            if each.parts_at is not None:
                versions = face.settle(chat.children(each.parts_at))
                assert len(versions) > 1
                assert each.seq in seqs(versions)
    assert face.settle(chat.messages(limit=1, around=6))[0].parts_at == 4
    face.settle(chat.checkout(8))
    assert {each.seq: each.parts_at for each in face.settle(chat.messages(limit=2))} == {6: 4, 8: 6}
    assert face.settle(chat.messages(limit=1))[0].parts_at == 6
    face.settle(chat.erase())
    again = face.settle(chat.messages(around=8))
    assert {each.seq: each.parts_at for each in again} == {3: 0, 4: None, 6: 4, 8: 6}


def test_summaries_and_notes_do_not_part_a_path(face: Face, kit: Any, database: str) -> None:
    """A summary follows a message and is no version of the next one, before and after it is redacted."""
    chat = kit.chat("k")
    _line(face, chat, 4)
    fork = face.settle(chat.fork(2))
    face.settle(fork.append([{"role": "user", "content": "behind 2"}]))
    assert face.settle(chat.messages())[2].parts_at == 2
    change(database, "UPDATE convokit_message SET status = 'summary' WHERE seq = 5")
    assert face.settle(chat.messages())[2].parts_at is None
    change(database, "UPDATE convokit_message SET status = 'redacted', tokens = 0 WHERE seq = 5")
    assert face.settle(chat.messages())[2].parts_at is None


@pytest.mark.parametrize("seed", keep(list(range(6)), 0, sample=True))
def test_pages_agree_with_the_tree(face: Face, kit: Any, seed: int) -> None:
    """Of random trees, every page of every message is the part of a path that the parents tell."""
    chance = random.Random(seed)
    chat = kit.chat("k")
    parents = {1: 0}
    face.settle(chat.append([{"role": "user", "content": "1"}]))
    while len(parents) < 40:
        after, last = chance.choice([0, len(parents), chance.randint(1, len(parents))]), len(parents)
        many = chance.randint(1, 3)
        face.settle(chat.append([{"role": "user", "content": "m"}] * many, after=after))
        parents |= {last + number: after if number == 1 else last + number - 1 for number in range(1, many + 1)}

    def path_to(seq: int) -> list[int]:
        return [*path_to(parents[seq]), seq] if seq else []

    def parts(seq: int) -> int | None:
        return parents[seq] if list(parents.values()).count(parents[seq]) > 1 else None

    def check(found: list[Message], expected: list[int]) -> None:
        assert seqs(found) == expected
        assert [each.parts_at for each in found] == [parts(seq) for seq in expected]

    main = path_to(face.settle(chat.messages(limit=1))[0].seq)
    check(face.settle(chat.messages(limit=None)), main)
    for seq in parents:
        limit = chance.choice([1, 2, 5, 9])
        check(face.settle(chat.messages(limit=limit, before=seq)), path_to(seq)[:-1][-limit:])
        if seq in main:
            check(face.settle(chat.messages(limit=limit, after=seq)), main[main.index(seq) + 1 :][:limit])
        leaf = max(each for each in parents if seq in path_to(each))
        path = main if seq in main else path_to(leaf)
        check(face.settle(chat.messages(limit=None, around=seq)), path)
        at = path.index(seq)
        start = max(at - limit // 2, 0)
        check(face.settle(chat.messages(limit=limit, around=seq)), path[start : start + limit])


@pytest.mark.parametrize("seed", keep(list(range(6)), 0, sample=True))
def test_pages_of_mixed_messages_agree_with_the_rows(face: Face, kit: Any, server: LoopbackServer, seed: int) -> None:
    """Of random turns with passages, failures, notes, branches and redactions, pages are parts of the stored paths."""
    chance = random.Random(seed)
    chats = [kit.chat("k")]
    face.settle(chats[0].append([{"role": "user", "content": "1"}]))
    for _ in range(22):
        chat, stored = chance.choice(chats), face.settle(chats[0].log(limit=1000))
        kind = chance.choice(["send", "fail", "regenerate", "edit", "fork", "redact", "note", "checkout"])
        passages = ["p"] * chance.choice([0, 0, 1, 2])
        with contextlib.suppress(InvalidInput, ModelError, NotFound, Redacted):  # not each message is a place for each
            if kind == "fail":
                server.script(failure(400))
            if kind in ("send", "fail"):
                face.settle(chat.send("q", passages=passages))
            elif kind == "regenerate":
                face.settle(chat.regenerate(chance.choice(stored)))
            elif kind == "edit":
                face.settle(chat.edit(chance.choice(stored), "e", passages=passages))
            elif kind == "fork" and len(chats) < 3:
                chats.append(face.settle(chat.fork(chance.choice([0, chance.choice(stored)]))))
            elif kind == "redact":
                face.settle(chat.redact(chance.choice(stored)))
            elif kind == "note":
                face.settle(chat.append([NewMessage("system", "note", kind="notes/1")]))
            elif kind == "checkout":
                face.settle(chat.checkout(chance.choice(stored)))
    parents = {each.seq: each.parent_seq for each in face.settle(chats[0].log(limit=1000))}

    def path_to(seq: int | None) -> list[int]:
        return [*path_to(parents[seq]), seq] if seq else []

    for chat in chats:
        whole = seqs(face.settle(chat.messages(limit=None, passages=True)))
        assert whole == path_to(whole[-1] if whole else None)
        shown = face.settle(chat.messages(limit=None))
        listed, at = seqs(shown), 0
        assert set(listed) <= set(whole)
        for message in shown:
            versions = seqs(face.settle(chat.children(at, limit=1000)))
            assert message.seq in versions
            assert message.parts_at == (at if len(versions) > 1 else None)
            # The first message of a version is a passage of its question, or the message itself.
            assert len(message.version_seqs) == (len(versions) if len(versions) > 1 else 0)
            firsts = zip(message.version_seqs, versions, strict=False)
            assert all(first <= seq and (parents[first] or 0) == at for first, seq in firsts)
            at = message.seq
        for place, seq in enumerate(listed):
            limit = chance.choice([1, 2, 5])
            assert seqs(face.settle(chat.messages(limit=limit, before=seq))) == listed[:place][-limit:]
            assert seqs(face.settle(chat.messages(limit=limit, after=seq))) == listed[place + 1 :][:limit]
            start = max(place - limit // 2, 0)
            assert seqs(face.settle(chat.messages(limit=limit, around=seq))) == listed[start : start + limit]


def _count(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> tuple[int, int]:
    """Return how many rows of messages `work` makes, and how many statements it executes."""
    counts = [0, 0]
    original = MessageRow.__init__

    def counting(self: MessageRow, *args: Any, **kwargs: Any) -> None:
        counts[0] += 1
        original(self, *args, **kwargs)

    def heard(*given: Any) -> None:
        counts[1] += not given[2].startswith("BEGIN")

    event.listen(Engine, "before_cursor_execute", heard)
    with monkeypatch.context() as patched:
        patched.setattr(MessageRow, "__init__", counting)
        work()
    event.remove(Engine, "before_cursor_execute", heard)
    return counts[0], counts[1]


@pytest.mark.parametrize("run", [None, 7])
def test_the_cost_of_a_page_does_not_depend_on_the_length(
    face: Face, kit: Any, database: str, run: int | None, monkeypatch: pytest.MonkeyPatch, effort: Effort
) -> None:
    """Of 10,000 messages (of 100,000 beyond the default tests) and of 1,000, pages read as many rows in as many statements."""
    costs = []
    for key, count in (("short", 1000), ("long", 10_000 if effort == "quick" else 100_000)):
        chat = kit.chat(key)
        face.settle(chat.send("first"))
        assert chat.id is not None
        _grow(database, chat.id, count, run)
        middle, head = count // 2 - count // 2 % 14 + 3, face.settle(chat.messages(limit=1))[0].seq
        pages: list[tuple[str, dict[str, Any]]] = [
            ("messages", {"limit": 40}),
            ("messages", {"limit": 40, "after": 0}),
            ("messages", {"limit": 40, "after": middle + 1 if run is None else 2}),
            ("messages", {"limit": 40, "around": middle}),
            ("messages", {"limit": 40, "around": head - 9}),
            ("siblings", {"message": 2}),
            ("children", {"message": 2}),
            ("turns", {"limit": 1}),
            ("turns", {"limit": 50}),
        ]
        costs.append([_count(monkeypatch, partial(_call, face, chat, *page)) for page in pages])
    for short, long in zip(*costs, strict=True):
        assert abs(long[0] - short[0]) <= 14  # where the runs begin
        assert abs(long[1] - short[1]) <= 1
    assert max(read for read, _ in costs[1]) <= 2 * 40 + 32
    assert max(statements for _, statements in costs[1]) <= 14


def _call(face: Face, chat: Any, name: str, given: dict[str, Any]) -> None:
    face.settle(getattr(chat, name)(**given))


def _grow(database: str, conversation_id: Any, count: int, run: int | None) -> None:
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        grow(connection, conversation_id, count, run=run)
    engine.dispose()


def test_a_whole_path_takes_a_fixed_number_of_statements(
    face: Face, kit: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One statement reads the messages of all runs and one the partings, whether the path has branches or not."""
    costs = []
    for run in (None, 1, 5):
        chat = kit.chat(f"run {run}")
        face.settle(chat.send("first"))
        _grow(database, chat.id, 3000, run)
        found: list[Message] = []

        def read(chat: Any = chat, found: list[Message] = found) -> None:
            found += face.settle(chat.messages(limit=None))

        costs.append(_count(monkeypatch, read)[1])
        assert [each.parent_seq for each in found[1:]] == [each.seq for each in found[:-1]]
        assert found[0].parent_seq is None
        assert len(found) == (3000 if run is None else len(found))
    assert costs == [costs[0]] * 3
    assert costs[0] == 3


@pytest.mark.once
def test_a_message_is_what_pydantic_would_make(face: Face, kit: Any) -> None:
    """Rows are converted without validation. The values are those that validation accepts."""
    chat = kit.chat("k")
    parts = [{"type": "text", "text": "見て"}, {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked: Any = [
        {"role": "user", "content": parts, "name": "hanako"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "1", "kind": "x/1", "item": {"a": [1]}},
    ]
    face.settle(chat.append(asked))
    for message in face.settle(chat.messages()):
        same = Message.model_validate(message.model_dump())
        assert same == message
        assert same.model_dump_json() == message.model_dump_json()
        assert message.model_fields_set == set(Message.model_fields)
        assert message.model_copy(update={"seq": 7}).seq == 7
