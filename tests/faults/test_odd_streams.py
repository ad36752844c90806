"""Streams as real servers send them: odd in form, whole in content; or failed, and saying so."""

from __future__ import annotations

from typing import Any

import pytest

from convokit import Retry
from convokit.errors import ContentFiltered, Interrupted, ServerFailed
from tests.faults.malformed_replies import SSE
from tests.faults.shared_kit import EACH_ONCE, Stage, staged
from tests.support.server import Script, chunk, event

stage = staged(EACH_ONCE)
FAST = Retry(attempts=3, initial_s=0.0)
DONE = chunk({}, "stop") + event(b"[DONE]")
ONE = chunk({"content": "one "})


def _choice(index: int, content: str | None, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": {} if content is None else {"content": content}, "finish_reason": finish}


def _chunks(*pieces: bytes | float | None) -> Script:
    return Script(list(pieces), headers=SSE)


TWO = chunk({"content": "two"})
ANSWERS: dict[str, tuple[Script, str]] = {
    "no [DONE]": (_chunks(ONE, TWO, chunk({}, "stop")), "one two"),
    "two [DONE]": (_chunks(ONE, TWO, DONE, event(b"[DONE]")), "one two"),
    "data after [DONE]": (_chunks(ONE, TWO, DONE, chunk({"content": "late"})), "one two"),
    "no space after data:": (_chunks(*(each.replace(b"data: ", b"data:") for each in (ONE, TWO, DONE))), "one two"),
    "a byte order mark": (_chunks(b"\xef\xbb\xbf" + ONE, TWO, DONE), "one two"),
    "carriage returns": (_chunks(*(each.replace(b"\n", b"\r") for each in (ONE, TWO, DONE))), "one two"),
    "comments": (_chunks(b": ping\n\n", ONE, b": ping\n\n", TWO, DONE), "one two"),
    "usage without choices": (_chunks(ONE, TWO, event({"choices": [], "usage": {}}), DONE), "one two"),
    "an unknown finish": (_chunks(ONE, TWO, chunk({}, "sunset"), event(b"[DONE]")), "one two"),
    "role only": (_chunks(chunk({"role": "assistant"}), chunk({}, "stop"), event(b"[DONE]")), ""),
    "null content": (_chunks(chunk({"content": None}), ONE, TWO, DONE), "one two"),
    "a refusal": (_chunks(chunk({"refusal": "no "}), chunk({"refusal": "thanks"}), DONE), "no thanks"),
    "interleaved choices": (
        _chunks(
            event({"choices": [_choice(1, "b")]}),
            event({"choices": [_choice(0, "one "), _choice(1, "b")]}),
            event({"choices": [_choice(0, "two", "stop"), _choice(1, None, "stop")]}),
            event(b"[DONE]"),
        ),
        "one two",
    ),
    "raw line separators": (
        _chunks(event('{"choices":[{"index":0,"delta":{"content":"a\u2028b\x85c\x1cd\x0b"}}]}'.encode()), DONE),
        "a\u2028b\x85c\x1cd\x0b",
    ),
    "invalid UTF-8": (_chunks(ONE.replace(b"one ", b"on\xff "), TWO, DONE), "on\ufffd two"),
}


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("name", ANSWERS)
def test_a_stream_as_some_server_sends_it(stage: Stage, name: str) -> None:
    """Each of these is a whole reply: it is stored as one, and the conversation goes on."""
    script, text = ANSWERS[name]
    chat = stage.chat()
    stage.server.script(script)
    streaming = chat.stream("x")
    stage.face.collect(streaming)
    assert streaming.reply.text == text
    stored = stage.settle(chat.messages())
    assert (stored[1].text, stored[1].status) == (text, "complete")
    assert stage.calls(chat) == ["ok"]
    assert stage.settle(chat.send("go on")).text == "echo: go on"
    stage.settle(chat.verify())


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(
    ("script", "error"),
    [
        (_chunks(ONE, chunk({}, "content_filter"), event(b"[DONE]")), ContentFiltered),
        (_chunks(ONE, event(b"[DONE]")), Interrupted),
        (_chunks(ONE, event({"error": {"message": "overloaded", "code": 503}})), ServerFailed),
        (_chunks(ONE, chunk({}, "error"), event(b"[DONE]")), ServerFailed),
    ],
)
def test_a_stream_that_says_it_failed(stage: Stage, script: Script, error: type[BaseException]) -> None:
    """A filter, a missing finish, an error in the stream: typed, not tried again, and what came is kept."""
    chat = stage.chat()
    stage.server.script(script)
    before = len(stage.server.requests)
    with pytest.raises(error):
        stage.face.collect(chat.stream("x", retry=FAST))
    assert len(stage.server.requests) == before + 1
    assert stage.calls(chat) == ["error"]
    stage.goes_on(chat, "one ")
