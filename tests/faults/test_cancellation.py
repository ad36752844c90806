"""Callers who leave at any moment: a task cancelled at each of its awaits, Ctrl-C at each effect.

Afterwards nothing acknowledged is lost, the conversation is free for everybody, the same send under its key ends in one
question and one reply, and no connection has leaked.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from convokit import AsyncConvokit, Convokit
from convokit.completion.effects import Effect, Emit
from convokit.runtime.sync import SyncDriver
from tests.faults import oracles
from tests.support.selection import Effort, keep
from tests.support.server import LoopbackServer, Script, calls, completion, stream

pytestmark = pytest.mark.soak(sample=True)

WAYS = ["plain", "streamed", "tools"]
STEP: dict[Effort, int] = {"quick": 11, "sample": 1, "soak": 1}
"""How far apart the moments are that are tried."""


def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


def answer(body: Any) -> Script:
    """Answer a question for a tool with a call of it, everything else with an echo in a few pieces."""
    said = body["messages"][-1]
    if said["role"] == "user" and "tools" in body:
        call_id = f"call_{len(body['messages'])}_{said['content']}"
        return calls((call_id, "double", '{"number": 21}'), streamed=bool(body.get("stream")))
    text = f"answer to {said['content']}"
    return stream(text.split(), pause_s=0.001) if body.get("stream") else completion(text)


class Leaving:
    """Runs a coroutine, and cancels its task while it waits for the nth time; `waits` counts them."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int, again: int | None = None) -> None:
        self._coroutine = coroutine
        self._at = at
        self._again = again
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        coroutine = self._coroutine.__await__()
        step: Callable[[], Any] = partial(next, coroutine)
        while True:
            try:
                waiting = step()
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits in (self._at, self._again):
                loop.call_soon(task.cancel)
            try:
                yield waiting
                step = partial(next, coroutine)
            except BaseException as error:
                step = partial(coroutine.throw, error)


async def ask(chat: Any, way: str, name: str) -> str:
    """Make one turn, under a key of its own."""
    if way == "streamed":
        async with chat.stream(name, idempotency_key=name) as events:
            async for _ in events:
                pass
        return str(events.reply.text)
    return str((await chat.send(name, idempotency_key=name, tools=[double] if way == "tools" else [])).text)


async def left_at(chat: Any, way: str, name: str, at: int, again: int | None = None) -> bool:
    """Make a turn and cancel it at its nth await. Return whether it was cancelled before its end."""
    leaving = Leaving(ask(chat, way, name), at, again)

    async def run() -> None:
        await leaving

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if task.cancelled():
        return True
    task.result()
    return leaving.waits >= at


def stranger_to(kit: Any) -> Any:
    """Have a kit see other workers' turns as a process on another host sees them: it cannot tell who is dead."""
    kit._state = replace(kit._state, is_alive=lambda owner, turn: None)
    return kit


def in_use(kit: Any) -> int:
    """Return how many connections of a kit are checked out."""
    store = kit._runtime._store
    engines = [pair[0].sync_engine for pair in getattr(store, "_engines", {}).values()]
    pools = [each.pool for each in engines or [getattr(store, "_store", store).engine]]
    loops = getattr(kit._runtime._client, "_loops", {0: getattr(kit._runtime._client, "_shards", {})})
    requests = sum(load for shards in loops.values() for each in shards.values() for load in each.load.values())
    return int(sum(pool.checkedout() for pool in pools) + requests)


