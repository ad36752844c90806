"""What moves while another branch answers, or between a look and a write: nothing is overwritten or misplaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from convokit import Convokit
from convokit.errors import Interrupted
from tests.faults.oracles import check_conversation
from tests.history.helpers import change, texts
from tests.support.faces import Face
from tests.support.server import LoopbackServer, stream

pytestmark = pytest.mark.usefixtures("numbered_replies")


class Meanwhile:
    """An API key that is asked for right before a turn begins, and does something else first, once."""

    def __init__(self, database: str, server: LoopbackServer) -> None:
        self.other = Convokit(database, model="m", base_url=server.url)
        self.action: Callable[[], object] | None = None

    def __call__(self) -> str:
        action, self.action = self.action, None
        if action is not None:
            action()
        return "key"


@pytest.fixture
def meanwhile(database: str, server: LoopbackServer) -> Any:
    made = Meanwhile(database, server)
    yield made
    made.other.close()


@pytest.fixture
def kit(face: Face, database: str, server: LoopbackServer, meanwhile: Meanwhile) -> Any:
    return face.kit(database, model="loop-1", base_url=server.url, api_key=meanwhile)


@pytest.mark.parametrize("branch", [0, 1])
def test_a_question_follows_a_checkout_that_came_between(
    face: Face, kit: Any, meanwhile: Meanwhile, branch: int
) -> None:
    """The branch was read, then moved elsewhere: the question is built again for where the branch ends now."""
    for text in ("one", "two"):
        face.settle(kit.chat("k").send(text))
    face.settle(kit.chat("k").fork())
    chat = kit.chat("k", branch=branch)
    meanwhile.action = lambda: meanwhile.other.chat("k", branch=branch).checkout(2)
    face.settle(chat.send("three"))
    assert texts(face, chat) == ["one", "1: one", "three", "3: three"]
    other = kit.chat("k", branch=1 - branch)
    assert texts(face, other) == ["one", "1: one", "two", "2: two"]
    face.settle(chat.verify())


def test_a_reply_made_again_is_to_what_the_branch_ends_with(face: Face, kit: Any, meanwhile: Meanwhile) -> None:
    """A turn that came between changes which question is the last; one that was named stays named."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    meanwhile.action = lambda: meanwhile.other.chat("k").send("two")
    assert face.settle(chat.regenerate()).text == "3: two"
    meanwhile.action = lambda: meanwhile.other.chat("k").send("three")
    assert face.settle(chat.regenerate(2)).text == "5: one"
    assert texts(face, chat) == ["one", "5: one"]
    face.settle(chat.verify())


def test_an_edit_stays_where_it_was_asked_for(face: Face, kit: Any, meanwhile: Meanwhile) -> None:
    """Whatever came between, an edited question lies beside the one that was named."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    meanwhile.action = lambda: meanwhile.other.chat("k").send("two")
    face.settle(chat.edit(1, "uno"))
    assert texts(face, chat) == ["uno", "3: uno"]
    assert len(face.settle(chat.leaves())) == 2


def test_a_reply_on_one_branch_leaves_a_checkout_on_another(
    face: Face, kit: Any, database: str, meanwhile: Meanwhile, server: LoopbackServer
) -> None:
    """Main is moved while a fork's turn begins and while it answers: it stays where it was put, both times."""
    main = kit.chat("k")
    for text in ("one", "two"):
        face.settle(main.send(text))
    fork = face.settle(main.fork())
    meanwhile.action = lambda: meanwhile.other.chat("k").checkout(2)
    face.settle(fork.send("on the fork"))
    assert texts(face, main) == ["one", "1: one"]
    server.script(stream(["a ", "b"]))
    moved: list[Any] = []
    with Convokit(database, model="m", base_url=server.url) as other:
        for each in other.chat("k", branch=1).stream("streamed"):
            if each.text and not moved:
                other.chat("k").checkout(4)
                moved.append(each)
    assert texts(face, main) == ["one", "1: one", "two", "2: two"]
    assert texts(face, fork)[-1] == "a b"
    face.settle(main.verify())
    check_conversation(database, "k")


def test_a_late_reply_leaves_the_branch_where_it_is(
    face: Face, kit: Any, database: str, server: LoopbackServer
) -> None:
    """A worker that lost its regeneration keeps what came beside the question, and moves nothing: not even a checkout."""
    main = kit.chat("k")
    face.settle(main.send("one"))
    server.script(stream([f"word{number} " for number in range(9)], pause_s=0.02))
    with Convokit(database, model="m", base_url=server.url) as other:
        coming = iter(other.chat("k").stream_regenerate())
        while next(coming).text.strip() != "word3":
            pass
        change(database, "UPDATE convokit_turn SET lease_until = 5, owner = NULL WHERE state = 'open'")
        face.settle(main.checkout(2))
        with pytest.raises(Interrupted):
            list(coming)
    assert texts(face, main) == ["one", "1: one"]
    statuses = [each.status for each in face.settle(main.siblings(2))]
    assert statuses[0] == "complete"
    assert "late" in statuses
    face.settle(main.verify())
    check_conversation(database, "k")
