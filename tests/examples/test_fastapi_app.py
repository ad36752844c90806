"""The web chat: chunks arrive one by one, a reply outlives its reader, and users are kept apart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from convokit import AsyncConvokit
from convokit.completion.effects import OpenRequest, ResponseHead
from convokit.runtime.http_answer import AsyncAnswer
from convokit.runtime.http_client import AsyncClient
from convokit.testing import ScriptedModel, ScriptedReply

pytestmark = pytest.mark.once
MIKA, KEN = {"X-User": "mika"}, {"X-User": "ken"}
CHUNKS = ["京都は", "秋が", "いちばん", "きれいです。🍁\n", "Go early."]
READ_BEFORE_WAIT = 3
"""Reads of the model's answer before it waits: the start of the message and two chunks."""
Load = Callable[[str], Any]


class WaitingModel:
    """A model that sends two chunks, and the others once `go_on` is set. It is the `http_client` of a kit."""

    def __init__(self, client: AsyncClient) -> None:
        self.go_on = asyncio.Event()
        self._client = client

    async def open(self, request: OpenRequest) -> AsyncAnswer:
        return WaitingAnswer(await self._client.open(request), self.go_on)

    async def close(self) -> None:
        pass


class WaitingAnswer:
    def __init__(self, answer: AsyncAnswer, go_on: asyncio.Event) -> None:
        self.head: ResponseHead = answer.head
        self._answer = answer
        self._go_on = go_on
        self._reads = 0

    async def read(self, timeout_s: float) -> bytes:
        self._reads += 1
        if self._reads > READ_BEFORE_WAIT:
            await self._go_on.wait()
        return await self._answer.read(timeout_s)

    async def close(self) -> None:
        await self._answer.close()


class Events:
    """Reads server-sent events from a response."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.last_id = ""

    async def read(self) -> tuple[str, Any]:
        """Return kind and data of the next event."""
        kind, data = "", None
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_id = value
            elif name == "event":
                kind = value
            elif name == "data":
                data = json.loads(value)
            elif not line:
                return kind, data
        raise EOFError

    async def read_until_text(self, count: int) -> str:
        """Return the text of the next `count` text events."""
        texts: list[str] = []
        while len(texts) < count:
            kind, data = await self.read()
            texts += [data] if kind == "text" else []
        return "".join(texts)

    async def read_all(self) -> tuple[str, str, Any]:
        """Return the text until the last event, and kind and data of the last event."""
        text = ""
        while True:
            kind, data = await self.read()
            if kind in ("end", "failed"):
                return text, kind, data
            text += data if kind == "text" else ""


class Served:
    """The running app: a client, and the server and model behind it."""

    def __init__(self, client: httpx.AsyncClient, server: uvicorn.Server, model: WaitingModel) -> None:
        self.client, self.model = client, model
        self._server = server

    @asynccontextmanager
    async def ask(self, text: str) -> AsyncIterator[Events]:
        """Post a question to the conversation `kyoto`. Leaving the block closes the connection."""
        question = {"id": text, "text": text}
        async with self.client.stream("POST", "/conversations/kyoto/messages", json=question) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            yield Events(response)

    async def read_conversation(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.client.get("/conversations/kyoto")).json()
        return found

    async def finish_requests(self) -> None:
        """Wait until the server has noticed that its clients left."""
        while self._server.server_state.tasks:
            await asyncio.sleep(0.005)


def _serve(
    load_example: Load, monkeypatch: pytest.MonkeyPatch, use: Callable[[Served], Coroutine[Any, Any, None]]
) -> None:
    """Run the app in uvicorn, and `use` it."""
    app = load_example("fastapi_app")

    async def main() -> None:
        scripted = ScriptedModel([ScriptedReply(CHUNKS)], at_end="repeat")
        model = WaitingModel(scripted.async_client())
        monkeypatch.setattr(
            app, "make_kit", lambda: AsyncConvokit(model="gpt-6-luna", api_key="test", http_client=model)
        )
        server = uvicorn.Server(uvicorn.Config(app.app, port=0, log_level="warning"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=MIKA) as client:
                await use(Served(client, server, model))
        finally:
            model.go_on.set()
            server.should_exit = True
            await serving

    asyncio.run(asyncio.wait_for(main(), 30))


def test_chunks_arrive_while_the_model_is_still_answering(load_example: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(app: Served) -> None:
        async with app.ask("秋は?") as events:
            assert await events.read() == ("started", {})
            assert await events.read() == ("text", CHUNKS[0])
            assert await events.read() == ("text", CHUNKS[1])
            assert (await app.read_conversation())["open"] is True
            busy = await app.client.post("/conversations/kyoto/messages", json={"id": "2", "text": "春は?"})
            assert (busy.status_code, busy.json()) == (409, {"error": "ConversationBusy"})
            app.model.go_on.set()
            text, kind, message = await events.read_all()
        assert (text, kind) == ("".join(CHUNKS[2:]), "end")
        assert message == {"seq": 2, "role": "assistant", "text": "".join(CHUNKS), "status": "complete"}
        assert [each["text"] for each in (await app.read_conversation())["messages"]] == ["秋は?", "".join(CHUNKS)]

    _serve(load_example, monkeypatch, use)


def test_a_reply_outlives_its_reader_and_is_followed_after_a_reload(
    load_example: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second connection gets what is behind the last event of the first one: no character twice, none lost."""

    async def use(app: Served) -> None:
        async with app.ask("秋は?") as events:
            received = await events.read_until_text(2)
        await app.finish_requests()
        conversation = await app.read_conversation()
        assert conversation["open"] is True
        assert [each["text"] for each in conversation["messages"]] == ["秋は?"]
        app.model.go_on.set()
        url = "/conversations/kyoto/reply"
        async with app.client.stream("GET", url, headers={"Last-Event-ID": events.last_id}) as response:
            rest, kind, message = await Events(response).read_all()
        assert received + rest == message["text"] == "".join(CHUNKS)
        assert (kind, message["status"]) == ("end", "complete")
        async with app.client.stream("GET", url) as response:  # a page that kept nothing
            assert (await Events(response).read_all())[0] == "".join(CHUNKS)
        async with app.ask("秋は?") as events:  # a repeat of the request, by its id
            assert (await events.read_all())[0] == "".join(CHUNKS)
        assert len((await app.read_conversation())["messages"]) == 2

    _serve(load_example, monkeypatch, use)


