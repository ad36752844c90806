"""Any sequence of edits, other replies, forks and checkouts, held against a model of the tree that knows nothing of SQL."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from convokit import Budget, Convokit, Profile
from convokit.context.validity import find_problems
from tests.faults.oracles import check_conversation
from tests.history.helpers import rows
from tests.support.databases import Files
from tests.support.faces import Face
from tests.support.selection import keep
from tests.support.server import LoopbackServer, completion

SMALL = Budget(context_tokens=100, reply_tokens=30, step_tokens=30)
WORDS = ("東京", "hello", "deploy the thing", "そして", "one more question about it")


@dataclass
class Node:
    """A message of the model."""

    parent: int | None
    role: str
    text: str


@dataclass
class Tree:
    """What should be there: messages by seq, and where each branch ends."""

    nodes: dict[int, Node] = field(default_factory=dict)
    heads: dict[int, int | None] = field(default_factory=lambda: {0: None})

    def path(self, end: int | None) -> list[int]:
        """Return the places from the root to a message."""
        found = []
        while end is not None:
            found.append(end)
            end = self.nodes[end].parent
        return found[::-1]

    def ask(self, branch: int, parent: int | None, text: str, reply: str) -> None:
        """Add a question behind a message, and its reply."""
        question = len(self.nodes) + 1
        self.nodes[question] = Node(parent, "user", text)
        self.answer(branch, question, reply)

    def answer(self, branch: int, question: int, reply: str) -> None:
        """Add a reply to a question."""
        self.heads[branch] = len(self.nodes) + 1
        self.nodes[len(self.nodes) + 1] = Node(question, "assistant", reply)

    def question_of(self, end: int) -> int:
        """Return the question that a message is or belongs to."""
        return next(seq for seq in reversed(self.path(end)) if self.nodes[seq].role == "user")

    def leaves(self) -> list[int]:
        """Return the places that nothing follows, newest first."""
        return sorted(set(self.nodes) - {node.parent for node in self.nodes.values()}, reverse=True)

    def siblings(self, seq: int) -> list[int]:
        """Return the places with the same parent."""
        return [each for each, node in self.nodes.items() if node.parent == self.nodes[seq].parent]


class Walk:
    """Does the same to a chat and to the model."""

    def __init__(self, face: Face, kit: Any, server: LoopbackServer, seed: int) -> None:
        self.face, self.kit, self.server = face, kit, server
        self.random = random.Random(seed)
        self.tree = Tree()
        self.replies = 0

    def step(self) -> None:
        """Do one thing on one branch, each through a chat of its own, and look at its path."""
        branch = self.random.choice(sorted(self.tree.heads))
        chat, tree = self.kit.chat("k", branch=branch), self.tree
        head = tree.heads[branch]
        anywhere = self.random.choice(sorted(tree.nodes)) if tree.nodes else None
        action = self.random.choice(("send", "send", "edit", "regenerate", "again", "fork", "checkout"))
        if head is None or anywhere is None or action == "send":
            text = self._words()
            reply = self._reply()
            self.face.settle(chat.send(text))
            tree.ask(branch, head, text, reply)
        elif action == "edit":
            question, text = tree.question_of(anywhere), self._words()
            reply = self._reply()
            self.face.settle(chat.edit(question, text))
            tree.ask(branch, tree.nodes[question].parent, text, reply)
        elif action in ("regenerate", "again"):
            place = head if action == "regenerate" else anywhere
            reply = self._reply()
            self.face.settle(chat.regenerate(None if action == "regenerate" else place))
            tree.answer(branch, tree.question_of(place), reply)
        elif action == "fork":
            made = self.face.settle(chat.fork(anywhere))
            assert made.branch == len(tree.heads)
            tree.heads[made.branch] = anywhere
        else:
            self.face.settle(chat.checkout(anywhere))
            tree.heads[branch] = anywhere
        self.check_path(branch)

    def _words(self) -> str:
        return f"{self.random.choice(WORDS)} {self.random.randrange(1000)}"

    def _reply(self) -> str:
        self.replies += 1
        reply = f"reply {self.replies} " + self._words()
        self.server.script(completion(reply))
        return reply

    def check_path(self, branch: int) -> None:
        """Hold a branch's path, and its next request, against the model."""
        chat = self.kit.chat("k", branch=branch)
        path = self.tree.path(self.tree.heads[branch])
        found = self.face.settle(chat.messages(limit=1000))
        assert [(each.seq, each.role, each.text) for each in found] == [
            (seq, self.tree.nodes[seq].role, self.tree.nodes[seq].text) for seq in path
        ]
        if path:
            context = self.face.settle(chat.context("and?"))
            assert find_problems(context.messages) == []
            assert context.report.tokens <= 130

    def check_all(self, database: str) -> None:
        """Hold everything against the model, and what is stored of the paths against itself."""
        chat, tree = self.kit.chat("k"), self.tree
        for branch in tree.heads:
            self.check_path(branch)
        assert [each.seq for each in self.face.settle(chat.leaves(limit=1000))] == tree.leaves()
        assert [each.text for each in self.face.settle(chat.log(limit=1000))] == [
            node.text for _, node in sorted(tree.nodes.items())
        ]
        for seq in tree.nodes:
            assert [each.seq for each in self.face.settle(chat.siblings(seq))] == tree.siblings(seq)
        stored = rows(database, "SELECT seq, tokens, path_tokens, run_start_seq FROM convokit_message")
        tokens = {row[0]: row[1] for row in stored}
        for seq, _, path_tokens, run_start in stored:
            path = tree.path(seq)
            assert path_tokens == sum(tokens[each] for each in path)
            assert path[-(seq - run_start + 1) :] == list(range(run_start, seq + 1))
            assert run_start - 1 not in path
        assert self.face.settle(chat.verify()).rows == len(tree.nodes) + self.replies
        check_conversation(database, "k")


