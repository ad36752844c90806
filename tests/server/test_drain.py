"""Test that a signal ends the gateway without losing a running turn."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from convokit import Convokit
from tests.server.gateway_process import GatewayProcess, WaitingUpstream, running

pytestmark = pytest.mark.soak(sample=True)

BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "こんにちは"}]}


@pytest.fixture
def upstream() -> Iterator[WaitingUpstream]:
    server = WaitingUpstream()
    yield server
    server.close()


def read_events(lines: Iterator[str]) -> Iterator[str]:
    """Yield the texts of a stream, and its last event as it is."""
    for line in lines:
        if line == "data: [DONE]":
            yield line
        elif line.startswith("data: "):
            for choice in json.loads(line.removeprefix("data: ")).get("choices", ()):
                yield from filter(None, [choice["delta"].get("content")])


def read_path(file: Path) -> list[tuple[str, str, str]]:
    with Convokit(file) as kit:
        (conversation,) = kit.conversations()
        return [(each.role, each.text, each.status) for each in kit.chat(id=conversation.id).messages()]


def wait_until_draining(gateway: GatewayProcess) -> httpx.Response:
    deadline = time.monotonic() + 20
    while True:
        response = gateway.client.get("/ready")
        if response.status_code == 503 or time.monotonic() > deadline:
            return response


@pytest.mark.once
def test_sigterm_finishes_running_turns_and_refuses_new_ones(upstream: WaitingUpstream, tmp_path: Path) -> None:
    """New requests get 503 with Retry-After, on open and on new connections. The stream ends as always."""
    with running("-d", "chat.db", "--upstream", upstream.url, folder=tmp_path) as gateway:
        assert gateway.facts["API keys"] == "not required: only this machine can connect"
        with gateway.client.stream("POST", "/v1/chat/completions", json=BODY) as stream:
            events = read_events(stream.iter_lines())
            assert next(events) == "one "
            gateway.signal()
            refused = wait_until_draining(gateway)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "server" not in refused.headers
            assert "date" in refused.headers
            new = httpx.post(gateway.client.base_url.join("/v1/chat/completions"), json=BODY)
            assert (new.status_code, new.json()["error"]["code"]) == (503, "draining")
            assert gateway.client.get("/health").status_code == 200
            upstream.release.set()
            assert list(events) == ["two", "data: [DONE]"]
        assert gateway.process.wait(30) == 0
        assert "POST /v1/chat/completions 200" in gateway.read_log()
        assert "こんにちは" not in gateway.read_log()
    assert read_path(tmp_path / "chat.db")[-1] == ("assistant", "one two", "complete")


@pytest.mark.once
def test_a_second_signal_saves_the_partial_reply_and_ends_at_once(upstream: WaitingUpstream, tmp_path: Path) -> None:
    """Ctrl-C twice does not wait for the model. The partial reply is saved."""
    with running("-d", "chat.db", "--upstream", upstream.url, folder=tmp_path) as gateway:
        with gateway.client.stream("POST", "/v1/chat/completions", json=BODY) as stream:
            assert next(read_events(stream.iter_lines())) == "one "
            gateway.signal(signal.SIGINT)
            assert wait_until_draining(gateway).status_code == 503
            gateway.signal(signal.SIGINT)
            assert gateway.process.wait(30) == 128 + signal.SIGINT
        assert "1 turns did not end in time" in gateway.read_log()
        assert "Traceback" not in gateway.read_log()
    assert read_path(tmp_path / "chat.db")[-1][:2] == ("assistant", "one ")


@pytest.mark.soak(sample=True)
@pytest.mark.once
def test_a_drain_ends_at_its_time_limit(upstream: WaitingUpstream, tmp_path: Path) -> None:
    """A turn that takes longer than the limit is stopped, its partial reply is saved, and the process ends with 0."""
    arguments = ("-d", "chat.db", "--upstream", upstream.url, "--drain-timeout", "0")
    with (
        running(*arguments, folder=tmp_path) as gateway,
        gateway.client.stream("POST", "/v1/chat/completions", json=BODY) as stream,
    ):
        assert next(read_events(stream.iter_lines())) == "one "
        gateway.signal()
        assert gateway.process.wait(30) == 0
    assert read_path(tmp_path / "chat.db")[-1][:2] == ("assistant", "one ")


@pytest.mark.soak(sample=True)
@pytest.mark.once
def test_workers_are_drained(upstream: WaitingUpstream, tmp_path: Path) -> None:
    """SIGTERM to the supervisor drains all workers, and their running turns end."""
    arguments = ("-d", "chat.db", "--upstream", upstream.url, "--workers", "2")
    with running(*arguments, folder=tmp_path) as gateway:
        with gateway.client.stream("POST", "/v1/chat/completions", json=BODY) as stream:
            events = read_events(stream.iter_lines())
            assert next(events) == "one "
            assert len(find_workers(gateway)) == 2
            gateway.signal()
            upstream.release.set()
            assert list(events) == ["two", "data: [DONE]"]
        assert gateway.process.wait(30) == 0
    assert read_path(tmp_path / "chat.db")[-1] == ("assistant", "one two", "complete")


@pytest.mark.soak(sample=True)
@pytest.mark.once
def test_a_killed_worker_is_replaced_and_a_killed_supervisor_leaves_none(tmp_path: Path) -> None:
    """The other worker serves on while a killed one is replaced."""
    with running("--demo", "-d", "chat.db", "--workers", "2", folder=tmp_path) as gateway:
        assert gateway.client.get("/health").status_code == 200
        workers = set(find_workers(gateway))
        killed = min(workers)
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len(now := set(find_workers(gateway)) - {killed}) < 2 and time.monotonic() < deadline:
            assert httpx.get(gateway.client.base_url.join("/health")).status_code == 200
        assert len(now) == 2
        gateway.signal(signal.SIGKILL)
        gateway.process.wait(10)
        while any(os.path.exists(f"/proc/{pid}") for pid in now) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(os.path.exists(f"/proc/{pid}") for pid in now)


def find_workers(gateway: GatewayProcess) -> list[int]:
    """Return the children that serve. multiprocessing has another one, its resource tracker."""
    return [pid for pid in gateway.list_children() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
