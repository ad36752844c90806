"""The OpenAI Agents SDK where the gateway keeps the history: it sends only what is new."""

from __future__ import annotations

import pytest

from tests.clients.answers import PLAIN, REPLIES, TEXTS, WEATHER, Dialogue
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
    PLAIN.check(gateway)


def test_a_conversation_id_continues_after_tool_calls(
    gateway: RunningGateway, openai_agents: ClientProgram, stream: bool
) -> None:
    """The second request of a question holds the result of the call alone."""
    result = openai_agents.run(
        "ask_by_conversation_id", base_url=gateway.base_url, headers={}, texts=WEATHER.texts, stream=stream
    )
    assert (result["replies"], result["items"]) == (WEATHER.replies, WEATHER_ITEMS)
    sent = [each.sent for each in gateway.exchanges if each.path.endswith("/responses")]
    assert [each["type"] for each in sent[1]["input"]] == ["function_call_output"]
    WEATHER.check(gateway)


@pytest.mark.parametrize("dialogue", [PLAIN, WEATHER], ids=["text", "tool"])
def test_a_previous_response_continues_a_conversation(
    gateway: RunningGateway, openai_agents: ClientProgram, stream: bool, dialogue: Dialogue
) -> None:
    result = openai_agents.run(
        "ask_by_previous_response", base_url=gateway.base_url, headers={}, texts=dialogue.texts, stream=stream
    )
    assert result["replies"] == dialogue.replies
    dialogue.check(gateway)


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
