"""LangChain and the OpenAI Agents SDK before a gateway."""

from __future__ import annotations

import pytest

from tests.clients.answers import KINDS_OF_ADDRESS, PLAIN, WEATHER, Dialogue, make_headers
from tests.clients.installed import ClientProgram
from tests.support.gateway import RunningGateway

pytestmark = [
    pytest.mark.parametrize("address", KINDS_OF_ADDRESS),
    pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"]),
    pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"]),
]


@pytest.mark.parametrize(("scenario", "dialogue"), [("ask", PLAIN), ("ask_with_tool", WEATHER)], ids=["text", "tool"])
def test_langchain_continues_a_conversation(
    gateway: RunningGateway,
    langchain_chat: ClientProgram,
    address: str,
    stream: bool,
    responses: bool,
    scenario: str,
    dialogue: Dialogue,
) -> None:
    """LangChain writes the arguments of a call in another way when it sends them back."""
    options = {"headers": make_headers(address), "responses": responses, "stream": stream}
    replies = langchain_chat.run(scenario, base_url=gateway.base_url, texts=dialogue.texts, **options)
    assert replies == dialogue.replies
    dialogue.check(gateway)


@pytest.mark.parametrize("dialogue", [PLAIN, WEATHER], ids=["text", "tool"])
def test_agents_continue_a_session_of_the_sdk(
    gateway: RunningGateway,
    openai_agents: ClientProgram,
    address: str,
    stream: bool,
    responses: bool,
    dialogue: Dialogue,
) -> None:
    options = {"headers": make_headers(address), "responses": responses, "stream": stream}
    replies = openai_agents.run("ask_in_own_session", base_url=gateway.base_url, texts=dialogue.texts, **options)
    assert replies == dialogue.replies
    dialogue.check(gateway)
