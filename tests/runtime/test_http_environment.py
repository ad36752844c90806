"""Tests that no variable, option or httpx client brings an exception of a library below convokit."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from convokit import AsyncConvokit, AsyncHttpxClient, Convokit, HttpxClient, Retry
from convokit.errors import ConvokitError, ModelError, RateLimited, ServerFailed, SettingsError, Unreachable
from tests.support.faces import Face
from tests.support.server import LoopbackServer, chunk, event, failure

ONCE = Retry(attempts=1)
PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
BODY = {
    "id": "x",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
}
STREAMED = chunk({"content": "fine"}, "stop") + event(b"[DONE]")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def _fail(face: Face, database: str, error: type[BaseException], **settings: Any) -> Any:
    """Send a message that must end in `error`; return the error."""
    kit = face.kit(database, **{"model": "m", "retry": ONCE, **settings})
    with pytest.raises(error) as caught:
        face.settle(kit.chat("a").send("hello"))
    return caught.value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("all_proxy", "socks5h://user:secret@127.0.0.1:9"),
        ("ALL_PROXY", "socks://127.0.0.1:9"),
        ("HTTP_PROXY", "socks4://127.0.0.1:9"),
        ("HTTP_PROXY", "ftp://127.0.0.1"),
        ("https_proxy", "proxy.example:abc"),
        ("http_proxy", "http://user:secret@proxy.example:abcd"),
        ("HTTPS_PROXY", "http://[::1"),
        ("NO_PROXY", "[::1]"),
        ("no_proxy", "localhost,例え.jp:x"),
        ("NO_PROXY", "127.0.0.1, fd00::/8"),
    ],
)
def test_an_unusable_proxy_is_named(
    face: Face, sqlite_file: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A proxy or exception that httpx cannot use is a SettingsError that names the variable as it is spelled."""
    monkeypatch.setenv(name, value)
    error = _fail(face, sqlite_file, SettingsError, base_url="http://llm.example.test/v1")
    assert error.setting == name
    assert "secret" not in str(error)
    assert value[-4:] in str(error)


@pytest.mark.parametrize("value", ["::1", "localhost,127.0.0.1", ".example.test", "*", "10.0.0.0/8", "http://x.test"])
def test_a_usable_exception_is_accepted(
    face: Face, sqlite_file: str, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """An entry of NO_PROXY that httpx can use is no fault, and plain http reads no certificates."""
    monkeypatch.setenv("NO_PROXY", value)
    monkeypatch.setenv("SSL_CERT_FILE", "/missing")
    _fail(face, sqlite_file, Unreachable, base_url="http://llm.invalid/v1")


def test_this_machine_needs_no_proxy(
    face: Face, sqlite_file: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model on this machine works whatever the proxies are."""
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    kit = face.kit(sqlite_file, model="m", base_url=server.url)
    assert face.settle(kit.chat("a").send("hello")).text == "echo: hello"


@pytest.mark.parametrize("port", [9, 99_999])
def test_a_proxy_that_does_not_answer_is_named(
    face: Face, sqlite_file: str, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    """A failed connection names the proxy variables that were used, without their values."""
    monkeypatch.setenv("ALL_PROXY", f"http://user:secret@127.0.0.1:{port}")
    error = _fail(face, sqlite_file, Unreachable, base_url="http://llm.example.test/v1")
    assert "ALL_PROXY" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "no certificate"])
def test_an_unusable_certificate_file_is_named(
    face: Face, sqlite_file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "証明書.pem"
    if kind == "folder":
        file.mkdir()
    elif kind != "missing":
        file.write_text("" if kind == "empty" else "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    error = _fail(face, sqlite_file, SettingsError, base_url="https://llm.example.test/v1")
    assert error.setting == "SSL_CERT_FILE"
    assert str(file) in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [("SSL_CERT_DIR", "/missing/folder"), ("SSL_CERT_DIR", "/a:/b"), ("SSLKEYLOGFILE", "/missing/folder/file")],
)
def test_other_unusable_tls_variables_are_named(
    face: Face, sqlite_file: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert _fail(face, sqlite_file, SettingsError, base_url="https://llm.example.test/v1").setting == name


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test", "例え..jp", "-x-.test:1", "xn--a", "\u2603.test"])
def test_a_host_that_cannot_exist_is_a_typed_error(face: Face, sqlite_file: str, host: str) -> None:
    _fail(face, sqlite_file, ConvokitError, base_url=f"http://{host}/v1")


def _make_client(face: Face, answer: Callable[[httpx.Request], httpx.Response], **settings: Any) -> Any:
    """Return a wrapped httpx client of the face's API whose requests `answer` answers."""
    transport = httpx.MockTransport(answer)
    if face.name == "sync":
        return HttpxClient(httpx.Client(transport=transport, **settings))
    return AsyncHttpxClient(httpx.AsyncClient(transport=transport, **settings))


def _make_hooked(face: Face, hook: Callable[[httpx.Response], object], *, reads: bool = True) -> Any:
    async def async_hook(response: httpx.Response) -> None:
        if reads:
            await response.aread()
        hook(response)

    def sync_hook(response: httpx.Response) -> None:
        if reads:
            response.read()
        hook(response)

    if face.name == "sync":
        return HttpxClient(httpx.Client(event_hooks={"response": [sync_hook]}))
    return AsyncHttpxClient(httpx.AsyncClient(event_hooks={"response": [async_hook]}))


def _close(face: Face, client: Any) -> None:
    face.settle(client._given.close() if face.name == "sync" else client._given.aclose())


PACKED = {"content-encoding": "gzip"}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        lambda: httpx.Response(200, json=BODY),
        lambda: httpx.Response(200, content=STREAMED),
        lambda: httpx.Response(200, content=gzip.compress(json.dumps(BODY).encode()), headers=PACKED),
        lambda: httpx.Response(200, content=json.dumps(BODY).encode(), headers={"content-encoding": "utf-8"}),
    ],
)
def test_an_answer_that_was_read_already(
    face: Face, sqlite_file: str, answer: Callable[[], httpx.Response], streams: bool
) -> None:
    """A transport of tests, caches or recordings hands over a whole answer: it is read like any other."""
    client = _make_client(face, lambda request: answer())
    chat = face.kit(sqlite_file, model="m", base_url="http://x.test/v1", http_client=client).chat("a")
    if not streams and answer().content == STREAMED:
        pytest.skip("a stream is no plain answer")
    if streams:
        streaming = chat.stream("hello")
        face.collect(streaming)
        assert streaming.reply.text == "fine"
    else:
        assert face.settle(chat.send("hello")).text == "fine"


