"""Run the gateway in this process, and record what its clients send and receive."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from convokit import AsyncConvokit, Conversation, Convokit, Message, Turn
from convokit.server import Authenticate, GatewaySettings, allow_anyone, create_app
from convokit.testing import ScriptedModel
from convokit.testing.scripted_model import Script

MODEL = "gpt-6-luna"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Exchange:
    """A request that the gateway received, and its response."""

    method: str
    path: str
    query: str
    request_headers: httpx.Headers
    request_body: bytes
    status: int
    headers: httpx.Headers
    body: bytes = field(repr=False)

    @property
    def sent(self) -> Any:
        """The body of the request as JSON. None: it has none."""
        return json.loads(self.request_body) if self.request_body else None

    @property
    def answer(self) -> Any:
        """The body of the response as JSON. None: it has none, or it is a stream."""
        return json.loads(self.body) if self.body and not self.is_stream else None

    @property
    def is_stream(self) -> bool:
        """Whether the response consists of server-sent events."""
        return str(self.headers.get("content-type", "")).startswith("text/event-stream")

    @property
    def events(self) -> list[Any]:
        """The `data` of the server-sent events. The marker `[DONE]` is a text; the others are JSON."""
        lines = self.body.decode().splitlines()
        data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
        return [each if each == "[DONE]" else json.loads(each) for each in data]


@dataclass(frozen=True)
class RunningGateway:
    """A gateway on a loopback port, and what is behind it."""

    base_url: str
    """The URL of the API, up to and including `/v1`."""
    model: ScriptedModel
    """The model server behind the gateway."""
    database: str
    """The URL of the database. `kit()` opens it."""
    app: Any
    """The application that `create_app` returned."""
    exchanges: list[Exchange]
    """The finished requests, the first one first."""

    @property
    def root_url(self) -> str:
        """The URL of the server, without `/v1`."""
        return self.base_url.removesuffix("/v1")

    @contextmanager
    def kit(self, tenant: str = "default") -> Iterator[Convokit]:
        """Open the database of the gateway, to read what is stored."""
        with Convokit(
            self.database, model=MODEL, api_key="test", tenant=tenant, http_client=self.model.client()
        ) as kit:
            yield kit

    def list_stored(self, tenant: str = "default") -> list[StoredConversation]:
        """Return the conversations of a tenant, the last used first."""
        with self.kit(tenant) as kit:
            return [_read_conversation(kit, each) for each in kit.conversations(limit=1000)]

    def count_stored(self, tenant: str = "default") -> list[int]:
        """Return the number of messages of each conversation of a tenant, on all its branches, the last used first."""
        return [each.count for each in self.list_stored(tenant)]


@dataclass(frozen=True)
class StoredConversation:
    """A conversation as a kit of the same database reads it."""

    id: str
    key: str | None
    count: int
    """The number of messages on all branches."""
    path: list[Message] = field(repr=False)
    """The messages of the main branch."""
    turns: list[Turn] = field(repr=False)

    @property
    def roles(self) -> list[str]:
        """The roles of the messages of the main branch."""
        return [each.role for each in self.path]

    @property
    def texts(self) -> list[str]:
        """The texts of the messages of the main branch."""
        return [each.text for each in self.path]


def _read_conversation(kit: Convokit, conversation: Conversation) -> StoredConversation:
    chat = kit.chat(id=conversation.id)
    count = sum(entry.kind == "message" for entry in chat.entries(limit=1000))
    path, turns = chat.messages(limit=None), list(chat.turns(limit=1000))
    return StoredConversation(str(conversation.id), conversation.key, count, path, turns)


MakeApp = Callable[[AsyncConvokit], Any]


@contextmanager
def running_gateway(
    database: str,
    script: Script | ScriptedModel | None = None,
    *,
    settings: GatewaySettings | None = None,
    auth: Authenticate | None = allow_anyone,
    make_app: MakeApp | None = None,
    **kit_options: Any,
) -> Iterator[RunningGateway]:
    """Serve `create_app` by uvicorn in a thread, on a kit with a scripted model, until the block ends.

    Args:
        database: The URL of a migrated database.
        script: The script of the model, or the model. None: the model echoes.
        settings: The `GatewaySettings`.
        auth: The `Authenticate` of the gateway. None: the API keys of the database. Default: everyone may enter.
        make_app: Makes the application in place of `create_app`.
        kit_options: Options of the kit, such as `model` and `tenant`.
    """
    model = script if isinstance(script, ScriptedModel) else ScriptedModel(script)
    options = {"model": MODEL, "api_key": "test", "mode": "pass", "http_client": model.async_client(), **kit_options}
    kit = AsyncConvokit(database, **options)
    app = create_app(kit, settings=settings, auth=auth) if make_app is None else make_app(kit)
    exchanges: list[Exchange] = []
    config = uvicorn.Config(
        _record(app, exchanges),
        host="127.0.0.1",
        port=0,
        ws="none",
        log_config=None,
        timeout_graceful_shutdown=5,
    )
    with _serving(config, kit) as port:
        yield RunningGateway(f"http://127.0.0.1:{port}/v1", model, database, app, exchanges)


@contextmanager
def _serving(config: uvicorn.Config, kit: AsyncConvokit) -> Iterator[int]:
    """Run a server in a thread of its own, and close the kit in the same event loop. The block gets the port."""
    server = uvicorn.Server(config)
    started = threading.Event()
    failures: list[BaseException] = []

    async def watch() -> None:
        while not server.started and not server.should_exit:
            await asyncio.sleep(0.002)
        started.set()

    async def serve() -> None:
        async with kit, asyncio.TaskGroup() as group:
            group.create_task(watch())
            await server.serve()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # the thread of the test raises it
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="gateway")
    thread.start()
    try:
        in_time = started.wait(START_TIMEOUT_S)
        if failures:
            raise RuntimeError("the gateway did not start") from failures[0]
        assert in_time, f"the gateway did not start within {START_TIMEOUT_S:g} s"
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(STOP_TIMEOUT_S)
        assert not thread.is_alive(), f"the gateway did not stop within {STOP_TIMEOUT_S:g} s"
    if failures:
        raise RuntimeError("the gateway failed") from failures[0]


def _record(app: Any, exchanges: list[Exchange]) -> Any:
    """Return an application that does the same as `app`, and adds each request and response to `exchanges`."""

    async def recording(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        received, sent = bytearray(), bytearray()
        head: dict[str, Any] = {"status": 0, "headers": []}

        async def receive_and_record() -> Any:
            message = await receive()
            received.extend(message.get("body", b""))
            return message

        async def send_and_record(message: Any) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
            else:
                sent.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    keep()  # before the client can read the end of the response
            await send(message)

        def keep() -> None:
            headers = httpx.Headers(head["headers"])
            request_headers = httpx.Headers(scope["headers"])
            request = (scope["method"], scope["path"], scope["query_string"].decode(), request_headers, bytes(received))
            exchanges.append(Exchange(*request, int(head["status"]), headers, bytes(sent)))

        await app(scope, receive_and_record, send_and_record)

    return recording
