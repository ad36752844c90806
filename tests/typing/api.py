"""What a user's type checker sees. mypy and pyright read this file; nothing runs it."""

from __future__ import annotations

from typing import Any, assert_type
from uuid import UUID

from convokit import (
    AsyncChat,
    AsyncConvokit,
    AsyncStream,
    Chat,
    Context,
    ContextBuilder,
    Conversation,
    Convokit,
    Diff,
    Message,
    Page,
    Replay,
    Reply,
    Stream,
    Tool,
    Usage,
    Verified,
    tool,
)
from convokit.local import LocalModel, serve
from convokit.testing import RecordedRequest, ScriptedCall, ScriptedError, ScriptedModel, ScriptedReply


def synchronous(kit: Convokit) -> None:
    """The synchronous face."""
    chat = kit.chat("k", model="m", temperature=0.5)
    assert_type(chat, Chat)
    reply = chat.send("hello", max_output_tokens=5, idempotency_key="x")
    assert_type(reply, Reply)
    assert_type(reply.text, str)
    assert_type(reply.message, Message)
    assert_type(reply.usage, Usage)
    assert_type(reply.turn_id, UUID)
    stream = chat.stream([{"type": "text", "text": "hello"}])
    assert_type(stream, Stream[Reply])
    for event in stream:
        assert_type(event.text, str)
        if event.type == "tool_call":
            assert_type(event.arguments, str)
    assert_type(stream.reply, Reply)
    assert_type(chat.resume(), Reply)
    assert_type(chat.messages(limit=5), list[Message])
    assert_type(chat.context("hello"), Context)
    assert_type(chat.replay(reply, call=1), Replay)
    assert_type(chat.diff(reply, chat.replay()), Diff)
    assert_type(chat.verify(), Verified)
    assert_type(kit.conversations(subject="s"), Page[Conversation])
    chat.send("hello", temprature=1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def asynchronous(kit: AsyncConvokit) -> None:
    """The asynchronous face."""
    chat = kit.chat("k")
    assert_type(chat, AsyncChat)
    assert_type(await chat.send("hello"), Reply)
    stream = chat.stream("hello")
    assert_type(stream, AsyncStream[Reply])
    async for event in stream:
        assert_type(event.text, str)
    assert_type(stream.reply, Reply)
    assert_type(await chat.messages(), list[Message])
    assert_type(await chat.replay(), Replay)


@tool
def weather(city: str) -> str:
    """Return the weather."""
    return city


async def scripted() -> None:
    """The scripted model, behind kits of both APIs."""
    call = ScriptedCall("weather", {"city": "東京"})
    model = ScriptedModel(["a", call, ScriptedReply(["b", "c"], calls=[call]), ScriptedError(429)], at_end="echo")
    ScriptedModel(lambda request: request.text)
    Convokit("chat.db", http_client=model.client())
    AsyncConvokit("chat.db", http_client=model.async_client())
    with model.serve() as url:
        assert_type(url, str)
    assert_type(model.last_request, RecordedRequest)
    assert_type(model.last_request.messages, list[dict[str, Any]])
    ScriptedModel([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    with serve("tiny.gguf") as local:
        assert_type(local, LocalModel)
        Convokit("chat.db", **local.settings)


def parts() -> None:
    """The parts alone."""
    assert_type(weather, Tool)
    built = ContextBuilder().build(history=[{"role": "user", "content": "hello"}])
    assert_type(built.messages, list[dict[str, Any]])
