"""A copy of a path whose beginning was summed up."""

from __future__ import annotations

from typing import Any

import pytest

from convokit.domain.message import Message
from tests.completion.summaries import BUDGET, HEADING, ONCE, SUMMARY, Writer
from tests.support.faces import Face
from tests.support.server import LoopbackServer

pytestmark = pytest.mark.usefixtures("numbered_replies")


def test_a_copy_goes_on_with_the_summary(face: Face, database: str, server: LoopbackServer) -> None:
    """What fell out of the window stays summed up in the copy: the same request, no second call; and it can be redacted."""
    server.answer = Writer()
    kit = face.kit(database, model="m", base_url=server.url, budget=BUDGET, summary=SUMMARY, retry=ONCE)
    chat = kit.chat("k")
    for number in range(40):
        face.settle(chat.send(f"turn number {number} and more"))
        if number == 0:
            face.settle(face.settle(chat.fork()).send("so that places differ"))
        if [request.body["model"] for request in server.requests].count("mini") == 2:
            break
    before = face.settle(chat.context("and now?"))
    made = face.settle(chat.copy("c"))
    assert _texts(face.settle(made.messages())) == _texts(face.settle(chat.messages()))
    after = face.settle(made.context("and now?"))
    assert before.messages == after.messages
    assert any(each["content"] == f"{HEADING}so far 2" for each in after.messages)
    face.settle(made.verify())
    face.settle(made.send("and now?"))
    assert [each["content"] for each in server.requests[-1].body["messages"]] == [
        each["content"] for each in after.messages
    ]
    face.settle(made.redact(1))
    face.settle(made.verify())
    left = face.settle(made.context("and now?")).messages
    assert not any("so far" in str(each["content"]) for each in left)
    assert face.settle(chat.context("and now?")).messages == before.messages


def _texts(found: list[Message]) -> list[Any]:
    return [(each.role, each.text) for each in found]
