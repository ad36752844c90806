"""Export and import, rows a second, beside a raw read of the same rows with the driver.

`python -m tests.benchmarks.export [MESSAGES] [EACH] [ROUNDS] [--write PAGE]`: MESSAGES messages (default 20,000), EACH (100) in
a conversation, on a SQLite file and on PostgreSQL. The raw read fetches every row of every table and does nothing with them.
The steps take turns; medians of wall time and of this process's CPU time (PostgreSQL's server is another). Imports do not wait
for the disk (`durability="fast"`).
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.engine import make_url

from convokit import Convokit
from convokit.store.schema import metadata
from tests.benchmarks import page
from tests.benchmarks.verify import seconds
from tests.support.databases import Files, Postgres

WORDS = "nginx はポート80で待ち受けています。 Another web server is listening on it, most likely. "


def write(path: Path, count: int, each: int) -> None:
    """Write message arrays: `count` messages, `each` in a conversation."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(max(count // each, 1)):
            talk = [{"role": ("user", "assistant")[at % 2], "content": f"{at} {WORDS * 3}"} for at in range(each)]
            file.write(json.dumps({"key": f"{number}", "messages": talk}, ensure_ascii=False) + "\n")


def read_raw(database: str) -> int:
    """Fetch every row, and return how many there are."""
    url, count = make_url(database), 0
    if url.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(url.database))) as connection:
            return sum(1 for table in metadata.tables for _ in connection.execute(f"SELECT * FROM {table}"))
    with psycopg.connect(database) as server:
        for table in metadata.tables:
            with server.cursor(name="raw") as read:
                read.execute(f"SELECT * FROM {table}".encode())
                while rows := read.fetchmany(1000):
                    count += len(rows)
    return count


def measure(held: Files | Postgres, source: Path, rounds: int) -> tuple[int, int, dict[str, list[float]]]:
    """Return how many rows and exported bytes there were, and the medians (wall, CPU) of each step."""
    taken: dict[str, list[tuple[float, float]]] = {}
    path, rows = source.with_name("out.jsonl"), 0
    for _ in range(rounds):
        path.unlink(missing_ok=True)
        urls = [held.migrated(), held.migrated(), held.empty()]
        with ExitStack() as stack:
            first, same, other = (stack.enter_context(Convokit(url, model="m", durability="fast")) for url in urls)
            other.migrate()
            steps: dict[str, Callable[[], Any]] = {
                "import of messages": partial(first.import_, source, format="messages"),
                "raw read": partial(read_raw, urls[0]),
                "export": partial(first.export, path),
                "restore": partial(same.import_, path),
                "re-chained import": partial(other.import_, path),
            }
            for name, step in steps.items():
                taken.setdefault(name, []).append(seconds(step))
            rows = read_raw(urls[0])
        if isinstance(held, Postgres):
            for url in urls:
                held.release(url)
    medians = {name: [statistics.median(each) for each in zip(*times, strict=True)] for name, times in taken.items()}
    return rows, path.stat().st_size, medians


def main(count: int = 20_000, each: int = 100, rounds: int = 3) -> str:
    """Print the table and return it."""
    head, lines, size = [""], dict[str, list[str]](), ""
    with tempfile.TemporaryDirectory() as folder, closing(Postgres(durable=True)) as server:
        source = Path(folder) / "m.jsonl"
        write(source, count, each)
        for name, held in (("SQLite", Files(Path(folder))), ("PostgreSQL", server)):
            rows, exported, taken = measure(held, source, rounds)
            size = f"{count:,} messages, {rows:,} rows, {exported / 1e6:,.0f} MB when exported; medians of {rounds}."
            head += [f"{name}, s", "rows/s", "times the raw read, wall", "CPU"]
            for step, (wall, cpu) in taken.items():
                ratios = [f"{wall / taken['raw read'][0]:.1f}", f"{cpu / taken['raw read'][1]:.1f}"]
                lines.setdefault(step, [step]).extend([f"{wall:.1f}", f"{rows / wall:,.0f}", *ratios])
    text = f"{size}\n\n{page.table(head, list(lines.values()))}"
    print(text)
    return text


if __name__ == "__main__":
    page.run("export", main)
