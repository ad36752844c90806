"""Every kind of chunk of a reply, as another process sees it."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from sqlalchemy import event as events_of

from convokit import Chat, Convokit, Reply, Stream
from convokit.completion import call as calls
from convokit.completion import follow
from convokit.completion.stored_events import list_chunk_events, make_chunk
from convokit.domain.events import AudioDelta, ReasoningDelta, RefusalDelta, StreamEvent, TextDelta, ToolCallDelta
from convokit.store.chunks import ChunkRow
from convokit.store.turn_end import save_chunk
from tests.store.test_turn_cost import Traffic
from tests.support.background_reader import Running
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, chunk, event, stream

ASK = {"type": "function", "function": {"name": "ask", "parameters": {"type": "object", "properties": {}}}}
ARGUMENTS = ['{"都市', '": "', "東京" * 4, '"}']


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are stored more often, so that a test sees many of them in little time."""
    monkeypatch.setattr(calls, "CHUNK_S", 0.02)
    monkeypatch.setattr(follow, "POLL_S", 0.02)


def _speak(pause_s: float = 0.03) -> Script:
    """Return a stream with reasoning, text, a second thought, two tool calls and a refusal."""
    script = stream([], finish=None, done=False)
    first = {"index": 0, "id": "c1", "type": "function", "function": {"name": "ask", "arguments": ""}}
    second = {"index": 1, "id": "c2", "type": "function", "function": {"name": "ask", "arguments": "{}"}}
    deltas: list[dict[str, Any]] = [{"reasoning_content": text} for text in ("考え", "中 ")]
    deltas += [{"content": text} for text in ("Let me see, ", "what the weather ", "is ")]
    deltas += [{"reasoning_content": "again"}, {"tool_calls": [first]}]
    deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in ARGUMENTS]
    deltas += [{"tool_calls": [second]}, {"refusal": "not "}, {"refusal": "that"}]
    for delta in deltas:
        script.pieces += [chunk(delta), pause_s] if pause_s else [chunk(delta)]
    script.pieces += [chunk({}, "tool_calls"), event(b"[DONE]")]
    return script


def _ask(chat: Chat) -> Stream[Reply]:
    return chat.stream("go", tools=[ASK])


def _join(found: list[StreamEvent]) -> dict[str, str]:
    """Return the joined texts of the events, by kind."""
    joined: dict[str, str] = {}
    for each in found:
        kind, text = "", ""
        if isinstance(each, TextDelta):
            kind, text = "text", each.text
        elif isinstance(each, ReasoningDelta):
            kind, text = "reasoning", each.reasoning
        elif isinstance(each, RefusalDelta):
            kind, text = "refusal", each.refusal
        elif isinstance(each, ToolCallDelta):
            kind, text = f"{each.position} {each.id} {each.name}", each.arguments
        if kind:
            joined[kind] = joined.get(kind, "") + text
    return joined


WHOLE = {
    "reasoning": "考え中 again",
    "text": "Let me see, what the weather is ",
    "0 c1 ask": "".join(ARGUMENTS),
    "1 c2 ask": "{}",
    "refusal": "not that",
}


