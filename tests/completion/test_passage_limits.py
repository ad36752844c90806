"""What passages may be, and what they may cost."""

from __future__ import annotations

from typing import Any

import pytest

from convokit import Budget, Limits
from convokit.errors import ContextOverflow, InvalidInput, TooLarge
from tests.support.faces import Face
from tests.support.server import LoopbackServer

ONE = "Port 80 is the port of HTTP."


def _sent(server: LoopbackServer) -> list[Any]:
    return [each["content"] for each in server.requests[-1].body["messages"]]


@pytest.mark.once
@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ("text", InvalidInput, "passages: must be a list of texts, not str"),
        (None, InvalidInput, "passages: must be a list of texts, not NoneType"),
        ([ONE, 7], InvalidInput, r"passages\[1\]: must be text, not int"),
        ([ONE, ""], InvalidInput, r"passages\[1\]: is empty"),
        ([ONE, "a\x00b"], InvalidInput, r"passages\[1\]: contains NUL"),
        (["x" * 101], TooLarge, r"passages\[0\].*Limits.passages_bytes"),
        (["é" * 25, "é" * 26], TooLarge, "passages.*102.*Limits.passages_bytes"),
    ],
)
@pytest.mark.parametrize("key", [None, "1"])
def test_bad_passages_are_refused_before_anything_is_written(
    face: Face,
    database: str,
    server: LoopbackServer,
    given: Any,
    error: type[Exception],
    match: str,
    key: str | None,
) -> None:
    """What cannot be stored or is over `Limits.passages_bytes`, in all, is refused by name; nothing is written or called."""
    kit = face.kit(database, model="m", base_url=server.url, limits=Limits(passages_bytes=100))
    chat = kit.chat("k")
    with pytest.raises(error, match=match):
        face.settle(chat.send("who?", passages=given, idempotency_key=key))
    assert face.settle(chat.messages()) == []
    assert server.requests == []


@pytest.mark.once
def test_passages_that_do_not_fit_are_an_overflow(face: Face, database: str, server: LoopbackServer) -> None:
    """The current turn with its passages must fit: else ContextOverflow says by how much, and nothing is written."""
    budget = Budget(context_tokens=200, reply_tokens=50)
    kit = face.kit(database, model="m", base_url=server.url, budget=budget)
    chat = kit.chat("k")
    face.settle(chat.send("hello"))
    with pytest.raises(ContextOverflow) as caught:
        face.settle(chat.send("who?", passages=[ONE] * 40))
    assert (caught.value.available or 0) <= 150
    assert (caught.value.needed or 0) > 40 * 8
    assert len(face.settle(chat.messages(passages=True))) == 2
    assert len(server.requests) == 1
    reply = face.settle(chat.send("who?", passages=[ONE] * 5))
    assert reply.context.tokens <= 150


@pytest.mark.once
def test_the_history_makes_room_for_passages(face: Face, database: str, server: LoopbackServer) -> None:
    """Passages are of the current turn: older turns give way to them, and they are sent whole."""
    budget = Budget(context_tokens=160, reply_tokens=50)
    kit = face.kit(database, model="m", base_url=server.url, budget=budget)
    chat = kit.chat("k")
    for number in range(5):
        face.settle(chat.send(f"turn {number}"))
    assert len(_sent(server)) > 5
    face.settle(chat.send("who?", passages=[ONE] * 5))
    assert _sent(server)[-6:] == [*([ONE] * 5), "who?"]
    assert len(_sent(server)) < 6 + 6
