"""Turns seen from outside: following a reply from anywhere, cancelling it from anywhere, leaving it to finish by itself."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text as sql

from convokit import AsyncConvokit, Convokit
from convokit.completion import call as calls
from convokit.completion import follow
from convokit.errors import ConversationBusy, Interrupted, InvalidInput, NotFound, SettingsError
from convokit.tools.decorator import tool
from tests.support.background_reader import Running
from tests.support.faces import Face
from tests.support.server import LoopbackServer, chunk, completion, event, stream

pytestmark = pytest.mark.once

WORDS = [f"word{number} " for number in range(30)]
TEXT = "".join(WORDS)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are stored more often, so that a test sees many of them in little time."""
    monkeypatch.setattr(calls, "CHUNK_S", 0.02)
    monkeypatch.setattr(follow, "POLL_S", 0.05)


@pytest.fixture
def slow(server: LoopbackServer) -> LoopbackServer:
    """The first answer takes 0.6 seconds."""
    server.script(stream(WORDS, pause_s=0.02))
    return server


def test_a_follower_gets_what_it_missed_and_then_what_comes(
    face: Face, kit: Any, database: str, slow: LoopbackServer
) -> None:
    """Attached to a reply on its way elsewhere, a reader gets the whole text in several parts, and the same saved reply."""
    running = Running(database, slow)
    following = kit.chat("k").follow()
    events = face.collect(following)
    running.end()
    assert "".join(each.text for each in events) == TEXT == running.text
    assert len([each for each in events if each.text]) > 2
    assert following.reply.text == TEXT
    assert following.turn_id == following.reply.turn_id
    assert len(slow.requests) == 1


@pytest.mark.once
def test_following_takes_up_where_the_reader_was(face: Face, kit: Any, database: str, slow: LoopbackServer) -> None:
    """`after` is the number of characters that the reader has: nothing is doubled, nothing missed, for any number."""
    running = Running(database, slow)
    for after in (0, 1, 7, len(running.text), len(TEXT), len(TEXT) + 5):
        events = face.collect(kit.chat("k").follow(after=after))
        assert "".join(each.text for each in events) == TEXT[after:]
    running.end()


def test_a_turn_that_is_over_can_be_followed(face: Face, kit: Any) -> None:
    """The text of a finished turn comes at once, also by its id."""
    reply = face.settle(kit.chat("k").send("hello"))
    face.settle(kit.chat("k").send("more"))
    following = kit.chat("k").follow(reply.turn_id)
    assert "".join(each.text for each in face.collect(following)) == "echo: hello"
    assert following.reply.message == reply.message


@pytest.mark.once
def test_several_may_follow_one_turn(database: str, slow: LoopbackServer) -> None:
    """Readers of one turn do not disturb each other, nor the turn."""
    running = Running(database, slow)
    texts: list[str] = []

    def follow() -> None:
        with Convokit(database, model="m") as other, other.chat("k").follow() as events:
            texts.append("".join(each.text for each in events))

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    running.end()
    assert texts == [TEXT] * 4


@pytest.mark.once
def test_leaving_a_follower_changes_nothing_for_the_turn(
    face: Face, kit: Any, database: str, slow: LoopbackServer
) -> None:
    """Whoever follows a reply may leave it; it comes to its end all the same."""
    running = Running(database, slow)
    face.take(kit.chat("k").follow(), 2)
    running.end()
    assert running.text == TEXT
    assert face.settle(kit.chat("k").turns())[-1].state == "completed"


