"""Odd, large and slow bodies are refused, and delay no other request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from convokit.server import GatewaySettings
from convokit.server.matching import canonicalize
from tests.server.in_process import ORIGIN, AsgiGateway, describe_refusal, serving

pytestmark = [pytest.mark.once, pytest.mark.soak(sample=True)]
CHAT, RESPONSES, CONVERSATIONS = "/v1/chat/completions", "/v1/responses", "/v1/conversations"
COUNT = "/v1/responses/input_tokens"
WRITING = [CHAT, RESPONSES, CONVERSATIONS]
HI = b'"model":"m","messages":[{"role":"user","content":"hi"}]'
UNPARSABLE = {
    "NaN": b'{%b,"temperature":NaN}' % HI,
    "infinity": b'{%b,"temperature":-Infinity}' % HI,
    "UTF-16": b"{%b}".replace(b"%b", HI).decode().encode("utf-16"),
    "UTF-32": b"{%b}".replace(b"%b", HI).decode().encode("utf-32"),
    "Latin-1": b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}',
    "surrogate in UTF-8": b'{"model":"m","messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
    "deep": b'{"metadata":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "long number": b'{%b,"seed":%b}' % (HI, b"9" * 5000),
    "two values": b"{%b} {}" % HI,
    "cut": b'{"model":"m",',
    "BOM": b"\xef\xbb\xbf{%b}" % HI,
}
REFUSED = {
    "list": (b"[]", None),
    "text": (b'"x"', None),
    "null": (b"null", None),
    "number": (b"1", None),
    "infinite float": (b'{%b,"temperature":1e400}' % HI, "temperature"),
    "huge number": (b'{%b,"seed":%b}' % (HI, b"9" * 4000), "seed"),
    "messages are no list": (b'{"model":"m","messages":{"role":"user"}}', "messages"),
    "message is a text": (b'{"model":"m","messages":["hi"]}', "messages[0].role"),
    "model is a list": (b'{"model":["m"],"messages":[]}', "model"),
    "metadata is deep": (b'{%b,"metadata":{"a":%b}}' % (HI, b"[" * 400 + b"]" * 400), "metadata"),
    "stream is a text": (b'{%b,"stream":"false"}' % HI, "stream"),
    "metadata is a number": (b'{%b,"metadata":{"a":1}}' % HI, "metadata"),
}
SURROGATES = [
    (CHAT, rb'{"\ud800":1,"model":"m","messages":[]}'),
    (CHAT, rb'{"model":"\ud800","messages":[{"role":"user","content":"x"}]}'),
    (CHAT, rb'{"model":"m","messages":[{"role":"user","content":"\ud800"}]}'),
    (CHAT, rb'{"model":"m","messages":[{"role":"\ud800","content":"x"}]}'),
    (CHAT, rb'{"model":"m","messages":[{"role":"user","content":"\u0000"}]}'),
    (CHAT, rb'{"model":"m","user":"\ud800","messages":[{"role":"user","content":"x"}]}'),
    (CHAT, rb'{"model":"m","messages":[{"role":"system","content":"\ud800"},{"role":"user","content":"x"}]}'),
    (RESPONSES, rb'{"model":"m","input":"x","previous_response_id":"\ud800"}'),
    (RESPONSES, rb'{"model":"m","input":"x","conversation":"conv_\ud800"}'),
    (RESPONSES, rb'{"model":"m","input":[{"type":"item_reference","id":"\ud800"}]}'),
    (RESPONSES, rb'{"model":"m","input":[{"type":"\ud800"}]}'),
    (RESPONSES, rb'{"model":"m","input":"x","metadata":{"a":"\ud800"}}'),
    (CONVERSATIONS, rb'{"metadata":{"a\ud800":"\u0000"}}'),
]
SMUGGLED = ["api_base", "base_url", "api_key", "extra_headers", "extra_body", "extra_query", "api_version", "command"]
SMUGGLED += ["headers", "http_client", "organization", "mcp_servers", "functions", "function_call", "tenant", "key"]


@pytest.mark.parametrize("data", UNPARSABLE.values(), ids=UNPARSABLE)
def test_what_is_not_json_in_utf_8_is_refused(gateway: AsgiGateway, data: bytes) -> None:
    for path in WRITING:
        answer = gateway.send("POST", path, content=data)
        assert (answer.status_code, describe_refusal(answer)[2]) == (400, "invalid_json"), path
    assert gateway.model.requests == []


@pytest.mark.parametrize(("data", "param"), REFUSED.values(), ids=REFUSED)
def test_wrong_values_are_named(gateway: AsgiGateway, data: bytes, param: str | None) -> None:
    answer = gateway.send("POST", CHAT, content=data)
    assert (answer.status_code, describe_refusal(answer)[3]) == (400, param)
    assert gateway.model.requests == []


@pytest.mark.parametrize(("path", "data"), SURROGATES, ids=range(len(SURROGATES)))
def test_text_that_cannot_be_stored_is_refused(gateway: AsgiGateway, path: str, data: bytes) -> None:
    """The error itself can be sent, though it quotes the text. Its field is one that the client sent."""
    answer = gateway.send("POST", path, content=data)
    status, message, _, param = describe_refusal(answer)
    assert status in (400, 404)
    assert not any(name in f"{message} {param}" for name in ("turn_metadata", "subject", "developer_prompt"))
    assert gateway.send("GET", "/convokit/v1/conversations").json()["data"] == []
    assert gateway.model.requests == []


def test_the_last_of_two_equal_keys_counts_everywhere(gateway: AsgiGateway) -> None:
    """The model gets what was checked: the body is never sent on as it came."""
    data = b'{"model":"other","messages":[{"role":"user","content":"first"}],"api_base":"x","api_base":null,%b}' % HI
    assert gateway.send("POST", CHAT, content=data).status_code == 200
    body = gateway.model.last_request.body
    assert (body["model"], body["messages"]) == ("m", [{"role": "user", "content": "hi"}])
    assert "api_base" not in body


@pytest.mark.parametrize("name", SMUGGLED)
def test_fields_that_could_redirect_a_request_are_refused(gateway: AsgiGateway, name: str) -> None:
    value = "http://127.0.0.1:1/v1"
    for path, body in ((CHAT, {"messages": [{"role": "user", "content": "x"}]}), (RESPONSES, {"input": "x"})):
        answer = gateway.send("POST", path, {"model": "m", **body, name: value})
        assert (answer.status_code, describe_refusal(answer)[2:]) == (400, ("unsupported_parameter", name))
    assert gateway.model.requests == []


FILES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x/"}]}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]}),
    (RESPONSES, {"input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}),
    (RESPONSES, {"input": "x", "tools": [{"type": "mcp", "server_url": "http://x/"}]}),
    (RESPONSES, {"input": [{"type": "mcp_approval_response", "approval_request_id": "x", "approve": True}]}),
]


@pytest.mark.parametrize(("path", "body"), FILES, ids=range(len(FILES)))
def test_files_and_tools_of_the_gateways_own_account_are_refused(
    gateway: AsgiGateway, path: str, body: dict[str, Any]
) -> None:
    answer = gateway.send("POST", path, {"model": "m", **body})
    assert (answer.status_code, describe_refusal(answer)[2]) == (400, "unsupported_value")
    assert gateway.model.requests == []


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.setblocking(False)
        yield server


def test_no_url_of_a_request_is_fetched(gateway: AsgiGateway, listener: socket.socket) -> None:
    """The model's server fetches images, the gateway never does: not for a turn, a count, an item or a list."""
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/image.png"
    part = {"type": "image_url", "image_url": {"url": url}}
    item = {"role": "user", "content": [{"type": "input_image", "image_url": url}]}
    assert (
        gateway.send("POST", CHAT, {"model": "m", "messages": [{"role": "user", "content": [part]}]}).status_code == 200
    )
    assert gateway.send("POST", RESPONSES, {"model": "m", "input": [item]}).status_code == 200
    assert gateway.send("POST", COUNT, {"model": "m", "input": [item]}).status_code == 200
    made = gateway.send("POST", CONVERSATIONS, {"items": [item]}).json()["id"]
    assert gateway.send("GET", f"/v1/conversations/{made}/items").json()["data"][0]["content"][0]["image_url"] == url
    with pytest.raises(BlockingIOError):
        listener.accept()


