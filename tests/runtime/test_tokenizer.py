"""The server's own tokenizer as a counter: asked once a text, and clear about what went wrong."""

from __future__ import annotations

import json

import pytest

from convokit import Convokit
from convokit.errors import BadReply, ModelError, Rejected, ServerFailed, SettingsError, TimedOut, Unreachable
from convokit.runtime import tokenizer
from convokit.runtime.tokenizer import TokenizeCounter
from convokit.tokens.counter import Counter
from tests.support.server import LoopbackServer, Script, echo

TOKENS = json.dumps({"tokens": [1]}).encode()


def test_the_counter_asks_once_a_text(server: LoopbackServer) -> None:
    """Tokens are the server's own; the same text is not asked twice, an empty one never."""
    server.answer = lambda body: Script([json.dumps({"tokens": list(body["content"])}).encode()])
    counter = TokenizeCounter(server.url, "tiny", "key")
    used: Counter = counter  # the protocol that a kit asks for
    assert (used.name, used.count("日本語"), used.count("日本語"), used.count("")) == ("llama.cpp:tiny", 3, 3, 0)
    [asked] = server.requests
    assert (asked.path, asked.headers["authorization"]) == ("/tokenize", "Bearer key")
    counter.close()


def test_what_is_cached_is_bounded(server: LoopbackServer) -> None:
    """A text longer than the bound is asked for each time: memory stays below number times length."""
    server.answer = lambda body: Script([TOKENS])
    counter = TokenizeCounter(server.url)
    for _ in range(2):
        counter.count("x" * (tokenizer._LONGEST_CACHED_CHARS + 1))
        counter.count("x" * tokenizer._LONGEST_CACHED_CHARS)
    assert len(server.requests) == 3
    assert counter._cached.cache_info().maxsize == tokenizer._CACHED_TEXTS
    counter.close()


def test_the_address_may_have_a_path(server: LoopbackServer) -> None:
    """What stands before /v1 stays; the counter is named by its address when no model is."""
    server.answer = lambda body: Script([TOKENS])
    counter = TokenizeCounter(server.url.replace("/v1", "/api/v1/"))
    assert counter.count("a") == 1
    assert (server.requests[0].path, counter.name) == ("/api/tokenize", f"llama.cpp:127.0.0.1:{server.port}")
    counter.close()


def test_the_counter_survives_a_closed_connection(server: LoopbackServer) -> None:
    """A kept connection that the server closed is opened again."""
    server.script(Script([TOKENS]), Script([None]), Script([TOKENS]))
    counter = TokenizeCounter(server.url)
    assert counter.count("a") == 1
    assert counter.count("b") == 1
    counter.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Script([b'{"error": 1}']), BadReply),
        (Script([b"<html>"]), BadReply),
        (Script([b"{}"], status=401), Rejected),
        (Script([b"{}"], status=404), Rejected),
        (Script([b"{}"], status=503), ServerFailed),
        (Script([TOKENS], delay_s=0.5), TimedOut),
    ],
)
def test_a_server_that_does_not_count_is_a_typed_error(
    server: LoopbackServer, answer: Script, error: type[ModelError]
) -> None:
    """No llama.cpp server, a wrong key, a model still loading, no answer in time; the counter can be used again after it."""
    server.script(answer)
    counter = TokenizeCounter(server.url, timeout_s=0.2)
    with pytest.raises(error):
        counter.count("a")
    server.answer = lambda body: Script([TOKENS])
    assert counter.count("a") == 1
    counter.close()


def test_nobody_there_is_unreachable() -> None:
    """A server that is gone, and an address that is none."""
    with pytest.raises(Unreachable, match="does not answer"):
        TokenizeCounter("http://127.0.0.1:1/v1").count("a")
    for address in ("127.0.0.1:1", "ftp://host/", ""):
        with pytest.raises(SettingsError, match="URL of a server"):
            TokenizeCounter(address)


def test_a_kit_counts_with_it(sqlite_file: str, server: LoopbackServer) -> None:
    """Passed as `counter`, it counts what is sent and stored; a second turn asks only for what is new."""
    asked: list[str] = []

    def answer(body: dict[str, str]) -> Script:
        if "content" in body:
            asked.append(body["content"])
            return Script([json.dumps({"tokens": list(body["content"].encode())}).encode()])
        return echo(body)

    server.answer = answer
    counter = TokenizeCounter(server.url, "tiny")
    kit = Convokit(sqlite_file, model="loop-1", base_url=server.url, counter=counter)
    reply = kit.chat("k").send("日本語")
    assert reply.context is not None
    assert (reply.context.counter, "日本語" in asked) == ("llama.cpp:tiny", True)
    before = len(asked)
    kit.chat("k").send("and more")
    assert asked[before:] == ["and more", "echo: and more"]
    kit.close()
    counter.close()


@pytest.mark.parametrize("url", ["http://[::1", "http://h:x", "http://h:99999", "ftp://h", "http://", "http://\x00"])
def test_a_url_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        TokenizeCounter(url)


def test_a_counter_that_was_closed_and_a_host_that_cannot_exist() -> None:
    """No exception of httpx or of Python's sockets reaches the caller."""
    counter = TokenizeCounter("http://a..b")
    with pytest.raises((Unreachable, SettingsError)):
        counter.count("x")
    counter.close()
    with pytest.raises(SettingsError, match="was closed"):
        counter.count("y")
    with pytest.raises(SettingsError, match="api_key"):
        TokenizeCounter("http://127.0.0.1:9", api_key="鍵")
