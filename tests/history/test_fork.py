"""Branches: made from anywhere at no cost, moved only by their own chats, opened again by number or name."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import pytest

from convokit import AsyncConvokit, Convokit, Retry, Timeouts
from convokit.errors import ConversationBusy, InvalidInput, NotFound, ServerFailed
from tests.faults.oracles import check_conversation
from tests.history.helpers import change, counts, rows, sent, texts
from tests.store.test_turn_cost import Traffic
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion, failure, stream

pytestmark = pytest.mark.usefixtures("numbered_replies")

WAITING = Timeouts(busy_s=60)


def test_two_branches_never_move_each_other(face: Face, kit: Any, server: LoopbackServer) -> None:
    """What is sent on one follows what was said there; the other stays where it is, and both keep the path they part from."""
    main = kit.chat("k")
    face.settle(main.send("one"))
    fork = face.settle(main.fork())
    face.settle(fork.send("on the fork"))
    face.settle(main.send("on main"))
    assert sent(server) == ["one", "1: one", "on main"]
    face.settle(fork.regenerate())
    face.settle(main.edit(1, "uno"))
    assert texts(face, main) == ["uno", "5: uno"]
    face.settle(fork.send("more"))
    assert sent(server) == ["one", "1: one", "on the fork", "4: on the fork", "more"]
    assert texts(face, fork) == ["one", "1: one", "on the fork", "4: on the fork", "more", "6: more"]
    assert (main.branch, fork.branch) == (0, 1)
    face.settle(main.verify())


@pytest.mark.once
def test_a_fork_copies_nothing(face: Face, kit: Any, database: str) -> None:
    """One row, whatever it begins at and however long the path to it."""
    chat = kit.chat("k")
    for number in range(5):
        face.settle(chat.send(f"turn {number}"))
    before = counts(database)
    for place in (None, 1, 2, 10):
        face.settle(chat.fork(place))
    assert counts(database) == {**before, "branch": 4}
    heads = rows(database, "SELECT number, head_seq FROM convokit_branch ORDER BY number")
    assert [tuple(row) for row in heads] == [(1, 10), (2, 1), (3, 2), (4, 10)]


def test_a_fork_and_a_checkout_are_one_commit(database: str, server: LoopbackServer) -> None:
    """As many statements in a long conversation as in a short one."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        chat.send("first")
        traffic, found = Traffic(kit), []
        for _ in range(2):
            traffic.reset()
            chat.fork(2)
            chat.checkout(1)
            chat.checkout(2)
            assert traffic.transactions == {"write": 3}
            found.append(list(traffic.sizes))
            for number in range(20):
                chat.send(f"turn {number}")
        assert found[0] == found[1]


