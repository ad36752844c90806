"""Our requests and replies held against the API's own types, and against what another client gets wrong."""

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
from .vectors import chunk, read, reply, sse, text_of
from .vendors import VENDORS

PLAIN: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsNonStreaming)
STREAM: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsStreaming)


def exhaust(value: Any) -> None:
    """Look at everything in a validated value: iterables are validated only as they are read."""
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
def test_b89_our_bodies_are_valid_by_the_apis_own_types(model: str, stream: bool) -> None:
    """Every body we build is one the API's published types accept, with every parameter set."""
    profile = resolve_profile(model, "https://api.openai.com/v1")
    messages = to_wire_messages(HISTORY, profile, now=0.0, send_names=True)
    body = render_request(
        model=model, messages=messages, params=validate_params(EVERY), profile=profile, stream=stream, tools=[TOOL]
    ).body
    exhaust((STREAM if stream else PLAIN).validate_python(json.loads(json.dumps(body))))
    assert body.keys() <= CompletionCreateParamsStreaming.__annotations__.keys()


def test_b01_our_bodies_hold_no_key_the_api_does_not_have() -> None:
    """The order of keys we keep names parameters of the API and nothing else."""
    assert set(ORDER) <= CompletionCreateParamsStreaming.__annotations__.keys()


@pytest.mark.parametrize(
    "vendor", [one for one in VENDORS if one.name in ("openai", "vllm", "sglang")], ids=lambda one: one.name
)
def test_b88_our_vectors_are_what_the_other_client_reads_too(vendor: Any) -> None:
    """The plain vectors of servers that follow the API closely are valid by its own types, and mean the same."""
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
def test_streams_that_trip_another_client(stream: bytes) -> None:
    """Byte order marks, empty events, a last event without its blank line, missing deltas and repeated roles are read."""
    events, completion = read(stream)
    assert text_of(events) == completion.choices[0].content == "ab"
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
def test_failures_that_another_client_takes_for_success(stream: bytes) -> None:
    """Flat errors, the error field and a JSON body on a stream are errors, not the end of it."""
    data = stream.replace(b"data: [DONE]\n\n", b"")
    with pytest.raises(ModelError, match="boom"):
        read(data)


def test_a_missing_finish_that_another_client_does_not_flag() -> None:
    """A reply that just stops is not a reply."""
    with pytest.raises(Interrupted):
        read(sse(A, B, done=False))


def test_usage_that_another_client_overwrites() -> None:
    """Usage stays though a chunk without it follows."""
    assert (
        read(sse(A, {**END, "usage": {"prompt_tokens": 5}}, {"choices": [], "usage": None}))[1].usage.prompt_tokens == 5
    )


def test_plain_bodies_that_another_client_lets_through() -> None:
    """An error object, a page of HTML and a detail under a 200 are failures with a message."""
    for body in (b'{"error":{"message":"boom"}}', b"<html>boom</html>", b'{"detail":"boom"}'):
        with pytest.raises(ModelError, match="boom"):
            read(body, streaming=False)
    with pytest.raises(BadReply):
        read(json.dumps({**reply(), "choices": None}).encode(), streaming=False)


def test_generic_profile_sends_what_every_server_takes() -> None:
    """With no knowledge of the server nothing special is sent."""
    body = render_request(
        model="m", messages=[{"role": "user", "content": "x"}], params={}, profile=Profile(), stream=False
    ).body
    exhaust(PLAIN.validate_python(body))
    assert body.keys() == {"model", "messages"}
