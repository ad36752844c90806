"""The request that a next question would send."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import pytest

from convokit import AsyncConvokit, Convokit
from convokit.context.strategy import Selection, StepWindow, View
from convokit.testing import ScriptedModel


@dataclass(frozen=True, slots=True)
class NotedStepWindow(StepWindow):
    """Notes the threads in which it chooses."""

    threads: list[int] = field(default_factory=list)

    def select(self, view: View) -> Selection:
        self.threads.append(threading.get_ident())
        return StepWindow.select(self, view)


@pytest.mark.once
def test_the_event_loop_stays_free_while_a_context_is_built(database: str) -> None:
    """A window of thousands of messages takes more than a tenth of a second to build."""
    strategy = NotedStepWindow()
    with Convokit(database, model="m", api_key="x", http_client=ScriptedModel(["はい。"]).client()) as kit:
        kit.chat("k").send("質問")

    async def preview() -> list[dict[str, object]]:
        async with AsyncConvokit(database, model="m", strategy=strategy) as kit:
            return (await kit.chat("k").context("次の質問")).messages

    messages = asyncio.run(preview())
    assert [message["content"] for message in messages] == ["質問", "はい。", "次の質問"]
    assert strategy.threads
    assert threading.get_ident() not in strategy.threads
