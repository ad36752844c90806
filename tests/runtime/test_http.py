"""Servers and networks that misbehave, over real sockets: a typed error each, what came is kept, the chat goes on."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from convokit import Retry, Timeouts
from convokit.domain.profiles import resolve_profile
from convokit.errors import (
    BadReply,
    ContextOverflow,
    Interrupted,
    ModelError,
    QuotaExhausted,
    RateLimited,
    Rejected,
    ServerFailed,
    TimedOut,
)
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, chunk, completion, event, failure, stream

SSE = {"content-type": "text/event-stream"}
ONE_CHUNK = chunk({"content": "one "})
ONCE = Retry(attempts=1)
FAST = Retry(attempts=3, initial_s=0.0)


def _failing(face: Face, chat: Any, error: type[BaseException], **settings: Any) -> Any:
    """Stream a turn that must end in `error`; return the error."""
    with pytest.raises(error) as caught:
        face.collect(chat.stream("hello", **settings))
    return caught.value


def _goes_on(face: Face, chat: Any) -> list[Any]:
    """The next turn goes through; return the messages before it."""
    before = face.settle(chat.messages())
    assert face.settle(chat.send("again")).text == "echo: again"
    face.settle(chat.verify())
    return list(before)


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(
    ("script", "error", "partial"),
    [
        (stream(["one ", "two "], finish=None, done=False), Interrupted, "one two "),
        (Script([chunk({"content": "one "}), None], headers=SSE), Interrupted, "one "),
        (Script([b'data: {"choices": [{"index": 0, "delta": {"content": "on', None], headers=SSE), Interrupted, ""),
        (
            Script([chunk({"content": "one "}), event({"error": {"message": "died", "code": 500}})], headers=SSE),
            ServerFailed,
            "one ",
        ),
        (Script([b"<html>proxy says no</html>"], headers={"content-type": "text/html"}), BadReply, ""),
        (Script([b""], headers=SSE), ModelError, ""),
        (Script([b"data: {broken\n\n"], headers=SSE), BadReply, ""),
    ],
)
def test_a_stream_that_breaks_keeps_what_came(
    face: Face, kit: Any, server: LoopbackServer, script: Script, error: type[BaseException], partial: str
) -> None:
    """However a stream breaks: a typed error with the text so far, which is stored; nothing is asked twice."""
    server.script(script)
    chat = kit.chat("b")
    raised = _failing(face, chat, error)
    assert raised.partial == partial
    stored = _goes_on(face, chat)
    assert [message.text for message in stored[1:]] == ([partial] if partial else [])
    assert len(server.requests) == 2 or not partial


def test_nothing_is_repeated_after_the_first_piece(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Once a piece was handed out the call is not made again, whatever the policy."""
    server.script(Script([chunk({"content": "one "}), None], headers=SSE))
    _failing(face, kit.chat("b"), Interrupted, retry=Retry(attempts=5, initial_s=0.0, ambiguous=True))
    assert len(server.requests) == 1


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_what_may_be_repeated_is(face: Face, kit: Any, server: LoopbackServer, status: int) -> None:
    """Failures before an answer are tried again, each call with a row of its own."""
    server.script(failure(status), failure(status))
    reply = face.settle(kit.chat("b").send("hello", retry=Retry(attempts=3, initial_s=0.0)))
    assert reply.attempts == 3
    face.settle(kit.chat("b").verify())


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(
    ("script", "error"),
    [
        (failure(400), Rejected),
        (failure(401, "Incorrect API key provided: sk-abcdefghijklmnop1234"), Rejected),
        (failure(404), Rejected),
        (failure(429, code="insufficient_quota", type="insufficient_quota"), QuotaExhausted),
        (failure(500, headers={"x-should-retry": "false"}), ServerFailed),
        (failure(429, headers={"retry-after": "3600"}), RateLimited),
        (failure(307, headers={"location": "http://127.0.0.1:1/steal"}), BadReply),
    ],
)
def test_what_may_not_be_repeated_is_not(
    face: Face, kit: Any, server: LoopbackServer, script: Script, error: type[BaseException]
) -> None:
    """Rejections, used-up quota, a server that says no, a wait beyond all patience, redirects: one call, one typed error."""
    server.script(script)
    raised = _failing(face, kit.chat("b"), error, retry=FAST)
    assert len(server.requests) == 1
    assert "sk-abcdefghijklmnop1234" not in str(raised)


