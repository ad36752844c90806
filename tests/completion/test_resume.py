"""Sending the same thing again, and finishing what was begun: one question, one reply."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from typing import Any

import pytest

from convokit import AsyncConvokit, Convokit, Retry
from convokit.context.validity import find_problems
from convokit.errors import ConvokitError, IdempotencyConflict, Interrupted, NotFound, ServerFailed
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion, failure, stream

pytestmark = pytest.mark.once

ONCE = Retry(attempts=1)


def _texts(face: Face, chat: Any) -> list[str]:
    return [message.text for message in face.settle(chat.messages())]


def test_a_repeated_send_has_the_stored_reply(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """The same key and request, from another kit too, gives the same reply: one call, one question."""
    chat = kit.chat("k")
    first = face.settle(chat.send("pay", idempotency_key="order-1"))
    other = face.kit(database, model="loop-1", base_url=server.url)
    again = face.settle(other.chat("k").send("pay", idempotency_key="order-1"))
    assert (again.text, again.turn_id, again.message.id) == (first.text, first.turn_id, first.message.id)
    assert again.usage == first.usage
    assert len(server.requests) == 1
    streaming = chat.stream("pay", idempotency_key="order-1")
    assert "".join(event.text for event in face.collect(streaming)) == first.text
    assert _texts(face, chat) == ["pay", "echo: pay"]


@pytest.mark.parametrize(("text", "more"), [("pay twice", {}), ("pay", {"temperature": 0.5})])
def test_another_request_under_the_same_key_is_a_conflict(
    face: Face, kit: Any, text: str, more: dict[str, Any]
) -> None:
    """A key belongs to one request; another text or other parameters under it are refused."""
    face.settle(kit.chat("k").send("pay", idempotency_key="order-1"))
    with pytest.raises(IdempotencyConflict):
        face.settle(kit.chat("k").send(text, idempotency_key="order-1", **more))
    assert len(face.settle(kit.chat("k").messages())) == 2


def test_a_failed_turn_is_finished_by_its_repeat(face: Face, kit: Any, server: LoopbackServer) -> None:
    """After a failure the repeat asks again for the same question: it is stored once."""
    server.script(failure(500))
    with pytest.raises(ServerFailed):
        face.settle(kit.chat("k").send("pay", idempotency_key="order-1", retry=ONCE))
    reply = face.settle(kit.chat("k").send("pay", idempotency_key="order-1"))
    assert reply.text == "echo: pay"
    assert _texts(face, kit.chat("k")) == ["pay", "echo: pay"]
    face.settle(kit.chat("k").verify())


def test_a_failed_turn_is_finished_though_others_came_after_it(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Repeated after later turns, a failed turn gets its reply as a branch of its own; the chat's path stays."""
    server.script(failure(500))
    with pytest.raises(ServerFailed):
        face.settle(kit.chat("k").send("pay", idempotency_key="order-1", retry=ONCE))
    face.settle(kit.chat("k").send("more"))
    assert face.settle(kit.chat("k").send("pay", idempotency_key="order-1")).text == "echo: pay"
    assert _texts(face, kit.chat("k")) == ["pay", "more", "echo: more"]
    assert [each["content"] for each in server.requests[-1].body["messages"]] == ["pay"]
    face.settle(kit.chat("k").verify())


def test_many_at_once_under_one_key(database: str, server: LoopbackServer) -> None:
    """Eight threads and a process-wide race: one call, one question, everyone has the same reply."""
    slow = completion("done")
    slow.delay_s = 0.3
    server.script(slow)
    with Convokit(database, model="m", base_url=server.url) as kit:
        replies: list[Any] = []

        def work() -> None:
            try:
                replies.append(kit.chat("k").send("pay", idempotency_key="x").message.id)
            except ConvokitError as error:
                replies.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(replies)) == 1, replies
        assert len(replies) == 8
        assert len(server.requests) == 1
        assert [message.text for message in kit.chat("k").messages()] == ["pay", "done"]
        kit.chat("k").verify()