def run_clean(main: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function; nothing may be left that asyncio complains about."""
    complaints: list[Any] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        await main()
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(run())
    gc.collect()
    assert complaints == []


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("way", keep(WAYS, "streamed", sample=True))
def test_a_task_cancelled_at_any_await(database: str, server: LoopbackServer, way: str, effort: Effort) -> None:
    """At whichever await a turn's task is cancelled: the next sender goes at once, and the repeat has one answer."""
    server.answer = answer

    async def main() -> None:
        async with (
            AsyncConvokit(database, model="m", base_url=server.url) as kit,
            stranger_to(AsyncConvokit(database, model="m", base_url=server.url)) as stranger,
        ):
            await ask(kit.chat("warm"), "plain", "warm")
            at, cancelled = 0, True
            while cancelled:
                at += STEP[effort]
                cancelled = await left_at(kit.chat(f"c{at}"), way, "question", at)
                await _check_free(database, kit, stranger, f"c{at}", way, next_first=bool(at % 2))
            assert at > 10
            assert in_use(kit) == in_use(stranger) == 0

    run_clean(main)


async def _check_free(database: str, kit: Any, stranger: Any, key: str, way: str, *, next_first: bool) -> None:
    """Check that anybody can go on, and that the repeat of the turn that was left has one question and one reply."""
    told = {}
    for step in ("next", "repeat") if next_first else ("repeat", "next"):
        if step == "next":
            told["next"] = (await stranger.chat(key).send("next", on_busy="raise")).text
        else:
            told["question"] = await ask(kit.chat(key), way, "question")
    oracles.check_once(oracles.check_conversation(database, key), told)


@pytest.mark.soak(sample=True)
@pytest.mark.once
def test_a_task_cancelled_twice_at_random(database: str, server: LoopbackServer, effort: Effort) -> None:
    """Cancelled again while its last saves run, a turn still leaves the conversation as whole and as free."""
    server.answer = answer
    chance = random.Random(20)
    rounds = {"quick": 6, "sample": 24, "soak": 400}[effort]

    async def main() -> None:
        async with AsyncConvokit(database, model="m", base_url=server.url) as kit:
            chat = kit.chat("c")
            told: dict[str, str] = {}
            for number in range(rounds):
                at = chance.randrange(1, 30)
                again = at + chance.randrange(1, 8)
                way = chance.choice(WAYS)
                await left_at(chat, way, f"q{number}", at, again)
                told[f"n{number}"] = (await chat.send(f"n{number}", on_busy="raise")).text
                if chance.random() < 0.5:
                    told[f"q{number}"] = await ask(chat, way, f"q{number}")
            oracles.check_once(oracles.check_conversation(database, "c"), told)
            assert in_use(kit) == 0

    run_clean(main)


@pytest.mark.soak(sample=True)
def test_more_tasks_than_connections_are_cancelled(database: str, server: LoopbackServer) -> None:
    """A hundred turns cancelled at different awaits at the same time leak no connection: as many more go through."""
    server.answer = answer

    async def main() -> None:
        async with AsyncConvokit(database, model="m", base_url=server.url) as kit:
            await ask(kit.chat("warm"), "plain", "warm")
            chats = [kit.chat(f"c{number}") for number in range(80)]
            await asyncio.gather(*(left_at(chat, WAYS[n % 3], "question", 1 + n % 29) for n, chat in enumerate(chats)))
            replies = await asyncio.gather(*(chat.send("next", on_busy="raise") for chat in chats))
            assert [reply.text for reply in replies] == ["answer to next"] * 80
            assert in_use(kit) == 0
        for number in range(0, 80, 9):
            oracles.check_conversation(database, f"c{number}")

    run_clean(main)


class Interrupting:
    """Stands in for `SyncDriver._perform`: Ctrl-C at the nth effect, right before it or right after it was done."""

    def __init__(self, at: int, *, after: bool) -> None:
        self._at = at
        self._after = after
        self.seen = 0

    def __call__(self, driver: SyncDriver, effect: Effect) -> Any:
        assert not isinstance(effect, Emit)
        self.seen += 1
        if self.seen != self._at:
            return PERFORM(driver, effect)
        if self._after:
            PERFORM(driver, effect)
        raise KeyboardInterrupt


PERFORM = SyncDriver._perform


def sync_ask(chat: Any, way: str, name: str) -> str:
    """Make one turn, under a key of its own."""
    if way == "streamed":
        with chat.stream(name, idempotency_key=name) as events:
            list(events)
        return str(events.reply.text)
    return str(chat.send(name, idempotency_key=name, tools=[double] if way == "tools" else []).text)


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", keep(WAYS, "streamed", "tools", sample=True))
def test_ctrl_c_at_any_effect(
    database: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, way: str, after: bool, effort: Effort
) -> None:
    """Ctrl-C before or right after any effect: the next sender goes at once, and the repeat has one answer."""
    server.answer = answer
    with (
        Convokit(database, model="m", base_url=server.url) as kit,
        stranger_to(Convokit(database, model="m", base_url=server.url)) as stranger,
    ):
        sync_ask(kit.chat("warm"), "plain", "warm")
        at, interrupted = 0, True
        while interrupted:
            at += STEP[effort]
            key = f"c{at}"
            interrupting = Interrupting(at, after=after)
            monkeypatch.setattr(SyncDriver, "_perform", lambda driver, effect, it=interrupting: it(driver, effect))
            try:
                sync_ask(kit.chat(key), way, "question")
                interrupted = False
            except KeyboardInterrupt:
                pass
            monkeypatch.undo()
            told = {}
            for step in ("next", "repeat") if at % 2 else ("repeat", "next"):
                if step == "next":
                    told["next"] = stranger.chat(key).send("next", on_busy="raise").text
                else:
                    told["question"] = sync_ask(kit.chat(key), way, "question")
            oracles.check_once(oracles.check_conversation(database, key), told)
        assert at > 5
        assert in_use(kit) == in_use(stranger) == 0
