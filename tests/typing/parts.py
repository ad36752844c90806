"""Use the parts without a kit. mypy and pyright (strict) read this file; nothing runs it."""

# pyright: strict

from __future__ import annotations

from typing import Any, assert_type

from convokit import AsyncConvokit, Context, ContextBuilder, Convokit, Tool, tool
from convokit.local import LocalModel, serve
from convokit.testing import RecordedRequest, ScriptedCall, ScriptedError, ScriptedModel, ScriptedReply


@tool
def look_up_weather(city: str) -> str:
    """Return the weather."""
    return city


@tool(approval=True)
async def order(book: str, count: int = 1) -> dict[str, int]:
    """Order a book."""
    return {book: count}


def build() -> None:
    """Build a context of plain messages."""
    assert_type(look_up_weather, Tool)
    assert_type(order, Tool)
    assert_type(look_up_weather("京都"), Any)
    built = ContextBuilder().build(history=[{"role": "user", "content": "hello"}])
    assert_type(built, Context)
    assert_type(built.messages, list[dict[str, Any]])


async def answer_from_a_script() -> None:
    """Answer kits of both APIs from a script, and from a local model."""
    call = ScriptedCall("look_up_weather", {"city": "東京"})
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
