"""The main job: a turn is saved, resumed, and sent again as context."""

from __future__ import annotations

from typing import Any

import pytest

from convokit.errors import ModelError
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion, failure, stream


def test_a_turn_saves_question_and_reply(face: Face, kit: Any) -> None:
    """After send, both messages are stored, oldest first, and the reply's text is the server's."""
    chat = kit.chat("ticket-42")
    reply = face.settle(chat.send("hello"))
    assert reply.text == "echo: hello"
    stored = face.settle(chat.messages())
    assert [(message.role, message.text) for message in stored] == [("user", "hello"), ("assistant", "echo: hello")]
    assert [message.seq for message in stored] == [1, 2]


def test_another_kit_resumes_under_the_same_key(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """A key names one conversation for every process: the next turn carries the first one."""
    face.settle(kit.chat("k").send("one"))
    other = face.kit(database, model="loop-1", base_url=server.url)
    face.settle(other.chat("k").send("two"))
    sent = server.requests[-1].body["messages"]
    assert [message["content"] for message in sent] == ["one", "echo: one", "two"]


def test_a_stream_gives_its_events_and_then_the_reply(face: Face, kit: Any) -> None:
    """Every event has text; joined they are the reply's text, which is saved."""
    streaming = kit.chat("s").stream("a b c")
    events = face.collect(streaming)
    assert "".join(event.text for event in events) == "echo: a b c"
    assert streaming.reply.text == "echo: a b c"
    assert face.settle(kit.chat("s").messages())[-1].text == "echo: a b c"


def test_a_reader_who_leaves_keeps_what_came(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Leaving a stream early stops the reply; the part that came is stored as partial and the chat goes on."""
    server.script(stream(["one ", "two ", "three "], pause_s=0.05))
    face.take(kit.chat("p").stream("count"), 2)
    stored = face.settle(kit.chat("p").messages())
    assert [message.status for message in stored] == ["complete", "partial"]
    assert stored[-1].text.startswith("one ")
    assert face.settle(kit.chat("p").send("go on")).text == "echo: go on"
    face.settle(kit.chat("p").verify())


def test_a_failed_call_keeps_the_question(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A rejected request raises a typed error; the question stays and the next turn goes through."""
    server.script(failure(400, "bad thing"))
    with pytest.raises(ModelError, match="bad thing"):
        face.settle(kit.chat("f").send("hello"))
    assert [message.text for message in face.settle(kit.chat("f").messages())] == ["hello"]
    assert face.settle(kit.chat("f").send("again")).text == "echo: again"
    face.settle(kit.chat("f").verify())


def test_verify_holds_after_every_turn(face: Face, kit: Any) -> None:
    """The chain has an entry for each message and each API call."""
    chat = kit.chat("v")
    for number in range(3):
        face.settle(chat.send(f"turn {number}"))
    verified = face.settle(chat.verify())
    assert verified.entries == 9


def test_what_a_provider_added_goes_back_to_it_alone(face: Face, database: str, server: LoopbackServer) -> None:
    """Unknown keys of a reply survive save and load; they go back to the provider that sent them, and to no other."""
    theirs = face.kit(database, model="m", base_url=server.url, profile="deepseek", api_key="k")
    server.script(completion("thought about it", reasoning_content="hmm", x_vendor={"a": [1]}))
    reply = face.settle(theirs.chat("k").send("think"))
    assert (reply.text, reply.reasoning) == ("thought about it", "hmm")
    face.settle(theirs.chat("k").send("again"))
    assert server.requests[-1].body["messages"][1]["reasoning_content"] == "hmm"
    other = face.kit(database, model="m", base_url=server.url, profile="mistral", api_key="k")
    face.settle(other.chat("k").send("and you?"))
    assert server.requests[-1].body["messages"][1] == {"role": "assistant", "content": "thought about it"}
