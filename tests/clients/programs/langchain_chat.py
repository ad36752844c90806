"""Scenarios of LangChain's `ChatOpenAI`."""

from __future__ import annotations

from typing import Any

from harness import serve
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def get_weather(location: str) -> str:
    """Return the weather at a place."""
    return f"sunny in {location}"


def _make_model(base_url: str, headers: dict[str, str], responses: bool) -> ChatOpenAI:
    # Without a choice, LangChain takes Responses for some models as soon as tools are bound.
    options = {"use_responses_api": responses, "default_headers": headers, "max_retries": 0}
    return ChatOpenAI(model="gpt-6-luna", base_url=base_url, api_key="key", **options)


def _call(model: Any, history: list[BaseMessage], stream: bool) -> Any:
    if not stream:
        return model.invoke(history)
    chunks = list(model.stream(history))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return AIMessage(content=whole.content, tool_calls=whole.tool_calls, id=whole.id)


def ask(base_url: str, headers: dict[str, str], texts: list[str], responses: bool, stream: bool) -> list[str]:
    """Ask questions, each with the whole history."""
    model = _make_model(base_url, headers, responses)
    history: list[BaseMessage] = [SystemMessage("Answer briefly.")]
    replies = []
    for text in texts:
        history.append(HumanMessage(text))
        reply = _call(model, history, stream)
        history.append(reply)
        replies.append(reply.text)
    return replies


def ask_with_tool(base_url: str, headers: dict[str, str], texts: list[str], responses: bool, stream: bool) -> list[str]:
    """Ask questions, and run the tool as often as the model asks for it."""
    model = _make_model(base_url, headers, responses).bind_tools([get_weather])
    history: list[BaseMessage] = []
    replies = []
    for text in texts:
        history.append(HumanMessage(text))
        reply = _call(model, history, stream)
        history.append(reply)
        while reply.tool_calls:
            results = [(get_weather.invoke(call["args"]), call["id"]) for call in reply.tool_calls]
            history += [ToolMessage(result, tool_call_id=call_id) for result, call_id in results]
            reply = _call(model, history, stream)
            history.append(reply)
        replies.append(reply.text)
    return replies


serve(ask, ask_with_tool)
