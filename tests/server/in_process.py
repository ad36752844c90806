"""Send requests to an application of the gateway in this process, without a socket."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from convokit import AsyncConvokit
from convokit.server import GatewaySettings, allow_anyone, create_app
from convokit.server.database import Database
from convokit.store import keys
from convokit.testing import ScriptedModel
from convokit.testing.scripted_model import Script
from tests.support.gateway import MODEL

Result = TypeVar("Result")
TIMEOUT_S = 30.0
ORIGIN = "http://localhost"


class AsgiGateway:
    """An application on a kit with a scripted model. Its event loop runs while a test waits for an answer.

    Two gateways with one `loop` stand for two processes on one database.
    """

    def __init__(
        self,
        database: str,
        script: Script | ScriptedModel | None = None,
        *,
        settings: GatewaySettings | None = None,
        auth: Any = allow_anyone,
        loop: asyncio.AbstractEventLoop | None = None,
        **kit_options: Any,
    ) -> None:
        self.database = database
        self.loop = loop or asyncio.new_event_loop()
        self._owns_loop = loop is None
        self.model = script if isinstance(script, ScriptedModel) else ScriptedModel(script)
        options = {"model": MODEL, "api_key": "test", "mode": "pass", "http_client": self.model.async_client()}
        self.kit = AsyncConvokit(database, **{**options, **kit_options})
        self.app = create_app(self.kit, settings=settings, auth=auth)
        self.state = self.app.state.gateway

    def wait(self, value: Awaitable[Result]) -> Result:
        """Run the loop until a value is there."""

        async def limit() -> Result:
            async with asyncio.timeout(TIMEOUT_S):
                return await value

        return self.loop.run_until_complete(limit())

    def make_key(
        self,
        tenant: str = "default",
        name: str = "",
        *,
        scopes: Sequence[str] = ("chat", "read"),
        models: Sequence[str] | None = None,
        requests_per_minute: int | None = None,
        expires_at: int | None = None,
    ) -> str:
        """Store a new API key and return it."""
        key, now = keys.make_key(), time.time_ns() // 1000
        allowed = None if models is None else tuple(models)
        digest = keys.digest_key(key)
        row = keys.ApiKeyRow(
            digest, tenant, name or digest.hex(), tuple(scopes), allowed, requests_per_minute, now, expires_at
        )
        self.wait(Database(self.kit).write(keys.insert_key, row))
        return key

    def send(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Send a request and return the whole answer; see `request`."""
        return self.wait(self.request(method, path, body, **options))

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request. `body` is sent as JSON, `content` as it is, `key` as a bearer token."""
        given = {} if key is None else {"authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
            data = json.dumps(body).encode() if body is not None else content
            return await client.request(method, path, content=data, headers={**given, **(headers or {})})

    def ask(self, *texts: str, key: str | None = None, **more: Any) -> httpx.Response:
        """Send a chat completion. The texts are messages of user and assistant in turn."""
        return self.wait(self.complete(*texts, key=key, **more))

    async def complete(
        self, *texts: str, key: str | None = None, headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """As `ask`, to be awaited."""
        body = {"model": MODEL, "messages": list(alternate(texts)), **more}
        return await self.request("POST", "/v1/chat/completions", body, key=key, headers=headers)

    def gather(self, *requests: Awaitable[httpx.Response]) -> list[httpx.Response]:
        """Send requests at the same time."""

        async def run() -> list[httpx.Response]:
            return list(await asyncio.gather(*requests))

        return self.wait(run())

    def open(self, method: str, path: str, body: Any = None, **options: Any) -> OpenAnswer:
        """Send a request and return its answer as soon as it begins."""
        answer = OpenAnswer(self, method, path, body, **options)
        self.wait(answer.begin())
        return answer

    def close(self) -> None:
        """Wait for the turns, and close the kit."""
        self.wait(self.state.running.finish(10))
        self.wait(self.kit.close())
        if self._owns_loop:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


def alternate(texts: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield messages of user and assistant in turn."""
    for number, text in enumerate(texts):
        yield {"role": "assistant" if number % 2 else "user", "content": text}


class OpenAnswer:
    """An answer that the test reads part by part, and may leave."""

    def __init__(
        self,
        gateway: AsgiGateway,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._gateway = gateway
        self._requested = False
        self._gone = asyncio.Event()
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._begun = asyncio.Event()
        self.status = 0
        self.headers = httpx.Headers()
        self.body = b""
        path, _, query = path.partition("?")
        named = {"host": "localhost", **({"authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        self._data = b"" if body is None else json.dumps(body).encode()
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }

    async def begin(self) -> None:
        """Start the request, and wait for its status."""
        self._task = asyncio.ensure_future(self._gateway.app(self._scope, self._receive, self._send))
        begun = asyncio.ensure_future(self._begun.wait())
        await asyncio.wait({self._task, begun}, return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()

    async def _receive(self) -> dict[str, Any]:
        if not self._requested:
            self._requested = True
            return {"type": "http.request", "body": self._data, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], httpx.Headers(message["headers"])
            self._begun.set()
            return
        self._parts.put_nowait(message.get("body", b""))
        if not message.get("more_body", False):
            self._parts.put_nowait(None)

    def read_until(self, text: str) -> str:
        """Read until a text has come, and return all that came."""
        return self._gateway.wait(self._read(text.encode()))

    def read(self) -> str:
        """Read to the end, and return all that came."""
        return self._gateway.wait(self._read(None))

    async def _read(self, wanted: bytes | None) -> str:
        while wanted is None or wanted not in self.body:
            part = await self._parts.get()
            if part is None:
                assert wanted is None, f"{wanted!r} did not come, but {self.body!r}"
                break
            self.body += part
        return self.body.decode()

    def leave(self) -> None:
        """Close the connection in the middle of the answer."""
        self._gone.set()
        self._gateway.wait(asyncio.wait({self._task}))


def read_events(body: str) -> list[dict[str, Any]]:
    """Return the JSON of server-sent events, without the marker `[DONE]`."""
    data = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]


@contextmanager
def serving(database: str, *args: Any, **options: Any) -> Iterator[AsgiGateway]:
    """Yield a gateway, and close it."""
    gateway = AsgiGateway(database, *args, **options)
    try:
        yield gateway
    finally:
        gateway.close()


def describe_refusal(response: httpx.Response) -> tuple[int, str, str | None, str | None]:
    """Return status, message, code and param of an error in the API's envelope."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    return response.status_code, error["message"], error["code"], error["param"]
