"""A turn goes on without its reader, and any reader gets the rest of it from any instance."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.server import GatewaySettings
from convokit.testing import ScriptedCall, ScriptedError, ScriptedReply
from tests.server.in_process import AsgiGateway, describe_refusal, read_events, serving
from tests.support.databases import Files
from tests.support.gateway import MODEL

pytestmark = pytest.mark.soak(sample=True)

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
SLOW = ScriptedReply(["one ", "two ", "three ", "four"], pause_s=0.03)
TEXT = "one two three four"
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}
INPUT = {"model": MODEL, "input": "hi"}
FAILED = ScriptedError(500, headers={"x-should-retry": "false"})


@pytest.fixture
def slow(database: str) -> Iterator[AsgiGateway]:
    with serving(database, lambda _: SLOW) as running:
        yield running


def read_texts(gateway: AsgiGateway, conversation: str) -> list[str]:
    """Return the texts of the stored messages."""
    listed = gateway.send("GET", f"/v1/conversations/{conversation}/items?order=asc").json()["data"]
    return [part["text"] for item in listed for part in item["content"]]


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, ASKED), (RESPONSES, {**INPUT, "stream": True})], ids=["chat", "responses"]
)
def test_a_turn_goes_on_when_its_client_leaves(slow: AsgiGateway, path: str, body: dict[str, Any]) -> None:
    answer = slow.open("POST", path, body)
    answer.read_until("one ")
    answer.leave()
    slow.wait(slow.state.running.finish(10))
    assert read_texts(slow, answer.headers["x-conversation-id"]) == ["hi", TEXT]


def test_a_background_response_is_polled(slow: AsgiGateway) -> None:
    """The first answer comes before the reply."""
    made = slow.send("POST", RESPONSES, {**INPUT, "background": True})
    assert (made.json()["status"], made.json()["background"]) == ("in_progress", True)
    url = f"/v1/responses/{made.json()['id']}"
    assert slow.send("GET", url).json()["status"] == "in_progress"
    slow.wait(slow.state.running.finish(10))
    done = slow.send("GET", url).json()
    assert (done["status"], done["output"][0]["content"][0]["text"]) == ("completed", TEXT)
    assert (done["id"], done["background"]) == (made.json()["id"], True)
    assert slow.send("POST", f"{url}/cancel").json()["status"] == "completed"


def test_a_background_response_is_cancelled(database: str) -> None:
    """By another instance. Its readers learn of the end, and the partial reply is kept."""
    long = ScriptedReply(["one ", *["more "] * 500], pause_s=0.03)
    with serving(database, [long]) as slow, serving(database, loop=slow.loop) as other:
        made = slow.send("POST", RESPONSES, {**INPUT, "background": True}).json()["id"]
        reader = slow.open("GET", f"/v1/responses/{made}?stream=true")
        reader.read_until('"one "')
        assert other.send("POST", f"/v1/responses/{made}/cancel").json()["status"] == "cancelled"
        last = read_events(reader.read())[-1]
        assert last["type"] == "response.failed"
        slow.wait(slow.state.running.finish(10))
        assert slow.send("GET", f"/v1/responses/{made}").json()["status"] == "cancelled"


def test_a_reader_on_another_instance_follows_the_turn(slow: AsgiGateway) -> None:
    """With the same numbers as on the instance that runs the turn."""
    with serving(slow.database, loop=slow.loop) as other:
        here = slow.open("POST", RESPONSES, {**INPUT, "stream": True})
        begun = read_events(here.read_until("one "))
        there = other.open("GET", f"/v1/responses/{begun[0]['response']['id']}?stream=true")
        assert join_deltas(read_events(there.read())) == join_deltas(read_events(here.read()))
        assert (len(slow.model.requests), other.model.requests) == (1, [])
        retry = other.ask("hi", headers={"x-stainless-retry-count": "1"})
        assert retry.status_code == 200


def join_deltas(events: list[dict[str, Any]]) -> list[tuple[int, str, str]]:
    """Return number, type and text of the events, the deltas of one item as one with the number of the last."""
    found: list[tuple[int, str, str]] = []
    for event in events:
        kind, text = event["type"], event.get("delta", "")
        if kind.endswith(".delta") and found and found[-1][1] == kind:
            text = found.pop()[2] + text
        found.append((event["sequence_number"], kind, text))
    return found


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_the_end_of_a_stream_comes_after_the_commit(slow: AsgiGateway, path: str) -> None:
    """What the next request needs is in the database when the client reads the finish reason or the terminal event."""
    body = ASKED if path == CHAT else {**INPUT, "stream": True}
    answer = slow.open("POST", path, body)
    with serving(slow.database, loop=slow.loop) as other:
        answer.read_until('"finish_reason":"stop"' if path == CHAT else "response.completed")
        assert read_texts(other, answer.headers["x-conversation-id"]) == ["hi", TEXT]


@pytest.mark.once
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_an_error_before_the_first_chunk_has_its_status(sqlite_file: str, path: str) -> None:
    body = ASKED if path == CHAT else {**INPUT, "stream": True}
    with serving(sqlite_file, [ScriptedError(429, "slow down", headers={"x-should-retry": "false"})]) as gateway:
        answer = gateway.send("POST", path, body)
        assert (answer.status_code, describe_refusal(answer)[1]) == (429, "slow down")
        assert answer.headers["x-should-retry"] == "false"


@pytest.mark.once
@pytest.mark.parametrize("late", ["held back", "after a chunk"])
def test_a_later_error_comes_in_the_stream(sqlite_file: str, late: str) -> None:
    """The status is held back for a limited time. Later the error is the last event, and no `[DONE]` follows."""
    error = ScriptedError(500, "late", headers=FAILED.headers, delay_s=0.1)
    answer = error if late == "held back" else ScriptedReply(["one ", "two"], break_after=2, pause_s=0.01)
    with serving(sqlite_file, lambda _: answer, settings=GatewaySettings(hold_s=0.02)) as gateway:
        chat = gateway.send("POST", CHAT, ASKED)
        assert (chat.status_code, "[DONE]" in chat.text) == (200, False)
        assert read_events(chat.text)[-1]["error"]["type"] == "server_error"
        response = gateway.send("POST", RESPONSES, {**INPUT, "stream": True})
        last = read_events(response.text)[-1]
        assert (response.status_code, last["type"]) == (200, "response.failed")
        assert last["response"]["status"] == "failed"


@pytest.mark.once
def test_a_silent_stream_sends_comments(sqlite_file: str) -> None:
    reply = ScriptedReply(["one"], delay_s=0.1)
    with serving(sqlite_file, [reply], settings=GatewaySettings(hold_s=0.01, ping_s=0.02)) as gateway:
        text = gateway.send("POST", CHAT, ASKED).text
        assert text.count(": ping\n\n") >= 2
        assert "".join(each["choices"][0]["delta"].get("content", "") for each in read_events(text)) == "one"


@pytest.mark.once
def test_a_gateway_that_drains_refuses_new_requests(slow: AsgiGateway) -> None:
    """What runs goes on to its end."""
    started = slow.open("POST", CHAT, ASKED)
    started.read_until("one ")
    draining = asyncio.ensure_future(slow.state.drain(10), loop=slow.loop)
    slow.wait(asyncio.sleep(0))
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/ready")):
        answer = slow.send(method, path, ASKED if method == "POST" else None)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert slow.send("GET", "/health").status_code == 200
    assert "[DONE]" in started.read()
    assert slow.wait(draining) == 0


REPLIES = {
    "text": ScriptedReply(["one ", "二三", "", " 😀é", "x" * 40]),
    "calls": ScriptedReply("I look.", calls=[ScriptedCall("find", {"q": "東京"}), ScriptedCall("find", {"q": "two"})]),
    "refusal": ScriptedReply(refusal="I cannot do that."),
    "reasoning": ScriptedReply("well", reasoning="hmm, so"),
    "empty": ScriptedReply(""),
    "failed": ScriptedReply(["one ", "two ", "three"], break_after=2),
}


Reference = tuple[AsgiGateway, str, list[dict[str, Any]]]


@pytest.fixture(scope="module", params=REPLIES)
def reference(request: pytest.FixtureRequest, files: Files) -> Iterator[Reference]:
    """A gateway with a finished response, its id, and its events as they were streamed first."""
    tools = [{"type": "function", "name": "find", "parameters": {"type": "object"}}]
    with serving(files.migrated(), lambda _: REPLIES[request.param]) as gateway:
        events = read_events(gateway.send("POST", RESPONSES, {**INPUT, "stream": True, "tools": tools}).text)
        yield gateway, events[0]["response"]["id"], events


@pytest.mark.once
@given(after=st.integers(-1, 300))
def test_a_stream_is_resumed_behind_any_number(reference: Reference, after: int) -> None:
    """The reader gets exactly the rest: what he has and what he gets are the whole, once, and always an end."""
    gateway, name, whole = reference
    resumed = read_events(gateway.send("GET", f"/v1/responses/{name}?stream=true&starting_after={after}").text)
    assert all(event["sequence_number"] > after for event in resumed)
    assert resumed[-1]["type"] == whole[-1]["type"]
    last = whole[-1]["sequence_number"]
    assert resumed[-1]["sequence_number"] == max(last, after + 1)
    had = [cut for event in whole[:-1] for cut in cut_event(event, after)]
    if after < last:
        assert join_deltas([*had, *resumed]) == join_deltas(whole)
    else:
        assert len(resumed) == 1


def cut_event(event: dict[str, Any], after: int) -> list[dict[str, Any]]:
    """Return what a reader has of an event if number `after` is the last that he has."""
    if event["sequence_number"] <= after:
        return [event]
    missing = event["sequence_number"] - after
    if event["type"].endswith(".delta") and missing < len(event["delta"]):
        return [{**event, "sequence_number": after, "delta": event["delta"][:-missing]}]
    return []


@pytest.mark.once
@pytest.mark.parametrize("after", ["-2", "x", "1.5", "99999999999", "", "١"])
def test_a_wrong_number_is_refused(gateway: AsgiGateway, after: str) -> None:
    name = gateway.send("POST", RESPONSES, INPUT).json()["id"]
    answer = gateway.send("GET", f"/v1/responses/{name}?stream=true&starting_after={after}")
    assert (answer.status_code, describe_refusal(answer)[3]) == (400, "starting_after")