@pytest.mark.soak(sample=True)
@pytest.mark.parametrize("seed", keep([1, 2], 1, sample=True))
def test_any_sequence_keeps_the_tree(face: Face, database: str, server: LoopbackServer, seed: int) -> None:
    """After forty steps every branch's path, the leaves, siblings, log and counts are the model's, and the chain verifies."""
    kit = face.kit(database, model="m", base_url=server.url, budget=SMALL)
    walk = Walk(face, kit, server, seed)
    for _ in range(40):
        walk.step()
    walk.check_all(database)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 140))
def test_any_long_sequence_keeps_the_tree(files: Files, server: LoopbackServer, seed: int) -> None:
    """The same after 400 steps, forty times."""
    face, database = Face("sync"), files.migrated()
    walk = Walk(face, face.kit(database, model="m", base_url=server.url, budget=SMALL), server, seed)
    for _ in range(400):
        walk.step()
    walk.check_all(database)
    face.close()


@pytest.mark.parametrize("seed", keep([3, 4], 3, sample=True))
def test_the_window_is_right_on_every_branch(files: Files, server: LoopbackServer, seed: int) -> None:
    """What a branch would send next is what a conversation without branches would, in which the same was said."""
    face, database = Face("sync"), files.migrated()
    settings: dict[str, Any] = {"model": "m", "base_url": server.url, "profile": Profile(), "budget": SMALL}
    kit = face.kit(database, **settings)
    walk = Walk(face, kit, server, seed)
    for _ in range(60):
        walk.step()
    trimmed = 0
    for branch, head in walk.tree.heads.items():
        path = [walk.tree.nodes[seq] for seq in walk.tree.path(head)]
        straight = kit.chat(f"straight {branch}")
        for question, reply in zip(path[::2], path[1::2], strict=False):
            server.script(completion(reply.text))
            straight.send(question.text)
        if len(path) % 2:
            continue  # it ends with a question, which a conversation without branches would have a reply to
        here, there = (chat.context("and now?") for chat in (kit.chat("k", branch=branch), straight))
        assert here.messages == there.messages
        assert here.report.tokens == there.report.tokens
        assert here.report.rule == there.report.rule
        trimmed += len(here.messages) < len(path) + 1
    assert trimmed > 1
    face.close()


def test_a_model_that_is_wrong_is_seen(files: Files, server: LoopbackServer) -> None:
    """The walk can fail: a head that moved without the model is found at once."""
    face, database = Face("sync"), files.migrated()
    with Convokit(database, model="m", base_url=server.url, budget=SMALL) as kit:
        walk = Walk(face, kit, server, 5)
        for _ in range(5):
            walk.step()
        kit.chat("k").edit(1, "not in the model")
        with pytest.raises(AssertionError):
            walk.check_all(database)
    face.close()
