"""Test the fixtures that applications use in their own tests."""

from __future__ import annotations

import asyncio
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


async def _send(kit: AsyncConvokit) -> None:
    await kit.chat("k").send("何時まで?")