def test_a_hook_that_reads_the_answer(face: Face, sqlite_file: str, server: LoopbackServer) -> None:
    client = _make_hooked(face, lambda response: None)
    chat = face.kit(sqlite_file, model="m", base_url=server.url, http_client=client).chat("a")
    assert face.settle(chat.send("hello")).text == "echo: hello"
    streaming = chat.stream("again")
    face.collect(streaming)
    assert streaming.reply.text == "echo: again"
    _close(face, client)


@pytest.mark.parametrize("reads", [False, True])
def test_a_hook_that_raises_for_the_status(face: Face, sqlite_file: str, server: LoopbackServer, reads: bool) -> None:
    """`raise_for_status()` in a hook gives the error of the status, with the message if the hook has read it."""
    server.answer = lambda body: failure(429, "slow down")
    client = _make_hooked(face, lambda response: response.raise_for_status(), reads=reads)
    error = _fail(face, sqlite_file, RateLimited, base_url=server.url, http_client=client)
    assert error.status == 429
    assert ("slow down" in str(error)) is reads
    _close(face, client)


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (httpx.ConnectError("no"), Unreachable),
        (httpx.ReadTimeout("no"), ModelError),
        (httpx.InvalidURL("no"), SettingsError),
        (httpx.CookieConflict("no"), ModelError),
        (httpx.StreamConsumed(), SettingsError),
        (RuntimeError("Event loop is closed"), SettingsError),
        (TimeoutError(), ModelError),
    ],
)
def test_exceptions_of_a_transport(face: Face, sqlite_file: str, raised: Exception, error: type[ConvokitError]) -> None:
    """Whatever a transport raises of httpx's or Python's own errors is a typed error."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise raised

    _fail(face, sqlite_file, error, base_url="http://x.test/v1", http_client=_make_client(face, fail))


def test_an_exception_of_the_users_own_code_stays(face: Face, sqlite_file: str) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    client = _make_client(face, fail)
    _fail(face, sqlite_file, ZeroDivisionError, base_url="http://x.test/v1", http_client=client)


def test_a_closed_client(face: Face, sqlite_file: str) -> None:
    client = _make_client(face, lambda request: httpx.Response(200, json=BODY))
    _close(face, client)
    error = _fail(face, sqlite_file, SettingsError, base_url="http://x.test/v1", http_client=client)
    assert error.setting == "http_client"
    assert "closed" in str(error)


@pytest.mark.once
def test_a_client_of_the_other_api_is_refused(sqlite_file: str) -> None:
    """A client is wrapped in the class of its API, and passed to the kit of its API."""
    with pytest.raises(SettingsError, match=r"must be httpx\.Client, not httpx\.AsyncClient"):
        HttpxClient(httpx.AsyncClient())  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"must be httpx\.AsyncClient, not httpx\.Client"):
        AsyncHttpxClient(httpx.Client())  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"must be AsyncHttpxClient here, not HttpxClient"):
        AsyncConvokit(sqlite_file, model="m", http_client=HttpxClient())  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"must be HttpxClient here, not AsyncHttpxClient"):
        Convokit(sqlite_file, model="m", http_client=AsyncHttpxClient())  # type: ignore[arg-type]


class Signed(httpx.Auth):
    """Credentials that httpx adds to a request."""

    def auth_flow(self, request: httpx.Request) -> Any:
        request.headers["x-signed"] = "yes"
        yield request


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        ({"auth": Signed()}, {}, {"x-signed": "yes"}),
        ({"auth": ("u", "p")}, {}, {"authorization": "Basic dTpw"}),
        ({"auth": ("u", "p")}, {"api_key": "k"}, {"authorization": "Bearer k"}),
        ({"auth": ("u", "p")}, {"extra_headers": {"Authorization": "mine"}}, {"authorization": "mine"}),
        ({"headers": {"authorization": "Bearer of the client"}}, {}, {"authorization": "Bearer of the client"}),
    ],
)
def test_the_credentials_of_a_client_are_kept_without_a_key(
    face: Face, sqlite_file: str, settings: dict[str, Any], options: dict[str, Any], expected: dict[str, str]
) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=BODY)

    client = _make_client(face, answer, **settings)
    kit = face.kit(sqlite_file, model="m", base_url="http://x.test/v1", http_client=client, **options)
    face.settle(kit.chat("a").send("hello"))
    assert {name: seen[0].headers[name] for name in expected} == expected


def test_an_error_status_of_a_mock(face: Face, sqlite_file: str) -> None:
    client = _make_client(face, lambda request: httpx.Response(500, json={"error": {"message": "boom"}}))
    error = _fail(face, sqlite_file, ServerFailed, base_url="http://x.test/v1", http_client=client)
    assert "boom" in str(error)
