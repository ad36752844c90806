"""Every route needs a key, and a key of the right scope. No header or target leads around that."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from starlette.routing import Route

from convokit.server import GatewaySettings
from convokit.server.application import _ROUTES
from tests.server.in_process import AsgiGateway, describe_refusal, serving
from tests.support.gateway import MODEL, RunningGateway, running_gateway

pytestmark = pytest.mark.once
OPEN = ("/health", "/ready")
SCOPES = {(method, f"/v1{path}"): scope for method, path, scope, _ in _ROUTES}
INJECTIONS = [
    "' OR 1=1 --",
    "ck-x' UNION SELECT * FROM convokit_key --",
    '"; DROP TABLE convokit_key; --',
    "ck-%",
    "ck-\\x00",
    "*",
    "ck-null",
    "é",
    "x" * 7000,
]


def list_routes(gateway: AsgiGateway) -> Iterator[tuple[str, str, str]]:
    """Yield method, path as it is declared, and a path that matches it, of each route of the application."""
    for route in gateway.app.routes:
        assert isinstance(route, Route)
        for method in sorted(route.methods or ()):
            yield method, route.path, re.sub(r"\{[a-z]+(:path)?\}", "x", route.path)


def test_every_route_but_two_needs_a_key(guarded: AsgiGateway) -> None:
    """A route that is added later is in this test by itself."""
    answers = {(m, path): guarded.send(m, url, {}) for m, path, url in list_routes(guarded) if path not in OPEN}
    assert len(answers) > 40
    for place, answer in answers.items():
        assert answer.status_code == 401, place
        assert place[0] == "HEAD" or describe_refusal(answer)[2] == "invalid_api_key"
    assert guarded.model.requests == []


def test_a_key_of_the_wrong_scope_is_refused(guarded: AsgiGateway) -> None:
    """A read key writes nothing by any method of any route; a chat key does not read."""
    reader, writer = guarded.make_key(scopes=["read"]), guarded.make_key(scopes=["chat"])
    for method, path, url in list_routes(guarded):
        if path in OPEN:
            continue
        scope = SCOPES.get((method, path.removeprefix("/c/{thread}")), "read")
        wrong = reader if scope == "chat" else writer
        answer = guarded.send(method, url, {}, key=wrong)
        assert answer.status_code == 403, (method, path)
        assert method == "HEAD" or describe_refusal(answer)[2] == "insufficient_scope"
        right = guarded.send(method, url, {}, key=writer if scope == "chat" else reader)
        assert right.status_code in (200, 400, 404), (method, path)
    assert guarded.model.requests == []


def test_methods_that_write_need_the_scope_chat(guarded: AsgiGateway) -> None:
    """`read` is right for GET, and for the count of tokens."""
    reading = {place for place, scope in SCOPES.items() if scope == "read" and place[0] != "GET"}
    assert reading == {("POST", "/v1/responses/input_tokens")}


@pytest.mark.parametrize("value", INJECTIONS, ids=range(len(INJECTIONS)))
def test_no_text_is_a_key(guarded: AsgiGateway, value: str) -> None:
    """SQL, patterns and odd characters in each place of a key are looked up by their digest, and found nowhere."""
    key = guarded.make_key()
    for name, prefix in (("authorization", "Bearer "), ("api-key", ""), ("x-api-key", ""), ("authorization", "Basic ")):
        encoded = {name.encode(): f"{prefix}{value}".encode("latin-1")}
        answer = guarded.send("GET", "/v1/models", headers=encoded)
        assert answer.status_code == 401, (name, value)
        assert value not in answer.text
    assert guarded.send("GET", "/v1/models", key=key).status_code == 200


def test_one_header_decides(guarded: AsgiGateway) -> None:
    """A bad bearer token is not replaced by a good key in another header. The restrictions of a key hold in each header."""
    reader, writer = guarded.make_key(scopes=["read"]), guarded.make_key()
    assert guarded.send("GET", "/v1/models", key="wrong", headers={"api-key": writer}).status_code == 401
    assert guarded.send("GET", "/v1/models", key="wrong", headers={"x-api-key": writer}).status_code == 401
    assert guarded.send("GET", "/v1/models", headers={"api-key": writer}).status_code == 200
    assert guarded.send("POST", "/v1/conversations", {}, headers={"api-key": reader}).status_code == 403
    assert guarded.send("POST", "/v1/conversations", {}, key=reader, headers={"api-key": writer}).status_code == 403
    assert guarded.send("GET", f"/v1/models?api_key={writer}&key={writer}").status_code == 401


@pytest.fixture
def served(sqlite_file: str) -> Iterator[RunningGateway]:
    with running_gateway(sqlite_file, auth=None) as running:
        yield running


@pytest.fixture
def open_gateway(sqlite_file: str) -> Iterator[RunningGateway]:
    with running_gateway(sqlite_file) as running:
        yield running


def talk_raw(gateway: RunningGateway, data: bytes) -> bytes:
    """Send bytes to the server, and return its answer up to the end of the connection."""
    host, _, port = gateway.root_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


def build_request(target: str, host: str, more: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode()


HOSTS = ["x/health?", "x/health#", "a@b/health?x=", "x/ready", "health", "x:80/health", "[::1]/health"]
TARGETS = [
    "http://x/health/../v1/models",
    "http://evil/v1/models",
    "//health/v1/models",
    "/health/../v1/models",
    "/health%2f..%2fv1/models",
    "/v1/models/health",
    "/v1/models;/health",
    "/V1/models",
    "/v1/models?/health",
    "/health/",
]


@pytest.mark.parametrize("host", HOSTS)
def test_the_host_does_not_change_the_route(served: RunningGateway, host: str) -> None:
    """The path alone names the route: a Host header with a path in it reaches nothing (CVE-2026-48710)."""
    answer = talk_raw(served, build_request("/v1/models", host))
    assert answer.split()[1] in (b"401", b"400")
    assert MODEL.encode() not in answer


@pytest.mark.parametrize("target", TARGETS)
def test_odd_targets_reach_no_route(served: RunningGateway, target: str) -> None:
    """Absolute targets, dots and encoded slashes are other paths, and no way to a route without a key."""
    answer = talk_raw(served, build_request(target, "localhost"))
    assert answer.split()[1] in (b"401", b"404", b"400")
    assert MODEL.encode() not in answer


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "", "x@localhost"]
)
def test_dns_rebinding_is_refused_without_keys(open_gateway: RunningGateway, host: str) -> None:
    """A page of the web whose name leads to this machine sends its own name as the host."""
    answer = talk_raw(open_gateway, build_request("/v1/models", host))
    assert answer.split()[1] in (b"421", b"400")
    assert MODEL.encode() not in answer


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"])
def test_loopback_names_are_hosts(open_gateway: RunningGateway, host: str) -> None:
    assert talk_raw(open_gateway, build_request("/v1/models", host)).split()[1] == b"200"


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example", "null", "http://[", ""])
def test_pages_of_other_sites_are_refused_without_keys(gateway: AsgiGateway, origin: str) -> None:
    """A browser sends a plain POST to this machine for any page: without keys, its Origin is the only sign."""
    headers = {"origin": origin, "content-type": "text/plain"}
    answer = gateway.send("POST", "/v1/conversations", {}, headers=headers)
    assert (answer.status_code, describe_refusal(answer)[2]) == (403, "unknown_origin")
    assert gateway.send("GET", "/convokit/v1/conversations").json()["data"] == []


def test_pages_of_this_machine_are_served(gateway: AsgiGateway) -> None:
    headers = {"origin": "http://localhost:3000"}
    assert gateway.send("POST", "/v1/conversations", {}, headers=headers).status_code == 200


def test_an_origin_needs_no_check_with_keys(guarded: AsgiGateway) -> None:
    """A page of another site does not have the key."""
    headers = {"origin": "https://app.example"}
    answer = guarded.send("POST", "/v1/conversations", {}, key=guarded.make_key(), headers=headers)
    assert answer.status_code == 200


def test_names_of_hosts_may_be_given(sqlite_file: str) -> None:
    with serving(sqlite_file, settings=GatewaySettings(allowed_hosts=("chat.example",))) as gateway:
        assert gateway.send("GET", "/v1/models").status_code == 421
        assert gateway.send("GET", "/v1/models", headers={"host": "chat.example:443"}).status_code == 200
