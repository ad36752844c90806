"""A plain turn: convokit against the same by hand (sqlite3 or psycopg, and httpx) and as an expert writes it (SQLAlchemy ORM
and the openai package), at 10 to 100,000 messages, and between 50,000 rows of others.

`python -m tests.benchmarks.turn [--rounds N] [--million] [--only sqlite|postgresql] [--write PAGE]`. Every contender has a
database of its own, filled alike; they take turns in one run. Medians of CPU time of this process and of wall time; ratios are
of medians. The server is a process of its own and answers at once. Put TMPDIR in memory to leave the disk out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text

from convokit import Budget, Convokit
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.benchmarks import engines, page
from tests.benchmarks.expert import Expert
from tests.benchmarks.hand import PostgresByHand, SqliteByHand
from tests.benchmarks.server import REPLY, running
from tests.support.large_databases import fill, grow
from tests.support.reports import report_of

SIZES = (10, 1_000, 100_000)
MILLION = 1_000_000
CROWD = 50_000
BUDGET = Budget(context_tokens=8192)
QUESTION = "A question as long as one is on average, made of the words that people use most of the time. " * 6


class Ours:
    """convokit, as it comes."""

    def __init__(self, url: str, database: str) -> None:
        self.kit = Convokit(database, model="bench", base_url=url, budget=BUDGET)
        self.sent = 0

    def turn(self, conversation: UUID, question: str) -> str:
        """Answer one question."""
        reply = self.kit.chat(id=conversation).send(question)
        self.sent = sum(part.kind == "message" for part in report_of(reply).included)
        return reply.text

    def close(self) -> None:
        self.kit.close()


@dataclass(slots=True)
class Times:
    """What was measured of one contender in one place."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    """How many messages each request held."""

    @property
    def cpu_ms(self) -> float:
        return statistics.median(self.cpu) * 1000

    @property
    def wall_ms(self) -> float:
        return statistics.median(self.wall) * 1000


Table = dict[str, dict[str, Times]]
"""By place ("10", "100,000", "1,000 among 50,000 others"), by contender."""


def changed(database: str, *work: Callable[[Any], object]) -> None:
    """Run functions in one writing transaction, then let the planner look."""
    engine = open_engine(parse_database_url(database))
    for each in (*work, _analyze):
        with engine.execution_options(**{WRITE: True}).begin() as connection:
            each(connection)
    engine.dispose()


def _analyze(connection: Any) -> None:
    connection.execute(text("ANALYZE"))


def grown(url: str, database: str, sizes: dict[str, int], *, crowd: bool) -> dict[str, UUID]:
    """Make conversations of so many messages; return their ids."""
    found: dict[str, UUID] = {}
    with Convokit(database, model="bench", base_url=url, budget=BUDGET) as kit:
        for name in sizes:
            chat = kit.chat(name)
            chat.send(QUESTION)
            assert chat.id is not None
            found[name] = chat.id
        others = kit.chat("others")
        others.send(QUESTION)
    identity = others.id
    assert identity is not None
    work: list[Callable[[Any], object]] = [
        partial(grow, conversation_id=found[name], count=sizes[name]) for name in sizes
    ]
    if crowd:
        work += [
            partial(fill, conversation_id=identity, count=CROWD),
            partial(grow, conversation_id=identity, count=CROWD),
        ]
    changed(database, *work)
    return found


@contextmanager
def contenders(kind: str, make: Callable[[], str], url: str, places: dict[str, int], *, crowd: bool) -> Iterator[Any]:
    """Yield each contender with the ids of its conversations."""
    hand: Any = SqliteByHand if kind == "sqlite" else PostgresByHand
    with ExitStack() as stack:
        made: dict[str, tuple[Any, dict[str, UUID]]] = {}
        for name, one in (("convokit", Ours), ("by hand", hand)):
            database = make()
            made[name] = (one(url, database), grown(url, database, places, crowd=crowd))
            stack.callback(made[name][0].close)
        if not crowd:
            expert = Expert(url, make())
            stack.callback(expert.close)
            ids = {name: UUID(int=number) for number, name in enumerate(places, 1)}
            for name, count in places.items():
                if count < MILLION:
                    expert.fill(ids[name], count, REPLY)
            made["expert"] = (expert, ids)
        yield made


def measure(kind: str, make: Callable[[], str], url: str, *, rounds: int, million: bool) -> Table:
    """Return every time that was measured on one kind of database."""
    sizes = [*SIZES, *([MILLION] if million else [])]
    found: Table = {}
    for crowd, places in (
        (False, {f"{size:,}": size for size in sizes}),
        (True, {f"1,000 among {CROWD:,} others": 1_000}),
    ):
        with contenders(kind, make, url, places, crowd=crowd) as made:
            for number in range(-5, rounds):
                for place, count in places.items():
                    for name, (one, ids) in made.items():
                        if name != "convokit":
                            one.wanted = made["convokit"][0].sent  # the same messages, so the same bytes
                        if count == MILLION and name == "expert":
                            continue
                        wall, cpu = time.perf_counter(), time.process_time()
                        assert one.turn(ids[place], QUESTION) == REPLY
                        times = (time.process_time() - cpu, time.perf_counter() - wall)
                        if number >= 0:  # after what is done once
                            at = found.setdefault(place, {}).setdefault(name, Times())
                            at.cpu.append(times[0])
                            at.wall.append(times[1])
                            at.sent.append(one.sent)
    return found


def rows(table: Table) -> list[list[str]]:
    """Return the table's lines: milliseconds of CPU, and what others take of what ours does."""
    lines = []
    for place, by in table.items():
        ours, hand, expert = by["convokit"], by["by hand"], by.get("expert")
        line = [place, f"{hand.cpu_ms:.2f}", f"{ours.cpu_ms:.2f}", f"{expert.cpu_ms:.2f}" if expert else ""]
        line += [f"{ours.cpu_ms / hand.cpu_ms:.2f}", f"{ours.wall_ms / hand.wall_ms:.2f}"]
        line += [f"{ours.cpu_ms / expert.cpu_ms:.2f}", f"{ours.wall_ms / expert.wall_ms:.2f}"] if expert else ["", ""]
        lines.append(line)
    return lines


def flatness(table: Table) -> str:
    """Return how much more a turn costs in a long conversation, and among others' rows."""
    ours = {place: by["convokit"].cpu_ms for place, by in table.items()}
    first = ours["1,000"]
    parts = [f"{place}: {cost / first:.2f}" for place, cost in ours.items() if place != "1,000"]
    sent = ", ".join(f"{name} {statistics.mean(times.sent):.1f}" for name, times in table["1,000"].items())
    return f"A turn of convokit against one at 1,000 messages (CPU): {'; '.join(parts)}. Messages in a request: {sent}."


HEAD = (
    *("messages", "by hand, ms", "convokit, ms", "expert, ms"),
    *("convokit / by hand, CPU", "wall", "convokit / expert, CPU", "wall"),
)


def text_of(kind: str, table: Table, rounds: int) -> str:
    """Return what is printed, and written."""
    title = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[kind]
    return f"{title}, medians of {rounds} turns:\n\n{page.table(HEAD, rows(table))}\n\n{flatness(table)}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    parts = []
    with running(1) as url, engines.makers(given.only) as makers:
        for kind, make in makers.items():
            parts.append(
                text_of(kind, measure(kind, make, url, rounds=given.rounds, million=given.million), given.rounds)
            )
            print(parts[-1], end="\n\n", flush=True)
    if given.write is not None:
        page.put(given.write, "turn", "\n\n".join(parts))


if __name__ == "__main__":
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    main()
