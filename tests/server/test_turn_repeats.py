"""A request that comes again makes no second turn. One that comes while another runs is answered all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from convokit.testing import ScriptedError, ScriptedReply
from tests.server.in_process import AsgiGateway, describe_refusal, read_events, serving
from tests.support.gateway import MODEL

pytestmark = pytest.mark.soak(sample=True)

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
SLOW = ScriptedReply(["one ", "two ", "three ", "four"], pause_s=0.03)
RETRY = {"x-stainless-retry-count": "1"}
NAMED = pytest.mark.parametrize("name", [{}, {"x-conversation-id": "k"}], ids=["unnamed", "named"])
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


@pytest.fixture
def slow(database: str) -> Iterator[AsgiGateway]:
    with serving(database, lambda _: SLOW) as running:
        yield running


def read_reply(answer: httpx.Response) -> tuple[str, str]:
    """Return the id and the text of a chat completion, streamed or not."""
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"].startswith("application/json"):
        body = answer.json()
        return body["id"], body["choices"][0]["message"]["content"]
    chunks = read_events(answer.text)
    assert "data: [DONE]" in answer.text, answer.text
    return chunks[0]["id"], "".join(
        chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"]
    )


def count_stored(gateway: AsgiGateway) -> list[int]:
    """Return the numbers of messages of all conversations."""

    async def count() -> list[int]:
        page = await gateway.kit.tenant("default").conversations(limit=100)
        return [each.last_seq for each in page]

    return gateway.wait(count())


@NAMED
@STREAMED
def test_a_retry_attaches_to_the_running_turn(slow: AsgiGateway, name: dict[str, str], stream: bool) -> None:
    """Also in the middle of the answer, and with the other form of answer."""
    started = slow.open("POST", CHAT, body("hi", stream=True), headers=name)
    started.read_until("one ")
    again = read_reply(slow.ask("hi", headers={**name, **RETRY}, stream=stream))
    assert again == read_reply(httpx.Response(200, text=started.read(), headers=started.headers))
    assert again[1] == "one two three four"
    assert len(slow.model.requests) == 1
    assert len(count_stored(slow)) == 1


def body(*texts: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]
    return {"model": MODEL, "messages": messages, **more}


@NAMED
@STREAMED
def test_a_retry_attaches_to_the_finished_turn(slow: AsgiGateway, name: dict[str, str], stream: bool) -> None:
    """The client's connection broke when the reply was there already."""
    first = read_reply(slow.ask("hi", headers=name, stream=stream))
    again = slow.ask("hi", headers={**name, **RETRY}, stream=stream)
    assert (read_reply(again), again.headers["x-conversation-place"]) == (first, "attach")
    assert len(slow.model.requests) == 1


@pytest.mark.once
@NAMED
def test_a_retry_of_a_failed_turn_calls_again(sqlite_file: str, name: dict[str, str]) -> None:
    """The question is not written a second time."""
    script = [ScriptedError(500, headers={"x-should-retry": "false"}), "well"]
    with serving(sqlite_file, script) as gateway:
        failed = gateway.ask("hi", headers=name)
        assert (failed.status_code, failed.headers["x-should-retry"]) == (500, "false")
        answer = gateway.ask("hi", headers={**name, **RETRY})
        assert (read_reply(answer)[1], len(gateway.model.requests)) == ("well", 2)
        assert [m["content"] for m in gateway.model.last_request.messages] == ["hi"]


@pytest.mark.once
@NAMED
@STREAMED
@pytest.mark.parametrize("pause_s", [0.0, 0.03])
def test_an_idempotency_key_makes_one_turn(
    sqlite_file: str, name: dict[str, str], stream: bool, pause_s: float
) -> None:
    """Without a retry header too, one after the other and at the same time."""
    script = ScriptedReply(["one ", "two ", "three ", "four"], pause_s=pause_s)
    with serving(sqlite_file, lambda _: script) as slow:
        check_idempotency(slow, name, stream=stream)


def check_idempotency(slow: AsgiGateway, name: dict[str, str], *, stream: bool) -> None:
    headers = {**name, "idempotency-key": "once"}
    answers = slow.gather(*(slow.complete("hi", headers=headers, stream=stream) for _ in range(3)))
    answers.append(slow.ask("hi", headers=headers, stream=stream))
    assert len({read_reply(answer) for answer in answers}) == 1
    assert (len(slow.model.requests), count_stored(slow)) == (1, [2])