@pytest.mark.once
def test_retry_after_is_honoured(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The server's own wish decides how long to wait."""
    server.script(failure(429, headers={"retry-after-ms": "300", "retry-after": "60"}))
    before = time.monotonic()
    face.settle(kit.chat("b").send("hello", retry=FAST))
    assert time.monotonic() - before >= 0.3


@pytest.mark.once
def test_a_stall_is_noticed_though_comments_keep_coming(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Keep-alive comments are no content: after `stall_s` without any, the reply is cut and kept."""
    pings: list[bytes | float | None] = [chunk({"content": "one "})]
    pings += [b": ping\n\n", 0.1] * 40
    server.script(Script(pings, headers=SSE))
    before = time.monotonic()
    raised = _failing(face, kit.chat("b"), TimedOut, timeouts=Timeouts(stall_s=0.5))
    assert time.monotonic() - before < 3
    assert (raised.phase, raised.partial) == ("stall", "one ")
    assert [message.status for message in _goes_on(face, kit.chat("b"))] == ["complete", "partial"]


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(
    ("script", "timeouts", "phase"),
    [
        (Script([], delay_s=5.0), Timeouts(first_byte_s=0.3), "first_byte"),
        (Script([chunk({"content": "x"}), 5.0], headers=SSE), Timeouts(stall_s=0.3), "stall"),
        (Script([chunk({"content": "x"}), 0.2] * 30, headers=SSE), Timeouts(total_s=0.7), "total"),
    ],
)
def test_each_timeout_is_told_apart(
    face: Face, kit: Any, server: LoopbackServer, script: Script, timeouts: Timeouts, phase: str
) -> None:
    """No first byte, no next piece, no end: three deadlines, three phases."""
    server.script(script)
    raised = _failing(face, kit.chat("b"), TimedOut, timeouts=timeouts, retry=ONCE)
    assert raised.phase == phase


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_packets_of_any_size_give_the_same_reply(face: Face, kit: Any, server: LoopbackServer, size: int) -> None:
    """Split at every few bytes, Japanese and emoji included, the reply is the same."""
    whole = b"".join(piece for piece in stream(["日本", "語 👩‍👩‍👧 ", "done"]).pieces if isinstance(piece, bytes))
    server.script(Script([whole[start : start + size] for start in range(0, len(whole), size)], headers=SSE))
    streaming = kit.chat("b").stream("hello")
    assert "".join(each.text for each in face.collect(streaming)) == "日本語 👩‍👩‍👧 done"
    assert streaming.reply.text == "日本語 👩‍👩‍👧 done"


def test_a_whole_answer_to_a_stream_request_is_one(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A server that ignores `stream` still answers: one event, one reply."""
    server.script(completion("all at once"))
    streaming = kit.chat("b").stream("hello")
    assert "".join(each.text for each in face.collect(streaming)) == "all at once"
    assert streaming.reply.text == "all at once"


@pytest.mark.once
def test_an_overflow_says_by_how_much(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The server's context overflow is ContextOverflow with its numbers."""
    message = "This model's maximum context length is 100 tokens. However, your messages resulted in 150 tokens."
    server.script(failure(400, message, code="context_length_exceeded"))
    raised = _failing(face, kit.chat("b"), ContextOverflow)
    assert (raised.needed, raised.available) == (150, 100)


@pytest.mark.once
def test_an_overflow_may_be_trimmed_and_tried_once(face: Face, kit: Any, server: LoopbackServer) -> None:
    """By default the window is cut to what the server holds, and the call is made once more. With `retrim=False` it is not."""
    chat = kit.chat("b")
    for number in range(10):
        face.settle(chat.send(f"some words to fill the window number {number}"))
    message = "This model's maximum context length is 100 tokens. However, your messages resulted in 300 tokens."
    server.script(failure(400, message, code="context_length_exceeded"))
    face.settle(chat.send("and now?"))
    full, cut = (len(request.body["messages"]) for request in server.requests[-2:])
    assert cut < full
    server.script(*[failure(400, message, code="context_length_exceeded")] * 2)
    with pytest.raises(ContextOverflow):
        face.settle(chat.send("and now?"))
    calls = len(server.requests)
    server.script(failure(400, message, code="context_length_exceeded"))
    with pytest.raises(ContextOverflow):
        face.settle(chat.send("and now?", retry=Retry(retrim=False)))
    assert len(server.requests) == calls + 1
    face.settle(chat.verify())


@pytest.mark.once
def test_an_unsupported_parameter_may_be_dropped(face: Face, kit: Any, server: LoopbackServer) -> None:
    """With `drop_unsupported` the parameter the server names is left out and the call made again; the reply says so."""
    server.script(failure(400, "no", code="unsupported_parameter", param="seed"))
    reply = face.settle(kit.chat("b").send("hello", seed=7, temperature=0.5, retry=Retry(drop_unsupported=True)))
    assert [(change.parameter, change.action) for change in reply.changes] == [("seed", "dropped")]
    assert "seed" not in server.requests[-1].body
    assert server.requests[-1].body["temperature"] == 0.5
    server.script(failure(400, "no", code="unsupported_parameter", param="seed"))
    with pytest.raises(Rejected):
        face.settle(kit.chat("b").send("hello", seed=7))


def test_choices_are_siblings(face: Face, kit: Any, server: LoopbackServer) -> None:
    """With n > 1 every choice is stored under the question; the first is the head and the next turn's history."""
    choices = [
        {"index": number, "message": {"role": "assistant", "content": f"choice {number}"}, "finish_reason": "stop"}
        for number in range(3)
    ]
    server.script(Script([json.dumps({"id": "x", "model": "m", "choices": choices}).encode()]))
    reply = face.settle(kit.chat("n").send("three", n=3))
    assert [each.text for each in reply.choices] == ["choice 0", "choice 1", "choice 2"]
    face.settle(kit.chat("n").send("next"))
    assert [each["content"] for each in server.requests[-1].body["messages"]] == ["three", "choice 0", "next"]
    assert [each.seq for each in face.settle(kit.chat("n").messages())] == [1, 2, 5, 6]
    face.settle(kit.chat("n").verify())


@pytest.mark.once
def test_the_documented_request_comes_out_exactly(face: Face, database: str, server: LoopbackServer) -> None:
    """Model, a developer message, a user message, Bearer auth: nothing more, nothing less."""
    kit = face.kit(
        database,
        model="gpt-6-luna",
        developer_prompt="You are a helpful assistant.",
        base_url=server.url,
        api_key="test-key",
        profile=resolve_profile("gpt-6-luna", "https://api.openai.com/v1"),
    )
    face.settle(kit.chat("k").send("Hello!"))
    sent = server.requests[0]
    assert sent.path == "/v1/chat/completions"
    assert sent.headers["authorization"] == "Bearer test-key"
    assert (
        sent.raw
        == json.dumps(
            {
                "model": "gpt-6-luna",
                "messages": [
                    {"role": "developer", "content": "You are a helpful assistant."},
                    {"role": "user", "content": "Hello!"},
                ],
            },
            separators=(",", ":"),
        ).encode()
    )


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(
    ("stream", "timeouts", "phase"),
    [(True, Timeouts(first_byte_s=0.4), "first_byte"), (False, Timeouts(total_s=0.4), "total")],
)
def test_a_dripping_head_does_not_outlast_its_deadline(
    face: Face, kit: Any, server: LoopbackServer, stream: bool, timeouts: Timeouts, phase: str
) -> None:
    """A head that comes byte by byte is given up after `first_byte_s`, that of a plain answer after `total_s`."""
    server.script(Script([b"{}"], drip_s=0.05))
    before = time.monotonic()
    ask = kit.chat("b").stream if stream else kit.chat("b").send
    wait = face.collect if stream else face.settle
    with pytest.raises(TimedOut) as caught:
        wait(ask("hello", timeouts=timeouts, retry=ONCE))
    assert caught.value.phase == phase
    assert time.monotonic() - before < 1.5


@pytest.mark.once
def test_a_dripping_head_on_a_kept_connection_has_its_deadline(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The deadline holds on a connection that an earlier request opened."""
    chat = kit.chat("b")
    face.settle(chat.send("hello"))
    server.script(Script([b"{}"], drip_s=0.05))
    before = time.monotonic()
    assert _failing(face, chat, TimedOut, timeouts=Timeouts(first_byte_s=0.4), retry=ONCE).phase == "first_byte"
    assert time.monotonic() - before < 1.5


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(("timeouts", "phase"), [(Timeouts(total_s=0.4), "total"), (Timeouts(stall_s=0.4), "stall")])
def test_a_dripping_chunk_has_its_deadline(
    face: Face, kit: Any, server: LoopbackServer, timeouts: Timeouts, phase: str
) -> None:
    """The bytes of a chunk's size are no data, so `stall_s` and `total_s` end a body that never gets further."""
    drip: list[bytes | float | None] = [b"0", 0.05] * 60
    server.script(
        Script(
            [b"%x\r\n%b\r\n" % (len(ONE_CHUNK), ONE_CHUNK), *drip],
            headers={**SSE, "transfer-encoding": "chunked"},
            chunked=False,
        )
    )
    before = time.monotonic()
    raised = _failing(face, kit.chat("b"), TimedOut, timeouts=timeouts, retry=ONCE)
    assert (raised.phase, raised.partial) == (phase, "one ")
    assert time.monotonic() - before < 1.5


@pytest.mark.once
def test_the_total_time_ends_a_silent_stream(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The wait for a chunk is as long as the rest of `total_s`, also when the first wait of the stream was longer."""
    server.script(Script([ONE_CHUNK, 0.3, ONE_CHUNK, 5.0], headers=SSE))
    before = time.monotonic()
    raised = _failing(face, kit.chat("b"), TimedOut, timeouts=Timeouts(total_s=0.5), retry=ONCE)
    assert (raised.phase, raised.partial) == ("total", "one one ")
    assert time.monotonic() - before < 0.75


FIRST_EVENTS = {
    "429": {"error": {"message": "slow down", "code": 429}},
    "503 as text": {"error": {"message": "no instance", "code": "503"}},
    "overloaded": {"type": "error", "error": {"type": "overloaded_error", "message": "overloaded"}},
    "rate limit": {"error": {"message": "slow down", "type": "rate_limit_error"}},
    "502 in a status": {"error": {"message": "bad gateway", "status": 502}},
}


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("name", FIRST_EVENTS)
@pytest.mark.parametrize("before", [[], [b": ping\n\n"], [chunk({"role": "assistant", "content": ""})]])
def test_an_error_as_the_first_event_is_retried(
    face: Face, kit: Any, server: LoopbackServer, name: str, before: list[bytes | float | None]
) -> None:
    """A stream that reports a limit or a failure before its first text is made again, as after the same HTTP status."""
    server.script(Script([*before, event(FIRST_EVENTS[name])], headers=SSE))
    streaming = kit.chat("b").stream("hello", retry=FAST)
    face.collect(streaming)
    assert (streaming.reply.text, streaming.reply.attempts) == ("echo: hello", 2)
    face.settle(kit.chat("b").verify())


@pytest.mark.once
@pytest.mark.parametrize("error", [{"message": "no", "code": 400}, {"message": "no", "code": "insufficient_quota"}])
def test_a_rejection_as_the_first_event_is_not_retried(
    face: Face, kit: Any, server: LoopbackServer, error: dict[str, Any]
) -> None:
    server.script(Script([event({"error": error})], headers=SSE))
    _failing(face, kit.chat("b"), ModelError, retry=FAST)
    assert len(server.requests) == 1


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(
    ("path", "status", "body", "asks"),
    [
        ("", 404, "Not Found", True),
        ("/api", 405, "<h1>405 Not Allowed</h1>", True),
        ("", 200, "<html>the web page</html>", True),
        ("/v1", 404, "Not Found", False),
        ("/openai/v1beta", 404, "Not Found", False),
        ("", 404, "the model `m` does not exist", False),
        ("", 500, "Not Found", False),
    ],
)
def test_a_base_url_without_a_version_is_asked_about(
    face: Face, database: str, server: LoopbackServer, path: str, status: int, body: str, asks: bool
) -> None:
    """An answer of another page than the API names the URL, and asks whether /v1 is missing in it."""
    base = server.url.removesuffix("/v1") + path
    server.script(Script([body.encode()], status=status, headers={"content-type": "text/html"}))
    kit = face.kit(database, model="m", base_url=f"{base}/?token=secret")
    with pytest.raises(ModelError) as caught:
        face.settle(kit.chat("b").send("hello", retry=ONCE))
    assert ("is /v1 missing in base_url?" in str(caught.value)) is asks
    assert (f"{base}/chat/completions" in str(caught.value)) is (asks or (status == 404 and "model" not in body))
    assert "secret" not in str(caught.value)
