"""Tool rounds: recorded, run, told to the model, and never left half done."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from typing import Any

import pytest
from sqlalchemy import text as sql

from convokit import AsyncConvokit, Budget
from convokit.context.validity import find_problems
from convokit.errors import TooManyRounds
from convokit.store.engine import open_engine, parse_database_url
from tests.support.faces import Face
from tests.support.server import LoopbackServer, calls


def weather(city: str, unit: str = "c") -> dict[str, Any]:
    """Return the weather.

    Args:
        city: Where, e.g. 東京.
        unit: c or f.
    """
    return {"city": city, "degrees": 21, "unit": unit}


async def slow_weather(city: str) -> str:
    """Return the weather, in a while."""
    await asyncio.sleep(0.01)
    return f"sunny in {city}"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_round_is_run_and_recorded(face: Face, kit: Any, server: LoopbackServer, streamed: bool) -> None:
    """The call is run with its arguments, its result is sent back, and both are stored before the next call."""
    server.script(calls(("c1", "weather", '{"city": "東京", "unit": null}'), streamed=streamed))
    chat = kit.chat("t", tools=[weather])
    if streamed:
        streaming = chat.stream("weather?")
        face.collect(streaming)
        reply = streaming.reply
    else:
        reply = face.settle(chat.send("weather?"))
    assert reply.attempts == 2
    first, second = (request.body for request in server.requests)
    assert first["tools"][0]["function"]["name"] == "weather"
    assert first["tools"][0]["function"]["strict"] is True
    assert second["messages"][-1]["role"] == "tool"
    assert json.loads(second["messages"][-1]["content"]) == {"city": "東京", "degrees": 21, "unit": "c"}
    roles = [message.role for message in face.settle(chat.messages())]
    assert roles == ["user", "assistant", "tool", "assistant"]
    face.settle(chat.verify())


def test_several_calls_run_at_once_and_answer_in_order(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Parallel calls really run at the same time; their answers stand in the order of the calls."""
    both = threading.Barrier(2, timeout=5)

    def one(name: str) -> str:
        """Meet the other."""
        both.wait()
        return f"met as {name}"

    asked = [("a", "one", '{"name": "a"}'), ("b", "one", '{"name": "b"}'), ("c", "slow_weather", '{"city": "x"}')]
    server.script(calls(*asked))
    face.settle(kit.chat("t").send("go", tools=[one, slow_weather]))
    answers = server.requests[-1].body["messages"][-3:]
    assert [answer["tool_call_id"] for answer in answers] == ["a", "b", "c"]
    assert [answer["content"] for answer in answers] == ["met as a", "met as b", "sunny in x"]
    face.settle(kit.chat("t").verify())