@pytest.mark.once
@NAMED
def test_an_idempotency_key_of_another_request_is_refused(slow: AsgiGateway, name: dict[str, str]) -> None:
    """While the first request runs, and later."""
    headers = {**name, "idempotency-key": "once"}
    started = slow.open("POST", CHAT, body("hi", stream=True), headers=headers)
    started.read_until("one ")
    for answer in (slow.ask("other", headers=headers), slow.ask("hi", headers=headers, temperature=1)):
        assert (answer.status_code, describe_refusal(answer)[2]) == (409, "idempotency_key_reuse")
        assert answer.headers["x-should-retry"] == "false"
    started.read()
    assert slow.ask("other", headers=headers).status_code == 409
    assert len(slow.model.requests) == 1


@pytest.mark.once
def test_an_idempotency_key_of_a_response_makes_one_turn(slow: AsgiGateway) -> None:
    """In a conversation, behind a response, and without either."""
    made = slow.send("POST", "/v1/conversations", {}).json()["id"]
    first = slow.send("POST", RESPONSES, {"model": MODEL, "input": "hi"}).json()["id"]
    for number, more in enumerate(({"conversation": made}, {"previous_response_id": first}, {})):
        headers = {"idempotency-key": f"key {number}"}
        request = {"model": MODEL, "input": "more", **more}
        answers = [slow.send("POST", RESPONSES, request, headers=headers) for _ in range(2)]
        assert answers[0].json()["id"] == answers[1].json()["id"], answers[1].text
        assert slow.send("POST", RESPONSES, {**request, "input": "x"}, headers=headers).status_code == 409
    assert len(slow.model.requests) == 4


@NAMED
def test_two_requests_at_once_are_both_answered(slow: AsgiGateway, name: dict[str, str]) -> None:
    """The second one goes to a new branch. The main branch follows the one that the client continues."""
    first = read_reply(slow.ask("hi", headers=name))[1]
    answers = slow.gather(*(slow.complete("hi", first, text, headers=name) for text in ("a", "b", "c")))
    assert [read_reply(answer)[1] for answer in answers] == [first] * 3
    ids = {answer.headers["x-conversation-id"] for answer in answers}
    assert len(ids) == 1
    for text in ("b", "c", "a"):
        assert slow.ask("hi", first, text, first, f"after {text}", headers=name).status_code == 200
        listed = slow.send("GET", f"/v1/conversations/{conversation_id(slow)}/items?order=asc").json()["data"]
        assert [item["content"][0]["text"] for item in listed] == ["hi", first, text, first, f"after {text}", first]
    assert count_stored(slow) == [2 + 6 + 6]


def conversation_id(gateway: AsgiGateway) -> str:
    """Return the id of the only conversation."""
    [conversation] = gateway.send("GET", "/convokit/v1/conversations").json()["data"]
    return str(conversation["id"])


@pytest.mark.once
def test_the_same_first_request_at_once_is_answered_twice(slow: AsgiGateway) -> None:
    """Two clients that start a named conversation at the same time are both answered."""
    name = {"x-conversation-id": "k"}
    answers = slow.gather(*(slow.complete(text, headers=name) for text in ("a", "b", "a")))
    assert [answer.status_code for answer in answers] == [200] * 3


DELTAS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "append": (CHAT, body("more"), {"x-conversation-id": "k", "x-conversation-mode": "append"}),
    "conversation": (RESPONSES, {"model": MODEL, "input": "more"}, {}),
}


@pytest.mark.parametrize("kind", DELTAS)
@pytest.mark.parametrize("on_busy", [None, "wait", "supersede"])
@pytest.mark.once(except_first=True)
def test_declared_deltas_are_refused_while_a_turn_runs(slow: AsgiGateway, kind: str, on_busy: str | None) -> None:
    """Nobody knows what they would follow. The client may choose to wait for the turn, or to end it."""
    slow.ask("hi", headers={"x-conversation-id": "k"})
    path, sent, headers = DELTAS[kind]
    if kind == "conversation":
        sent = {**sent, "conversation": conversation_id(slow)}
    started = slow.open("POST", path, {**sent, "stream": True}, headers=headers)
    started.read_until("one ")
    headers = headers if on_busy is None else {**headers, "x-conversation-on-busy": on_busy}
    answer = slow.send("POST", path, sent, headers=headers)
    rest = started.read()
    if on_busy is None:
        assert (answer.status_code, describe_refusal(answer)[2]) == (409, "conversation_busy")
        assert answer.headers["x-should-retry"] == "false"
    else:
        assert answer.status_code == 200, answer.text
    assert ("superseded" in rest) == (on_busy == "supersede")
    assert len(slow.model.requests) == (2 if on_busy is None else 3)


@pytest.mark.once
def test_a_wrong_choice_for_busy_conversations_is_refused(slow: AsgiGateway) -> None:
    answer = slow.ask("hi", headers={"x-conversation-on-busy": "queue"})
    assert (answer.status_code, describe_refusal(answer)[3]) == (400, "X-Conversation-On-Busy")