@pytest.mark.soak(sample=True)
@pytest.mark.once
def test_a_follower_hears_the_rounds_of_a_turn_with_tools(
    face: Face, kit: Any, database: str, server: LoopbackServer
) -> None:
    """What the model says before and after its tools ran is one text, in order, wherever the follower attached."""

    @tool
    def look_up(word: str) -> str:
        """Look a word up."""
        time.sleep(0.6)
        return word

    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "x"}'}}
    asking = stream(WORDS[:10], pause_s=0.03, finish=None, done=False)
    asking.pieces += [chunk({"tool_calls": [call]}), chunk({}, "tool_calls"), event(b"[DONE]")]
    server.script(asking, stream(WORDS[10:], pause_s=0.03))
    running = Running(database, server, tools=[look_up])
    whole = face.collect(kit.chat("k").follow())
    late = face.collect(kit.chat("k").follow(after=15))
    running.end()
    assert "".join(each.text for each in whole) == TEXT
    assert "".join(each.text for each in late) == TEXT[15:]


def test_following_a_turn_whose_worker_is_gone_closes_it(face: Face, kit: Any, database: str) -> None:
    """A follower does not wait for the dead: it takes the turn over, and hears what became of it."""
    face.settle(kit.chat("k").send("first"))
    with Convokit(database, model="m") as other:
        _leave_open(other)
    with pytest.raises(Interrupted) as caught:
        face.collect(kit.chat("k").follow())
    assert caught.value.code == "abandoned"
    assert [each.state for each in face.settle(kit.chat("k").turns())] == ["abandoned"]


def _leave_open(kit: Any) -> None:
    """Make the last turn look like one that a worker of another host left, its lease run out."""
    with kit._runtime._store._writer.begin() as connection:
        connection.execute(
            sql(
                "UPDATE convokit_turn SET state = 'open', claim = 0, owner = :owner, lease_until = 5,"
                " reply_seq = NULL, ended_at = NULL"
            ),
            {"owner": '["elsewhere","b",1,"2"]'},
        )


def test_a_running_reply_is_cancelled_from_elsewhere(face: Face, kit: Any, database: str, slow: LoopbackServer) -> None:
    """Cancelled from another process, a turn ends at once; its reader hears so; what came is kept, on the path."""
    running = Running(database, slow)
    turn = face.settle(kit.chat("k").turns())[-1]
    assert turn.state == "open"
    assert face.settle(kit.chat("k").cancel(turn.id)) is True
    assert face.settle(kit.chat("k").cancel(turn.id)) is False, "it is over already"
    running.end()
    assert isinstance(running.error, Interrupted)
    assert running.error.code == "cancelled"
    assert running.text != TEXT, "it stopped reading"
    stored = face.settle(kit.chat("k").messages())
    assert [message.status for message in stored] == ["complete", "partial"]
    assert TEXT.startswith(stored[1].text)
    assert stored[1].text
    assert face.settle(kit.chat("k").turns())[-1].state == "cancelled"
    assert face.settle(kit.chat("k").send("and now?")).text == "echo: and now?"
    face.settle(kit.chat("k").verify())


def test_what_came_after_the_cancel_is_kept_off_the_path(database: str, slow: LoopbackServer) -> None:
    """A reply that was cancelled keeps every word its reader saw: on the path up to the last piece, all of it as late."""
    running = Running(database, slow)
    assert running.kit.chat("k").cancel()
    running.end()
    with Convokit(database, model="m") as kit, kit._runtime._store.engine.connect() as connection:
        late = connection.execute(sql("SELECT content FROM convokit_message WHERE status = 'late'")).scalars().all()
        calls = connection.execute(sql("SELECT state, error IS NULL FROM convokit_completion ORDER BY number")).all()
    assert len(late) == 1
    assert late[0].startswith(running.text)
    assert [tuple(call) for call in calls] == [("abandoned", True), ("late", False)]  # it broke off


def test_cancelling_where_nothing_runs(face: Face, kit: Any) -> None:
    """Nothing to cancel is no error; a turn that is not there is one."""
    face.settle(kit.chat("k").send("hello"))
    assert face.settle(kit.chat("k").cancel()) is False
    with pytest.raises(NotFound):
        face.settle(kit.chat("k").cancel(uuid4()))
    with pytest.raises(NotFound):
        face.settle(kit.chat("nobody").cancel())
    with pytest.raises(InvalidInput):
        face.settle(kit.chat("k").cancel("not an id"))
    with pytest.raises(InvalidInput, match="after"):
        face.collect(kit.chat("k").follow(after=-1))
    with pytest.raises(NotFound):
        face.collect(kit.chat("nobody").follow())


