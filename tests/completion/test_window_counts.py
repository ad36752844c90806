"""Test what a turn stores about its window, and what the next turn makes of it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from convokit import Budget, Convokit, Retry
from convokit.completion.options import NO_OPTIONS
from convokit.completion.prepare import prepare, prepare_next, shift_request
from convokit.completion.state import ChatRef
from convokit.domain.content import Content
from convokit.errors import ContextOverflow, ModelError
from convokit.store.engine import open_engine, parse_database_url
from convokit.store.snapshot import Snapshot
from tests.context.test_scale import make_row
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, completion, echo, failure

ONCE = Retry(attempts=1)
SMALL = Budget(context_tokens=400, reply_tokens=50)


class Estimate:
    """A rough counter: a token for two characters, which is twice too many for English."""

    name = "rough"
    is_estimate = True

    def count(self, text: str) -> int:
        return len(text) // 2


def make_kit(face: Face, database: str, server: LoopbackServer, **settings: Any) -> Any:
    return face.kit(database, model="m", base_url=server.url, budget=SMALL, **settings)


def count_words(body: Any) -> int:
    """Return what this test's model counts: a token for each word, and three for each message."""
    return sum(3 + len(str(message["content"]).split()) for message in body["messages"])


def report_usage(body: Any, **more: Any) -> dict[str, Any]:
    tokens = count_words(body)
    return {"prompt_tokens": tokens, "completion_tokens": 2, "total_tokens": tokens + 2, **more}


def read_rows(database: str) -> list[tuple[Any, ...]]:
    engine = open_engine(parse_database_url(database))
    columns = "role, window_from_seq, window_rule IS NOT NULL, window_tokens, window_counted"
    with engine.connect() as connection:
        rows = connection.execute(text(f"SELECT {columns} FROM convokit_message ORDER BY seq"))
        found = [tuple(row) for row in rows]
    engine.dispose()
    return found


def test_a_reply_stores_both_counts(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """Also in a stream. The question's row has the start, so that a crash does not move it twice."""
    usage = {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42}
    server.script(completion("yes", usage=usage))
    chat = kit.chat("k")
    first = face.settle(chat.send("hello"))
    assert read_rows(database) == [("user", 1, True, None, None), ("assistant", 1, True, 40, first.context.counted)]
    assert face.settle(chat.verify()).entries == 3


@pytest.mark.once
@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 40, "prompt_tokens_details": {"cached_tokens": 32}}, 40),
        ({"prompt_tokens": 8, "prompt_tokens_details": {"cached_tokens": 32}}, 40),
        ({"prompt_tokens": 0, "completion_tokens": 2}, None),
        ({"prompt_tokens": 10**12, "completion_tokens": 2}, 2**31 - 1),
    ],
    ids=["cached", "cached beside the prompt", "zero", "absurd"],
)
def test_what_a_server_reports(
    face: Face, kit: Any, server: LoopbackServer, database: str, usage: dict[str, Any], expected: int | None
) -> None:
    """Some servers leave cached tokens out of the prompt's."""
    server.script(completion("yes", usage=usage))
    face.settle(kit.chat("k").send("hello"))
    assert read_rows(database)[1][3] == expected


@pytest.mark.once
def test_a_failed_turn_moves_the_start_once(face: Face, database: str, server: LoopbackServer) -> None:
    """The start that a turn without a reply chose is kept by the next one."""
    server.answer = lambda body: completion("echo " * 10, usage=report_usage(body))
    chat = make_kit(face, database, server, retry=ONCE).chat("k")
    number = 0
    while (start := face.settle(chat.context(f"question {number}")).report.start) == 1:
        face.settle(chat.send(f"question {number}"))
        number += 1
    server.answer = lambda _: failure(500)
    for _ in range(3):
        with pytest.raises(ModelError):
            face.settle(chat.send(f"question {number}"))
        assert face.settle(chat.context("again")).report.start == start