@pytest.mark.once
def test_the_model_is_told_what_went_wrong(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Bad arguments, an unknown tool and an exception become results that say so; the turn goes on."""

    def broken(city: str) -> str:
        """Fail."""
        raise RuntimeError(f"no weather in {city}")

    asked = [("a", "broken", "{not json"), ("b", "nothing", "{}"), ("c", "broken", '{"city": "x"}')]
    server.script(calls(*asked))
    face.settle(kit.chat("t").send("go", tools=[broken]))
    said = [message["content"] for message in server.requests[-1].body["messages"][-3:]]
    assert "JSON" in said[0]
    assert "no such tool" in said[1]
    assert "no weather in x" in said[2]
    assert "Traceback" not in "".join(said)


@pytest.mark.once
def test_a_result_is_cut_where_it_is_stored(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A result over the limit is stored and sent cut, with a mark."""

    def long() -> str:
        """Say much."""
        return "長" * 50_000

    server.script(calls(("a", "long", "{}")))
    face.settle(kit.chat("t").send("go", tools=[long], budget=Budget(context_tokens=100_000)))
    stored = face.settle(kit.chat("t").messages())[2].text
    assert len(stored.encode()) <= 32 * 1024
    assert "cut" in stored[-80:]


@pytest.mark.once
def test_rounds_end(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A model that never stops calling is stopped with a typed error; the chat is valid and goes on."""
    server.script(*[calls((f"c{number}", "weather", '{"city": "x", "unit": "c"}')) for number in range(4)])
    with pytest.raises(TooManyRounds) as caught:
        face.settle(kit.chat("t").send("go", tools=[weather], max_tool_rounds=3))
    assert caught.value.rounds == 3
    assert len(server.requests) == 4
    assert face.settle(kit.chat("t").send("again")).text == "echo: again"
    assert find_problems(server.requests[-1].body["messages"]) == []
    face.settle(kit.chat("t").verify())


def test_tools_without_a_function_are_the_callers(face: Face, kit: Any, server: LoopbackServer) -> None:
    """When a called tool has no function here, the reply hands the calls to the caller; the next send is valid."""
    described = {
        "type": "function",
        "function": {"name": "pay", "description": "Pay.", "parameters": {"type": "object"}},
    }
    server.script(calls(("c1", "pay", '{"amount": 5}')))
    reply = face.settle(kit.chat("t").send("pay", tools=[described]))
    assert [call["function"]["name"] for call in reply.tool_calls] == ["pay"]
    face.settle(kit.chat("t").send("never mind"))
    assert find_problems(server.requests[-1].body["messages"]) == []


def test_every_call_is_on_record_before_it_runs(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """While a tool runs, its row says running; afterwards it says what came of it."""
    seen: list[str] = []
    engine = open_engine(parse_database_url(database))

    def look() -> str:
        """Look at the record."""
        with engine.connect() as connection:
            seen.extend(connection.execute(sql("SELECT state FROM convokit_tool_call")).scalars())
        return "ok"

    server.script(calls(("c1", "look", "{}")))
    face.settle(kit.chat("t").send("go", tools=[look]))
    with engine.connect() as connection:
        after = connection.execute(sql("SELECT state, result_seq FROM convokit_tool_call")).one()
    engine.dispose()
    assert seen == ["running"]
    assert tuple(after) == ("done", 3)


KILLED = """
import os, signal, sys
from convokit import Convokit

def look() -> str:
    "Look."
    os.kill(os.getpid(), signal.SIGKILL)

Convokit(sys.argv[1], model="m", base_url=sys.argv[2]).chat("t").send("go", tools=[look])
"""


@pytest.mark.once
def test_killed_while_a_tool_runs(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """A worker that dies inside a tool leaves a call whose outcome is unknown: never run again, never sent, chain whole."""
    script = calls(("c1", "look", "{}"))
    assert isinstance(script.pieces[0], bytes)
    script.pieces[0] = script.pieces[0].replace(b'"content": null', b'"content": "Let me look."')
    server.script(script)
    subprocess.run([sys.executable, "-c", KILLED, database, server.url], check=False)
    assert face.settle(kit.chat("t").send("and?")).text == "echo: and?"
    assert find_problems(server.requests[-1].body["messages"]) == []
    face.settle(kit.chat("t").verify())
    stored = face.settle(kit.chat("t").messages())
    assert [message.text for message in stored] == ["go", "Let me look.", "and?", "echo: and?"]
    assert _tool_states(database) == ["unknown"]


def _tool_states(database: str) -> list[str]:
    engine = open_engine(parse_database_url(database))
    with engine.connect() as connection:
        states = list(connection.execute(sql("SELECT state FROM convokit_tool_call")).scalars())
    engine.dispose()
    return states


def test_cancelled_while_a_tool_runs(database: str, server: LoopbackServer) -> None:
    """A task cancelled inside a tool closes its turn; what the model said before the call stays, once, on the path."""

    async def forever() -> str:
        """Wait."""
        await asyncio.sleep(60)
        return ""

    async def run() -> None:
        server.script(calls(("c1", "forever", "{}")))
        async with AsyncConvokit(database, model="m", base_url=server.url) as kit:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await kit.chat("t").send("go", tools=[forever])
            assert (await kit.chat("t").send("and?")).text == "echo: and?"
            await kit.chat("t").verify()

    asyncio.run(run())
    assert _tool_states(database) == ["unknown"]
