"""Build the ASGI application of the gateway."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from convokit._hosts import LOGGED, read_header, strip_port
from convokit.async_kit import AsyncConvokit
from convokit.errors import StoreError
from convokit.server import chat_routes, conversation_routes, response_routes
from convokit.server.gateway import Gateway, Session
from convokit.server.gateway_settings import Authenticate, GatewaySettings
from convokit.server.refusals import Refusal, to_refusal
from convokit.store.keys import CHAT, READ

access_log = logging.getLogger("convokit.access")
Handler = Callable[[Session], Awaitable[Response]]
_READY_S = 5.0
_ROUTES: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", "/chat/completions", CHAT, chat_routes.create_completion),
    ("GET", "/chat/completions/{id}", READ, chat_routes.read_completion),
    ("DELETE", "/chat/completions/{id}", CHAT, chat_routes.delete_completion),
    ("GET", "/models", READ, chat_routes.list_models),
    ("GET", "/models/{id:path}", READ, chat_routes.read_model),
    ("POST", "/responses", CHAT, response_routes.create_response),
    ("POST", "/responses/input_tokens", READ, response_routes.count_input_tokens),
    ("GET", "/responses/{id}", READ, response_routes.read_response),
    ("DELETE", "/responses/{id}", CHAT, response_routes.delete_response),
    ("POST", "/responses/{id}/cancel", CHAT, response_routes.cancel_response),
    ("GET", "/responses/{id}/input_items", READ, response_routes.list_input_items),
    ("POST", "/conversations", CHAT, conversation_routes.create_conversation),
    ("GET", "/conversations/{id}", READ, conversation_routes.read_conversation),
    ("POST", "/conversations/{id}", CHAT, conversation_routes.update_conversation),
    ("DELETE", "/conversations/{id}", CHAT, conversation_routes.delete_conversation),
    ("POST", "/conversations/{id}/items", CHAT, conversation_routes.create_items),
    ("GET", "/conversations/{id}/items", READ, conversation_routes.list_items),
    ("GET", "/conversations/{id}/items/{item}", READ, conversation_routes.read_item),
    ("DELETE", "/conversations/{id}/items/{item}", CHAT, conversation_routes.delete_item),
)
"""Method, path below `/v1`, the scope that a caller needs, and the handler."""


def create_app(
    kit: AsyncConvokit, *, settings: GatewaySettings | None = None, auth: Authenticate | None = None
) -> Starlette:
    """Return the gateway as an ASGI application. It may be mounted in an application of FastAPI or Starlette.

    Args:
        kit: The kit that stores the conversations and calls the model. It stays open when the application ends. A kit with
            `mode="pass"` sends every parameter of a client on as it is.
        settings: Models and limits. Default: every model of the kit's server.
        auth: Returns the caller of a request. Default: the API keys of the database (`convokit keys create`).
            `allow_anyone` lets everyone in.

    `app.state.gateway.drain(timeout_s)` refuses new requests and waits for the turns that run. An application that mounts
    this one calls it before it closes the kit; a server that runs this application does not need to.

    Example:
        app = create_app(kit, auth=allow_anyone)
    """
    gateway = Gateway(kit, settings or GatewaySettings(), auth)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await gateway.drain(3600)

    routes = [
        Route(f"{prefix}{path}", _guard(gateway, scope, handler), methods=[method])
        for prefix in ("/v1", "/c/{thread}/v1")
        for method, path, scope, handler in _ROUTES
    ]
    listing = _guard(gateway, READ, conversation_routes.list_conversations)
    unknown = _guard(gateway, READ, _refuse_unknown)
    routes += [
        Route("/convokit/v1/conversations", listing, methods=["GET"]),
        Route("/health", _answer_health, methods=["GET"]),
        Route("/ready", _make_ready(gateway), methods=["GET"]),
        Route("/{rest:path}", unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.gateway = gateway
    app.add_middleware(_Frame, gateway=gateway)
    return app


def _guard(gateway: Gateway, scope: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that authenticates a request and answers errors. Every route but two goes through it."""

    async def answer(request: Request) -> Response:
        kit = gateway.kit
        try:
            session = await gateway.open_session(request, scope)
            try:
                return await handler(session)
            finally:
                kit = session.kit
        except Exception as error:
            return _answer_refusal(to_refusal(error, kit._state.base_url))

    return answer


def _answer_refusal(refusal: Refusal) -> Response:
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


async def _refuse_unknown(session: Session) -> Response:
    request = session.request
    raise Refusal(f"Unknown request URL: {request.method} {request.scope['path']}.", status=404, code="unknown_url")


async def _answer_health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _make_ready(gateway: Gateway) -> Callable[[Request], Awaitable[Response]]:
    async def ready(request: Request) -> Response:
        try:
            async with asyncio.timeout(_READY_S):
                await gateway.database.ping()
        except (StoreError, TimeoutError):
            return JSONResponse({"status": "the store is not available"}, 503)
        return JSONResponse({"status": "ready"})

    return ready


class _Frame:
    """Give each request an id, log it, and refuse it for a foreign host or while the process ends."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, request_id = time.perf_counter(), f"req_{uuid.uuid4().hex}"
        status = 500
        scope[LOGGED] = True

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        refusal = self._find_refusal(scope)
        try:
            if refusal is None:
                await self._app(scope, receive, send_with_id)
            else:
                await _answer_refusal(refusal)(scope, receive, send_with_id)
        finally:
            route = scope.get("route")
            path = (
                f"{scope.get('root_path', '')}{route.path}" if isinstance(route, Route) else "-"
            )  # the path itself may hold names of conversations
            took_ms = (time.perf_counter() - start) * 1000
            access_log.info("%s %s %d %.1f ms %s", scope["method"], path, status, took_ms, request_id)

    def _find_refusal(self, scope: Scope) -> Refusal | None:
        allowed = self._gateway.allowed_hosts
        if allowed is not None:
            if strip_port(read_header(scope["headers"], b"host") or "").lower() not in allowed:
                return Refusal("the Host header names another host", status=421, code="unknown_host")
            origin = read_header(scope["headers"], b"origin")
            # A browser sends a plain POST for the page of any site, and does not ask first.
            if origin is not None and strip_port(origin.partition("://")[2]).lower() not in allowed:
                return Refusal("the Origin header names another site", status=403, code="unknown_origin")
        if self._gateway.is_draining and scope["path"].rpartition("/")[2] != "health":
            problem = "the server is about to end: send the request again"
            headers = {"retry-after": "1", "connection": "close"}
            return Refusal(problem, status=503, code="draining", type="server_error", headers=headers)
        return None
