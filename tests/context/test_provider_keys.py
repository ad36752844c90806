"""What a provider is sent again of its own keys takes room as everything that is sent does."""

from __future__ import annotations

from typing import Any

import pytest

from convokit import Budget, ContextBuilder, Profile
from convokit.domain.profiles import resolve_profile
from convokit.tokens.counter import REPLY_PRIMER, choose_counter, count_message
from convokit.wire.message_encoding import to_wire_messages
from tests.context.histories import Message, Words
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion

VENDOR = Profile(provider="vendor", replay_keys=frozenset({"reasoning_content", "reasoning_details"}))
THOUGHT = {
    "reasoning_content": "w " * 40,
    "reasoning_details": [{"text": "w " * 30, "signature": "s"}],
    "other": "w " * 20,
}


def _said(provider: str, **keys: Any) -> Message:
    return {"role": "assistant", "content": "yes", "extra": {"provider": provider, "keys": keys}}


def test_what_goes_back_is_counted_and_nothing_else() -> None:
    """A vendor's keys count for the vendor that sent them, those alone that it is sent again, stored or in the array."""
    plain = {"role": "assistant", "content": "yes"}
    counter = choose_counter(VENDOR, Words())
    cost = count_message(counter, plain)
    stored = count_message(counter, _said("vendor", **THOUGHT))
    assert cost + 40 + 30 < stored < cost + 40 + 30 + 20
    (sent,) = to_wire_messages([_said("vendor", **THOUGHT)], VENDOR)
    assert count_message(counter, sent) == stored
    assert count_message(counter, _said("another", **THOUGHT)) == cost
    assert count_message(Words(), _said("vendor", **THOUGHT)) == cost
    assert count_message(counter, {**_said("vendor", **THOUGHT), "role": "user"}) == count_message(
        counter, {**plain, "role": "user"}
    )


def test_a_key_that_is_no_json_is_counted_by_its_words() -> None:
    """What is handed in beside a plain message may be anything: counting it raises nothing."""
    thought = {"role": "assistant", "content": "yes", "reasoning_content": object()}
    assert ContextBuilder(profile=VENDOR).build(history=[{"role": "user", "content": "q"}, thought]).report.tokens > 0


@pytest.mark.parametrize("provider", ["deepseek", "llama.cpp", "openrouter"])
def test_counts_name_the_vendor_whose_keys_they_hold(provider: str) -> None:
    """Counts with a vendor's keys and without are different counts: each has its name, whatever counts the texts."""
    profile = resolve_profile("m", "http://127.0.0.1:9/v1", name=provider)
    name = ContextBuilder(profile=profile, counter=Words()).counter.name
    assert name == f"{Words().name}+{provider}:{','.join(sorted(profile.replay_keys))}"
    assert choose_counter(profile, choose_counter(profile, Words())).name == name
    assert ContextBuilder(counter=Words()).counter.name == Words().name


@pytest.mark.once
def test_a_long_thought_stays_within_the_budget(face: Face, database: str, server: LoopbackServer) -> None:
    """The reply is stored with what it costs as it goes back; every request fits, and the thought leaves the window with it."""
    budget = Budget(context_tokens=300, reply_tokens=20, step_tokens=50)
    given = {"base_url": server.url, "budget": budget, "counter": Words()}
    kit = face.kit(database, model="m", profile=VENDOR, **given)
    chat = kit.chat("thinking")
    thoughts = []
    for number in range(8):
        server.script(completion("ok", reasoning_content="w " * (20 + 20 * number)))
        reply = face.settle(chat.send(f"question {number}"))
        assert reply.message.tokens > 20 + 20 * number
        sent = server.requests[-1].body["messages"]
        counter = choose_counter(VENDOR, Words())
        tokens = REPLY_PRIMER + sum(count_message(counter, each) for each in sent)
        assert tokens == reply.context.tokens <= 280
        thoughts.append(sum("reasoning_content" in each for each in sent))
    assert max(thoughts) >= 2
    assert thoughts[-1] < 7
    elsewhere = face.kit(database, model="m", **given).chat("thinking")
    assert face.settle(elsewhere.context("and now?")).report.tokens < 150


@pytest.mark.once
def test_a_spoken_reply_is_stored_with_its_words_counted(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The transcript goes back once the sound is forgotten: the stored count holds it."""
    server.script(
        completion(None, audio={"id": "audio_1", "expires_at": 0, "data": "AAAA", "transcript": "word " * 300})
    )
    reply = face.settle(kit.chat("spoken").send("speak", modalities=["text", "audio"], audio={"format": "wav"}))
    assert reply.message.tokens > 300


def test_reasoning_that_goes_back_with_calls_is_counted() -> None:
    """The counter of an unknown gateway has the name of the counter itself."""
    gateway = resolve_profile("m", "http://127.0.0.1:9/v1")
    counter = choose_counter(gateway, Words())
    assert counter.name == Words().name
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calling = {**_said("generic", **THOUGHT), "tool_calls": [call]}
    plain = {key: value for key, value in calling.items() if key != "extra"}
    assert count_message(counter, calling) - count_message(counter, plain) >= 40
    (sent,) = to_wire_messages([calling], gateway)
    assert count_message(counter, sent) == count_message(counter, calling)
    silent = _said("generic", **THOUGHT)
    assert count_message(counter, silent) == count_message(Words(), silent)
