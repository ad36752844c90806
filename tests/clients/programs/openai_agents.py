"""Scenarios of the OpenAI Agents SDK."""

from __future__ import annotations

from typing import Any

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from harness import serve
from openai import AsyncOpenAI

set_tracing_disabled(True)


@function_tool
def get_weather(location: str) -> str:
    """Return the weather at a place."""
    return f"sunny in {location}"


def _make_client(base_url: str, headers: dict[str, str]) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=base_url, api_key="key", default_headers=headers, max_retries=0)


def _make_agent(client: AsyncOpenAI, responses: bool, with_tools: bool = True) -> Agent:
    kind = OpenAIResponsesModel if responses else OpenAIChatCompletionsModel
    model = kind(model="gpt-6-luna", openai_client=client)
    return Agent(name="guide", instructions="Answer briefly.", model=model, tools=[get_weather] if with_tools else [])


async def _run(agent: Agent, text: str, stream: bool, **options: Any) -> Any:
    if not stream:
        return await Runner.run(agent, text, **options)
    result = Runner.run_streamed(agent, text, **options)
    async for _ in result.stream_events():
        pass
    return result


async def ask_in_own_session(
    base_url: str, headers: dict[str, str], texts: list[str], responses: bool, stream: bool
) -> list[str]:
    """Keep the history in the SDK's SQLite session: each request holds it all."""
    agent = _make_agent(_make_client(base_url, headers), responses)
    session = SQLiteSession("guide")
    return [(await _run(agent, text, stream, session=session)).final_output for text in texts]


async def ask_in_conversations_session(
    base_url: str, headers: dict[str, str], texts: list[str], stream: bool
) -> dict[str, Any]:
    """Keep the history in a conversation of the server, by the SDK's session for it."""
    client = _make_client(base_url, headers)
    agent = _make_agent(client, responses=True)
    session = OpenAIConversationsSession(openai_client=client)
    replies = [(await _run(agent, text, stream, session=session)).final_output for text in texts]
    items = await session.get_items()
    return {"replies": replies, "items": items, "conversation": session.session_id}


async def ask_by_conversation_id(
    base_url: str, headers: dict[str, str], texts: list[str], stream: bool, with_tools: bool = True
) -> dict[str, Any]:
    """Send only what is new, with the id of a conversation."""
    client = _make_client(base_url, headers)
    agent = _make_agent(client, responses=True, with_tools=with_tools)
    conversation = await client.conversations.create()
    replies = [(await _run(agent, text, stream, conversation_id=conversation.id)).final_output for text in texts]
    items = [each.type async for each in client.conversations.items.list(conversation.id, order="asc")]
    return {"replies": replies, "items": items, "conversation": conversation.id}


async def ask_by_previous_response(
    base_url: str, headers: dict[str, str], texts: list[str], stream: bool
) -> dict[str, Any]:
    """Send only what is new, with the id of the response before."""
    agent = _make_agent(_make_client(base_url, headers), responses=True)
    replies, previous = [], None
    for text in texts:
        result = await _run(agent, text, stream, previous_response_id=previous)
        replies.append(result.final_output)
        previous = result.last_response_id
    return {"replies": replies}


serve(ask_in_own_session, ask_in_conversations_session, ask_by_conversation_id, ask_by_previous_response)
