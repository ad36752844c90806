"""Building a context in conversations of 1,000, 100,000 and 1,000,000 messages: the same rows, and about the same time.

`python -m tests.benchmarks.context [ROUNDS] [--write PAGE]`: `chat.context("...")` on SQLite and PostgreSQL, on a straight path
and on one of two branches that take turns every 4 messages. The conversations take turns; medians of wall time, and ratios to
the shortest conversation of wall time and of this process's CPU time.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import event, text

from convokit import Budget, Convokit
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.benchmarks import page
from tests.benchmarks.verify import seconds
from tests.support.databases import Files, Postgres
from tests.support.large_databases import grow
from tests.support.server import LoopbackServer

SIZES = (1_000, 100_000, 1_000_000)
BUDGET = Budget(context_tokens=8192)


class Statements:
    """Counts what a kit executes."""

    def __init__(self, kit: Convokit) -> None:
        self.count = 0
        event.listen(kit._runtime._store.engine, "before_cursor_execute", self._statement)

    def _statement(self, *given: Any) -> None:
        self.count += not given[2].startswith("BEGIN")


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """Yield a migrated database of each kind there is."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="convokit-bench-"))
        found = {"SQLite": Files(Path(folder)).migrated()}
        try:
            server = Postgres(durable=True)
        except (ImportError, OSError) as error:
            print(f"no PostgreSQL: {error}", file=sys.stderr)
        else:
            stack.callback(server.close)
            found["PostgreSQL"] = server.migrated()
        yield found


def grown(kit: Convokit, url: str, key: str, count: int, run: int | None) -> None:
    """Make a conversation of so many messages."""
    chat = kit.chat(key)
    chat.send("first " + "words " * 20)
    identity = chat.id
    assert isinstance(identity, UUID)
    engine = open_engine(parse_database_url(url))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        grow(connection, identity, count, run=run)
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(text("ANALYZE"))
    engine.dispose()


HEAD = ("", "messages", "ms", "against the first, wall", "CPU", "messages looked at", "statements")


def main(rounds: int = 60) -> str:
    """Print the table and return it."""
    server, lines = LoopbackServer().start(), list[list[str]]()
    with databases() as found:
        for name, url in found.items():
            with Convokit(url, model="bench", base_url=server.url, budget=BUDGET) as kit:
                for run in (None, 4):
                    lines += _compare(f"{name}, {'straight' if run is None else 'branched'}", kit, url, run, rounds)
    server.stop()
    table = page.table(HEAD, lines)
    print(table)
    return table


def _compare(title: str, kit: Convokit, url: str, run: int | None, rounds: int) -> list[list[str]]:
    chats = {}
    for count in SIZES:
        grown(kit, url, f"{run} {count}", count, run)
        chats[count] = kit.chat(f"{run} {count}")
    times: dict[int, list[tuple[float, float]]] = {count: [] for count in SIZES}
    for _ in range(rounds):
        for count, chat in chats.items():
            times[count].append(seconds(partial(chat.context, "and now?")))
    medians = {count: [statistics.median(each) for each in zip(*taken, strict=True)] for count, taken in times.items()}
    lines = []
    for count, chat in chats.items():
        statements = Statements(kit)
        sent = len(chat.context("and now?").report.parts)
        ratios = [f"{own / first:.2f}" for own, first in zip(medians[count], medians[SIZES[0]], strict=True)]
        lines.append(
            [title, f"{count:,}", f"{medians[count][0] * 1000:.2f}", *ratios, str(sent), str(statements.count)]
        )
    return lines


if __name__ == "__main__":
    page.run("context", main)