def test_a_branch_is_opened_by_number_or_name(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """In any process; `branches` lists them with their ends, the main one as number 0; Japanese names as any other."""
    face.settle(kit.chat("k").send("one"))
    fork = face.settle(kit.chat("k").fork(1, name="試し書き"))
    face.settle(fork.edit(1, "uno"))
    other = face.kit(database, model="loop-1", base_url=server.url)
    named, numbered = other.chat("k", branch="試し書き"), other.chat("k", branch=1)
    assert (named.branch, numbered.branch) == ("試し書き", 1)
    assert repr(numbered) == f"{type(numbered).__name__}('k', branch=1)"
    assert texts(face, named) == texts(face, numbered) == ["uno", "2: uno"]
    assert named.branch == 1
    assert texts(face, other.chat("k", branch="main")) == texts(face, other.chat("k")) == ["one", "1: one"]
    by_id = other.chat(id=fork.id, branch=1)
    assert face.settle(by_id.send("two")).text == "3: two"
    found = face.settle(kit.chat("k").branches())
    assert [(each.number, each.name, each.head) for each in found] == [
        (0, "main", f"{fork.id}:2"),
        (1, "試し書き", f"{fork.id}:6"),
    ]
    assert [each.number for each in face.settle(kit.chat("k").branches(limit=1))] == [1]
    assert [each.number for each in face.settle(kit.chat("k").branches(before=1))] == [0]


def test_a_branch_that_is_not_there_is_not_found_at_first_use(face: Face, kit: Any, database: str) -> None:
    """Opening does no I/O; whatever is done first with it raises NotFound, and nothing is created."""
    face.settle(kit.chat("k").send("one"))
    before = counts(database)
    for wanted in (7, "nowhere", 2**31 - 1):
        with pytest.raises(NotFound, match="branch"):
            face.settle(kit.chat("k", branch=wanted).send("x"))
        with pytest.raises(NotFound, match="branch"):
            face.collect(kit.chat("k", branch=wanted).stream("x"))
        for look in ("messages", "turns", "context", "resume", "regenerate", "leaves", "cancel", "fork"):
            with pytest.raises(NotFound):
                face.settle(getattr(kit.chat("k", branch=wanted), look)())
    with pytest.raises(NotFound):
        face.settle(kit.chat("never", branch=1).send("x"))
    assert counts(database) == before
    for wrong in (-1, True, "", None, 1.5, 2**31, "a\x00b"):
        with pytest.raises(InvalidInput, match="branch"):
            kit.chat("k", branch=wrong)


def test_names_are_unique_in_their_conversation(face: Face, kit: Any, database: str) -> None:
    """A name that is taken, empty, or the main branch's is refused; another conversation may have it too."""
    for key in ("k", "other"):
        face.settle(kit.chat(key).send("one"))
        face.settle(kit.chat(key).fork(name="try"))
    before = counts(database)
    for wrong in ("try", "", "main", "a\x00b", 5):
        with pytest.raises(InvalidInput, match="name"):
            face.settle(kit.chat("k").fork(name=wrong))
    with pytest.raises(NotFound):
        face.settle(kit.chat("k").fork(99))
    with pytest.raises(NotFound):
        face.settle(kit.chat("never").fork())
    assert counts(database) == before


def test_checkout_moves_a_branch_and_loses_nothing(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The next question follows the message, wherever it lies; where the branch ended stays a leaf."""
    chat = kit.chat("k")
    for text in ("one", "two", "three"):
        face.settle(chat.send(text))
    face.settle(chat.checkout(2))
    assert texts(face, chat) == ["one", "1: one"]
    face.settle(chat.send("zwei"))
    assert sent(server) == ["one", "1: one", "zwei"]
    assert [each.seq for each in face.settle(chat.leaves())] == [8, 6]
    for leaf in face.settle(chat.leaves()):
        face.settle(chat.checkout(leaf))
        assert face.settle(chat.messages())[-1].id == leaf.id
    fork = face.settle(chat.fork())
    face.settle(fork.checkout(4))
    assert texts(face, fork) == ["one", "1: one", "two", "2: two"]
    assert len(texts(face, chat)) == 6
    face.settle(chat.verify())


def test_where_a_path_cannot_end_nothing_moves(face: Face, kit: Any, database: str) -> None:
    """A passage, another conversation's message, one that is not there: a typed error, before anything is written."""
    elsewhere = face.settle(kit.chat("other").send("elsewhere"))
    chat = kit.chat("k")
    face.settle(chat.send("one", passages=["passage"]))
    for method in (chat.checkout, chat.fork, chat.siblings):
        for wrong in (1, elsewhere.message, "nonsense"):
            with pytest.raises(InvalidInput):
                face.settle(method(wrong))
        with pytest.raises(NotFound):
            face.settle(method(99))
    with pytest.raises(NotFound):
        face.settle(kit.chat("never").checkout(1))
    assert texts(face, chat) == ["one", "2: one"]
    assert counts(database)["branch"] == 0


def test_checkout_waits_for_no_dead_worker(face: Face, kit: Any, database: str) -> None:
    """A turn whose worker lives keeps the branch; one whose worker is gone is closed first."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    face.settle(chat.send("two"))
    held = "UPDATE convokit_turn SET state = 'open', claim = 0, owner = :owner, lease_until = :until WHERE question_seq = 3"
    owner = '["elsewhere","b",1,"2"]'
    change(database, held, owner=owner, until=9 * 10**15)
    with pytest.raises(ConversationBusy):
        face.settle(chat.checkout(2))
    assert len(texts(face, chat)) == 4
    fork = face.settle(chat.fork(2))
    assert face.settle(fork.send("meanwhile")).text == "3: meanwhile"
    change(database, held, owner=owner, until=5)
    face.settle(chat.checkout(2))
    assert texts(face, chat) == ["one", "1: one"]


def test_a_question_of_another_branch_is_answered_on_this_one(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Forked at a question, or at what broke off there, `resume` makes a turn of this branch, and the other one stays."""
    chat = kit.chat("k")
    server.script(failure(500))
    with pytest.raises(ServerFailed):
        face.settle(chat.send("one", retry=Retry(attempts=1)))
    fork = face.settle(chat.fork())
    reply = face.settle(fork.resume())
    assert texts(face, fork) == ["one", "1: one"]
    assert texts(face, chat) == ["one"]
    assert face.settle(fork.resume()).message == reply.message
    assert face.settle(chat.resume()).text == "2: one"
    third = face.settle(chat.fork(1))
    assert face.settle(third.resume()).text == "3: one"
    assert [turn.state for turn in face.settle(third.turns())] == ["completed"]
    face.settle(chat.verify())


def test_a_key_comes_back_to_its_branch(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A send repeated under its key through another branch's chat finishes its own turn, where it was sent."""
    main = kit.chat("k")
    face.settle(main.send("one"))
    fork = face.settle(main.fork())
    server.script(failure(500))
    with pytest.raises(ServerFailed):
        face.settle(fork.send("two", idempotency_key="x", retry=Retry(attempts=1)))
    assert face.settle(main.send("two", idempotency_key="x")).text == "2: two"
    assert texts(face, main) == ["one", "1: one"]
    assert texts(face, fork) == ["one", "1: one", "two", "2: two"]


def test_two_branches_answer_at_the_same_time(database: str, server: LoopbackServer) -> None:
    """A turn holds its own branch only: while a reply is on its way on one, another is asked for and had on the other."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        main = kit.chat("k")
        main.send("one")
        fork = main.fork()
        server.script(stream(["slow ", "reply"], pause_s=0.05), completion("quick"))
        with main.stream("slow?") as events:
            coming = iter(events)
            while not next(coming).text:
                pass
            assert fork.send("quick?").text == "quick"
            rest = "".join(each.text for each in coming)
        assert rest.endswith("reply")
        assert [each.text for each in main.messages()][-2:] == ["slow?", "slow reply"]
        assert [each.text for each in fork.messages()][-2:] == ["quick?", "quick"]
        main.verify()
    check_conversation(database, "k")


CHILD = """
import sys
from convokit import Convokit, Timeouts
with Convokit(sys.argv[1], model="m", base_url=sys.argv[2], timeouts=Timeouts(busy_s=60)) as kit:
    for number in range(4):
        fork = kit.chat("k").fork(2)
        fork.send(f"process {number}")
        fork.regenerate()
        print(fork.branch)
"""


@pytest.mark.soak(sample=True)
def test_branching_at_once_is_safe(database: str, server: LoopbackServer) -> None:
    """Threads, tasks and processes fork and send together: every branch has its own number and its own path, all verify."""
    numbers: list[int | str] = []
    with Convokit(database, model="m", base_url=server.url, timeouts=WAITING) as kit:
        kit.chat("k").send("one")

        def threaded(name: int) -> None:
            for number in range(4):
                fork = kit.chat("k").fork(2, name=f"thread {name} {number}")
                fork.send(f"thread {name} {number}")
                fork.edit(fork.messages()[-2].seq, "edited")
                numbers.append(fork.branch)

        async def tasks() -> None:
            async with AsyncConvokit(database, model="m", base_url=server.url, timeouts=WAITING) as other:

                async def task(name: int) -> None:
                    for number in range(4):
                        fork = await other.chat("k").fork(2)
                        await fork.send(f"task {name} {number}")
                        numbers.append(fork.branch)

                await asyncio.gather(*(task(name) for name in range(3)))

        command = [sys.executable, "-c", CHILD, database, server.url]
        children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        threads = [threading.Thread(target=threaded, args=(name,)) for name in range(3)]
        threads.append(threading.Thread(target=asyncio.run, args=(tasks(),)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for child in children:
            said, _ = child.communicate(timeout=60)
            assert child.returncode == 0
            numbers += map(int, said.split())
        assert sorted(map(int, numbers)) == list(range(1, 33))
        for number in range(1, 33):
            path = kit.chat("k", branch=number).messages()
            assert [each.text for each in path][:2] == ["one", "1: one"]
            assert len(path) == 4
            assert path[-1].text.endswith(path[-2].text)
        assert Counter(each.seq for each in kit.chat("k").leaves(limit=1000)).most_common(1)[0][1] == 1
        kit.chat("k").verify()
    check_conversation(database, "k")
