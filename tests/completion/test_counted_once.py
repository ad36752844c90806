"""Test that a turn counts each text once."""

from __future__ import annotations

from collections import Counter as Occurrences
from typing import Any

import pytest

from convokit import Budget
from tests.support.faces import Face
from tests.support.server import LoopbackServer, calls, completion, failure

pytestmark = pytest.mark.once
PROMPT = "You answer in one sentence. " * 20


class Recorder:
    """Counts characters, and remembers every text."""

    name = "recorder"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def count(self, text: str) -> int:
        self.texts.append(text)
        return len(text) // 4


def lookup(city: str) -> str:
    """Look a city up."""
    return f"{city}: 21 degrees"


def talk(face: Face, database: str, server: LoopbackServer, turns: int, **settings: Any) -> tuple[Any, Recorder]:
    """Return a chat after some turns, and its counter, which has forgotten what it counted."""
    counter = Recorder()
    settings = {"budget": Budget(context_tokens=1200, reply_tokens=100), "tools": [lookup], **settings}
    kit = face.kit(database, model="m", base_url=server.url, counter=counter, developer_prompt=PROMPT, **settings)
    chat = kit.chat("k")
    for number in range(turns):
        face.settle(chat.send(f"question {number} " + "and more words " * 5))
    counter.texts.clear()
    return chat, counter


@pytest.mark.parametrize("turns", [2, 40], ids=["whole", "trimmed, and read in pages"])
def test_a_turn_counts_its_question_and_its_reply(
    face: Face, database: str, server: LoopbackServer, turns: int
) -> None:
    """Neither the developer prompt nor the history is counted again, also where the window moves."""
    chat, counter = talk(face, database, server, turns)
    for number in range(12):
        server.script(completion(f"answer {number}"))
        face.settle(chat.send(f"a new question {number}"))
        assert counter.texts == [f"a new question {number}", f"answer {number}"]
        counter.texts.clear()


def test_a_round_of_tools_counts_its_call_and_its_result(face: Face, database: str, server: LoopbackServer) -> None:
    chat, counter = talk(face, database, server, 2)
    server.script(calls(("c1", "lookup", '{"city": "京都"}')), completion("mild"))
    face.settle(chat.send("how warm?"))
    counted = Occurrences(counter.texts)
    assert set(counted.values()) == {1}
    assert {"how warm?", "京都: 21 degrees", "mild"} <= set(counted)
    assert PROMPT not in counted


def test_a_retry_counts_nothing(face: Face, database: str, server: LoopbackServer) -> None:
    """A request that is built again, without a refused parameter or for a smaller window, uses the counts there are."""
    chat, counter = talk(face, database, server, 20)
    message = "This model's maximum context length is 900 tokens. However, your messages resulted in 1000 tokens."
    server.script(failure(400, message, code="context_length_exceeded"), completion("yes"))
    face.settle(chat.send("so?"))
    assert counter.texts == ["so?", "yes"]
