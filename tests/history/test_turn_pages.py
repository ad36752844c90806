"""Pages of turns on paths with messages that belong to no turn."""

from __future__ import annotations

import random
from typing import Any

import pytest

from convokit.domain.message import MessageRow
from convokit.errors import ModelError
from convokit.store import messages, turn_pages
from tests.history.helpers import seqs
from tests.support.faces import Face
from tests.support.selection import keep
from tests.support.server import LoopbackServer, failure

ROLES = ("user", "assistant")


def _append(face: Face, chat: Any, count: int) -> None:
    for start in range(0, count, 1000):
        numbers = range(start, min(start + 1000, count))
        face.settle(chat.append([{"role": ROLES[number % 2], "content": f"m{number}"} for number in numbers]))


def test_turns_between_hundreds_of_other_messages(face: Face, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the messages between turns are read nor those before the first; pages go on behind them."""
    chat = kit.chat("k")
    sent = []
    for number in range(4):
        _append(face, chat, 400)
        sent.append(face.settle(chat.send(f"q{number}")).turn_id)
    _append(face, chat, 400)
    count = 0
    original = MessageRow.__init__

    def counting(self: MessageRow, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        original(self, *args, **kwargs)

    monkeypatch.setattr(MessageRow, "__init__", counting)
    assert [turn.id for turn in face.settle(chat.turns())] == sent
    assert count <= 4 * 2 * 32 + 32
    count = 0
    assert [turn.id for turn in face.settle(chat.turns(limit=1))] == sent[3:]
    assert [turn.id for turn in face.settle(chat.turns(limit=2, before=sent[3]))] == sent[1:3]
    assert [turn.id for turn in face.settle(chat.turns(before=sent[1]))] == sent[:1]
    assert face.settle(chat.turns(before=sent[0])) == []
    assert count <= 6 * 2 * 32 + 32


def test_turns_of_other_branches_between_the_messages(face: Face, kit: Any) -> None:
    """A turn of another branch, with a question or a reply nearby, is not listed; a turn before it is."""
    chat = kit.chat("k")
    first = face.settle(chat.send("first"))
    _append(face, chat, 50)
    fork = face.settle(chat.fork(30))
    others = [face.settle(fork.send(f"other {number}")).turn_id for number in range(5)]
    _append(face, chat, 50)
    last = face.settle(chat.send("last"))
    assert [turn.id for turn in face.settle(chat.turns())] == [first.turn_id, last.turn_id]
    assert [turn.id for turn in face.settle(chat.turns(limit=1, before=last.turn_id))] == [first.turn_id]
    assert [turn.id for turn in face.settle(fork.turns())] == [first.turn_id, *others]


@pytest.mark.parametrize("seed", keep(list(range(8)), 0, sample=True))
def test_skipping_finds_what_reading_everything_finds(
    face: Face, kit: Any, server: LoopbackServer, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of random conversations with failed turns, regenerations and branches, every page is that of the whole path."""
    chance = random.Random(seed)
    chat = kit.chat("k")
    for _ in range(25):
        kind = chance.choice(["append", "append", "send", "send", "fail", "regenerate", "checkout"])
        newest = face.settle(chat.messages(limit=None))
        if kind == "append":
            _append(face, chat, chance.choice([1, 2, 5]))
        elif kind == "send":
            face.settle(chat.send("q"))
        elif kind == "fail":
            server.script(failure(400))
            with pytest.raises(ModelError):
                face.settle(chat.send("f"))
        elif newest and kind == "checkout":
            face.settle(chat.checkout(chance.choice(newest)))
        elif questions := [each for each in newest if each.role == "user"]:
            face.settle(chat.regenerate(chance.choice(questions)))

    def read_everything(connection: Any, conversation_id: Any, head: int | None, limit: int) -> list[MessageRow]:
        return messages.read_backwards(connection, conversation_id, head, len).rows

    for limit in (1, 2, 3, 50):
        before = None
        for _ in range(30):
            with monkeypatch.context() as patched:
                patched.setattr(turn_pages, "_read_path_with_turns", read_everything)
                expected = [turn.id for turn in face.settle(chat.turns(limit=limit, before=before))]
            with monkeypatch.context() as patched:
                patched.setattr(turn_pages, "FIRST_PAGE", 2)
                patched.setattr(messages, "FIRST_PAGE", 2)
                found = [turn.id for turn in face.settle(chat.turns(limit=limit, before=before))]
            assert found == expected, seqs(face.settle(chat.messages(limit=None)))
            if not found:
                break
            before = found[0]
