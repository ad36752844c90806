"""What cannot be sent is refused with its numbers, and no conversation is worse off for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from convokit import Budget, Convokit
from convokit.domain import hashchain
from convokit.domain.message import MessageRow
from convokit.domain.text import dump_json
from convokit.errors import ContextOverflow, SettingsError
from convokit.store import conversations, messages
from convokit.store.engine import WRITE
from tests.context.histories import Message, Words, call_of
from tests.context.oracle import refusals
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion

# The rules of this module depend on neither database nor API.
pytestmark = pytest.mark.once

LONG = "word " * 500
WIDE = {"type": "function", "function": {"name": "f", "description": LONG, "parameters": {"type": "object"}}}
FORM = {"type": "json_schema", "json_schema": {"name": "x", "description": LONG, "schema": {"type": "object"}}}
SMALL = Budget(context_tokens=120, reply_tokens=20, step_tokens=20)


@pytest.fixture
def small(face: Face, database: str, server: LoopbackServer) -> Any:
    return face.kit(database, model="m", base_url=server.url, budget=SMALL, counter=Words())


def _goes_on(face: Face, chat: Any, server: LoopbackServer) -> None:
    """Assert that the next ordinary sends are answered, and that the chain is whole."""
    for text in ("and now?", "really?"):
        assert face.settle(chat.send(text)).text == f"echo: {text}"
        assert refusals(server.requests[-1].body["messages"]) == []
    face.settle(chat.verify())


TOO_LARGE: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "prompt": ("hi", {"developer_prompt": LONG}, 0, "the developer prompt"),
    "tools": ("hi", {"tools": [WIDE]}, 0, "tools and response schema take 5"),
    "schema": ("hi", {"response_format": FORM}, 0, "tools and response schema take 5"),
    "reserve": ("hi", {"max_output_tokens": 4000}, 0, "4,000 are kept for the reply"),
    "budget": ("hi", {"budget": Budget(context_tokens=1)}, 0, "raise the budget"),
    "question": (LONG, {}, 95, "shorten"),
}


def test_what_is_larger_than_the_budget(face: Face, small: Any, server: LoopbackServer) -> None:
    """Rule 24. A prompt, tools, a schema, a reserve or a question over the budget: ContextOverflow says what takes the room
    and by how much; nothing is written or called, and the next send is as if it had not been."""
    for case, (text, given, available, named) in TOO_LARGE.items():
        chat = small.chat(case)
        for _ in ("a new conversation", "one that was begun"):
            calls = len(server.requests)
            with pytest.raises(ContextOverflow, match=named) as caught:
                face.settle(chat.send(text, **given))
            needed, left = caught.value.needed, caught.value.available
            assert needed is not None
            assert left == available < needed, case
            assert caught.value.counter == "words"
            assert len(server.requests) == calls
            _goes_on(face, chat, server)
        assert len(face.settle(chat.messages())) == 8


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Budget(context_tokens=0), r"Budget\.context_tokens"),
        (lambda: Budget(context_tokens=-8192), r"Budget\.context_tokens"),
        (lambda: Budget(reply_tokens=0), r"Budget\.reply_tokens"),
        (lambda: Budget(step_tokens=-1), r"Budget\.step_tokens"),
        (lambda: Budget(context_tokens=10, reply_tokens=10), r"Budget\.reply_tokens"),
    ],
)
def test_limits_that_are_none(make: Callable[[], Budget], named: str) -> None:
    """Zero and negative limits are refused where they are given, each by its name."""
    with pytest.raises(SettingsError, match=named):
        make()


@pytest.mark.parametrize("cap", [0, -1])
def test_a_reply_of_no_tokens(face: Face, small: Any, server: LoopbackServer, cap: int) -> None:
    """The same for a reply's own limit; the conversation does not remember it."""
    with pytest.raises(SettingsError, match="max_output_tokens"):
        face.settle(small.chat("k").send("hi", max_output_tokens=cap))
    assert server.requests == []
    _goes_on(face, small.chat("k"), server)


def test_results_larger_than_the_budget(face: Face, small: Any, server: LoopbackServer) -> None:
    """A tool's result that does not fit ends the turn with ContextOverflow, and so does its resumption; the next turn goes."""

    def read() -> str:
        """Read it all."""
        return LONG

    server.script(completion(None, tool_calls=[call_of("c", "read")]))
    with pytest.raises(ContextOverflow, match="tools are saved"):
        face.settle(small.chat("k").send("read it", tools=[read]))
    with pytest.raises(ContextOverflow):
        face.settle(small.chat("k").resume(tools=[read]))
    assert len(server.requests) == 1
    _goes_on(face, small.chat("k"), server)


ORPHANS: dict[str, list[Message]] = {
    "a result without its call": [{"role": "tool", "tool_call_id": "z", "content": "ok"}],
    "a call without its result": [{"role": "assistant", "content": None, "tool_calls": [call_of("a")]}],
    "the result before its call": [
        {"role": "tool", "tool_call_id": "a", "content": "ok"},
        {"role": "assistant", "content": None, "tool_calls": [call_of("a")]},
    ],
    "two results of one call": [
        {"role": "assistant", "content": "so", "tool_calls": [call_of("a")]},
        {"role": "tool", "tool_call_id": "a", "content": "one"},
        {"role": "tool", "tool_call_id": "a", "content": "two"},
    ],
    "two calls of one id": [
        {"role": "assistant", "content": None, "tool_calls": [call_of("a"), call_of("a")]},
        {"role": "tool", "tool_call_id": "a", "content": "one"},
    ],
    "a large result without its call": [{"role": "tool", "tool_call_id": "z", "content": LONG}],
    "nothing": [{"role": "assistant", "content": None}, {"role": "assistant", "content": ""}],
}


def test_whatever_a_conversation_holds_it_goes_on(
    face: Face, small: Any, database: str, server: LoopbackServer
) -> None:
    """I11. Rows as a crash, an import or another program leaves them: every later request is valid and answered."""
    for left, shapes in ORPHANS.items():
        face.settle(small.chat(left).send("hello"))
        with Convokit(database, model="m") as kit:
            _store(kit, left, shapes)
        for text in ("and now?", "really?"):
            assert face.settle(small.chat(left).send(text)).text == f"echo: {text}"
            assert refusals(server.requests[-1].body["messages"]) == [], left


def _store(kit: Convokit, key: str, shapes: list[Message]) -> None:
    """Put messages behind the conversation's head as if they had been stored in the course of it."""
    with kit._runtime._store.engine.execution_options(**{WRITE: True}).begin() as connection:
        conversation = conversations.find_by_key(connection, "default", key)
        assert conversation is not None
        head = messages.find(connection, conversation.id, 2)
        assert head is not None
        rows = []
        for seq, shape in enumerate(shapes, 3):
            calls = shape.get("tool_calls")
            row = {name: getattr(head, name) for name in MessageRow.__slots__}
            row |= {"seq": seq, "parent_seq": seq - 1, "salt": hashchain.new_salt(), "tokens": 5}
            row |= {"path_tokens": head.path_tokens + 5 * (seq - 2), "counter": "other", "role": shape["role"]}
            row |= {"content": shape["content"], "tool_call_id": shape.get("tool_call_id")}
            row |= {"tool_calls": None if calls is None else dump_json(calls), "window_from_seq": None}
            rows.append(MessageRow(**row))
        messages.append(connection, conversation.id, rows)
        last = rows[-1].seq
        moved = replace(conversation, head_seq=last, last_seq=last)
        assert conversations.advance(connection, conversation, moved, last)
