"""Copies: the same words in a conversation of its own, which knows where it came from."""

from __future__ import annotations

import base64
import threading
from typing import Any

import pytest

from convokit import Convokit
from convokit.domain.ids import format_message_id
from convokit.errors import InvalidInput, NotFound
from convokit.history import copies
from convokit.store import messages
from tests.history.helpers import change, counts, rows, sent, texts
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion
from tests.support.server import calls as tool_calls

pytestmark = pytest.mark.usefixtures("numbered_replies")

PIXEL = base64.b64encode(bytes(range(64))).decode()
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}


def test_a_copy_is_a_conversation_of_its_own(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """The path's words under new places, a chain that verifies, and from then on neither changes the other."""
    chat = kit.chat("k", subject="hanako", title="旅", developer_prompt="Be brief.")
    for text in ("one", "two"):
        face.settle(chat.send(text))
    face.settle(chat.edit(3, "zwei"))
    other = face.settle(chat.copy("c"))
    assert texts(face, other) == texts(face, chat) == ["one", "1: one", "zwei", "3: zwei"]
    assert [each.seq for each in face.settle(other.log())] == [1, 2, 3, 4]
    face.settle(other.send("three"))
    assert sent(server) == ["Be brief.", "one", "1: one", "zwei", "3: zwei", "three"]
    assert len(texts(face, chat)) == 4
    face.settle(other.verify())
    face.settle(chat.verify())
    found = {each.key: (each.subject, each.title) for each in face.settle(kit.conversations(subject="hanako"))}
    assert found == {"k": ("hanako", "旅"), "c": ("hanako", "旅")}
    salts = rows(database, "SELECT salt FROM convokit_message")
    assert len({bytes(row[0]) for row in salts}) == len(salts)


def test_its_first_entry_names_where_it_came_from(face: Face, kit: Any, database: str) -> None:
    """The id, the number of entries and the head of the chain of the conversation, as they were then."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    verified = face.settle(chat.verify())
    other = face.settle(chat.copy())
    assert other.key is None
    assert other.id != chat.id
    refs = rows(database, "SELECT number, ref FROM convokit_entry WHERE kind = 'import'")
    assert [tuple(row) for row in refs] == [(1, f"{chat.id}:{verified.entries}:{verified.head}")]
    assert face.settle(other.verify()).entries == 3


def test_only_the_path_to_a_message_is_copied(face: Face, kit: Any, database: str) -> None:
    """With its passages, pins and windows under their new places; turns, calls and other branches stay where they are."""
    chat = kit.chat("k")
    face.settle(chat.send("one", passages=["passage"]))
    face.settle(chat.send("two"))
    face.settle(chat.edit(4, "zwei"))
    face.settle(chat.send("drei"))
    face.settle(chat.pin(6))
    face.settle(chat.pin(4))
    other = face.settle(chat.copy("c", message=7, subject="taro", title="new"))
    assert texts(face, other) == ["one", "1: one", "zwei", "3: zwei"]
    assert face.settle(other.turns()) == []
    stored = rows(
        database,
        "SELECT m.seq, parent_seq, run_start_seq, window_from_seq, status FROM convokit_message m"
        " JOIN convokit_conversation c ON c.id = m.conversation_id WHERE c.key = 'c' ORDER BY m.seq",
    )
    assert [tuple(row) for row in stored] == [
        (1, None, 1, None, "passage"),
        (2, 1, 1, 2, "complete"),
        (3, 2, 1, 2, "complete"),
        (4, 3, 1, 2, "complete"),
        (5, 4, 1, 2, "complete"),
    ]
    assert rows(database, "SELECT pins, subject, title FROM convokit_conversation WHERE key = 'c'") == [
        ("[4]", "taro", "new")
    ]
    assert counts(database)["turn"] == 4
    face.settle(other.verify())


def test_a_copy_goes_on_where_it_was(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Its next request is the one the old conversation would have sent; a reply can be made again, an open end finished."""
    chat = kit.chat("k")
    face.settle(chat.send("one", passages=["passage"]))
    server.script(tool_calls(("c1", "f", "{}")), completion("done"))
    face.settle(chat.send([{"type": "text", "text": "look"}, IMAGE], tools=[_tool], passages=["another"]))
    other = face.settle(chat.copy("c"))
    face.settle(chat.send("and now?"))
    face.settle(other.send("and now?"))
    assert server.requests[-1].body == server.requests[-2].body
    face.settle(other.regenerate(5))
    assert sent(server)[:3] == ["one", "1: one", "another"]
    half = face.settle(chat.copy("half", message=2))
    assert face.settle(half.resume()).text.endswith(": one")
    assert sent(server) == ["passage", "one"]
    for each in (chat, other, half):
        face.settle(each.verify())


def _tool() -> str:
    """Do it."""
    return "result"


def test_binaries_are_copied_for_themselves(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """The copy has what its own messages refer to, and keeps it when the old conversation is gone."""
    chat = kit.chat("k")
    face.settle(chat.send(["look", IMAGE]))
    face.settle(chat.edit(1, "no image"))
    assert counts(database)["blob"] == 1
    without = face.settle(chat.copy("without"))
    assert counts(database)["blob"] == 1
    with_it = face.settle(chat.copy("with", message=2))
    assert counts(database)["blob"] == 2
    change(database, "DELETE FROM convokit_conversation WHERE key = 'k'")
    face.settle(with_it.send("and?"))
    assert server.requests[-1].body["messages"][0]["content"][1] == IMAGE
    face.settle(with_it.verify())
    face.settle(without.verify())


def test_a_key_that_exists_is_refused(face: Face, kit: Any, database: str) -> None:
    """Its own key, another's, one that cannot be a key, a message that is not there: typed errors, and nothing is written."""
    chat = kit.chat("k")
    face.settle(chat.send("one", passages=["passage"]))
    face.settle(kit.chat("taken").send("x"))
    before = counts(database)
    for wrong in ("k", "taken", "", "a\x00b"):
        with pytest.raises(InvalidInput, match="key"):
            face.settle(chat.copy(wrong))
    with pytest.raises(InvalidInput):
        face.settle(chat.copy("new", message=1))
    with pytest.raises(NotFound):
        face.settle(chat.copy("new", message=99))
    with pytest.raises(NotFound):
        face.settle(kit.chat("never").copy("new"))
    assert counts(database) == before


def test_of_two_copies_under_one_key_one_is_made(database: str, server: LoopbackServer) -> None:
    """Two at once: one conversation, and a typed error for the other."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("k").send("one")
        outcomes: list[object] = []

        def copied() -> None:
            try:
                outcomes.append(kit.chat("k").copy("c"))
            except InvalidInput as error:
                outcomes.append(error)

        threads = [threading.Thread(target=copied) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(type(each).__name__ for each in outcomes) == ["Chat", *["InvalidInput"] * 3]
        kit.chat("c").verify()


def test_a_copy_in_batches_is_one_transaction(
    database: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the batch, the same rows; killed between two batches, there is no copy."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        chat.send("zero")
        for number in range(6):
            chat.fork().send(f"other {number}")  # so that the path has gaps
            chat.send(f"turn {number}")
        monkeypatch.setattr(copies, "BATCH", 3)
        made = chat.copy("c")
        assert [each.text for each in made.messages()] == [each.text for each in chat.messages()]
        assert [each.parent_seq for each in made.messages()] == [None, *range(1, 14)]
        made.verify()
        assert made.id is not None
        assert made.messages()[-1].id == format_message_id(made.id, 14)
        before = counts(database)
        append, batches = messages.append, iter(range(3))

        def failing(*given: Any) -> None:
            next(batches)  # StopIteration, as good as any
            append(*given)

        with monkeypatch.context() as patched:
            patched.setattr(messages, "append", failing)
            with pytest.raises(RuntimeError):
                chat.copy("d")
        assert counts(database) == before
        assert chat.copy("d").messages(limit=1)[0].text == chat.messages(limit=1)[0].text
