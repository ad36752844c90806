"""The gateway's own key, its upstream, callers' keys and people's words are in no log and no error of the gateway."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx
import pytest

from convokit import Retry
from convokit.testing import ScriptedError, ScriptedReply
from convokit.testing.script import ScriptItem
from tests.server.in_process import AsgiGateway, serving
from tests.support.gateway import MODEL

pytestmark = pytest.mark.once
KEY = "sk-canary-5c1f0a77e2"
HOST = "upstream-canary.example"
URL = f"http://{HOST}:8000/v1"
QUESTION, ANSWER, NAME = "canary of a question", "canary of an answer", "canary-of-a-name"
NO_RETRY = {"x-should-retry": "false"}
ECHOES = [f"Incorrect API key provided: {KEY}.", f"no route to {URL}/chat/completions with Bearer {KEY}", HOST]
FAULTS: dict[str, list[ScriptItem]] = {
    **{
        f"{status} {number}": [ScriptedError(status, text, headers=NO_RETRY)]
        for status in (400, 401, 403, 404, 422, 429, 500, 503)
        for number, text in enumerate(ECHOES)
    },
    "broken": [ScriptedReply(ANSWER * 50, break_after=3)],
    "answered": [ANSWER],
    "filtered": [ScriptedReply(ANSWER, finish_reason="content_filter")],
    "refused": [ScriptedReply(refusal=ANSWER)],
}


@pytest.fixture(params=FAULTS)
def faulty(request: pytest.FixtureRequest, sqlite_file: str) -> Iterator[AsgiGateway]:
    [answer] = FAULTS[request.param]
    options = {"api_key": KEY, "base_url": URL, "retry": Retry(attempts=1)}
    with serving(sqlite_file, lambda _: answer, auth=None, **options) as running:
        yield running


def list_answers(gateway: AsgiGateway, key: str) -> Iterator[httpx.Response]:
    """Send a turn in each form, and read it back."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "user": NAME}
    headers = {"x-conversation-id": NAME, "idempotency-key": NAME}
    for stream in (False, True):
        yield gateway.send("POST", "/v1/chat/completions", {**body, "stream": stream}, key=key, headers=headers)
    for more in ({}, {"stream": True}, {"background": True}):
        answer = gateway.send("POST", "/v1/responses", {"model": MODEL, "input": QUESTION, **more}, key=key)
        yield answer
        gateway.wait(gateway.state.running.finish(5))
        if name := answer.json().get("id") if "background" in more else None:
            yield gateway.send("GET", f"/v1/responses/{name}", key=key)
            yield gateway.send("GET", f"/v1/responses/{name}?stream=true", key=key)
    yield gateway.send("GET", f"/c/{NAME}/v1/models?q={NAME}", key=key)
    yield gateway.send("GET", "/v1/models", key=f"{key}x")


def test_no_log_and_no_error_has_secrets_or_words(faulty: AsgiGateway, caplog: pytest.LogCaptureFixture) -> None:
    """Logs of all loggers of convokit at DEBUG, and the answers of all routes that report a failed turn."""
    key = faulty.make_key()
    caplog.set_level(logging.DEBUG, "convokit")
    answers = list(list_answers(faulty, key))
    for answer in answers:
        text = f"{answer.text} {answer.headers}"
        assert not any(secret in text for secret in (KEY, HOST, key)), (answer.request.url, text)
    logged = "\n".join(
        f"{record.getMessage()} {record.exc_text or ''} {record.exc_info or ''}"
        for record in caplog.records
        if record.name.startswith("convokit")
    )
    assert "POST /v1/chat/completions" in logged
    for secret in (KEY, HOST, key, QUESTION, ANSWER, NAME):
        assert secret not in logged, (secret, logged)
