"""Python clients before a gateway whose model server is a real llama.cpp with a small model."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from convokit.local import LocalModel, serve
from convokit.server import GatewayModel, GatewaySettings
from tests.clients.chat_history import ChatHistory
from tests.clients.conftest import Connect, StartGateway
from tests.clients.installed import ClientProgram
from tests.clients.test_llm import make_llm
from tests.support.gateway import MODEL, RunningGateway

pytestmark = [
    pytest.mark.local_model,
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="the `local` group is not installed"),
]
QUESTIONS = ["Name two colours.", "Name another one."]


@pytest.fixture(scope="module")
def local_model() -> Iterator[LocalModel]:
    with serve() as model:
        yield model


@pytest.fixture
def local_gateway(start_gateway: StartGateway, local_model: LocalModel) -> RunningGateway:
    """A gateway that knows the local model by the name that the clients use."""
    options: dict[str, Any] = {**local_model.settings, "max_output_tokens": 16, "temperature": 0.0, "http_client": None}
    return start_gateway(settings=GatewaySettings({MODEL: GatewayModel(upstream_name=local_model.model)}), **options)


def _assert_stored(gateway: RunningGateway, replies: list[Any]) -> None:
    (conversation,) = gateway.list_stored()
    assert [text.strip() for text in conversation.texts[::2]] == QUESTIONS
    assert [text.strip() for text in conversation.texts[1::2]] == [reply.strip() for reply in replies]
    assert all(reply.strip() for reply in replies)
    assert conversation.count == 4


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_openai_for_python_continues_a_conversation(
    local_gateway: RunningGateway, connect: Connect, stream: bool
) -> None:
    history = ChatHistory(connect(local_gateway.base_url), stream=stream)
    _assert_stored(local_gateway, [history.ask(text) for text in QUESTIONS])


def test_langchain_continues_a_conversation(local_gateway: RunningGateway, langchain_chat: ClientProgram) -> None:
    options = {"headers": {}, "texts": QUESTIONS, "responses": False, "stream": True}
    _assert_stored(local_gateway, langchain_chat.run("ask", base_url=local_gateway.base_url, **options))


def test_agents_continue_a_conversation(local_gateway: RunningGateway, openai_agents: ClientProgram) -> None:
    options = {"headers": {}, "texts": QUESTIONS, "stream": True, "with_tools": False}
    result = openai_agents.run("ask_by_conversation_id", base_url=local_gateway.base_url, **options)
    _assert_stored(local_gateway, result["replies"])


def test_llm_continues_a_conversation(local_gateway: RunningGateway, python_programs: Path, tmp_path: Path) -> None:
    run_llm = make_llm(python_programs, tmp_path, local_gateway.base_url, {})
    _assert_stored(local_gateway, [run_llm(QUESTIONS[0]), run_llm("-c", QUESTIONS[1])])
