"""Test the fixtures that applications use in their own tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from convokit import AsyncConvokit, Convokit
from convokit.testing import ScriptedModel


@pytest.fixture
def convokit_settings() -> dict[str, Any]:
    return {"developer_prompt": "一文で答えてください。"}


@pytest.mark.parametrize("number", [1, 2])
def test_each_test_has_a_database_and_a_model_of_its_own(
    convokit_kit: Convokit, scripted_model: ScriptedModel, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert convokit_kit.chat("k").send("何時まで?").text == "echo: 何時まで?"
    assert len(convokit_kit.chat("k").messages()) == 2
    assert [message["role"] for message in scripted_model.last_request.messages] == ["developer", "user"]
    assert scripted_model.last_request.path == "/v1/chat/completions"


def test_both_kits_share_file_and_model(
    convokit_kit: Convokit, async_convokit_kit: AsyncConvokit, scripted_model: ScriptedModel
) -> None:
    scripted_model.add("二十時までです。")
    asyncio.run(_send(async_convokit_kit))
    assert [message.text for message in convokit_kit.chat("k").messages()] == ["何時まで?", "二十時までです。"]


def test_a_kit_that_the_test_closed_is_closed_again(async_convokit_kit: AsyncConvokit, convokit_kit: Convokit) -> None:
    async def use() -> None:
        async with async_convokit_kit as kit:
            await _send(kit)

    asyncio.run(use())
    convokit_kit.close()


@pytest.fixture
def current_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop that a plugin sets for all tests. It is current after the fixtures of a test have ended, too."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    assert asyncio.get_event_loop() is loop
    asyncio.set_event_loop(None)
    loop.close()


def test_the_end_of_a_kit_leaves_the_current_event_loop(
    current_loop: asyncio.AbstractEventLoop, async_convokit_kit: AsyncConvokit
) -> None:
    current_loop.run_until_complete(_send(async_convokit_kit))


async def _send(kit: AsyncConvokit) -> None:
    await kit.chat("k").send("何時まで?")
