"""Turns with their calls, chain entries, binaries, summaries and prompts as values."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import pytest

from convokit import Turn
from convokit.errors import InvalidInput, ModelError, NotFound
from tests.completion.summaries import BUDGET, HEADING, ONCE, SUMMARY, Writer
from tests.history.helpers import change
from tests.support.faces import Face
from tests.support.server import LoopbackServer, calls, completion, failure

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 40
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}}


def add(a: int, b: int) -> int:
    """Add two numbers."""
    if b == 0:
        raise ValueError("no zero")
    return a + b


def test_a_turn_has_its_calls_and_tool_runs(face: Face, database: str, server: LoopbackServer) -> None:
    """Models, usage, cost, ids, times, the window and its digests; tool runs with both messages."""
    kit = face.kit(database, model="m", base_url=server.url, developer_prompt="短く", tools=[add])
    chat = kit.chat("k")
    face.settle(chat.send("before"))
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cost": 0.25}
    server.script(
        calls(("c1", "add", '{"a": 1, "b": 2}'), ("c2", "add", '{"a": 1, "b": 0}')),
        completion("three", usage=usage),
    )
    reply = face.settle(chat.send("1+2?", passages=["資料"], turn_metadata={"a": 1}))
    turn = face.settle(chat.turn(reply.turn_id))
    assert issubclass(type(turn), Turn)
    assert (turn.state, turn.branch, turn.metadata) == ("completed", 0, {"a": 1})
    assert turn.reply == reply.message.id
    first, second = turn.calls
    assert [(each.number, each.state, each.model) for each in turn.calls] == [(1, "ok", "m"), (2, "ok", "m")]
    assert second.finish_reason == "stop"
    assert (second.usage.prompt_tokens, second.usage.total_tokens, second.usage.source) == (10, 15, "reported")
    assert (second.cost, second.response_id, second.service_tier) == (Decimal("0.25"), "chatcmpl-1", None)
    assert second.ended_at >= second.first_byte_at >= second.started_at
    assert first.window.messages == [1, 2, 3, 4]
    assert second.window.messages == [1, 2, 3, 4, 5, 6, 7]
    assert (first.window.start, first.window.pinned, first.window.passages, first.window.summary) == (1, [], [3], None)
    assert face.settle(chat.prompt(first.window.prompt)) == "短く"
    assert json.loads(face.settle(chat.prompt(first.window.tools)))[0]["function"]["name"] == "add"
    ok, failed = turn.tool_runs
    assert (ok.call_id, ok.name, ok.state, ok.error) == ("c1", "add", "done", None)
    assert (failed.call_id, failed.state, failed.error) == ("c2", "failed", "ValueError")
    texts = {each.id: each.text for each in face.settle(chat.messages())}
    assert texts[ok.result] == "3"
    assert ok.message == failed.message
    assert ok.message in texts
    same = face.settle(chat.turn(face.settle(chat.turns())[-1]))
    assert same == face.settle(chat.turn(str(reply.turn_id))) == turn


def test_a_failed_turn_and_one_after_a_redaction(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """The error is there; a redaction removes details; an altered manifest gives no window."""
    chat = kit.chat("k")
    server.script(failure(400, "bad"))
    with pytest.raises(ModelError):
        face.settle(chat.send("one", passages=["p"]))
    (turn,) = face.settle(chat.turns())
    record = face.settle(chat.turn(turn))
    assert (record.state, record.reply, record.calls[0].state) == ("failed", None, "error")
    assert record.calls[0].error is not None
    assert record.calls[0].window.passages == [1]
    face.settle(chat.erase())
    record = face.settle(chat.turn(turn.id))
    assert (record.calls[0].error, record.calls[0].window.passages) == (None, [1])
    change(database, "UPDATE convokit_completion SET manifest = '{}'")
    assert face.settle(chat.turn(turn.id)).calls[0].window is None


def test_windows_tell_pins_and_summaries(face: Face, database: str, server: LoopbackServer) -> None:
    """A pinned message and the summary are not part of the window's range; the call for a summary is marked."""
    server.answer = Writer()
    kit = face.kit(database, model="m", base_url=server.url, budget=BUDGET, summary=SUMMARY, retry=ONCE)
    chat = kit.chat("k")
    reply = face.settle(chat.send("turn number 0 and more"))
    face.settle(chat.pin(2))
    for number in range(1, 40):
        reply = face.settle(chat.send(f"turn number {number} and more"))
        if [request.body["model"] for request in server.requests].count("mini") == 2:
            break
    turn = face.settle(chat.turn(reply.turn_id))
    made, asked = turn.calls
    assert (made.model, made.window.is_summary_request, made.window.start) == ("mini", True, None)
    assert not asked.window.is_summary_request
    found = face.settle(chat.summaries())
    assert [each.number for each in found] == [1, 2]
    assert asked.window.summary == found[-1].message.seq
    assert found[-1].message.text == f"{HEADING}so far 2"
    assert (found[-1].from_seq, found[-1].to_seq) == (1, asked.window.start - 1)
    assert asked.window.pinned == [2]
    assert asked.window.start not in asked.window.pinned
    assert [each.number for each in face.settle(chat.summaries(limit=1))] == [2]
    assert [each.number for each in face.settle(chat.summaries(before=2))] == [1]
    face.settle(chat.redact(1))
    assert face.settle(chat.summaries()) == []
    assert face.settle(chat.turn(reply.turn_id)).calls[1].window.summary == found[-1].message.seq


