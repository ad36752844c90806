"""Requests that are refused: the error names the field of the client's own request, and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server.conversation_client import ConversationClient, user
from tests.support.gateway import MODEL, RunningGateway, running_gateway
from tests.support.openai_schemas import validate

pytestmark = pytest.mark.once
ASSISTANT = {"role": "assistant", "content": "x"}
INSTRUCTIONS = {"role": "system", "content": "s"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    from convokit import Convokit  # noqa: PLC0415  # the fixture of a migrated file is made for each test

    database = f"sqlite:///{tmp_path_factory.mktemp('gateway')}/chat.db"
    with Convokit(database) as kit:
        kit.migrate()
    with running_gateway(database) as running:
        yield running


@pytest.mark.parametrize(
    ("body", "param", "status"),
    [
        ({"messages": "hello"}, "messages", 400),
        ({"messages": []}, "messages", 400),
        ({"messages": [user("a"), 7]}, "messages[1].role", 400),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", 400),
        ({"messages": [INSTRUCTIONS, user("")]}, "messages[1]", 400),
        ({"messages": [user("a"), ASSISTANT, {"role": "user", "content": [{"type": "video"}]}]}, "messages[2][0].type", 400),
        ({"messages": [INSTRUCTIONS, {"role": "user", "content": "a", "name": "?"}, ASSISTANT, user("b")]},
         "messages[1].name", 400),
        ({"messages": [user("x" * 2_000_000)]}, "messages[0]", 413),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]},
         "messages[0].content[0].file.file_id", 400),
        ({"messages": [user("a"), {"role": "tool", "tool_call_id": "c", "content": "x"}]}, "messages", 400),
        ({"messages": [user("a")], "n": 2}, "n", 400),
        ({"messages": [user("a")], "temperature": 9}, "temperature", 400),
        ({"messages": [user("a")], "base_url": "http://x"}, "base_url", 400),
        ({"messages": [user("a")], "top_k": 4}, "top_k", 400),
        ({"messages": [user("a")], "metadata": {"a": 1}}, "metadata", 400),
        ({"messages": [user("a")], "stream": True, "logprobs": True}, "logprobs", 400),
        ({"messages": [user("a")], "tools": [{"type": "function"}]}, "tools", 400),
        ({"messages": [user("a")], "model": None}, "model", 400),
    ],
)  # fmt: skip
def test_bad_chat_request(gateway: RunningGateway, body: dict[str, Any], param: str, status: int) -> None:
    """The envelope of the API, with the field as the client knows it."""
    before = len(gateway.list_stored())
    response = httpx.post(f"{gateway.base_url}/chat/completions", json={"model": MODEL, **body})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    validate("ErrorResponse", response.json())
    assert len(gateway.list_stored()) == before


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, None),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": "x", "conversation": "abc"}, "conversation"),
        ({"input": "x", "conversation": f"conv_{'0' * 32}"}, "conversation"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "conversation": f"conv_{'0' * 32}", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "background": True, "store": False}, "background"),
        ({"input": "x", "prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": "x", "instructions": 7}, "instructions"),
        ({"input": "x", "top_logprobs": 3}, "top_logprobs"),
        ({"input": ""}, "input"),
    ],
)
def test_bad_response_request(gateway: RunningGateway, body: dict[str, Any], param: str | None) -> None:
    """Features that the gateway does not serve are named."""
    response = httpx.post(f"{gateway.base_url}/responses", json={"model": MODEL, **body})
    assert response.status_code in (400, 404), response.text
    assert response.json()["error"]["param"] == param, response.text


def test_errors_of_the_upstream_have_their_status(sqlite_file: str) -> None:
    """A client that streams learns of an early error by its status, too. The turn has retried already."""
    from convokit import Retry  # noqa: PLC0415
    from convokit.testing import ScriptedError  # noqa: PLC0415

    errors = {429: "rate_limit_error", 500: "server_error", 400: "invalid_request_error"}
    for status, kind in errors.items():
        with running_gateway(
            sqlite_file, lambda request, status=status: ScriptedError(status), retry=Retry(attempts=1)
        ) as gateway:
            for stream in (False, True):
                answer = ConversationClient(gateway).send([user("hello")], stream=stream)
                assert (answer.status, answer.body["error"]["type"]) == (status, kind)
    with running_gateway(sqlite_file, [ScriptedError(401, "key sk-secret is wrong")]) as gateway:
        answer = ConversationClient(gateway).send([user("hello")])
        assert (answer.status, answer.body["error"]["code"]) == (502, "upstream_auth")
        assert "secret" not in str(answer.body)
