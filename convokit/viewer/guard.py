"""Refuse requests of foreign hosts, and limit browsers by headers."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from convokit._hosts import LOGGED, read_header, strip_port

access_log = logging.getLogger("convokit.access")
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
_READING = ("GET", "HEAD")
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
"""A response may bring another value: binaries a stricter policy, and files with a digest in their name a cache."""


class Guard:
    """Checks each request before the application sees it."""

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str] | None) -> None:
        self._app = app
        self._allowed_hosts = None if allowed_hosts is None else {name.lower() for name in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                own = ((name.encode(), value.encode()) for name, value in _HEADERS.items())
                message["headers"] = [*message["headers"], *(pair for pair in own if pair[0] not in given)]
            await send(message)

        refusal = self._find_refusal(scope)
        try:
            await (self._app if refusal is None else refusal)(scope, receive, send_with_headers)
        finally:
            if not scope.get(LOGGED):
                route = scope.get("route")
                path = route.path if isinstance(route, Route) else "-"  # the path itself may hold keys and names
                took_ms = (time.perf_counter() - start) * 1000
                access_log.info("%s %s %d %.1f ms", scope["method"], path, status, took_ms)

    def _find_refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = scope["headers"]
        host = read_header(headers, b"host") or ""
        # Reads too: a page whose name was rebound to this address could read everything.
        if self._allowed_hosts is not None and strip_port(host).lower() not in self._allowed_hosts:
            return PlainTextResponse("the Host header names another host", 421)
        if scope["method"] in _READING:
            return None
        if scope["method"] != "POST":
            return PlainTextResponse("only GET and HEAD are allowed here", 405)
        site = read_header(headers, b"sec-fetch-site")
        if site is not None:
            is_own = site in ("same-origin", "none")
        else:  # a browser without this header sends the origin with each form; other programs send neither
            origin = read_header(headers, b"origin")
            is_own = origin is None or origin == f"{scope.get('scheme', 'http')}://{host}"
        return None if is_own else PlainTextResponse("the request comes from another site", 403)
