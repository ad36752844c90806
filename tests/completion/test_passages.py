"""Passages: retrieved text that is sent with one turn, right before its question, and with no other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import text as sql
from typer.testing import CliRunner

from convokit import Budget, Convokit, Profile, Retry
from convokit.cli.app import app
from convokit.context.strategy import LastTurns, Selection, View
from convokit.errors import ChainBroken, IdempotencyConflict, InvalidInput, ServerFailed
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.support.faces import Face
from tests.support.selection import keep
from tests.support.server import LoopbackServer, calls, completion, failure, stream

# The rules of this module depend on neither database nor API.
pytestmark = pytest.mark.once

ONE, TWO = "Port 80 is the port of HTTP.", "nginx listens on port 80."
ONCE = Retry(attempts=1)


def _sent(server: LoopbackServer, index: int = -1) -> list[Any]:
    return [each["content"] for each in server.requests[index].body["messages"]]


def _texts(messages: list[Any]) -> list[str]:
    return [message.text for message in messages]


def _rows(database: str, query: str, **values: Any) -> list[Any]:
    engine = open_engine(parse_database_url(database))
    with engine.connect() as connection:
        found = list(connection.execute(sql(query), values))
    engine.dispose()
    return found


def test_passages_come_right_before_their_question(face: Face, kit: Any, server: LoopbackServer) -> None:
    """They are user messages between the history and the question, in the order given."""
    chat = kit.chat("k", developer_prompt="Be brief.")
    face.settle(chat.send("hello"))
    face.settle(chat.send("what listens there?", passages=[ONE, TWO]))
    messages = server.requests[-1].body["messages"]
    assert [each["role"] for each in messages] == ["system", "user", "assistant", "user", "user", "user"]
    assert _sent(server)[1:] == ["hello", "echo: hello", ONE, TWO, "what listens there?"]


def test_passages_are_rows_of_their_own(face: Face, kit: Any, database: str) -> None:
    """Each is a message of its turn on the path before the question, counted; the path's tokens and its run go on without."""
    chat = kit.chat("k")
    face.settle(chat.send("hello"))
    reply = face.settle(chat.send("what?", passages=[ONE, TWO]))
    rows = _rows(
        database,
        "SELECT seq, parent_seq, run_start_seq, role, status, content, tokens, path_tokens, turn_id, salt"
        " FROM convokit_message ORDER BY seq",
    )
    assert [(row.seq, row.parent_seq, row.run_start_seq) for row in rows] == [
        (1, None, 1), (2, 1, 1), (3, 2, 1), (4, 3, 1), (5, 4, 1), (6, 5, 1),
    ]  # fmt: skip
    assert [(row.role, row.status, row.content) for row in rows[2:5]] == [
        ("user", "passage", ONE), ("user", "passage", TWO), ("user", "complete", "what?"),
    ]  # fmt: skip
    assert all(row.tokens > 4 for row in rows[2:4])
    assert [row.path_tokens for row in rows[2:4]] == [rows[1].path_tokens] * 2
    assert rows[4].path_tokens == rows[1].path_tokens + rows[4].tokens
    assert len({str(row.turn_id) for row in rows[2:]}) == 1
    assert len({bytes(row.salt) for row in rows}) == 6
    assert [turn.question.rpartition(":")[2] for turn in face.settle(chat.turns())] == ["1", "5"]
    assert face.settle(chat.turns())[-1].reply == reply.message.id


def test_the_chain_covers_passages(face: Face, kit: Any, database: str) -> None:
    """A conversation with passages verifies, and a passage that was altered shows."""
    chat = kit.chat("k")
    face.settle(chat.send("what?", passages=[ONE]))
    assert face.settle(chat.verify()).rows == 4
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(sql("UPDATE convokit_message SET content = 'other' WHERE status = 'passage'"))
    engine.dispose()
    with pytest.raises(ChainBroken):
        face.settle(chat.verify())


