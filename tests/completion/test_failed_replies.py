"""Tests of replies that look whole and are not."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from convokit import Finished, Retry, Timeouts
from convokit.errors import ContentFiltered, Interrupted, Rejected, ServerFailed
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, chunk, completion, event, stream

pytestmark = pytest.mark.once

ONCE = Retry(attempts=1)


def plain(**choice: Any) -> Script:
    """Return a plain answer with these keys in its choice."""
    message = {"role": "assistant", "content": "half"}
    one = {"index": 0, "message": message, "finish_reason": "stop", **choice}
    return Script([json.dumps({"id": "c1", "model": "m", "choices": [one]}).encode()])


def export_questions(face: Face, kit: Any) -> list[str]:
    """Return the questions in the exported training data."""
    file = io.StringIO()
    face.settle(kit.export(file, format="openai"))
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    return [each["content"] for line in lines for each in line["messages"] if each["role"] == "user"]


FAILED: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"finish_reason": None, "error": {"code": 502, "message": "上流"}}, ServerFailed),
    ({"finish_reason": "network_error"}, ServerFailed),
    ({"native_finish_reason": "abort"}, ServerFailed),
    ({"finish_reason": "SAFETY"}, ContentFiltered),
    ({"native_finish_reason": "sensitive"}, ContentFiltered),
]


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(("fields", "kind"), FAILED)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_failed_reply_is_kept_as_partial(
    face: Face, kit: Any, server: LoopbackServer, fields: dict[str, Any], kind: type[Exception], streamed: bool
) -> None:
    """The error is raised, the text is kept as partial, and no training data comes of it."""
    chat = kit.chat("t")
    last = {"index": 0, "delta": {}, "finish_reason": "stop", **fields}
    pieces = [chunk({"content": "half"}), event({"choices": [last]})]
    server.script(Script([*pieces], headers={"content-type": "text/event-stream"}) if streamed else plain(**fields))
    with pytest.raises(kind):
        _ = face.collect(chat.stream("q", retry=ONCE)) if streamed else face.settle(chat.send("q", retry=ONCE))
    assert [(each.status, each.text) for each in face.settle(chat.messages())] == [
        ("complete", "q"),
        ("partial", "half"),
    ]
    assert export_questions(face, kit) == []
    face.settle(chat.verify())


@pytest.mark.once
def test_a_reader_who_leaves_at_the_end_of_a_filtered_reply(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Neither the reply nor its turn is stored as complete."""
    chat = kit.chat("t")
    server.script(stream(["half"], finish="content_filter"))
    events = face.take(chat.stream("q"), 3)
    assert isinstance(events[-1], Finished)
    assert [each.status for each in face.settle(chat.messages())] == ["complete", "partial"]
    assert [turn.state for turn in face.settle(chat.turns())] == ["interrupted"]


@pytest.mark.parametrize(
    "fields",
    [
        {"finish_reason": "length"},
        {"finish_reason": "model_context_window_exceeded"},
        {"native_finish_reason": "MAX_TOKENS"},
    ],
)
def test_a_cut_reply_is_kept_and_is_no_training_data(
    face: Face, kit: Any, server: LoopbackServer, fields: dict[str, Any]
) -> None:
    """Neither is it in a copy of the conversation. The call is not repeated."""
    chat = kit.chat("t")
    face.settle(chat.send("whole"))
    server.script(plain(**fields))
    reply = face.settle(chat.send("cut"))
    assert (reply.text, reply.finish, reply.message.status) == ("half", "cut", "complete")
    assert len(server.requests) == 2
    face.settle(chat.copy("copy"))
    assert export_questions(face, kit) == ["whole", "whole"]
    face.settle(chat.verify())


@pytest.mark.once
def test_an_unknown_reason_is_complete_and_marked(face: Face, kit: Any, server: LoopbackServer) -> None:
    server.script(plain(finish_reason="vendor_reason"), completion("whole"))
    reply = face.settle(kit.chat("t").send("odd"))
    assert (reply.finish_reason, reply.finish, reply.message.status) == ("vendor_reason", "unknown", "complete")
    assert face.settle(kit.chat("t").send("known")).finish == "complete"
    assert export_questions(face, kit) == ["odd", "known"]


@pytest.mark.once
def test_other_choices_that_are_cut_or_filtered(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Each choice of a reply has the status of its own finish reason."""
    reasons = ("stop", "length", "content_filter")
    choices = [
        {"index": index, "message": {"role": "assistant", "content": reason}, "finish_reason": reason}
        for index, reason in enumerate(reasons)
    ]
    server.script(Script([json.dumps({"id": "c1", "model": "m", "choices": choices}).encode()]))
    chat = kit.chat("t")
    reply = face.settle(chat.send("q", n=3))
    assert [each.status for each in reply.choices] == ["complete", "complete", "partial"]
    assert export_questions(face, kit) == ["q"]
    for choice in reply.choices[1:]:
        face.settle(chat.checkout(choice))
        assert export_questions(face, kit) == []
    face.settle(chat.verify())


HALF_DONE = [chunk({"content": "全部"}), chunk({}, "stop")]


@pytest.mark.parametrize("end", [[0.01, None], [5.0]], ids=["breaks", "is silent"])
def test_a_stream_without_its_end_is_whole_after_the_finish_reason(
    face: Face, database: str, server: LoopbackServer, end: list[float | None]
) -> None:
    """The reply is paid for: it is saved as a whole one, and not asked for again."""
    kit = face.kit(database, model="m", base_url=server.url, retry=ONCE, timeouts=Timeouts(stall_s=0.1))
    server.script(Script([*HALF_DONE, *end], headers={"content-type": "text/event-stream"}))
    chat = kit.chat("k")
    face.collect(chat.stream("質問"))
    reply = face.settle(chat.resume())
    assert (reply.text, reply.message.status, len(server.requests)) == ("全部", "complete", 1)


def test_a_stream_that_breaks_before_the_finish_reason_is_not_whole(
    face: Face, kit: Any, server: LoopbackServer
) -> None:
    server.script(Script([HALF_DONE[0], 0.01, None], headers={"content-type": "text/event-stream"}))
    with pytest.raises(Interrupted) as caught:
        face.collect(kit.chat("k").stream("質問"))
    assert caught.value.partial == "全部"


@pytest.mark.parametrize(
    ("pieces", "encoding"),
    [([b'{"error', 0.01, None], "identity"), ([b"\x01\x02\x03"], "br"), ([b"no gzip"], "gzip")],
    ids=["breaks off", "not accepted", "damaged"],
)
def test_the_status_counts_more_than_a_body_that_cannot_be_read(
    face: Face, database: str, server: LoopbackServer, pieces: list[Any], encoding: str
) -> None:
    """429 is tried again, and 401 is refused, whatever their bodies are."""
    kit = face.kit(database, model="m", base_url=server.url, retry=Retry(attempts=2, initial_s=0.001))
    headers = {"content-type": "application/json", "content-encoding": encoding}
    server.script(Script(pieces, status=429, headers=headers))
    assert face.settle(kit.chat("k").send("質問")).attempts == 2
    server.script(Script(pieces, status=401, headers=headers))
    with pytest.raises(Rejected) as caught:
        face.settle(kit.chat("k").send("質問"))
    assert caught.value.status == 401