def test_a_reply_is_stopped_from_another_tab(load_example: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(app: Served) -> None:
        async with app.ask("秋は?") as events:
            await events.read_until_text(2)
            assert (await app.client.delete("/conversations/kyoto/reply")).json() == {"stopped": True}
            app.model.go_on.set()
            _, kind, error = await events.read_all()
        assert (kind, error) == ("failed", {"error": "Interrupted", "code": "cancelled"})
        assert (await app.read_conversation())["open"] is False
        assert (await app.client.delete("/conversations/kyoto/reply")).json() == {"stopped": False}

    _serve(load_example, monkeypatch, use)


@pytest.fixture
def call(load_example: Load, async_convokit_kit: AsyncConvokit) -> Callable[..., list[httpx.Response]]:
    """Return a function that sends requests to the app in this process, and returns the responses."""
    example = load_example("fastapi_app")
    example.app.dependency_overrides[example.get_kit] = lambda: async_convokit_kit

    async def send(requests: tuple[tuple[Any, ...], ...]) -> list[httpx.Response]:
        transport = httpx.ASGITransport(example.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [
                await client.request(method, f"/conversations{path}", headers=headers, json=body)
                for method, path, headers, body in requests
            ]

    return lambda *requests: asyncio.run(send(requests))


def _question(path: str, user: Any, text: str) -> tuple[Any, ...]:
    return ("POST", f"/{path}/messages", user, {"id": "1", "text": text})


def test_conversations_are_listed_renamed_and_archived(call: Callable[..., list[httpx.Response]]) -> None:
    *_, listed, page, renamed, archived, left = call(
        _question("kyoto", MIKA, "京都"),
        _question("旅", MIKA, "旅"),
        ("GET", "", MIKA, None),
        ("GET", "/kyoto", MIKA, None),
        ("PATCH", "/kyoto", MIKA, {"title": "京都への旅"}),
        ("DELETE", "/旅", MIKA, None),
        ("GET", "", MIKA, None),
    )
    assert [each["name"] for each in listed.json()["conversations"]] == ["旅", "kyoto"]
    assert [each["text"] for each in page.json()["messages"]] == ["京都", "echo: 京都"]
    assert renamed.json()["title"] == "京都への旅"
    assert archived.status_code == 204
    assert [(each["name"], each["title"]) for each in left.json()["conversations"]] == [("kyoto", "京都への旅")]


def test_a_user_never_reaches_the_conversation_of_another_user(call: Callable[..., list[httpx.Response]]) -> None:
    """Neither the name, nor the id of a turn, nor a user's name that looks like a key opens it."""
    asked, followed = call(_question("kyoto", MIKA, "秘密"), ("GET", "/kyoto/reply", MIKA, None))
    event_id = followed.text.partition("\n")[0].removeprefix("id: ")
    assert "秘密" in asked.text
    behind = {**KEN, "Last-Event-ID": event_id}
    attempts = [
        ("GET", "/kyoto", KEN, None),
        ("PATCH", "/kyoto", KEN, {"title": "x"}),
        ("DELETE", "/kyoto", KEN, None),
        ("GET", "/kyoto/reply", KEN, None),
        ("GET", "/kyoto/reply", behind, None),
        ("DELETE", "/kyoto/reply", KEN, None),
        ("GET", "/..%2Fmika%2Fkyoto", KEN, None),
        ("GET", "/mika%2Fkyoto", KEN, None),
    ]
    assert [each.status_code for each in call(*attempts)] == [404] * len(attempts)
    (listed,) = call(("GET", "", KEN, None))
    assert listed.json() == {"conversations": [], "next": None}
    for user in ({}, {"X-User": ""}, {"X-User": "mika/kyoto"}, {"X-User": "mika/"}, {"X-User": "x" * 65}):
        (refused,) = call(("GET", "/kyoto", user, None))
        assert refused.status_code == 401

    # The same name is another conversation for another user, and the turn of the first one is not in it.
    own, foreign, page, untouched = call(
        _question("kyoto", KEN, "hello"),
        ("GET", "/kyoto/reply", behind, None),
        ("GET", "/kyoto", KEN, None),
        ("GET", "/kyoto", MIKA, None),
    )
    assert own.status_code == 200
    assert foreign.status_code == 404
    assert [each["text"] for each in page.json()["messages"]] == ["hello", "echo: hello"]
    assert [each["text"] for each in untouched.json()["messages"]] == ["秘密", "echo: 秘密"]
    assert untouched.json()["title"] is None
