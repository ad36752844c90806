"""OpenAI's package for Node and the Vercel AI SDK before a gateway."""

from __future__ import annotations

import pytest

from convokit.testing import ScriptedError
from tests.clients.answers import KINDS_OF_ADDRESS, PLAIN, REPLIES, TEXTS, WEATHER, Dialogue, make_headers
from tests.clients.conftest import StartGateway
from tests.clients.installed import ClientProgram
from tests.support.gateway import MODEL, RunningGateway

of_each_address = pytest.mark.parametrize("address", KINDS_OF_ADDRESS)
in_both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
with_and_without_tools = pytest.mark.parametrize(
    ("scenario", "dialogue"), [("ask", PLAIN), ("ask_with_tool", WEATHER)], ids=["text", "tool"]
)
of_each_model = pytest.mark.parametrize("kind", ["responses", "chat", "compatible"])


@with_and_without_tools
@of_each_address
@in_both_ways
def test_openai_for_node_continues_a_conversation(
    gateway: RunningGateway, openai_node: ClientProgram, address: str, stream: bool, scenario: str, dialogue: Dialogue
) -> None:
    options = {"headers": make_headers(address), "stream": stream}
    replies = openai_node.run(scenario, base_url=gateway.base_url, texts=dialogue.texts, **options)
    assert replies == dialogue.replies
    dialogue.check(gateway)


@in_both_ways
def test_openai_for_node_continues_after_a_previous_response(
    gateway: RunningGateway, openai_node: ClientProgram, stream: bool
) -> None:
    replies = openai_node.run(
        "ask_by_previous_response", base_url=gateway.base_url, headers={}, texts=TEXTS, stream=stream
    )
    assert replies == REPLIES
    PLAIN.check(gateway, system=None)


@in_both_ways
def test_openai_for_node_uses_a_conversation(gateway: RunningGateway, openai_node: ClientProgram, stream: bool) -> None:
    result = openai_node.run("ask_in_conversation", base_url=gateway.base_url, headers={}, texts=TEXTS, stream=stream)
    assert result == {"replies": REPLIES, "types": ["message"] * 6, "metadata": {"topic": "旅"}, "deleted": True}
    PLAIN.check(gateway, system=None)


def test_openai_for_node_lists_models(gateway: RunningGateway, openai_node: ClientProgram) -> None:
    assert MODEL in openai_node.run("read_models", base_url=gateway.base_url, headers={})


def test_openai_for_node_raises_the_error_of_the_server(
    start_gateway: StartGateway, openai_node: ClientProgram
) -> None:
    limit = ScriptedError(429, "slow down", code="rate_limit_exceeded", headers={"x-should-retry": "false"})
    gateway = start_gateway([limit])
    failure = openai_node.run("fail", base_url=gateway.base_url, headers={}, text="Hi")
    assert failure["request"]
    del failure["request"]
    assert failure == {"name": "RateLimitError", "status": 429, "code": "rate_limit_exceeded"}


@with_and_without_tools
@of_each_model
@of_each_address
@in_both_ways
def test_the_ai_sdk_continues_a_conversation(
    gateway: RunningGateway,
    ai_sdk: ClientProgram,
    kind: str,
    address: str,
    stream: bool,
    scenario: str,
    dialogue: Dialogue,
) -> None:
    """The SDK writes the arguments of a call in another way when it sends them back."""
    options = {"headers": make_headers(address), "stream": stream, "kind": kind}
    assert ai_sdk.run(scenario, base_url=gateway.base_url, texts=dialogue.texts, **options) == dialogue.replies
    dialogue.check(gateway)