def test_a_cancelled_send_may_be_repeated(database: str, server: LoopbackServer) -> None:
    """Cancelled and sent again under its key, the turn is the same one; nothing is doubled."""
    server.answer = lambda body: stream(["a ", "b "], pause_s=0.2) if body.get("stream") else completion("whole")

    async def run() -> None:
        async with AsyncConvokit(database, model="m", base_url=server.url) as kit:
            chat = kit.chat("k")

            async def read() -> None:
                async with chat.stream("pay", idempotency_key="x") as events:
                    async for _ in events:
                        pass

            for delay in (0.005, 0.05, 0.15):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(read(), delay)
            assert (await chat.send("pay", idempotency_key="x")).text == "whole"
            assert [message.text for message in await chat.messages()] == ["pay", "whole"]
            await chat.verify()

    asyncio.run(run())


def test_resume_after_a_failure(face: Face, kit: Any, server: LoopbackServer) -> None:
    """`resume` asks again for the reply that the last turn is missing; the question is not put twice."""
    server.script(failure(500))
    with pytest.raises(ServerFailed):
        face.settle(kit.chat("k").send("hello", retry=ONCE))
    assert face.settle(kit.chat("k").resume()).text == "echo: hello"
    assert [each["content"] for each in server.requests[-1].body["messages"]] == ["hello"]
    assert _texts(face, kit.chat("k")) == ["hello", "echo: hello"]
    assert face.settle(kit.chat("k").resume()).text == "echo: hello"
    assert len(server.requests) == 2
    face.settle(kit.chat("k").verify())


def test_resume_after_a_reply_that_broke_off(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The partial reply stays stored, off the path; the new one takes its place."""
    server.script(stream(["one ", "two "], finish=None, done=False))
    with pytest.raises(Interrupted):
        face.collect(kit.chat("k").stream("hello"))
    assert face.settle(kit.chat("k").resume()).text == "echo: hello"
    assert _texts(face, kit.chat("k")) == ["hello", "echo: hello"]
    assert face.settle(kit.chat("k").send("more")).text == "echo: more"
    face.settle(kit.chat("k").verify())


def test_resume_does_not_run_a_tool_twice(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Results that are recorded are sent again, not made again."""
    ran: list[str] = []

    def pay(to: str) -> str:
        """Pay."""
        ran.append(to)
        return "paid"

    call = {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": json.dumps({"to": "x"})}}
    server.script(completion(None, tool_calls=[call]), failure(500))
    with pytest.raises(ServerFailed):
        face.settle(kit.chat("k").send("pay", tools=[pay], retry=ONCE))
    server.script(completion("done"))
    assert face.settle(kit.chat("k").resume(tools=[pay])).text == "done"
    assert ran == ["x"]
    assert [each["role"] for each in server.requests[-1].body["messages"]] == ["user", "assistant", "tool"]
    assert find_problems(server.requests[-1].body["messages"]) == []
    face.settle(kit.chat("k").verify())


def test_resume_of_nothing(face: Face, kit: Any) -> None:
    """There must be a turn to resume."""
    with pytest.raises(NotFound):
        face.settle(kit.chat("nobody").resume())


def test_another_tenants_id_is_not_found(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """Sending to an id of another tenant is NotFound, as reading it is."""
    chat = kit.chat("k")
    face.settle(chat.send("secret"))
    other = face.kit(database, model="m", base_url=server.url, tenant="other")
    with pytest.raises(NotFound):
        face.settle(other.chat(id=chat.id).send("evil"))
    with pytest.raises(NotFound):
        face.collect(other.chat(id=chat.id).stream("evil"))
    assert len(server.requests) == 1


LOOPS = """
import asyncio, sys
from convokit import AsyncConvokit
kit = AsyncConvokit(sys.argv[1], model="m", base_url=sys.argv[2])

async def one(number):
    return (await kit.chat("k").send(f"turn {number}")).text

for number in range(4):
    assert asyncio.run(one(number)) == f"echo: turn {number}"
"""


@pytest.mark.once
def test_a_kit_serves_one_event_loop_after_another(database: str, server: LoopbackServer) -> None:
    """`asyncio.run` again and again with one kit: connections belong to their loop, and a new loop gets new ones."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", LOOPS, database, server.url], check=True)
