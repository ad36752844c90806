"""Tests that a placeholder key such as "ollama" changes nothing that a server reports."""

from __future__ import annotations

import json

import pytest

from convokit import Retry
from convokit.errors import ContextOverflow, ModelError
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, failure

ONCE = Retry(attempts=1)
OVERFLOW = "This model's maximum context length is 8192 tokens. However, your messages resulted in 10213 tokens."


def _answer(model: str, key: str) -> Script:
    choice = {"index": 0, "message": {"role": "assistant", "content": f"about {key}"}, "finish_reason": "stop"}
    body = {"id": f"chat-{key}-7", "model": model, "service_tier": key, "system_fingerprint": key, "choices": [choice]}
    return Script([json.dumps(body).encode()], headers={"content-type": "application/json", "x-request-id": f"r-{key}"})


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("ollama", "ollama/llama9"),
        ("local", "local-model"),
        ("lm-studio", "lm-studio"),
        ("1", "model-1-instruct"),
        ("long-placeholder", "long-placeholder/日本語"),
    ],
)
def test_a_reply_is_stored_as_it_came(face: Face, database: str, server: LoopbackServer, key: str, model: str) -> None:
    """Model, ids, tier and text of a reply are those of the server, also where they contain the key."""
    kit = face.kit(database, model="m", base_url=server.url, api_key=key)
    server.script(_answer(model, key))
    reply = face.settle(kit.chat("a").send("q"))
    assert (reply.model, reply.text, reply.request_id) == (model, f"about {key}", f"r-{key}")
    assert face.settle(kit.usage(by="model")).rows[0].model == model
    assert face.settle(kit.chat("a").verify()).entries


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("key", ["token", "1", "8192", "context", "EMPTY"])
def test_an_overflow_keeps_its_numbers(face: Face, database: str, server: LoopbackServer, key: str) -> None:
    """The counts of an overflow are read from the message of the server, and no key cuts them."""
    kit = face.kit(database, model="m", base_url=server.url, api_key=key)
    server.script(failure(400, OVERFLOW, code="context_length_exceeded"))
    with pytest.raises(ContextOverflow) as caught:
        face.settle(kit.chat("a").send("q", retry=ONCE))
    assert (caught.value.needed, caught.value.available) == (10_213, 8_192)


@pytest.mark.once
def test_a_long_key_is_masked_in_errors_alone(face: Face, database: str, server: LoopbackServer) -> None:
    """The message and code of an error show no key; its request id stays, because support asks for it."""
    key = "house-gateway-key-1"
    kit = face.kit(database, model="m", base_url=server.url, api_key=key)
    server.script(failure(401, f"キー「{key}」は無効です", code=key, headers={"x-request-id": key}))
    with pytest.raises(ModelError) as caught:
        face.settle(kit.chat("a").send("q", retry=ONCE))
    assert str(caught.value) == "HTTP 401 [key]: キー「[key]」は無効です"
    assert (caught.value.code, caught.value.request_id) == ("[key]", key)
