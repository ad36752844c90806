"""The OpenAI Agents SDK where the gateway keeps the history: it sends only what is new."""

from __future__ import annotations

import pytest

from tests.clients.answers import (
    REPLIES,
    TEXTS,
    WEATHER_REPLIES,
    WEATHER_TEXTS,
    assert_three_turns,
    assert_weather_turns,
)
from tests.clients.installed import ClientProgram
from tests.support.gateway import RunningGateway

pytestmark = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
WEATHER_ITEMS = ["message", "function_call", "function_call_output", "message"] * 2


def test_a_conversation_id_continues_a_conversation(
    gateway: RunningGateway, openai_agents: ClientProgram, stream: bool
) -> None:
    result = openai_agents.run(
        "ask_by_conversation_id", base_url=gateway.base_url, headers={}, texts=TEXTS, stream=stream
    )
    assert result["replies"] == REPLIES
    assert result["items"] == ["message"] * 6
    assert_three_turns(gateway)


def test_a_conversation_id_continues_after_tool_calls(
    gateway: RunningGateway, openai_agents: ClientProgram, stream: bool
) -> None:
    """The second request of a question holds the result of the call alone."""
    result = openai_agents.run(
        "ask_by_conversation_id", base_url=gateway.base_url, headers={}, texts=WEATHER_TEXTS, stream=stream
    )
    assert (result["replies"], result["items"]) == (WEATHER_REPLIES, WEATHER_ITEMS)
    sent = [each.sent for each in gateway.exchanges if each.path.endswith("/responses")]
    assert [each["type"] for each in sent[1]["input"]] == ["function_call_output"]
    assert_weather_turns(gateway)


@pytest.mark.parametrize(
    ("texts", "replies"), [(TEXTS, REPLIES), (WEATHER_TEXTS, WEATHER_REPLIES)], ids=["plain", "tool"]
)
def test_a_previous_response_continues_a_conversation(
    gateway: RunningGateway, openai_agents: ClientProgram, stream: bool, texts: list[str], replies: list[str]
) -> None:
    result = openai_agents.run(
        "ask_by_previous_response", base_url=gateway.base_url, headers={}, texts=texts, stream=stream
    )
    assert result["replies"] == replies
    if texts is TEXTS:
        assert_three_turns(gateway)
    else:
        assert_weather_turns(gateway)


def test_a_session_of_conversations_keeps_its_items(
    gateway: RunningGateway, openai_agents: ClientProgram, stream: bool
) -> None:
    """The session writes the items itself and sends the whole history. So its turns are a second conversation."""
    result = openai_agents.run(
        "ask_in_conversations_session", base_url=gateway.base_url, headers={}, texts=TEXTS, stream=stream
    )
    assert result["replies"] == REPLIES
    assert [each["role"] for each in result["items"]] == ["user", "assistant"] * 3
    assert gateway.count_stored() == [6, 6]
    assert len(gateway.model.requests) == 3