def test_entries_with_their_removals(face: Face, kit: Any) -> None:
    """Ids that people use, pages by number, and who removed what; the last hash is that of `verify`."""
    chat = kit.chat("k")
    reply = face.settle(chat.send("one"))
    face.settle(chat.redact(1, author="佐藤", reason="頼まれた"))
    entries = face.settle(chat.entries())
    assert [each.number for each in entries] == list(range(1, len(entries) + 1))
    by_kind = {each.kind: each for each in entries}
    assert set(by_kind) == {"message", "completion", "redaction"}
    assert entries[0].ref == f"{chat.id}:1"
    assert by_kind["completion"].ref == f"{reply.turn_id}:1"
    removed = [each for each in entries if each.kind == "redaction"]
    assert f"{chat.id}:1" in [each.ref for each in removed]
    assert {(each.removal.author, each.removal.reason) for each in removed} == {("佐藤", "頼まれた")}
    assert [each.removal for each in entries if each.kind != "redaction"] == [None] * (len(entries) - len(removed))
    assert entries[-1].hash == face.settle(chat.verify()).head
    assert face.settle(chat.entries(limit=2)) == entries[-2:]
    assert face.settle(chat.entries(limit=2, before=entries[-2].number)) == entries[-4:-2]
    assert face.settle(chat.entries(before=1)) == []
    face.settle(chat.erase(author="管理者"))
    last = face.settle(chat.entries(limit=1))[0]
    assert (last.kind, last.ref, last.removal.author) == ("erasure", "*", "管理者")


def test_a_binary_of_this_conversation_alone(face: Face, kit: Any) -> None:
    """By the reference in a part or its digits; another conversation and a redacted message do not give it."""
    chat = kit.chat("k")
    face.settle(chat.send([{"type": "text", "text": "見て"}, IMAGE]))
    face.settle(kit.chat("other").send("x"))
    reference = face.settle(chat.messages())[0].content[1]["image_url"]["url"]
    blob = face.settle(chat.blob(reference))
    assert (blob.media_type, blob.data, f"blob:{blob.digest}") == ("image/png", PNG, reference)
    assert face.settle(chat.blob(blob.digest)) == blob
    assert "x89PNG" not in repr(blob)
    for other in (kit.chat("other"), kit.chat("never"), kit.tenant("b").chat(id=chat.id)):
        with pytest.raises(NotFound):
            face.settle(other.blob(reference))
    face.settle(chat.redact(1))
    with pytest.raises(NotFound):
        face.settle(chat.blob(reference))


@pytest.mark.once
def test_bad_names_of_records(face: Face, kit: Any) -> None:
    """Digests, numbers and turns that cannot be are InvalidInput, others NotFound; prompts are the tenant's."""
    chat = kit.chat("k")
    reply = face.settle(chat.send("one", developer_prompt="secret"))
    digest = face.settle(chat.turn(reply.turn_id)).calls[0].window.prompt
    assert face.settle(kit.chat("other").prompt(digest)) == "secret"
    for call, given in ((kit.tenant("b").chat("k").prompt, digest), (chat.prompt, "0" * 32), (chat.blob, "0" * 64)):
        with pytest.raises(NotFound):
            face.settle(call(given))
    for bad in ("", "xyz", "0" * 63, 7, b"x", None, "é" * 64, "blob:"):
        for call in (chat.prompt, chat.blob):
            with pytest.raises(InvalidInput):
                face.settle(call(bad))
    for listing in (chat.entries, chat.summaries):
        for given in ({"limit": 0}, {"limit": None}, {"before": "x"}, {"before": True}, {"before": -1}):
            with pytest.raises(InvalidInput):
                face.settle(listing(**given))
    for missing in ("0191f0a0-0000-7000-8000-000000000000",):
        with pytest.raises(NotFound):
            face.settle(chat.turn(missing))
    with pytest.raises(InvalidInput):
        face.settle(chat.turn("nonsense"))


def test_verify_of_one_conversation_tells_how_far_it_is(face: Face, kit: Any) -> None:
    """After each page of entries, with the number of all."""
    chat = kit.chat("k")
    for _ in range(3):
        face.settle(chat.append([{"role": "user", "content": "m"}] * 250))
    told: list[tuple[int, int]] = []
    verified = face.settle(chat.verify(progress=lambda done, total: told.append((done, total))))
    assert told == [(500, 750), (750, 750)]
    assert verified.entries == 750