SMALL = GatewaySettings(max_body_bytes=1000, body_timeout_s=0.05)


@pytest.fixture
def small(sqlite_file: str) -> Iterator[AsgiGateway]:
    with serving(sqlite_file, settings=SMALL) as running:
        yield running


async def _send_parts(gateway: AsgiGateway, parts: AsyncIterator[bytes]) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway.app), base_url=ORIGIN) as client:
        return await client.post(CHAT, content=parts)


def test_a_large_body_is_refused_at_once(small: AsgiGateway) -> None:
    """With a length, and in parts without one."""
    answer = small.send("POST", CHAT, content=b"x" * 1001)
    assert (answer.status_code, describe_refusal(answer)[2]) == (413, "too_large")

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 100

    assert small.wait(_send_parts(small, parts())).status_code == 413
    assert answer.headers["connection"] == "close"


def test_a_slow_body_is_refused(small: AsgiGateway) -> None:
    """A part now and then does not extend the time."""

    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    async def send() -> int:
        """Return the status: `ASGITransport` would read the whole body first."""
        statuses: list[int] = []
        body = parts()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": await anext(body), "more_body": True}

        async def keep(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        scope = {
            "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"", "root_path": "",
            "headers": [(b"host", b"localhost")], "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"},
            "client": None, "server": None,
        }  # fmt: skip
        await small.app(scope, receive, keep)
        return statuses[0]

    assert small.wait(send()) == 408


