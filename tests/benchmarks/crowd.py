"""200 conversations at once in one asyncio process, against a server that takes 200 ms: turns a second.

`python -m tests.benchmarks.crowd [CONVERSATIONS] [TURNS] [ROUNDS] [--write PAGE]`: convokit's asynchronous face, against
asyncio by hand: ten httpx clients of twenty connections each (one shared client is slower the more it holds), sqlite3 in one
thread or psycopg in sixteen. The server answers in 200 ms, so 200 conversations could have 1,000 turns a second.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from convokit import AsyncConvokit, Convokit
from tests.benchmarks import page
from tests.benchmarks.hand import JSON, Asked, ByHand, PostgresByHand, SqliteByHand
from tests.benchmarks.server import running
from tests.support.databases import Files, Postgres

DELAY_S = 0.2
CLIENTS = 10
QUESTION = "A question as long as one is on average, made of the words that people use most of the time. " * 6


def conversations(url: str, database: str, count: int) -> list[UUID]:
    """Make conversations of one turn; return their ids."""
    with Convokit(database, model="bench", base_url=url) as kit:
        for number in range(count):
            kit.chat(str(number)).send("hello")
        found: list[UUID] = []
        before = None
        while len(found) < count:
            listed = kit.conversations(limit=1000, before=before)
            found += [each.id for each in listed]
            before = listed.next
    return found


async def ours(url: str, database: str, places: Sequence[UUID], turns: int) -> None:
    """Every conversation has its turns, all at once."""

    async def talk(kit: AsyncConvokit, place: UUID) -> None:
        for _ in range(turns):
            await kit.chat(id=place).send(QUESTION)

    async with AsyncConvokit(database, model="bench", base_url=url) as kit:
        await asyncio.gather(*(talk(kit, place) for place in places))


async def by_hand(url: str, make: Callable[[], ByHand], threads: int, places: Sequence[UUID], turns: int) -> None:
    """The same with a database in threads of its own, a connection each, and clients that share the load."""
    own, made = threading.local(), list[ByHand]()

    def open_one() -> None:
        own.hand = make()
        made.append(own.hand)

    def save(asked: Asked, answer: httpx.Response) -> None:
        own.hand.save(asked, answer.json())

    loop, limits = asyncio.get_running_loop(), httpx.Limits(max_connections=len(places) // CLIENTS + 1)
    with ThreadPoolExecutor(threads, initializer=open_one) as pool:
        clients = [httpx.AsyncClient(limits=limits, timeout=30, verify=False) for _ in range(CLIENTS)]

        async def talk(number: int, place: UUID) -> None:
            client = clients[number % CLIENTS]
            for _ in range(turns):
                asked = await loop.run_in_executor(pool, lambda: own.hand.ask(place, QUESTION))
                answer = await client.post(f"{url}/chat/completions", content=asked.data, headers=JSON)
                await loop.run_in_executor(pool, save, asked, answer)

        await asyncio.gather(*(talk(number, place) for number, place in enumerate(places)))
        for client in clients:
            await client.aclose()
    for each in made:
        each.close()


def measure(
    kind: str, make: Callable[[], str], urls: tuple[str, str], count: int, turns: int, rounds: int
) -> list[str]:
    """Return one line of the table."""
    fast, slow = urls
    hands: Any = SqliteByHand if kind == "SQLite" else PostgresByHand
    threads = 1 if kind == "SQLite" else 16
    databases = [make(), make()]
    places = [conversations(fast, database, count) for database in databases]
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        began = time.perf_counter()
        asyncio.run(by_hand(slow, lambda: hands(slow, databases[0]), threads, places[0], turns))
        between = time.perf_counter()
        asyncio.run(ours(slow, databases[1], places[1], turns))
        taken[0].append(count * turns / (between - began))
        taken[1].append(count * turns / (time.perf_counter() - between))
    hand, own = (statistics.median(each) for each in taken)
    return [kind, f"{hand:,.0f}", f"{own:,.0f}", f"{own / hand:.2f}"]


def main(count: int = 200, turns: int = 3, rounds: int = 3) -> str:
    """Print the table and return it."""
    with running(1) as fast, running(1, DELAY_S) as slow, ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="convokit-bench-"))
        server = Postgres(durable=True)
        stack.callback(server.close)
        makers = {"SQLite": Files(Path(folder)).migrated, "PostgreSQL": server.migrated}
        lines = [measure(kind, make, (fast, slow), count, turns, rounds) for kind, make in makers.items()]
    head = [f"{count} at once, {turns} turns each", "by hand, turns/s", "convokit, turns/s", "convokit / by hand"]
    table = page.table(head, lines)
    print(table)
    return table


if __name__ == "__main__":
    page.run("crowd", main)
