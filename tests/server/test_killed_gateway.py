"""Two gateways on one database, of which one is killed in the middle of its turns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from convokit import Convokit
from convokit.testing import ScriptedModel, ScriptedReply
from convokit.testing.scripted_model import RecordedRequest
from tests.server.in_process import alternate, read_events
from tests.support.gateway import MODEL

pytestmark = pytest.mark.soak(sample=True)
WORDS = [f"word{number} " for number in range(100)]
TURNS = 4
RETRY = {"x-stainless-retry-count": "1"}


@contextmanager
def start_gateway(database: str, url: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Start a gateway, and yield its process and a client of it."""
    command = [sys.executable, "-m", "tests.server.killable_gateway", database, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield process, client
        finally:
            process.kill()


def reply(request: RecordedRequest) -> ScriptedReply:
    """Return a short reply to what was asked first or again, and a long one to `long`."""
    return ScriptedReply(WORDS, pause_s=0.1) if request.text.startswith("long") else ScriptedReply("short")


def test_nothing_that_was_acknowledged_is_lost(database: str) -> None:
    """Finished replies, questions and chunks older than a second are there. Readers elsewhere learn of the end, and a retry
    asks again without a second question."""
    model = ScriptedModel(reply)
    with ExitStack() as stack:
        url = stack.enter_context(model.serve())
        process, dying = stack.enter_context(start_gateway(database, url))
        _, living = stack.enter_context(start_gateway(database, url))
        asked = {"model": MODEL, "messages": list(alternate(["first"]))}
        done = dying.post("/v1/chat/completions", json=asked, headers={"x-conversation-id": "done"}).json()
        names, kept = [], []
        for number in range(TURNS):
            body = {"model": MODEL, "input": f"long {number}", "background": True}
            sent = dying.post("/v1/responses", json=body, headers={"x-conversation-id": f"k{number}"})
            names.append(sent.json()["id"])
        for name in names:  # until a part has been stored that another process reads
            with living.stream("GET", f"/v1/responses/{name}?stream=true") as stream:
                lines = (
                    line for line in stream.iter_lines() if "output_text.delta" in line and line.startswith("data")
                )
                kept.append(read_events(next(lines))[0]["delta"])
        process.kill()
        process.wait()
        for number, (name, part) in enumerate(zip(names, kept, strict=True)):
            events = read_events(living.get(f"/v1/responses/{name}?stream=true").text)
            assert events[-1]["type"] == "response.failed"
            text = "".join(event.get("delta", "") for event in events)
            assert text.startswith(part)
            assert "".join(WORDS).startswith(text)
            assert living.get(f"/v1/responses/{name}").json()["status"] == "failed"
            again = {"model": MODEL, "messages": list(alternate([f"long {number}"])), "stream": True}
            headers = {"x-conversation-id": f"k{number}", **RETRY}
            with living.stream("POST", "/v1/chat/completions", json=again, headers=headers) as stream:
                assert stream.status_code == 200
                next(line for line in stream.iter_lines() if "word0" in line)
        found = living.get(f"/v1/chat/completions/{done['id']}").json()
        assert found["choices"][0]["message"]["content"] == "short"
    with Convokit(database, model=MODEL, api_key="x") as kit:
        for number in range(TURNS):
            questions = [entry for entry in kit.chat(f"k{number}").messages() if entry.role == "user"]
            assert [question.text for question in questions] == [f"long {number}"]
        assert kit.verify().broken == 0
