"""What is asked of a database of 1,000,000 messages in 10,000 conversations, against the same in one of 10,000 in 100.

`python -m tests.benchmarks.scale [--conversations N] [--rounds N] [--only sqlite|postgresql] [--write PAGE]`. The large
database has a tenant like the small one's, and all the rest belongs to another: each question is put to the small database, to
the tenant that is as small in the large one, and to the large tenant. Every conversation has 100 messages. The three take turns
in one run, each time with another conversation; medians, as ratios to the small database. Filling the large ones takes some
minutes and some 4 GB on disk each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from convokit import Convokit
from tests.benchmarks import engines, million, page
from tests.benchmarks.server import running
from tests.benchmarks.turn import BUDGET, MILLION, QUESTION

SMALL = 100


@dataclass(frozen=True, slots=True)
class Place:
    """A tenant in a database, and the keys of its conversations."""

    kit: Convokit
    keys: list[str]

    def key(self, number: int) -> str:
        """Return the key of a conversation, spread over all there are."""
        return self.keys[number * 37 % SMALL * (len(self.keys) // SMALL)]


def turn(place: Place, number: int) -> Any:
    """Ask something, in every other conversation."""
    return place.kit.chat(place.key(2 * number)).send(QUESTION)


def listing(place: Place, number: int) -> Any:
    """List the conversations that were last used."""
    return place.kit.conversations(limit=50)


def verify(place: Place, number: int) -> Any:
    """Verify one of the conversations that no turn is added to."""
    return place.kit.chat(place.key(2 * number + 1)).verify()


def search(word: str, place: Place, number: int) -> Any:
    """Search the whole tenant."""
    found = place.kit.search(word)
    assert found.items, word
    return found


def inside(word: str, place: Place, number: int) -> Any:
    """Search one conversation."""
    return place.kit.search(word, key=place.key(2 * number + 1))


def works() -> dict[str, Callable[[Place, int], Any]]:
    """Return what is measured."""
    english, japanese = million.common()
    return {
        "a turn": turn,
        "the 50 last used conversations": listing,
        "verify a conversation": verify,
        f"a word of one conversation ({english})": partial(inside, english),
        f"two characters of one conversation ({japanese})": partial(inside, japanese),
        "a word in 20 messages of the tenant": partial(search, million.RARE[0]),
        "two characters in 20 messages": partial(search, million.RARE[1]),
        "a word in 1 % of the messages": partial(search, million.SOME[0]),
        "two characters in 1 %": partial(search, million.SOME[1]),
        f"a word in most messages ({english})": partial(search, english),
        f"two characters in most ({japanese})": partial(search, japanese),
    }


Taken = dict[str, list[tuple[list[float], list[float]]]]
"""By work, for each place: seconds of wall time and of CPU time."""


def measure(places: list[Place], rounds: int) -> Taken:
    """Put every question in every place, by turns."""
    asked = works()
    taken: Taken = {name: [([], []) for _ in places] for name in asked}
    for number in range(-3, rounds):
        for name, work in asked.items():
            order = list(enumerate(places))
            for at, place in order if number % 2 else reversed(order):
                wall, cpu = time.perf_counter(), time.process_time()
                work(place, number)
                times = (time.perf_counter() - wall, time.process_time() - cpu)
                if number >= 0:  # after what is done once
                    for kept, each in zip(taken[name][at], times, strict=True):
                        kept.append(each)
    return taken


def rows(taken: Taken) -> list[list[str]]:
    """Return the table's lines."""
    lines = []
    for name, places in taken.items():
        walls, cpus = ([statistics.median(each[at]) for each in places] for at in (0, 1))
        line = [name, f"{walls[0] * 1000:.2f}"]
        for at in (1, 2):
            line += [f"{walls[at] / walls[0]:.2f}", f"{cpus[at] / cpus[0]:.2f}"]
        lines.append(line)
    return lines


def run(kind: str, make: Callable[[], str], url: str, conversations: int, rounds: int) -> str:
    """Fill two databases of one kind, measure, and return the table."""
    settings: dict[str, Any] = {"model": "bench", "base_url": url, "budget": BUDGET}
    with ExitStack() as stack:
        places = []
        for sizes in ({"one": SMALL}, {"one": SMALL, "rest": conversations - SMALL}):
            database, began = make(), time.perf_counter()
            keys = million.fill(database, sizes)
            print(f"{kind}: {sizes}, filled in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            for tenant, named in keys.items():
                kit = stack.enter_context(Convokit(database, tenant=tenant, **settings))
                places.append(Place(kit, named))
        taken = measure(places, rounds)
    title = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[kind]
    large = f"{conversations * 2 * million.TURNS:,}"
    head = (
        title,
        f"{SMALL * 2 * million.TURNS:,}, ms",
        f"among {large}, as small a tenant",
        "CPU",
        "the large tenant",
        "CPU",
    )
    return page.table(head, rows(taken))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--conversations", type=int, default=MILLION // (2 * million.TURNS))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    parts = []
    with running(1) as url, engines.makers(given.only) as makers:
        for kind, make in makers.items():
            parts.append(run(kind, make, url, given.conversations, given.rounds))
            print(parts[-1], end="\n\n", flush=True)
    if given.write is not None:
        page.put(given.write, "scale", "\n\n".join(parts))


if __name__ == "__main__":
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    main()
