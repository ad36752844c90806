"""I14: every limit bounds what it names, with an error that says which setting it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from convokit import Budget, Limits
from convokit.errors import BadReply, ContextOverflow, ModelError, TooLarge
from convokit.store.schema import turn
from tests.faults.malformed_replies import asks, goes_on
from tests.faults.shared_kit import EACH_ONCE, Stage, staged
from tests.support.server import Script, chunk, completion, stream

stage = staged(EACH_ONCE)


def _limited(stage: Stage, **limits: int) -> Any:
    """Return a chat of a kit with other limits, on the same database."""
    kit = stage.face.kit(stage.database, model="m", base_url=stage.server.url, limits=Limits(**limits))
    return kit.chat(stage.chat().key)


@pytest.mark.once
@pytest.mark.parametrize(
    ("limits", "script"),
    [
        ({"reply_bytes": 1_000}, stream(["x" * 400] * 10)),
        ({"reply_bytes": 1_000}, stream([], finish=None, done=False)),
        ({"event_bytes": 1_000}, stream(["one ", "x" * 4_000])),
    ],
)
def test_a_reply_over_its_limit_is_cut_and_kept(stage: Stage, limits: dict[str, int], script: Script) -> None:
    """A stream over Limits.reply_bytes or Limits.event_bytes ends in an error that names it; what came is kept."""
    chat = _limited(stage, **limits)
    if len(script.pieces) == 1:  # no text, but endless fields of another kind
        script.pieces += [chunk({"reasoning_content": "x" * 400}) for _ in range(10)]
    stage.server.script(script)
    with pytest.raises(ModelError, match=rf"Limits\.{next(iter(limits))}") as caught:
        stage.face.collect(chat.stream("x"))
    assert [each.text for each in goes_on(stage, chat)][1:] == ([caught.value.partial] if caught.value.partial else [])


def test_a_whole_reply_over_its_limit(stage: Stage) -> None:
    """An answer over Limits.reply_bytes is refused by name while it is read, and its turn is closed as failed."""
    chat = _limited(stage, reply_bytes=1_000)
    stage.server.script(completion("x" * 2_000))
    with pytest.raises(BadReply, match=r"Limits\.reply_bytes"):
        stage.settle(chat.send("x"))
    with stage.engine.connect() as connection:
        query = select(turn.c.state, turn.c.error).where(turn.c.conversation_id == chat.id)
        state, error = connection.execute(query).one()
    assert state == "failed"
    assert json.loads(str(error))["type"] == "BadReply"
    goes_on(stage, chat)


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(
    ("limits", "content"),
    [
        ({"message_bytes": 10}, "eleven byte"),
        ({"message_bytes": 10}, ["x", "あああああ"]),
        ({"attachment_bytes": 10}, [{"type": "image_url", "image_url": {"url": "data:,eleven%20byte"}}]),
        ({"attachment_bytes": 10}, [{"type": "image_url", "image_url": {"url": f"data:,five{n}{n}"}} for n in (1, 2)]),
    ],
)
def test_a_message_over_its_limit(stage: Stage, limits: dict[str, int], content: Any) -> None:
    """A message or its attachments over a limit is TooLarge, which names the limit; nothing happens."""
    chat = _limited(stage, **limits)
    with stage.untouched(), pytest.raises(TooLarge) as caught:
        stage.settle(chat.send(content))
    assert caught.value.setting == f"Limits.{next(iter(limits))}"
    assert caught.value.limit == 10 < caught.value.size


@pytest.mark.once
def test_a_tool_result_over_its_limit_is_cut(stage: Stage) -> None:
    """Limits.tool_result_bytes cuts a result, and says by how much."""

    def look_up() -> str:
        return "あ" * 1_000

    chat = _limited(stage, tool_result_bytes=200)
    stage.server.script(asks('"call_1"', '"look_up"', '"{}"'), completion("done"))
    stage.settle(chat.send("x", tools=[look_up]))
    result = stage.server.requests[-1].body["messages"][-1]["content"]
    assert len(result.encode()) <= 200
    assert "of 3,000 bytes" in result


@pytest.mark.once
@pytest.mark.parametrize(
    "budget", [Budget(context_tokens=10, reply_tokens=5), Budget(context_tokens=100, reply_tokens=90)]
)
def test_a_budget_that_is_exceeded_says_by_how_much(stage: Stage, budget: Budget) -> None:
    """What does not fit Budget.context_tokens less Budget.reply_tokens is ContextOverflow with both numbers."""
    with stage.untouched(), pytest.raises(ContextOverflow, match="budget") as caught:
        stage.settle(stage.chat().send("some words " * 10, budget=budget))
    needed, available = caught.value.needed, caught.value.available
    assert needed is not None
    assert available is not None
    assert needed > available
