"""LangChain and the OpenAI Agents SDK before a gateway."""

from __future__ import annotations

import pytest

from tests.clients.answers import (
    KINDS_OF_ADDRESS,
    REPLIES,
    TEXTS,
    WEATHER_REPLIES,
    WEATHER_TEXTS,
    assert_three_turns,
    assert_weather_turns,
    make_headers,
)
from tests.clients.installed import ClientProgram
from tests.support.gateway import RunningGateway

pytestmark = [
    pytest.mark.parametrize("address", KINDS_OF_ADDRESS),
    pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"]),
]
of_both_apis = pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])


@of_both_apis
def test_langchain_continues_a_conversation(
    gateway: RunningGateway, langchain_chat: ClientProgram, address: str, stream: bool, responses: bool
) -> None:
    options = {"headers": make_headers(address), "responses": responses, "stream": stream}
    assert langchain_chat.run("ask", base_url=gateway.base_url, texts=TEXTS, **options) == REPLIES
    assert_three_turns(gateway)


@of_both_apis
def test_langchain_runs_tools(
    gateway: RunningGateway, langchain_chat: ClientProgram, address: str, stream: bool, responses: bool
) -> None:
    """LangChain writes the arguments of a call in another way when it sends them back."""
    options = {"headers": make_headers(address), "responses": responses, "stream": stream}
    replies = langchain_chat.run("ask_with_tool", base_url=gateway.base_url, texts=WEATHER_TEXTS, **options)
    assert replies == WEATHER_REPLIES
    assert_weather_turns(gateway)


@of_both_apis
def test_agents_continue_a_session_of_the_sdk(
    gateway: RunningGateway, openai_agents: ClientProgram, address: str, stream: bool, responses: bool
) -> None:
    options = {"headers": make_headers(address), "responses": responses, "stream": stream}
    replies = openai_agents.run("ask_in_own_session", base_url=gateway.base_url, texts=TEXTS, **options)
    assert replies == REPLIES
    assert_three_turns(gateway)


@of_both_apis
def test_agents_run_tools_in_a_session_of_the_sdk(
    gateway: RunningGateway, openai_agents: ClientProgram, address: str, stream: bool, responses: bool
) -> None:
    options = {"headers": make_headers(address), "responses": responses, "stream": stream}
    replies = openai_agents.run("ask_in_own_session", base_url=gateway.base_url, texts=WEATHER_TEXTS, **options)
    assert replies == WEATHER_REPLIES
    assert_weather_turns(gateway)
