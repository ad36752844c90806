"""A real model on a real llama.cpp server: what a scripted server cannot show."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from pydantic import BaseModel

from convokit import Budget
from convokit.context.validity import find_problems
from convokit.local import LocalModel, serve
from tests.support.faces import Face

pytestmark = [
    pytest.mark.local_model,
    pytest.mark.once,
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="the `local` group is not installed"),
]


@pytest.fixture(scope="module")
def running() -> Iterator[LocalModel]:
    with serve() as model:
        yield model


@pytest.fixture
def local_kit(face: Face, sqlite_file: str, running: LocalModel) -> Any:
    return face.kit(
        sqlite_file,
        model=running.model,
        base_url=running.base_url,
        api_key=running.api_key,
        profile="llama.cpp",
        counter=running.counter,
        budget=Budget(context_tokens=running.context_tokens, reply_tokens=64),
        max_output_tokens=24,
        temperature=0.0,
        seed=1,
    )


@pytest.mark.soak(sample=True)
def test_plain_and_streamed_agree(face: Face, local_kit: Any) -> None:
    """The same question at temperature 0 gives the same words plain and streamed, with usage reported both times."""
    plain = face.settle(local_kit.chat("plain").send("Name three colours."))
    streaming = local_kit.chat("streamed").stream("Name three colours.")
    pieces = [event.text for event in face.collect(streaming)]
    assert len(pieces) > 3
    assert "".join(pieces) == streaming.reply.text == plain.text
    assert plain.usage.source == streaming.reply.usage.source == "reported"
    assert plain.usage.completion_tokens == streaming.reply.usage.completion_tokens


@pytest.mark.soak(sample=True)
def test_our_count_is_near_the_servers(face: Face, local_kit: Any) -> None:
    """Counted with the server's own tokenizer, the context's size is close to what the server says it was."""
    reply = face.settle(local_kit.chat("count").send("日本の首都はどこですか？ Please answer briefly. 🙂"))
    counted = reply.context.tokens
    assert reply.context.counter.startswith("llama.cpp")
    assert abs(counted - reply.usage.prompt_tokens) <= 30, "the template adds an instruction of its own"


@pytest.mark.soak(sample=True)
def test_the_second_turn_is_served_from_the_cache(face: Face, local_kit: Any) -> None:
    """The prompt's beginning stays the same from turn to turn, so the server evaluates only what is new."""
    chat = local_kit.chat("cache")
    face.settle(chat.send("Tell me a word."))
    second = face.settle(chat.send("And another one."))
    assert second.usage.cached_tokens > second.usage.prompt_tokens * 0.5


class Colour(BaseModel):
    """A colour."""

    name: str
    warm: bool


@pytest.mark.soak(sample=True)
def test_a_schema_binds_a_real_model(face: Face, local_kit: Any) -> None:
    """A small model held to the schema answers in it."""
    chat = local_kit.chat("schema")
    reply = face.settle(chat.send("A colour, please.", response_format=Colour, max_output_tokens=100))
    assert isinstance(reply.parsed, Colour)


@pytest.mark.soak(sample=True)
def test_tools_are_accepted(face: Face, local_kit: Any) -> None:
    """Tools reach the server in a form it takes; whatever this small model makes of them, the next turn is valid."""

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    chat = local_kit.chat("tools")
    assert face.settle(chat.send("What is 2 plus 3?", tools=[add])).message.role == "assistant"
    assert find_problems(face.settle(chat.context("And 4 plus 5?")).messages) == []
