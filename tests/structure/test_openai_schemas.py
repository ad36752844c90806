"""The validator of the gateway's responses accepts right values, and names what is wrong in others."""

from __future__ import annotations

import copy
import json
from typing import Any

import httpx
import pytest

from tests.support.gateway import Exchange
from tests.support.openai_schemas import validate, validate_exchange

USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}
TEXT = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [TEXT]}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "completed_at": 2,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "previous_response_id": None,
    "model": "gpt-6-luna",
    "output": [MESSAGE],
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "text": {"format": {"type": "text"}},
    "truncation": "disabled",
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_logprobs": 0,
    "reasoning": None,
    "usage": USAGE,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "store": True,
    "background": False,
    "service_tier": "default",
    "metadata": {},
    "safety_identifier": None,
    "prompt_cache_key": None,
}
CHOICE = {
    "index": 0,
    "finish_reason": "stop",
    "logprobs": None,
    "message": {"role": "assistant", "content": "Hi", "refusal": None},
}
COMPLETION = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE]}
CHUNK = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}],
}
DELTA = {
    "type": "response.output_text.delta",
    "sequence_number": 2,
    "item_id": "msg_1",
    "output_index": 0,
    "content_index": 0,
    "delta": "Hi",
    "logprobs": [],
}
ERROR = {"error": {"message": "busy", "type": "conflict", "param": None, "code": "conversation_busy"}}
VALUES = {
    "CreateChatCompletionResponse": COMPLETION,
    "CreateChatCompletionStreamResponse": CHUNK,
    "Response": RESPONSE,
    "ResponseStreamEvent": DELTA,
    "ErrorResponse": ERROR,
    "ConversationItem": MESSAGE,
}


@pytest.mark.parametrize("name", VALUES)
def test_a_valid_value_is_accepted(name: str) -> None:
    validate(name, VALUES[name])


@pytest.mark.parametrize(
    ("name", "path", "problem"),
    [
        ("CreateChatCompletionResponse", "choices/0/logprobs", "openai .*: choices/0: 'logprobs' is a required"),
        ("CreateChatCompletionStreamResponse", "choices/0/delta", "'delta' is a required"),
        ("Response", "usage/input_tokens_details/cache_write_tokens", "'cache_write_tokens' is a required"),
        (
            "Response",
            "presence_penalty",
            "open_responses ResponseResource: the value: 'presence_penalty' is a required",
        ),
        ("Response", "output/0/content/0/annotations", "output/0/content/0: 'annotations' is a required"),
        ("ResponseStreamEvent", "item_id", "ResponseTextDeltaEvent: the value: 'item_id' is a required"),
        ("ResponseStreamEvent", "type", "ResponseStreamEvent"),
        ("ErrorResponse", "error/param", "error: 'param' is a required"),
        ("ConversationItem", "role", "'role' is a required"),
    ],
)
def test_a_missing_field_is_named(name: str, path: str, problem: str) -> None:
    value = copy.deepcopy(VALUES[name])
    *parents, last = path.split("/")
    place: Any = value
    for each in parents:
        place = place[int(each)] if each.isdigit() else place[each]
    del place[last]
    with pytest.raises(AssertionError, match=problem):
        validate(name, value)


def test_the_schema_of_structured_output_is_checked_by_openai_alone() -> None:
    """No value fits both documents there."""
    response: Any = copy.deepcopy(RESPONSE)
    response["text"]["format"] = {"type": "json_schema", "name": "town", "schema": {"type": "object"}, "strict": True}
    validate("Response", response)
    created = {"type": "response.created", "sequence_number": 0, "response": response}
    validate("ResponseStreamEvent", created)
    del response["text"]["format"]["schema"]
    with pytest.raises(AssertionError, match="openai Response: text"):
        validate("Response", response)


def test_a_message_names_four_problems_and_the_number_of_the_others() -> None:
    with pytest.raises(AssertionError, match=r"and .* more") as raised:
        validate("Response", {"id": 1})
    assert len(str(raised.value).splitlines()) == 6


def test_an_unknown_schema_is_an_error() -> None:
    with pytest.raises(AssertionError, match="openai has no schema Respons;"):
        validate("Respons", {})


def _exchange(method: str, path: str, body: bytes, status: int = 200, kind: str = "application/json") -> Exchange:
    headers = httpx.Headers({"content-type": kind})
    return Exchange(method, path, "", httpx.Headers(), b"", status, headers, body)


@pytest.mark.parametrize(
    ("method", "path", "value", "status"),
    [
        ("POST", "/v1/chat/completions", COMPLETION, 200),
        ("GET", "/c/旅/v1/chat/completions/chatcmpl-1", COMPLETION, 200),
        ("POST", "/v1/responses", RESPONSE, 200),
        ("POST", "/v1/responses/resp_1/cancel", RESPONSE, 200),
        ("POST", "/v1/responses/input_tokens", {"object": "response.input_tokens", "input_tokens": 1}, 200),
        ("GET", "/v1/conversations/conv_1/items/msg_1", MESSAGE, 200),
        ("POST", "/v1/responses", ERROR, 409),
        (
            "DELETE",
            "/v1/conversations/conv_1",
            {"id": "conv_1", "object": "conversation.deleted", "deleted": True},
            200,
        ),
    ],
)
def test_an_answer_is_checked_by_its_route(method: str, path: str, value: Any, status: int) -> None:
    validate_exchange(_exchange(method, path, json.dumps(value).encode(), status))
    with pytest.raises(AssertionError, match=rf"^{method} {path} \({status}\): this is no valid"):
        validate_exchange(_exchange(method, path, b'{"x": 1}', status))


def test_a_route_of_its_own_has_no_schema() -> None:
    validate_exchange(_exchange("GET", "/convokit/v1/conversations", b'{"data": []}'))


def test_a_route_without_a_known_schema_is_an_error() -> None:
    with pytest.raises(AssertionError, match="no schema is known for PUT models"):
        validate_exchange(_exchange("PUT", "/v1/models", b"{}"))


def _stream(path: str, *events: Any) -> Exchange:
    data = [each if isinstance(each, str) else json.dumps(each) for each in events]
    body = "".join(f"event: x\ndata: {each}\n\n" for each in data).encode()
    return _exchange("POST", path, body, kind="text/event-stream; charset=utf-8")


def test_every_event_of_a_stream_is_checked() -> None:
    validate_exchange(_stream("/v1/chat/completions", CHUNK, "[DONE]"))
    validate_exchange(_stream("/v1/chat/completions", CHUNK, ERROR))
    validate_exchange(_stream("/v1/responses", DELTA, {**DELTA, "sequence_number": 4}))
    for broken in (
        _stream("/v1/chat/completions"),
        _stream("/v1/chat/completions", CHUNK),
        _stream("/v1/chat/completions", CHUNK, {"error": {}}),
        _stream("/v1/chat/completions", {**CHUNK, "object": "x"}, "[DONE]"),
        _stream("/v1/responses", DELTA, DELTA),
        _stream("/v1/responses", {**DELTA, "logprobs": None}),
    ):
        with pytest.raises(AssertionError):
            validate_exchange(broken)
