"""Options of call, chat and kit are resolved once."""

from __future__ import annotations

from typing import Any

import pytest

from convokit.completion import resolved_options, state
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect all options that are resolved from here on."""
    collected: list[Any] = []
    resolve = resolved_options.resolve

    def collect(*given: Any) -> Any:
        collected.append(resolve(*given))
        return collected[-1]

    monkeypatch.setattr(state, "resolve", collect)
    return collected


def test_handles_that_set_nothing_share_their_options(face: Face, kit: Any, resolved: list[Any]) -> None:
    """A web server makes a handle for each request: the kit resolves its options once for all chats."""
    for key in ("a", "b", "a"):
        face.settle(kit.chat(key).send("hello"))
    assert len(resolved) == 1


@pytest.mark.once
def test_what_a_chat_sets_is_its_own(face: Face, kit: Any, server: LoopbackServer, resolved: list[Any]) -> None:
    """A chat that stores a prompt has options of its own: no other chat gets them, and every later handle on it does."""
    server.script(*(completion("done") for _ in range(4)))
    face.settle(kit.chat("a").send("hello"))
    face.settle(kit.chat("b", developer_prompt="Be brief.").send("hello"))
    face.settle(kit.chat("b").send("hello"))
    face.settle(kit.chat("a").send("hello"))
    prompts = [request.body["messages"][0]["content"] for request in server.requests]
    assert prompts == ["hello", "Be brief.", "Be brief.", "hello"]


@pytest.mark.once
def test_what_a_call_sets_holds_for_it_alone(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A model that one call names is not the next one's."""
    chat = kit.chat("a")
    face.settle(chat.send("hello"))
    face.settle(chat.send("hello", model="other"))
    face.settle(chat.send("hello"))
    assert [request.body["model"] for request in server.requests] == ["loop-1", "other", "loop-1"]


class Counting:
    """Counts words, and remembers what it counted."""

    name = "words"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def count(self, text: str) -> int:
        self.texts.append(text)
        return len(text.split())


@pytest.mark.once
def test_a_text_is_counted_once(face: Face, database: str, server: LoopbackServer) -> None:
    """Question and reply are counted when they come, and the names of roles never again."""
    counter = Counting()
    server.script(*(completion(f"answer {number}") for number in range(3)))
    kit = face.kit(database, model="m", base_url=server.url, counter=counter)
    for number in range(3):
        face.settle(kit.chat("k").send(f"question {number}"))
    for role in ("user", "assistant"):
        assert counter.texts.count(role) == 1
    for number in range(3):
        assert counter.texts.count(f"question {number}") == counter.texts.count(f"answer {number}") == 1
