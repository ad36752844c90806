"""Branches of one conversation at once: a turn begins behind what other branches wrote since its path was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from convokit import Convokit
from tests.support.abandoned_turns import Watched
from tests.support.faces import Face
from tests.support.selection import keep
from tests.support.server import LoopbackServer

pytestmark = pytest.mark.usefixtures("numbered_replies")


@pytest.fixture
def other(database: str, server: LoopbackServer) -> Iterator[Any]:
    """The same conversation in another process: of another kit, that is."""
    with Convokit(database, model="loop-1", base_url=server.url) as kit:
        kit.chat("k").send("one")
        yield kit.chat("k")


def _meanwhile(face: Face, kit: Any, act: Callable[[], object], work: Callable[[], Any]) -> tuple[Any, int]:
    """Do `work`, and `act` right before its first write. Return its answer, and how often it read."""
    store, writes, reads = kit._runtime._store, 0, 0

    def before(write: bool) -> None:
        nonlocal writes, reads
        writes, reads = writes + write, reads + (not write)
        if write and writes == 1:
            act()

    kit._runtime._store = Watched(store, before)
    try:
        return face.settle(work()), reads
    finally:
        kit._runtime._store = store


WAYS: dict[str, Callable[[Any], Any]] = {
    "send": lambda chat: chat.send("two"),
    "passages": lambda chat: chat.send("two", passages=["a passage", "another"]),
    "edit": lambda chat: chat.edit(1, "uno"),
    "regenerate": lambda chat: chat.regenerate(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("branch", keep([0, 1], 1, sample=True))
def test_a_turn_begins_behind_what_other_branches_wrote(
    face: Face, kit: Any, other: Any, server: LoopbackServer, way: str, branch: int
) -> None:
    """The path it answers is what it was: it is read once and built once, and its record names what it was made of."""
    side = other.fork()
    chat, busy = (kit.chat("k"), side) if branch == 0 else (kit.chat("k", branch=1), other)
    face.settle(chat.messages())
    _, alone = _meanwhile(face, kit, lambda: None, lambda: WAYS[way](chat))
    reply, reads = _meanwhile(face, kit, lambda: busy.send("in between"), lambda: WAYS[way](chat))
    assert reads == alone
    texts = [message.text for message in face.settle(chat.messages())]
    assert texts[-1] == reply.text
    assert "in between" not in texts
    assert [message.text for message in busy.messages()][-2] == "in between"
    replayed = face.settle(chat.replay(reply.turn_id))
    assert replayed.status == "exact"
    assert replayed.body == server.requests[-1].raw
    assert face.settle(chat.send("and then?")).text.endswith(": and then?")
    other.verify()


CHANGES: dict[str, Callable[[Any], Any]] = {
    "redacted": lambda chat: chat.redact(1),
    "pinned": lambda chat: chat.pin(1),
    "moved": lambda chat: chat.checkout(1),
    "asked": lambda chat: chat.send("first come"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_turn_is_built_again_when_its_path_changed(
    face: Face, kit: Any, other: Any, server: LoopbackServer, change: str
) -> None:
    """What was redacted, pinned, left or asked meanwhile on the same branch is in the request that is sent."""
    side = other.fork()

    def act() -> None:
        side.send("in between")
        CHANGES[change](other)

    chat = kit.chat("k")
    face.settle(chat.messages())
    _, reads = _meanwhile(face, kit, act, lambda: chat.send("two"))
    assert reads == 2
    told = [message["content"] for message in server.requests[-1].body["messages"]]
    assert told[-1] == "two"
    assert {"redacted": "one" not in told, "moved": told == ["one", "two"], "asked": "first come" in told}.get(
        change, True
    )
    other.verify()