def test_a_follower_sees_every_kind_of_chunk(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """While the reply comes, and each once; from a place in the text, what came from there on; after it, all of it."""
    server.script(_speak())
    running = Running(database, server, ask=_ask)
    found = face.collect(kit.chat("k").follow())
    late = face.collect(kit.chat("k").follow(after=len(WHOLE["text"])))
    running.end()
    assert _join(found) == WHOLE
    assert _join(face.collect(kit.chat("k").follow())) == WHOLE
    assert _join(late) == {kind: text for kind, text in WHOLE.items() if kind not in ("text", "reasoning")}


@pytest.mark.once
@pytest.mark.parametrize("pause_s", [0.0, 0.002])
def test_the_order_of_kinds_is_kept_while_the_reply_comes(
    face: Face, kit: Any, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, pause_s: float
) -> None:
    """What is stored of a running reply has the order in which it came, in one chunk or in many."""
    stored: list[ChunkRow] = []

    def record(*given: Any, **named: Any) -> bool:
        stored.append(given[4])
        return save_chunk(*given, **named)

    monkeypatch.setattr(calls, "CHUNK_S", -1.0)  # every chunk is stored
    monkeypatch.setattr(calls, "save_chunk", record)
    server.script(_speak(pause_s))
    face.collect(kit.chat("k").stream("go", tools=[ASK]))
    events = [each for row in stored if row is not None for each in list_chunk_events(row)]
    kinds = [kind.__name__ for kind, _ in groupby(events, type)]
    assert kinds == ["ReasoningDelta", "TextDelta", "ReasoningDelta", "ToolCallDelta", "RefusalDelta"]
    assert _join(list(events)) == WHOLE


@pytest.mark.once
def test_a_repeated_stream_has_the_tool_calls_too(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A stream that is repeated under its key is the stored reply, whatever it consists of."""
    server.script(_speak(0))
    chat = kit.chat("k")
    first = face.collect(chat.stream("go", tools=[ASK], idempotency_key="x"))
    again = face.collect(chat.stream("go", tools=[ASK], idempotency_key="x"))
    assert _join(first) == _join(again) == WHOLE
    assert len(server.requests) == 1


@pytest.mark.once
def test_chunks_of_text_are_stored_as_before() -> None:
    """Text alone needs no order; nothing at all needs no row; audio and other choices are not stored."""
    assert make_chunk(1, "", [AudioDelta("x", "y"), TextDelta("other", 1), ReasoningDelta("other", 1)]) is None
    row = make_chunk(2, "ab\x00c", [TextDelta("a"), TextDelta("b\x00c")])
    assert row is not None
    assert (row.number, row.text, row.events) == (2, "ab\ufffdc", None)
    events: list[Any] = [
        *(TextDelta("a"), ReasoningDelta("思\x00"), ReasoningDelta("考"), TextDelta("bc")),
        *(ToolCallDelta(0, "c", "f", "{"), ToolCallDelta(0, "c", "f", "}"), ToolCallDelta(1, "d", "f", "")),
    ]
    row = make_chunk(3, "abc", events)
    assert row is not None
    assert list(list_chunk_events(row)) == [
        *(TextDelta("a"), ReasoningDelta("思\ufffd考"), TextDelta("bc")),
        *(ToolCallDelta(0, "c", "f", "{}"), ToolCallDelta(1, "d", "f", "")),
    ]


@pytest.mark.once
def test_other_kinds_take_no_more_commits(
    database: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream of reasoning and arguments commits as often as one of text with as many chunks, and stores as few rows."""
    monkeypatch.setattr(calls, "CHUNK_S", -1.0)  # every chunk is stored
    words = stream(["w"] * 10)
    thoughts = stream([], finish=None, done=False)
    thoughts.pieces += [chunk({"reasoning_content": "w"}) for _ in range(10)]
    thoughts.pieces += [chunk({}, "stop"), event(b"[DONE]")]
    found = []
    with Convokit(database, model="m", base_url=server.url) as kit:
        traffic = Traffic(kit)
        inserted: list[str] = []
        engine = kit._runtime._store.engine
        events_of.listen(engine, "before_cursor_execute", lambda *given: inserted.append(given[2]))
        for script in (words, thoughts):
            for piece in script.pieces[:]:
                script.pieces.insert(script.pieces.index(piece) + 1, 0.005)
            server.script(script)
            traffic.reset()
            inserted.clear()
            with kit.chat("k").stream("go") as events:
                list(events)
            found.append((traffic.transactions["write"], sum("INTO convokit_chunk" in each for each in inserted)))
    assert found[0][0] >= 10
    assert abs(found[0][0] - found[1][0]) <= 2
    assert found[1][1] <= found[1][0]