def _repeat(start: bytes, entry: bytes, end: bytes, count: int) -> bytes:
    return start + b",".join([entry] * count) + end


USER = b'{"role":"user","content":""}'
CALL = b'{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}'
MANY = {
    "brackets": (CHAT, _repeat(b'{%b,"tools":[' % HI, b"[]", b"]}", 1_000_001)),
    "messages": (CHAT, _repeat(b'{"model":"m","messages":[', USER, b"]}", 20_001)),
    "instructions": (CHAT, _repeat(b'{"model":"m","messages":[', b'{"role":"system","content":""}', b"]}", 20_001)),
    "parts": (
        CHAT,
        _repeat(b'{"model":"m","messages":[{"role":"user","content":[', b'{"type":"text"}', b"]}]}", 10_001),
    ),
    "calls": (CHAT, _repeat(b'{"model":"m","messages":[{"role":"assistant","tool_calls":[', CALL, b"]}]}", 10_001)),
    "tools": (CHAT, _repeat(b'{%b,"tools":[' % HI, b'{"type":"function"}', b"]}", 1001)),
    "items": (RESPONSES, _repeat(b'{"model":"m","input":[', USER, b"]}", 20_001)),
    "references": (RESPONSES, _repeat(b'{"model":"m","input":[', b'{"id":"msg_1"}', b"]}", 20_001)),
    "counted items": (COUNT, _repeat(b'{"model":"m","input":[', USER, b"]}", 20_001)),
    "added items": (CONVERSATIONS, _repeat(b'{"items":[', USER, b"]}", 21)),
}


@pytest.mark.parametrize(("path", "data"), MANY.values(), ids=MANY)
def test_bodies_of_many_entries_are_refused_before_work_is_done(gateway: AsgiGateway, path: str, data: bytes) -> None:
    """Within the limit of bytes, each entry costs some microseconds of an event loop that all share."""
    answer = gateway.send("POST", path, content=data)
    assert answer.status_code == (400 if path == CONVERSATIONS else 413)
    assert gateway.model.requests == []


def test_reasoning_is_cut_at_the_start_of_a_text_only() -> None:
    """A search for its end from each of many beginnings would take minutes for a body within the limit."""
    for text in ("a<think>b</think>c", 'a<details type="reasoning">b</details>c'):
        assert text in canonicalize({"role": "assistant", "content": text}).decode().replace("\\", "")
    canonicalize({"role": "assistant", "content": '<details type="reasoning">' * 20_000})
    canonicalize({"role": "assistant", "content": " " * 300_000 + "x"})