def test_a_turn_of_another_conversation_emits_no_event(face: Face, kit: Any) -> None:
    """The error comes before the first event, so a web application can still answer with a status."""
    other = face.settle(kit.chat("other").send("hello")).turn_id
    face.settle(kit.chat("k").send("hello"))
    with pytest.raises(NotFound):
        face.take(kit.chat("k").follow(other), 1)


def test_turns_are_listed_with_what_became_of_them(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Each turn of the path names its question, its reply and its state; pages go back from any of them."""
    from tests.support.server import failure  # noqa: PLC0415

    for number in range(4):
        face.settle(kit.chat("k").send(f"q{number}"))
    server.script(failure(400, "bad"))
    with pytest.raises(Exception, match="bad"):
        face.settle(kit.chat("k").send("q4"))
    found = face.settle(kit.chat("k").turns())
    messages = {message.id: message.text for message in face.settle(kit.chat("k").messages())}
    assert [messages[each.question] for each in found] == ["q0", "q1", "q2", "q3", "q4"]
    assert [each.state for each in found] == ["completed"] * 4 + ["failed"]
    assert messages[found[0].reply] == "echo: q0"
    assert found[4].reply is None
    assert found[4].error["type"] == "Rejected"
    page = face.settle(kit.chat("k").turns(limit=2, before=found[3].id))
    assert [each.id for each in page] == [found[1].id, found[2].id]


@pytest.mark.once
def test_a_reply_is_finished_though_its_reader_left(face: Face, kit: Any, slow: LoopbackServer) -> None:
    """With on_disconnect="finish" a reply comes to its end without its reader, and is saved whole."""
    face.take(kit.chat("k").stream("count", on_disconnect="finish"), 3)
    if face.name == "async":
        with pytest.raises(ConversationBusy):
            face.settle(kit.chat("k").send("too early"))
    following = kit.chat("k").follow()
    face.collect(following)
    assert following.reply.text == TEXT
    assert face.settle(kit.chat("k").turns())[-1].state == "completed"


@pytest.mark.once
def test_a_cancelled_task_does_not_cancel_a_reply_that_is_to_finish(database: str, slow: LoopbackServer) -> None:
    """A request handler that is cancelled takes its reader along, not the reply; closing the kit waits for it."""

    async def handler(kit: AsyncConvokit) -> None:
        async with kit.chat("k").stream("count", on_disconnect="finish") as events:
            async for _ in events:
                pass

    async def main() -> None:
        kit = AsyncConvokit(database, model="m", base_url=slow.url)
        task = asyncio.create_task(handler(kit))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await kit.close()

    asyncio.run(main())
    with Convokit(database, model="m") as kit:
        assert [message.text for message in kit.chat("k").messages()] == ["count", TEXT]


@pytest.mark.once
def test_an_unknown_disconnect_policy_is_refused(kit: Any) -> None:
    """`on_disconnect` takes two words."""
    with pytest.raises(SettingsError, match="on_disconnect"):
        kit.chat("k").stream("x", on_disconnect="ignore")


@pytest.mark.parametrize(("policy", "sent"), [("include", True), ("mark", True), ("leave_out", False)])
def test_a_partial_reply_is_sent_as_the_policy_says(
    face: Face, database: str, server: LoopbackServer, policy: Any, sent: bool
) -> None:
    """What broke off goes into the next request as it is, with a mark behind it, or not; what is stored never changes."""
    kit = face.kit(database, model="m", base_url=server.url, partial=policy)
    face.take(kit.chat("k").stream("one two three"), 3)
    stored = face.settle(kit.chat("k").messages())[-1]
    assert stored.status == "partial"
    face.settle(kit.chat("k").send("go on"))
    contents = [each["content"] for each in server.requests[-1].body["messages"]]
    assert (stored.text in contents, f"{stored.text}\n[cut off]" in contents) == (
        sent and policy != "mark",
        policy == "mark",
    )
    assert face.settle(kit.chat("k").messages())[1] == stored


def test_a_stream_may_be_closed_from_another_thread(database: str, slow: LoopbackServer) -> None:
    """Closed by another thread while it is being read, a stream ends at its reader's next event, and keeps what came."""
    with Convokit(database, model="m", base_url=slow.url) as kit:
        events = kit.chat("k").stream("count")
        read: list[str] = []
        thread = threading.Thread(target=lambda: read.extend(each.text for each in events))
        thread.start()
        while len(read) < 3:
            time.sleep(0.01)
        events.close()
        thread.join(10)
        assert not thread.is_alive()
        stored = kit.chat("k").messages()
        assert stored[-1].status == "partial"
        assert stored[-1].text.startswith("".join(read))


def test_a_closed_kit_says_so(face: Face, database: str, server: LoopbackServer) -> None:
    """After `close` a kit does nothing any more, and says why."""
    from convokit.errors import KitClosed  # noqa: PLC0415

    kit = face.kit(database, model="m", base_url=server.url)
    face.settle(kit.chat("k").send("hello"))
    face.settle(kit.close())
    with pytest.raises(KitClosed, match="closed"):
        face.settle(kit.chat("k").send("again"))
    assert len(server.requests) == 1


@pytest.mark.once
def test_a_plain_reply_that_was_cancelled_is_kept_as_late(database: str, server: LoopbackServer) -> None:
    """Cancelled while a plain call runs, its whole reply is paid for and kept off the path."""
    script = completion("the slow answer")
    script.delay_s = 0.6
    server.script(script)
    with Convokit(database, model="m", base_url=server.url) as kit:
        errors: list[Exception] = []

        def send() -> None:
            try:
                kit.chat("k").send("slow")
            except Interrupted as error:
                errors.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        while not server.requests:
            time.sleep(0.01)
        assert kit.chat("k").cancel()
        thread.join(10)
        assert [str(getattr(each, "code", "")) for each in errors] == ["cancelled"]
        assert errors[0].partial == "the slow answer"  # type: ignore[attr-defined]
        with kit._runtime._store.engine.connect() as connection:
            late = connection.execute(sql("SELECT content FROM convokit_message WHERE status = 'late'")).scalars().all()
        assert late == ["the slow answer"]
        kit.chat("k").verify()


def test_a_repeat_reads_along_while_its_turn_runs(face: Face, kit: Any, database: str, slow: LoopbackServer) -> None:
    """The same stream under the same key, sent again while the turn runs elsewhere, gets its text as it comes."""
    other = Convokit(database, model="m", base_url=slow.url)
    first = other.chat("k").stream("count", idempotency_key="once")
    thread = threading.Thread(target=lambda: [each.text for each in first])
    thread.start()
    while not slow.requests:
        time.sleep(0.01)
    again = kit.chat("k").stream("count", idempotency_key="once")
    events = face.collect(again)
    thread.join(10)
    other.close()
    assert "".join(each.text for each in events) == TEXT
    assert len([each for each in events if each.text]) > 2
    assert again.reply.message == first.reply.message
    assert len(slow.requests) == 1


@pytest.mark.once
def test_a_slow_reader_is_not_a_silent_server(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The time that its reader takes between two events does not count as the server's silence."""
    from convokit import Timeouts  # noqa: PLC0415

    server.script(stream(["a ", "b ", "c "], pause_s=0.05))
    events = kit.chat("k").stream("count", timeouts=Timeouts(stall_s=0.2))

    def slowly() -> None:
        time.sleep(0.25)

    assert "".join(_read(face, events, slowly)) == "a b c "


def _read(face: Face, events: Any, between: Any) -> list[str]:
    if face.name == "sync":
        return [(each.text, between())[0] for each in events]

    async def read() -> list[str]:
        return [(each.text, between())[0] async for each in events]

    return face.loop.run_until_complete(read())