def test_later_turns_are_as_if_passages_had_never_been(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The next request holds no passage of an earlier turn; up to the passages each request begins like the one before."""
    chat, plain = kit.chat("k"), kit.chat("plain")
    for number in range(4):
        face.settle(plain.send(f"turn {number}"))
        face.settle(chat.send(f"turn {number}", passages=[f"{ONE} {number}"]))
    theirs = [_sent(server, index) for index in range(0, 8, 2)]
    ours = [_sent(server, index) for index in range(1, 8, 2)]
    for number in range(4):
        assert ours[number] == [*theirs[number][:-1], f"{ONE} {number}", f"turn {number}"]
    assert ours[3][:5] == [*ours[2][:4], "turn 2"]


@pytest.mark.parametrize("size", keep([1, 10], 10, sample=True))
def test_passages_do_not_move_the_window(face: Face, database: str, server: LoopbackServer, size: int) -> None:
    """After a turn with passages that fitted, every request is what it would be without: T(i) has not moved."""
    budget = Budget(context_tokens=400, reply_tokens=40, step_tokens=60)
    kit = face.kit(database, model="m", base_url=server.url, budget=budget)
    chat, plain = kit.chat("k"), kit.chat("plain")
    face.settle(plain.send("turn 0"))
    face.settle(chat.send("turn 0", passages=[ONE] * size))
    starts = set()
    for number in range(1, 40):
        starts.add(face.settle(plain.send(f"turn {number}")).context.dropped_tokens)
        face.settle(chat.send(f"turn {number}"))
        assert _sent(server, -1) == _sent(server, -2)
    assert len(starts) > 2


def test_a_strategy_never_sees_passages(face: Face, database: str, server: LoopbackServer) -> None:
    """A strategy chooses among the talk alone: passages are neither items nor turns, and what they cost is taken off before."""
    views: list[View] = []

    class Recording:
        name = "recording"
        most_turns = None

        def select(self, view: View) -> Selection:
            views.append(view)
            return Selection(view.turns[-1], self.name)

    kit = face.kit(database, model="m", base_url=server.url, strategy=Recording())
    chat = kit.chat("k")
    face.settle(chat.send("first", passages=[ONE]))
    reply = face.settle(chat.send("second", passages=[ONE, TWO]))
    assert [item.shape["content"] for item in views[-1].items] == ["first", "echo: first", "second"]
    assert views[-1].turns == [0, 2]
    passages = [part.tokens for part in reply.context.parts if part.rule == "passage for this turn"]
    assert views[-1].available == reply.context.available - sum(passages)
    assert _sent(server) == [ONE, TWO, "second"]


def test_last_turns_counts_turns_not_passages(face: Face, database: str, server: LoopbackServer) -> None:
    """`LastTurns(4)` with twenty passages a turn still reads and sends four turns."""
    kit = face.kit(database, model="m", base_url=server.url, strategy=LastTurns(4))
    for number in range(8):
        face.settle(kit.chat("k").send(f"turn {number}", passages=[f"{ONE} {each}" for each in range(20)]))
    talk = [text for number in (4, 5, 6) for text in (f"turn {number}", f"echo: turn {number}")]
    assert _sent(server) == [*talk, *(f"{ONE} {each}" for each in range(20)), "turn 7"]


def test_the_window_is_as_long_with_passages_behind_it(face: Face, database: str, server: LoopbackServer) -> None:
    """Passages of earlier turns take nothing of what is read: as much history is sent as without them."""
    budget = Budget(context_tokens=2000, reply_tokens=100)
    kit = face.kit(database, model="m", base_url=server.url, budget=budget)
    chat = kit.chat("k")
    for number in range(12):
        face.settle(chat.send(f"turn {number}", passages=[ONE * 4] * 5))
    other = face.kit(database, model="other", base_url=server.url, budget=budget)
    face.settle(other.chat("k").send("and now?"))
    assert len(_sent(server)) == 25


def test_the_report_and_the_manifest_name_passages(face: Face, kit: Any, database: str) -> None:
    """The report lists each as a message with its tokens and its rule, and counts it; the manifest's window holds its seq."""
    chat = kit.chat("k")
    face.settle(chat.send("hello", passages=[ONE]))
    reply = face.settle(chat.send("what?", passages=[ONE, TWO]))
    parts = {part.key: part for part in reply.context.parts if part.kind == "message"}
    assert list(parts) == [2, 3, 4, 5, 6]
    assert [parts[key].rule for key in (4, 5, 6)] == ["passage for this turn"] * 2 + [""]
    assert (parts[4].included, parts[4].role, parts[4].excerpt) == (True, "user", ONE)
    assert sum(part.tokens for part in parts.values()) == reply.context.tokens - reply.context.fixed_tokens
    manifests = _rows(database, "SELECT manifest FROM convokit_completion ORDER BY started_at")
    assert [json.loads(row.manifest)["window"] for row in manifests] == [[[1, 2]], [[2, 6]]]


def test_context_shows_what_send_would_send(face: Face, kit: Any, server: LoopbackServer) -> None:
    """`context(text, passages=...)` is the array that is then sent; afterwards the turn's window still shows its passages."""
    chat = kit.chat("k")
    face.settle(chat.send("hello", passages=["old"]))
    shown = face.settle(chat.context("what?", passages=[ONE, TWO]))
    reply = face.settle(chat.send("what?", passages=[ONE, TWO]))
    assert shown.messages == server.requests[-1].body["messages"]
    assert shown.report.model_copy(update={"last_call": None}) == reply.context
    after = [each["content"] for each in face.settle(chat.context()).messages]
    assert after == ["hello", "echo: hello", ONE, TWO, "what?", "echo: what?"]
    with pytest.raises(InvalidInput, match="passages"):
        face.settle(chat.context(passages=[ONE]))


def test_passages_stay_through_tool_rounds(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Every call of the turn holds its passages, before the question, also behind tool results."""

    def lookup(port: int) -> str:
        """Return who listens."""
        return "nginx"

    server.script(calls(("c1", "lookup", '{"port": 80}')), completion("nginx it is"))
    chat = kit.chat("k", tools=[lookup])
    face.settle(chat.send("who?", passages=[ONE]))
    assert _sent(server, 0) == [ONE, "who?"]
    assert _sent(server, 1) == [ONE, "who?", None, "nginx"]
    face.settle(chat.send("thanks"))
    assert _sent(server) == ["who?", None, "nginx", "nginx it is", "thanks"]
    face.settle(chat.verify())


def test_passages_stay_through_retries(face: Face, database: str, server: LoopbackServer) -> None:
    """A call made again is the same call."""
    kit = face.kit(database, model="m", base_url=server.url, retry=Retry(attempts=2, initial_s=0))
    server.script(failure(500))
    face.settle(kit.chat("k").send("who?", passages=[ONE]))
    assert server.requests[0].raw == server.requests[1].raw


@pytest.mark.parametrize("later", [False, True])
def test_resume_sends_passages_again(face: Face, kit: Any, server: LoopbackServer, later: bool) -> None:
    """A failed turn is asked again with its own passages, none twice, also when another turn came after it."""
    chat = kit.chat("k")
    face.settle(chat.send("hello", passages=["old"]))
    server.script(failure(500))
    with pytest.raises(ServerFailed):
        face.settle(chat.send("who?", passages=[ONE, TWO], retry=ONCE, idempotency_key="1"))
    if later:
        face.settle(chat.send("never mind", passages=["newer"]))
        assert _sent(server) == ["hello", "echo: hello", "who?", "newer", "never mind"]
        reply = face.settle(chat.send("who?", passages=[ONE, TWO], retry=ONCE, idempotency_key="1"))
    else:
        reply = face.settle(chat.resume())
    assert reply.text == "echo: who?"
    assert _sent(server) == ["hello", "echo: hello", ONE, TWO, "who?"]
    assert sum(message.text == ONE for message in face.settle(chat.messages(passages=True))) == 1
    face.settle(chat.verify())


@pytest.mark.parametrize("strategy", [None, LastTurns(1)])
def test_resume_sends_however_many_passages(
    face: Face, database: str, server: LoopbackServer, strategy: LastTurns | None
) -> None:
    """A turn's passages are read whole, although they are more than a first page of rows."""
    more = {} if strategy is None else {"strategy": strategy}
    kit = face.kit(database, model="m", base_url=server.url, **more)
    chat = kit.chat("k")
    face.settle(chat.send("hello"))
    passages = [f"passage {number}" for number in range(70)]
    server.script(failure(500))
    with pytest.raises(ServerFailed):
        face.settle(chat.send("who?", passages=passages, retry=ONCE))
    face.settle(chat.resume())
    assert _sent(server)[-71:] == [*passages, "who?"]
    assert _sent(server, -1) == _sent(server, -2)
    face.settle(chat.verify())


def test_a_stream_has_passages_too(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A stream that was left is resumed with its passages; what a follower hears is the reply alone."""
    server.script(stream(["Well, ", "it ", "is"], pause_s=0.05))
    chat = kit.chat("k")
    face.take(chat.stream("who?", passages=[ONE]), 2)
    assert _sent(server) == [ONE, "who?"]
    face.settle(chat.resume())
    assert _sent(server) == [ONE, "who?"]
    assert "".join(event.text for event in face.collect(chat.follow())) == "echo: who?"
    face.settle(chat.verify())


def test_a_repeat_comes_back_to_its_passages(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The same send has the stored reply; with other passages, or none, it is another request under the same key."""
    chat = kit.chat("k")
    first = face.settle(chat.send("who?", passages=[ONE], idempotency_key="1"))
    again = face.settle(chat.send("who?", passages=(ONE,), idempotency_key="1"))
    assert again.message.id == first.message.id
    assert len(server.requests) == 1
    for other in ([TWO], [ONE, ONE], []):
        with pytest.raises(IdempotencyConflict):
            face.settle(chat.send("who?", passages=other, idempotency_key="1"))
    assert face.settle(chat.verify()).rows == 4


def test_profiles_that_alternate_merge_passages_with_the_question(
    face: Face, database: str, server: LoopbackServer
) -> None:
    """Where roles must alternate, passages and question are one user message, also as the first of the array."""
    kit = face.kit(database, model="m", base_url=server.url, profile=Profile(alternate=True))
    chat = kit.chat("k")
    face.settle(chat.send("hello", passages=[ONE, TWO]))
    assert _sent(server) == [f"{ONE}\n\n{TWO}\n\nhello"]
    face.settle(chat.send("and?", passages=[TWO]))
    assert _sent(server)[0::2] == ["hello", f"{TWO}\n\nand?"]


def test_messages_are_the_talk_without_passages(face: Face, kit: Any) -> None:
    """The listing and its pages hold the talk, `limit` messages of it; `passages=True` lists them in their place."""
    chat = kit.chat("k")
    for number in range(6):
        face.settle(chat.send(f"turn {number}", passages=[f"{number}.{each}" for each in range(9)]))
    talk = [text for number in range(6) for text in (f"turn {number}", f"echo: turn {number}")]
    assert _texts(face.settle(chat.messages())) == talk
    assert _texts(face.settle(chat.messages(limit=7))) == talk[-7:]
    paged: list[str] = []
    before: str | None = None
    while page := face.settle(chat.messages(limit=5, before=before)):
        paged = [*_texts(page), *paged]
        before = page[0].id
    assert paged == talk
    listed = face.settle(chat.messages(limit=12, passages=True))
    assert _texts(listed)[1:11] == [*(f"5.{each}" for each in range(9)), "turn 5"]
    assert [message.status for message in listed[1:11]] == ["passage"] * 9 + ["complete"]


def test_turns_are_paged_over_passages(face: Face, kit: Any) -> None:
    """`turns(before=...)` goes on with the turn before, whatever lies between the two."""
    chat = kit.chat("k")
    ids = [face.settle(chat.send(f"turn {number}", passages=[ONE, TWO])).turn_id for number in range(4)]
    assert [turn.id for turn in face.settle(chat.turns())] == ids
    assert [turn.id for turn in face.settle(chat.turns(limit=2, before=ids[3]))] == ids[1:3]
    assert [turn.id for turn in face.settle(chat.turns(limit=2, before=ids[1]))] == ids[:1]
    assert face.settle(chat.turns(limit=1, before=ids[0])) == []


def test_a_passage_cannot_be_pinned(face: Face, kit: Any) -> None:
    """A pin would send it with later turns."""
    chat = kit.chat("k")
    face.settle(chat.send("who?", passages=[ONE]))
    with pytest.raises(InvalidInput, match="passage"):
        face.settle(chat.pin(1))


def test_show_prints_the_talk(sqlite_file: str, server: LoopbackServer) -> None:
    """`convokit show` prints no passage, and does not say that earlier messages are left out when only passages are."""
    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:
        kit.chat("k").send("who?", passages=[ONE])
    shown = CliRunner().invoke(app, ["show", "k"], env={"CONVOKIT_DATABASE_URL": sqlite_file})
    assert shown.exit_code == 0
    assert "who?" in shown.stdout
    assert ONE not in shown.stdout
    assert "earlier" not in shown.stderr
    fewer = CliRunner().invoke(app, ["show", "k", "--last", "1"], env={"CONVOKIT_DATABASE_URL": sqlite_file})
    assert "earlier messages are not shown" in fewer.stderr
