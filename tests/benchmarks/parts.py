"""Where the processor time of a plain turn goes, beside the same by hand.

`python -m tests.benchmarks.parts [TURNS] [--write PAGE]`: a turn behind 1,000 messages, in milliseconds of CPU. Of
PostgreSQL, it is the client's part alone.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import httpx

from convokit.completion import begin
from convokit.runtime.http_answer import Answer
from convokit.runtime.http_client import HttpxClient
from convokit.runtime.sync_store import SyncStore
from tests.benchmarks import engines, page
from tests.benchmarks.hand import PostgresByHand, SqliteByHand
from tests.benchmarks.server import running
from tests.benchmarks.turn import QUESTION, contenders

PARTS = ("reading", "window and request", "writing", "HTTP")
PLACE = "1,000"
taken: defaultdict[str, float] = defaultdict(float)


def time_calls(owner: Any, name: str, part: str | Callable[[dict[str, Any]], str]) -> None:
    """Add the time of a function to a part. `part` may depend on its keyword arguments."""
    function = getattr(owner, name)

    def run(*arguments: Any, **named: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            taken[part if isinstance(part, str) else part(named)] += time.process_time() - started

    setattr(owner, name, run)


def watch() -> None:
    """Time the parts, from now on, and for this process."""
    time_calls(SyncStore, "run", lambda named: "writing" if named["write"] else "reading")
    time_calls(begin, "prepare", "window and request")
    time_calls(HttpxClient, "open", "HTTP")
    for name in ("read", "close"):
        time_calls(Answer, name, "HTTP")
    time_calls(httpx.Client, "post", "HTTP")
    for by_hand in (SqliteByHand, PostgresByHand):
        time_calls(by_hand, "run", lambda named: "writing" if named.get("write") else "reading")
        time_calls(by_hand, "commit", "writing")


def measure(contender: Any, conversation: Any, turns: int) -> dict[str, float]:
    """Return the milliseconds of each part of a turn."""
    for _ in range(30):
        contender.turn(conversation, QUESTION)
    taken.clear()
    started = time.process_time()
    for _ in range(turns):
        contender.turn(conversation, QUESTION)
    whole = time.process_time() - started
    found = {part: taken[part] / turns * 1000 for part in PARTS}
    rest = (whole - sum(taken.values())) / turns * 1000
    return {**found, "the rest": rest, "all": whole / turns * 1000}


def main(turns: int = 200) -> str:
    """Print the table and return it."""
    watch()
    lines = []
    with running(1) as url, engines.makers() as makers:
        for kind, make in makers.items():
            with contenders(kind, make, url, {PLACE: 1_000}, crowd=False) as made:
                for name in ("convokit", "by hand"):
                    one, ids = made[name]
                    if name == "by hand":
                        one.wanted = made["convokit"][0].sent
                    found = measure(one, ids[PLACE], turns)
                    lines.append([f"{kind}, {name}", *(f"{value:.2f}" for value in found.values())])
    table = page.table(["ms of CPU", *PARTS, "the rest", "all"], lines)
    print(table)
    return table


if __name__ == "__main__":
    page.run("parts", main)
