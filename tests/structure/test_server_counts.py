"""The model servers of the tests report the tokens of what they received and answered."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from convokit.tokens import ExactTokens, count_message
from tests.support.server import LoopbackServer, calls, completion, count_usage, stream
from tests.support.token_counts import count_reply, count_request, count_text

MESSAGES: list[dict[str, Any]] = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
    },
    {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
    {"role": "system", "name": "example_assistant", "content": "Things working well together will increase revenue."},
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    },
]
"""The example of OpenAI's cookbook. The API reported 124 prompt tokens with gpt-4o and 129 with gpt-4."""

QUESTION: list[dict[str, Any]] = [
    {
        "role": "system",
        "content": "You are a helpful assistant that can answer to questions about the weather.",
    },
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]
PROPERTIES = {
    "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
    "unit": {"type": "string", "description": "The unit of temperature to return", "enum": ["celsius", "fahrenheit"]},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {"type": "object", "properties": PROPERTIES, "required": ["location"]},
    },
}
"""The cookbook's example of tools. The API reported 101 prompt tokens with gpt-4o."""


@pytest.mark.once
def test_requests_count_what_the_api_of_openai_reported() -> None:
    assert count_request({"messages": MESSAGES}) == 124
    assert count_request({"messages": MESSAGES}, "cl100k_base") == 129
    assert count_request({"messages": QUESTION, "tools": [TOOL]}) == 101


@pytest.mark.once
@pytest.mark.parametrize(
    ("size", "detail", "tokens"),
    [((512, 512), "auto", 255), ((1024, 1024), "high", 765), ((2048, 4096), "high", 1105), ((2048, 4096), "low", 85)],
)
def test_images_count_by_their_tiles(size: tuple[int, int], detail: str, tokens: int) -> None:
    """The examples of OpenAI's guide to images."""
    assert count_reply({"content": [_make_image(*size, detail=detail)]}) == tokens


def _make_image(width: int, height: int, *, detail: str = "auto") -> dict[str, Any]:
    data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


@pytest.mark.once
def test_server_reports_what_it_received_and_answered(server: LoopbackServer) -> None:
    """Plain or streamed, Japanese or English, with calls of tools or without: the usage is that of this request."""
    question = {"role": "user", "content": "開館時間を教えてください。"}
    arguments = '{"branch": "中央"}'
    for script, reply in (
        (completion("午前九時から開いています。"), count_text("午前九時から開いています。")),
        (stream(["Good", " morn", "ing."]), count_text("Good morning.")),
        (calls(("c1", "opening_hours", arguments)), 3 + count_text("opening_hours") + count_text(arguments)),
        (calls(("c1", "hours", arguments), streamed=True), 3 + count_text("hours") + count_text(arguments)),
    ):
        server.script(script)
        answer = httpx.post(f"{server.url}/chat/completions", json={"messages": [question]}).text
        usage = _read_usage(answer)
        prompt = 3 + 3 + 1 + ExactTokens().count(question["content"])
        assert usage == {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}


def _read_usage(answer: str) -> Any:
    events = [json.loads(line.removeprefix("data: ")) for line in answer.splitlines() if line and "[DONE]" not in line]
    return events[-1]["usage"]


@pytest.mark.once
def test_scripted_usage_is_kept(server: LoopbackServer) -> None:
    server.script(completion("yes", usage={"prompt_tokens": 7}), completion("yes", usage={}))
    body = {"messages": MESSAGES}
    assert _read_usage(httpx.post(f"{server.url}/chat/completions", json=body).text) == {"prompt_tokens": 7}
    assert _read_usage(httpx.post(f"{server.url}/chat/completions", json=body).text) == {}


@pytest.mark.once
def test_reported_usage_grows_with_the_conversation(server: LoopbackServer, kit: Any, face: Any) -> None:
    """The counts of convokit and of the server are independent, and differ by the overhead of a message only."""
    chat = kit.chat("k")
    replies = [face.settle(chat.send(text)) for text in ("What is due?", "返却日はいつですか。", "Thanks.")]
    prompts = [reply.usage.prompt_tokens for reply in replies]
    assert prompts == sorted(set(prompts))
    for reply, request in zip(replies, server.requests, strict=True):
        messages = request.body["messages"]
        assert reply.usage.source == "reported"
        assert reply.usage.prompt_tokens == 3 + sum(count_message(ExactTokens(), each) - 1 for each in messages)
        assert count_usage(request.body, completion(reply.text))["total_tokens"] == reply.usage.total_tokens
