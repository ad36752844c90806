"""Tests of the codec against the openai package."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic import TypeAdapter

from convokit.domain.params import validate_params
from convokit.domain.profiles import Profile, resolve_profile
from convokit.errors import BadReply, Interrupted, ModelError
from convokit.wire.messages import to_wire_messages
from convokit.wire.request import ORDER, render_request

from .test_messages import AUDIO, FILE, IMAGE, INLINE, SPOKEN, TEXT, call
from .test_request import EVERY, TOOL
from .vectors import chunk, join_text, read, reply, sse
from .vendors import VENDORS

PLAIN: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsNonStreaming)
STREAM: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsStreaming)


def exhaust(value: Any) -> None:
    """Read everything in a validated value: iterables are validated only when they are read."""
    if isinstance(value, Mapping):
        value = value.values()
    if isinstance(value, Iterable) and not isinstance(value, str):
        for item in value:
            exhaust(item)


HISTORY: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [TEXT, IMAGE, INLINE, AUDIO, FILE], "name": "Zoë"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [call()],
        "annotations": [],
        "extra": {"provider": "x", "keys": {}},
    },
    {"role": "tool", "content": "42", "tool_call_id": "call_1"},
    {"role": "assistant", "content": None, "refusal": "No."},
    {"role": "user", "content": "Say it."},
    {"role": "assistant", "content": None, "audio": SPOKEN},
    {"role": "user", "content": "日本語?"},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["gpt-6-luna", "gpt-5.1", "gpt-4o", "o3", "gpt-unknown"])
def test_b89_bodies_with_every_parameter_are_valid_by_the_apis_types(model: str, stream: bool) -> None:
    profile = resolve_profile(model, "https://api.openai.com/v1")
    messages = to_wire_messages(HISTORY, profile, now=0.0, send_names=True)
    body = render_request(
        model=model, messages=messages, params=validate_params(EVERY), profile=profile, stream=stream, tools=[TOOL]
    ).body
    exhaust((STREAM if stream else PLAIN).validate_python(json.loads(json.dumps(body))))
    assert body.keys() <= CompletionCreateParamsStreaming.__annotations__.keys()


def test_b01_every_key_of_a_body_is_a_parameter_of_the_api() -> None:
    assert set(ORDER) <= CompletionCreateParamsStreaming.__annotations__.keys()


@pytest.mark.parametrize(
    "vendor", [one for one in VENDORS if one.name in ("openai", "vllm", "sglang")], ids=lambda one: one.name
)
def test_b88_the_openai_package_parses_the_plain_replies_alike(vendor: Any) -> None:
    theirs = ChatCompletion.model_validate(json.loads(vendor.plain))
    ours = read(vendor.plain, streaming=False)[1]
    assert theirs.choices[0].message.content == ours.choices[0].content
    assert (theirs.id, theirs.model) == (ours.response_id, ours.model)
    assert theirs.usage is not None
    assert theirs.usage.prompt_tokens == ours.usage.prompt_tokens
    ChatCompletionChunk.model_validate(chunk({"content": "x"}))


A, B, END = chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop")


@pytest.mark.parametrize(
    "stream",
    [
        b"\xef\xbb\xbf" + sse(A, B, END),
        sse(A, b"event: ping\n\n", B, b"data:\n\n", END),
        sse(A, b"id: 7\n\n", B, b"retry: 10\n\n", END),
        sse(A, B, END, done=False)[:-2],
        sse(A, B, {"choices": [{"index": 0, "finish_reason": "stop"}]}),
        sse(
            *(
                {
                    **one,
                    "choices": [{**one["choices"][0], "delta": {"role": "assistant", **one["choices"][0]["delta"]}}],
                }
                for one in (A, B, END)
            )
        ),
        sse(A, {"choices": None}, B, {"id": "x"}, END),
    ],
    ids=["bom", "empty events", "id and retry", "no blank line", "no delta", "role repeated", "no choices"],
)
def test_streams_that_the_openai_package_rejects_are_parsed(stream: bytes) -> None:
    events, completion = read(stream)
    assert join_text(events) == completion.choices[0].content == "ab"
    assert completion.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "stream",
    [
        sse(A, {"object": "error", "message": "boom", "code": 500}),
        sse(A) + b'error: {"message":"boom"}\n\n',
        sse(A, {"error": {"message": "boom"}}),
        json.dumps({"error": {"message": "boom"}}).encode(),
    ],
    ids=["flat", "field", "object", "json body"],
)
def test_errors_that_the_openai_package_misses_are_raised(stream: bytes) -> None:
    data = stream.replace(b"data: [DONE]\n\n", b"")
    with pytest.raises(ModelError, match="boom"):
        read(data)


def test_a_missing_finish_reason_is_interrupted() -> None:
    with pytest.raises(Interrupted):
        read(sse(A, B, done=False))


def test_a_null_usage_does_not_overwrite_an_earlier_one() -> None:
    assert (
        read(sse(A, {**END, "usage": {"prompt_tokens": 5}}, {"choices": [], "usage": None}))[1].usage.prompt_tokens == 5
    )


def test_plain_bodies_with_errors_are_raised() -> None:
    for body in (b'{"error":{"message":"boom"}}', b"<html>boom</html>", b'{"detail":"boom"}'):
        with pytest.raises(ModelError, match="boom"):
            read(body, streaming=False)
    with pytest.raises(BadReply):
        read(json.dumps({**reply(), "choices": None}).encode(), streaming=False)


def test_the_generic_profile_sends_only_model_and_messages() -> None:
    body = render_request(
        model="m", messages=[{"role": "user", "content": "x"}], params={}, profile=Profile(), stream=False
    ).body
    exhaust(PLAIN.validate_python(body))
    assert body.keys() == {"model", "messages"}
