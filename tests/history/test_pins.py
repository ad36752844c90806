"""Strategies and pins in a conversation: what is selected, and that what is stored never changes."""

from __future__ import annotations

from typing import Any

import pytest

from convokit import Budget
from convokit.context.strategy import Everything, LastTurns, Selection, View
from convokit.errors import InvalidInput, NotFound, SettingsError
from tests.support.faces import Face
from tests.support.server import LoopbackServer

SMALL = Budget(context_tokens=160, reply_tokens=40, step_tokens=60)


def _sent(server: LoopbackServer) -> list[str]:
    return [each["content"] for each in server.requests[-1].body["messages"]]


@pytest.fixture
def small(face: Face, database: str, server: LoopbackServer) -> Any:
    return face.kit(database, model="m", base_url=server.url, budget=SMALL)


@pytest.mark.once
def test_a_pinned_message_is_sent_from_before_the_window(face: Face, small: Any, server: LoopbackServer) -> None:
    """However far the window has moved on, a pinned message comes first; unpinned, it stays behind again."""
    chat = small.chat("k")
    first = face.settle(chat.send("the password is swordfish"))
    face.settle(chat.pin(face.settle(chat.messages())[0]))
    reply: Any = None
    for number in range(40):
        reply = face.settle(chat.send(f"turn {number}"))
    assert _sent(server)[0] == "the password is swordfish"
    assert reply.context.tokens <= reply.context.context_tokens - reply.context.reply_tokens
    assert [part.rule for part in reply.context.included if part.key == 1] == ["pinned"]
    assert first.text not in _sent(server)
    face.settle(chat.unpin(1))
    face.settle(chat.send("and now?"))
    assert "the password is swordfish" not in _sent(server)
    face.settle(chat.verify())


@pytest.mark.once
def test_pins_that_do_not_fit_give_way(face: Face, small: Any, server: LoopbackServer) -> None:
    """The current turn goes before pins: they are left out, the oldest first, with the reason in the report."""
    chat = small.chat("k")
    for number in range(12):
        face.settle(chat.send(f"a question {'about the matter ' * 3}number {number}"))
        face.settle(chat.pin(2 * number + 1))
    reply = face.settle(chat.send("so?"))
    reasons = {part.key: part.rule for part in reply.context.dropped}
    assert reasons[1] == "pinned, but does not fit"
    assert _sent(server)[-1] == "so?"
    assert reply.context.tokens <= 120


def test_only_messages_that_are_there_can_be_pinned(face: Face, small: Any) -> None:
    """A message of another conversation, or of none, cannot be pinned; nor can more than 64."""
    chat = small.chat("k")
    with pytest.raises(NotFound):
        face.settle(chat.pin(1))
    face.settle(chat.send("hello"))
    with pytest.raises(NotFound):
        face.settle(chat.pin(99))
    with pytest.raises(InvalidInput):
        face.settle(chat.pin("not a message"))


@pytest.mark.once
def test_last_turns_sends_the_last_turns(face: Face, database: str, server: LoopbackServer) -> None:
    """The last three turns, the current one included, whatever the history; rows read do not grow with it."""
    kit = face.kit(database, model="m", base_url=server.url, strategy=LastTurns(3))
    reply: Any = None
    for number in range(30):
        reply = face.settle(kit.chat("k").send(f"turn {number}"))
    assert _sent(server) == ["turn 27", "echo: turn 27", "turn 28", "echo: turn 28", "turn 29"]
    assert reply.context.rule == "last 3 turns"
    assert reply.context.strategy == "last 3 turns"


def test_everything_that_fits_slides(face: Face, database: str, server: LoopbackServer) -> None:
    """As much history as fits, so the start moves with every turn once the budget is full."""
    kit = face.kit(database, model="m", base_url=server.url, strategy=Everything(), budget=SMALL)
    starts = [face.settle(kit.chat("k").send(f"turn {number}")).context.start for number in range(30)]
    assert starts[-5:] == sorted(set(starts[-5:]))


class Questions:
    """A user's own strategy: every question, and no reply but the ones of this turn. It selects badly, too: far too much."""

    name = "questions only"
    most_turns = None

    def select(self, view: View) -> Selection:
        asked = tuple(index for index, item in enumerate(view.items) if item.shape["role"] == "user")
        return Selection(len(view.items) + 5, self.name, asked)


@pytest.mark.once
def test_a_users_own_strategy_can_only_select(face: Face, database: str, server: LoopbackServer) -> None:
    """Whatever it selects, the current turn is in, the budget holds, and the reason is the strategy's own."""
    kit = face.kit(database, model="m", base_url=server.url, strategy=Questions(), budget=SMALL)
    reply: Any = None
    for number in range(40):
        reply = face.settle(kit.chat("k").send(f"turn {number}"))
    sent = _sent(server)
    assert sent[-1] == "turn 39"
    assert not any(text.startswith("echo") for text in sent)
    assert reply.context.tokens <= 120
    assert len(sent) > 5


@pytest.mark.once
def test_what_is_no_strategy_is_refused(face: Face, kit: Any) -> None:
    """A strategy has a name, a number of turns and `select`; LastTurns takes a number from 1 up."""
    with pytest.raises(SettingsError, match="strategy"):
        kit.chat("k", strategy="last 5")
    with pytest.raises(SettingsError, match="LastTurns"):
        LastTurns(0)