@pytest.mark.once
def test_a_ratio_fills_the_window(face: Face, database: str, server: LoopbackServer) -> None:
    """A counter that counts twice too much fills the window as well as an exact one, once the server has reported."""
    server.answer = lambda body: completion("a reply of a few words", usage=report_usage(body))
    chat = make_kit(face, database, server, counter=Estimate()).chat("k")
    sizes = []
    reply: Any = None
    for number in range(60):
        reply = face.settle(chat.send(f"question number {number} is this one"))
        sizes.append(count_words(server.requests[-1].body))
    report = reply.context
    assert report.factor_source == "reported"
    assert report.factor < 0.6
    assert report.tokens == pytest.approx(sizes[-1], rel=0.06)
    assert max(sizes) <= 350
    assert sum(sizes[-30:]) / 30 > 0.7 * 350
    assert report.hint is None


@pytest.mark.once
def test_a_silent_server_is_refused_once_only(face: Face, database: str, server: LoopbackServer) -> None:
    """The ratio of a refusal is stored with the reply that follows it, although no usage is reported."""
    refused = []

    def answer(body: Any) -> Script:
        tokens = 3 * count_words(body)
        if tokens > 350:
            refused.append(tokens)
            message = f"This model's maximum context length is 350 tokens. However, your messages resulted in {tokens} tokens."
            return failure(400, message, code="context_length_exceeded")
        return Script(echo(body).pieces)

    class Words(Estimate):
        name = "too few"

        def count(self, text: str) -> int:
            return len(text.split())

    server.answer = lambda body: _without_usage(answer(body))
    chat = make_kit(face, database, server, counter=Words()).chat("k")
    sources = [face.settle(chat.send(f"question {number} of many")).context.factor_source for number in range(40)]
    assert sources[0] == "estimate"
    assert "refusal" in sources
    assert sources[-1] == "reported"
    assert len(refused) <= 2


def _without_usage(script: Script) -> Script:
    return Script(
        [piece.replace(b'"usage"', b'"used"') if isinstance(piece, bytes) else piece for piece in script.pieces],
        script.status,
    )


@pytest.mark.once
def test_in_doubt_the_server_decides(face: Face, database: str, server: LoopbackServer) -> None:
    """A question that an estimate finds too long is sent if half of its tokens fit, and refused otherwise."""
    kit = make_kit(face, database, server, counter=Estimate())
    chat = kit.chat("k")
    reply = face.settle(chat.send("日本語" * 300))
    assert reply.context.tokens > 400
    assert reply.context.rule == "only this turn, which may be too long"
    with pytest.raises(ContextOverflow) as caught:
        face.settle(chat.send("日本語" * 600))
    assert len(server.requests) == 1
    assert caught.value.counter == "rough"
    message = "This model's maximum context length is 350 tokens. However, your messages resulted in 351 tokens."
    server.script(failure(400, message, code="context_length_exceeded"))
    with pytest.raises(ContextOverflow) as refused:
        face.settle(kit.chat("other").send("日本語" * 300))
    assert (refused.value.needed, refused.value.available) == (351, 350)


@pytest.mark.once
def test_the_rows_of_a_request_move_with_its_messages(sqlite_file: str) -> None:
    """Other branches may take the seqs of a turn's messages. Its scale finds the messages by the seqs of the rows."""
    state = Convokit(sqlite_file, model="m")._state
    request = prepare(state, ChatRef(id=uuid4()), NO_OPTIONS, Snapshot(None), Content("hello"), stream=False)
    window = {"window_from_seq": 1, "window_rule": request.options.window_rule}
    asking = make_row(2, "assistant", content="yes", window_tokens=120, window_counted=100, **window)
    following = prepare_next(state, request, [asking, make_row(3, "user", content="again")])
    moved = shift_request(following, after=1, by=5)
    assert [item.key for item in moved.items] == [1, 7, 8]
    assert [(row.seq, row.parent_seq) for row in moved.snapshot.path.rows] == [(7, 1), (8, 7)]
    assert [(row.seq, row.parent_seq) for row in following.snapshot.path.rows] == [(2, 1), (3, 2)]
