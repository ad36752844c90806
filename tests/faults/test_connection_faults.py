"""Every fault of a connection, over bare sockets: what the caller sees, how often the server was asked, what is stored."""

from __future__ import annotations

import functools
import gzip
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from convokit import Limits, Retry, Timeouts
from convokit.errors import BadReply, Interrupted, ModelError, TimedOut, Unreachable
from tests.faults.shared_kit import Stage, staged
from tests.faults.socket_server import Line, Wire, full_backlog, wired
from tests.support.server import chunk, event

stage = staged()
FAST = Retry(attempts=3, initial_s=0.0)
AMBIGUOUS = Retry(attempts=3, initial_s=0.0, ambiguous=True)
DONE = chunk({}, "stop") + event(b"[DONE]")
ONE = chunk({"content": "one "})
WHOLE = json.dumps(
    {"id": "x", "model": "m", "choices": [{"index": 0, "message": {"content": "fine"}, "finish_reason": "stop"}]}
).encode()


def head(*lines: str, status: str = "200 OK", kind: str = "text/event-stream") -> bytes:
    """Return the head of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-type: {kind}", *lines, "", ""]).encode()


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    """Return pieces in chunks, with the chunk that ends them or without."""
    return b"".join(f"{len(each):x}\r\n".encode() + each + b"\r\n" for each in pieces) + (b"0\r\n\r\n" if end else b"")


CHUNKED = head("transfer-encoding: chunked")
UNTIL_CLOSE = head("connection: close")


def said(*data: bytes, reset: bool = False) -> Callable[[Line], bool]:
    """Return the fault that says this and then ends the connection."""

    def fault(line: Line) -> bool:
        for piece in data:
            line.send(piece)
        if reset:
            time.sleep(0.05)  # so that what was said arrives before the reset that would drop it
            line.reset()
        return False

    return fault


def whole(line: Line) -> bool:
    """Answer as a server should."""
    line.send(head(f"content-length: {len(WHOLE)}", kind="application/json") + WHOLE)
    return True


def fine_after(fault: Callable[[Line], bool], failures: int = 1) -> Callable[[Line], bool]:
    """Return the fault that is over after so many requests."""
    return lambda line: fault(line) if line.ordinal <= failures else whole(line)


GZIP = gzip.compress(ONE * 200 + DONE)
LONG = f"content-length: {len(ONE) + 500}"
SHORT = f"content-length: {len(ONE)}"
STREAMS: dict[str, tuple[Callable[[Line], bool], type[BaseException], str]] = {
    "closed between two chunks": (said(CHUNKED, chunked(ONE, end=False)), Interrupted, "one "),
    "closed in a chunk": (said(CHUNKED, chunked(ONE, end=False), b"ff\r\ndata: {"), Interrupted, "one "),
    "closed in a character": (
        said(CHUNKED, chunked(ONE, chunk({"content": "日"})[:-20], end=False)),
        Interrupted,
        "one ",
    ),
    "reset in the stream": (said(CHUNKED, chunked(ONE, end=False), reset=True), Interrupted, "one "),
    "ended without a finish": (said(CHUNKED, chunked(ONE)), Interrupted, "one "),
    "cut in an event, until close": (said(UNTIL_CLOSE, ONE, b'data: {"choices": [{"ind'), Interrupted, "one "),
    "cut after an event, until close": (said(UNTIL_CLOSE, ONE), Interrupted, "one "),
    "length too long": (said(head(LONG), ONE), Interrupted, "one "),
    "length too short": (said(head(SHORT), ONE + DONE), Interrupted, "one "),
    "gzip cut": (
        said(head("content-encoding: gzip", f"content-length: {len(GZIP) - 40}"), GZIP[:-40]),
        Interrupted,
        "",
    ),
    "gzip that is none": (said(head("content-encoding: gzip", "connection: close"), ONE), Interrupted, ""),
    "chunk of no length": (said(CHUNKED, chunked(ONE, end=False), b"zz\r\n"), Interrupted, "one "),
    "closed before any byte": (said(), Interrupted, ""),
    "reset before any byte": (said(reset=True), Interrupted, ""),
    "closed in the head": (said(b"HTTP/1.1 200 OK\r\ncontent-ty"), Interrupted, ""),
    "no HTTP": (said(b"SSH-2.0-OpenSSH_9.6\r\n"), Interrupted, ""),
    "head of a megabyte": (said(head("x: " + "y" * 1_000_000), ONE), Interrupted, ""),
    "empty": (said(head("content-length: 0")), ModelError, ""),
}


def _asked(stage: Stage, wire: Wire, **settings: Any) -> Any:
    """Return a chat of a kit that talks to this wire."""
    kit = stage.face.kit(stage.database, model="m", base_url=wire.url, **settings)
    return kit.chat(stage.chat().key)


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("name", STREAMS)
def test_a_broken_stream(stage: Stage, name: str) -> None:
    """However a stream breaks: one call, one typed error that holds what came, which is stored; the next turn goes through."""
    fault, error, partial = STREAMS[name]
    with wired(fault) as wire:
        chat = _asked(stage, wire)
        with pytest.raises(error) as caught:
            stage.face.collect(chat.stream("x", retry=AMBIGUOUS if partial else FAST))
        assert wire.requests == 1
    told: Any = caught.value
    if name == "gzip cut":  # how much of it can be told depends on the decoder
        partial = told.partial
        assert "one one " in partial
    assert told.partial == partial
    assert told.turn_id
    assert stage.calls(chat) == ["error"]
    stage.goes_on(chat, partial)


PLAIN: dict[str, Callable[[Line], bool]] = {
    "closed before any byte": said(),
    "reset before any byte": said(reset=True),
    "closed in the head": said(b"HTTP/1.1 200 OK\r\ncontent-ty"),
    "length too long": said(head(f"content-length: {len(WHOLE) + 9}", kind="application/json"), WHOLE),
    "length too short": said(head(f"content-length: {len(WHOLE) - 9}", kind="application/json"), WHOLE),
    "cut, until close": said(head("connection: close", kind="application/json"), WHOLE[:-9]),
    "closed in a chunk": said(CHUNKED, chunked(WHOLE[:20], end=False)),
    "gzip cut": said(head("content-encoding: gzip", "connection: close"), gzip.compress(WHOLE)[:-20]),
}


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("name", PLAIN)
def test_a_broken_answer(stage: Stage, name: str) -> None:
    """A plain answer that breaks off may have been paid for: it is not asked for again, and nothing of it is a reply."""
    with wired(PLAIN[name]) as wire:
        chat = _asked(stage, wire)
        with pytest.raises(Interrupted):
            stage.settle(chat.send("x", retry=FAST))
        assert wire.requests == 1
    assert stage.calls(chat) == ["error"]
    stage.goes_on(chat, "")


@pytest.mark.parametrize("name", ["closed before any byte", "reset before any byte"])
def test_an_ambiguous_failure_is_repeated_only_on_request(stage: Stage, name: str) -> None:
    """With `Retry.ambiguous` a call that may have been processed is made again, each with a row of its own."""
    with wired(fine_after(PLAIN[name])) as wire:
        chat = _asked(stage, wire)
        reply = stage.settle(chat.send("x", retry=AMBIGUOUS))
        assert (reply.text, reply.attempts, wire.requests) == ("fine", 2, 2)
    assert stage.calls(chat) == ["error", "ok"]


@pytest.mark.once
def test_a_kept_connection_that_was_closed(stage: Stage) -> None:
    """The server closes an idle connection just as we use it: the request was not read, so it is made again, unasked."""

    def answer_and_close(line: Line) -> bool:
        whole(line)
        return line.ordinal > 1  # the first answer promises to keep the connection, and closes it

    with wired(answer_and_close) as wire:
        chat = _asked(stage, wire)
        assert stage.settle(chat.send("x")).text == "fine"
        time.sleep(0.05)
        assert stage.settle(chat.send("y", retry=FAST)).text == "fine"
        assert wire.requests == 2
        stage.settle(chat.verify())


@pytest.mark.parametrize("reset", [False, True])
def test_a_kept_connection_that_closes_under_the_request(stage: Stage, reset: bool) -> None:
    """A reused connection that ends without a byte was closed before our request: it is made again, on a new one."""

    def close_second(line: Line) -> bool:
        if line.ordinal == 2:
            if reset:
                line.reset()
            return False
        return whole(line)

    with wired(close_second) as wire:
        chat = _asked(stage, wire)
        stage.settle(chat.send("x"))
        reply = stage.settle(chat.send("y", retry=FAST))
        assert (reply.text, reply.attempts, wire.requests) == ("fine", 2, 3)
    assert stage.calls(chat) == ["ok", "error", "ok"]


def test_a_refused_connection_is_tried_again(stage: Stage) -> None:
    """Nothing was sent, so every try is made; each is a row, and the question is kept."""
    with wired(whole) as wire:
        pass
    chat = _asked(stage, wire)
    with pytest.raises(Unreachable):
        stage.settle(chat.send("x", retry=FAST))
    assert stage.calls(chat) == ["error"] * 3
    stage.goes_on(chat, "")


def test_a_dropped_connection_is_given_up_after_connect_s(stage: Stage) -> None:
    """A server that does not answer the handshake is TimedOut by `connect_s`, and is tried again: nothing was sent."""
    with full_backlog() as url:
        chat = stage.face.kit(stage.database, model="m", base_url=url).chat(stage.chat().key)
        policy = Retry(attempts=2, initial_s=0.0)
        with pytest.raises(TimedOut) as caught:
            stage.settle(chat.send("x", retry=policy, timeouts=Timeouts(connect_s=0.2)))
    assert caught.value.phase == "connect"
    assert stage.calls(chat) == ["error"] * 2
    stage.goes_on(chat, "")


def _dripping(pieces: list[bytes]) -> Callable[[Line], bool]:
    def fault(line: Line) -> bool:
        line.send(CHUNKED)
        for each in pieces:
            line.send(chunked(each, end=False))
            time.sleep(0.02)
        return False

    return fault


@pytest.mark.once
def test_a_body_that_drips_has_an_end(stage: Stage) -> None:
    """Bytes that never make an event are no content: `stall_s` ends them though every read brings something."""
    with wired(_dripping([bytes([each]) for each in ONE * 9])) as wire:
        chat = _asked(stage, wire)
        with pytest.raises(TimedOut) as caught:
            stage.face.collect(chat.stream("x", retry=FAST, timeouts=Timeouts(stall_s=0.3)))
        assert (caught.value.phase, wire.requests) == ("stall", 1)
    stage.goes_on(chat, "")


def test_content_that_drips_has_an_end(stage: Stage) -> None:
    """Content without end is ended by `total_s`, and what came is kept."""
    with wired(_dripping([ONE] * 200)) as wire:
        chat = _asked(stage, wire)
        with pytest.raises(TimedOut) as caught:
            stage.face.collect(chat.stream("x", retry=FAST, timeouts=Timeouts(total_s=0.4)))
        assert (caught.value.phase, wire.requests) == ("total", 1)
    assert caught.value.partial.startswith("one ")
    stage.goes_on(chat, caught.value.partial)


@functools.cache
def _bomb(begin: bytes, filling: bytes) -> bytes:
    """Return 60 MB in a few kilobytes."""
    return gzip.compress(begin + filling * 60_000_000, compresslevel=1)


@pytest.mark.once
@pytest.mark.parametrize(
    ("begin", "filling", "named"),
    [
        pytest.param(b'{"choices": [', b" ", "reply_bytes", marks=pytest.mark.soak(sample=True)),
        pytest.param(
            b'{"choices": [{"message": {"content": "', b"x", "reply_bytes", marks=pytest.mark.soak(sample=True)
        ),
        (b'data: {"choices": [{"delta": {"content": "', b"x", "event_bytes"),
    ],
)
def test_a_bomb_is_bounded(stage: Stage, begin: bytes, filling: bytes, named: str) -> None:
    """A body that unpacks to 60 MB is given up at Limits.reply_bytes or Limits.event_bytes."""
    bomb = _bomb(begin, filling)
    fault = said(head("content-encoding: gzip", f"content-length: {len(bomb)}"), bomb)
    with wired(fault) as wire:
        chat = _asked(stage, wire, limits=Limits(reply_bytes=1_000_000, event_bytes=100_000))
        with pytest.raises(BadReply, match=rf"Limits\.{named}"):
            stage.face.collect(chat.stream("x", retry=FAST))
        assert wire.requests == 1
    stage.goes_on(chat, "")


@pytest.mark.once
def test_a_line_of_64_megabytes(stage: Stage) -> None:
    """One endless line is given up at Limits.event_bytes, long before it is all there."""

    def fault(line: Line) -> bool:
        line.send(UNTIL_CLOSE + ONE + b"data: ")
        for _ in range(64):
            line.send(b"x" * 1_000_000)
        return False

    with wired(fault) as wire:
        chat = _asked(stage, wire)
        with pytest.raises(BadReply, match=r"Limits\.event_bytes"):
            stage.face.collect(chat.stream("x", retry=FAST))
        assert wire.requests == 1
    stage.goes_on(chat, "one ")


def test_a_stream_that_is_left_open_holds_nothing_back(stage: Stage) -> None:
    """Streams that nobody closes take no connection away from the requests after them."""

    def endless(line: Line) -> bool:
        if line.ordinal > 20:
            return whole(line)
        line.send(CHUNKED + chunked(ONE, end=False))
        time.sleep(0.3)
        return False

    with wired(endless) as wire:
        kit = stage.face.kit(stage.database, model="m", base_url=wire.url)
        left = [kit.chat(stage.chat().key).stream("x") for _ in range(20)]
        held = [_first(stage, each) for each in left]
        assert stage.settle(kit.chat(stage.chat().key).send("x")).text == "fine"
        assert wire.requests == 21
        assert [each.text for each in held] == ["one "] * 20
        for each in left:
            stage.settle(each.close())


def _first(stage: Stage, stream: Any) -> Any:
    """Return the first event of a stream that has text, leaving the stream open."""
    while True:
        found = next(iter(stream)) if stage.face.name == "sync" else stage.settle(anext(aiter(stream)))
        if found.text:
            return found
