"""Appends at the same moment, cancelled, repeated by the library; and what one costs."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from sqlalchemy import event

from convokit import AsyncConvokit, Convokit
from convokit.completion.effects import read_flow
from convokit.history import append
from convokit.store import conversations
from tests.history.helpers import seqs, texts
from tests.support.faces import Face
from tests.support.selection import Effort

ASK, ANSWER = {"role": "user", "content": "明日の天気は?"}, {"role": "assistant", "content": "晴れです"}


def test_a_conversation_that_somebody_creates_meanwhile(face: Face, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write that finds no conversation, and then one, is tried again behind its messages."""
    face.settle(kit.chat("k").append([ASK]))
    find, answers = conversations.lock_and_find, [None]
    monkeypatch.setattr(conversations, "lock_and_find", lambda *given: answers.pop() if answers else find(*given))
    assert seqs(face.settle(kit.chat("k").append([ANSWER]))) == [2]
    assert answers == []
    face.settle(kit.chat("k").verify())


CREATE = """
import json, sys, time
from convokit import Convokit
kit = Convokit(sys.argv[1], model="m", base_url="http://127.0.0.1:9/v1")
kit.conversations()
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    kit.chat(f"k{number}").append([{"role": "user", "content": f"{sys.argv[2]}.{each}"} for each in range(3)])
"""


@pytest.mark.soak(sample=True)
def test_two_processes_create_the_same_conversations(face: Face, kit: Any, database: str) -> None:
    """Both batches are there whole, one behind the other."""
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", CREATE, database, name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name in ("a", "b")
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        assert [child.wait(60) for child in children] == [0, 0]
    for number in range(20):
        found = texts(face, kit.chat(f"k{number}"))
        assert found in (["a.0", "a.1", "a.2", "b.0", "b.1", "b.2"], ["b.0", "b.1", "b.2", "a.0", "a.1", "a.2"])
        face.settle(kit.chat(f"k{number}").verify())


CANCELS: dict[Effort, int] = {"quick": 12, "sample": 60, "soak": 200}


def test_a_cancelled_append_leaves_no_half_batch(database: str, effort: Effort) -> None:
    """Cancelled at any moment, all messages of a batch are stored or none. What was acknowledged is stored."""

    async def run() -> tuple[list[str], list[str]]:
        kit = AsyncConvokit(database, model="m", base_url="http://127.0.0.1:9/v1")
        acknowledged = []
        chance = random.Random(5)
        for number in range(CANCELS[effort]):
            batch = [{"role": "user", "content": f"{number}.{each}"} for each in range(3)]
            task = asyncio.create_task(kit.chat("k").append(batch))
            await asyncio.sleep(chance.uniform(0, 0.008))
            task.cancel()
            with suppress(asyncio.CancelledError):
                acknowledged += [each.text for each in await task]
        await kit.chat("k").append([ASK])
        stored = [each.text for each in await kit.chat("k").messages(limit=1000)][:-1]
        await kit.chat("k").verify()
        await kit.close()
        return acknowledged, stored

    acknowledged, stored = asyncio.run(run())
    assert stored == [f"{text.partition('.')[0]}.{each % 3}" for each, text in enumerate(stored)]
    assert set(acknowledged) <= set(stored)
    assert len(set(stored)) == len(stored)


def test_a_commit_whose_answer_is_lost_is_not_repeated(face: Face, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt finds what the first one committed, by the salt of its last row."""
    chat = kit.chat("k")
    face.settle(chat.append([ASK]))
    steps: list[append.MessageAppend] = []
    make = append.MessageAppend

    def record(*given: Any) -> append.MessageAppend:
        steps.append(make(*given))
        return steps[-1]

    monkeypatch.setattr(append, "MessageAppend", record)
    written = face.settle(chat.append([ANSWER]))
    found = face.settle(kit._runtime.run(read_flow(steps[0].find_written)))
    assert seqs(found.rows) == seqs(written) == [2]
    steps[0].placed[-1].salt = bytes(16)
    assert face.settle(kit._runtime.run(read_flow(steps[0].find_written))) is None


@pytest.mark.parametrize("count", [1, 7, 60])
def test_an_append_is_one_transaction(database: str, count: int) -> None:
    """It has one commit, and the number of its statements does not depend on the messages."""
    kit = Convokit(database, model="m", base_url="http://127.0.0.1:9/v1")
    chat = kit.chat("k")
    chat.append([ASK])
    chat.append([ANSWER])
    statements: list[str] = []
    commits: list[Any] = []
    engine = kit._runtime._store.engine
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    event.listen(engine, "commit", commits.append)
    chat.append([ASK] * count, expect=2)
    assert len(commits) == 1
    writing = [each for each in statements if not each.startswith(("BEGIN", "PRAGMA"))]
    # SQLite's index of words is a second table.
    assert len(writing) == (7 if database.startswith("postgresql") else 8)
    kit.close()
