"""The server that the tests of the gateway and its clients use starts, records requests, and stops."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from convokit import AsyncConvokit
from tests.support.gateway import running_gateway

pytestmark = pytest.mark.once


def _make_app(kit: AsyncConvokit) -> Starlette:
    """Return a small application that answers by the kit."""

    async def send(request: Request) -> Response:
        reply = await kit.chat("k").send((await request.json())["text"])
        return JSONResponse({"text": reply.text})

    async def stream(request: Request) -> Response:
        return StreamingResponse(iter(['data: {"n":1}\n\n', "data: [DONE]\n\n"]), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/send", send, methods=["POST"]), Route("/v1/stream", stream)])


def test_requests_and_stored_messages_of_a_running_application_can_be_read(database: str) -> None:
    with running_gateway(database, ["Hello."], make_app=_make_app) as gateway:
        answer = httpx.post(f"{gateway.base_url}/send", json={"text": "Hi"}, headers={"X-Name": "a"})
        httpx.get(f"{gateway.base_url}/stream?after=1")
        (conversation,) = gateway.list_stored()
    assert answer.json() == {"text": "Hello."}
    assert (conversation.key, conversation.count, conversation.texts) == ("k", 2, ["Hi", "Hello."])
    assert gateway.count_stored() == [2]
    assert gateway.count_stored("another") == []
    assert len(gateway.model.requests) == 1

    sent, streamed = gateway.exchanges
    assert (sent.method, sent.path, sent.status) == ("POST", "/v1/send", 200)
    assert (sent.sent, sent.answer, sent.request_headers["x-name"]) == ({"text": "Hi"}, {"text": "Hello."}, "a")
    assert (streamed.query, streamed.events, streamed.answer) == ("after=1", [{"n": 1}, "[DONE]"], None)
    assert "gateway" not in {thread.name for thread in threading.enumerate()}


def test_an_application_that_cannot_start_is_reported(database: str) -> None:
    def make_app(_kit: AsyncConvokit) -> Any:
        async def broken(scope: Any, receive: Any, send: Any) -> None:
            message = await receive()
            assert message["type"] == "lifespan.startup"
            await send({"type": "lifespan.startup.failed", "message": "no tables"})

        return broken

    with pytest.raises(RuntimeError, match="the gateway did not start"):  # noqa: SIM117
        with running_gateway(database, make_app=make_app):
            pass
