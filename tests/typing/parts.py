"""Use the parts without a kit. mypy and pyright (strict) read this file; nothing runs it."""

# pyright: strict

from __future__ import annotations

from typing import Any, assert_type

from convokit import Context, ContextBuilder, Tool, tool


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
