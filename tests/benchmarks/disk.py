"""Bytes on disk a message, against the text itself: a database of turns as they are, after a VACUUM, and what search adds.

`python -m tests.benchmarks.disk [TURNS] [--write PAGE]`: 20 conversations take turns. "Text" is the UTF-8 of all messages. The
bound is 1.4 times the text and 700 bytes a message without the search index, and 3 times the text for the index alone.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from convokit import Budget, Convokit
from tests.benchmarks import page
from tests.benchmarks.server import running
from tests.support.databases import Files, Postgres

QUESTION = "A question as long as one is on average, made of the words that people use most of the time. " * 6
_POSTGRES_SIZES = """SELECT relname, pg_total_relation_size(oid) FROM pg_class
    WHERE relkind = 'r' AND relname LIKE 'convokit_%' ORDER BY 2 DESC"""
_TEXT = "SELECT count(*), sum(length(CAST(content AS {bytes}))) FROM convokit_message"


def talked(url: str, database: str, turns: int, *, search: bool) -> None:
    """Have so many turns in 20 conversations."""
    settings = {"model": "bench", "base_url": url, "budget": Budget(context_tokens=2048)}
    with Convokit(database, durability="fast", search=search, **settings) as kit:  # type: ignore[arg-type]
        for number in range(turns):
            kit.chat(str(number % 20)).send(QUESTION)


def sqlite_sizes(database: str) -> tuple[int, int, int]:
    """Return messages, bytes of their text, and bytes of the file, vacuumed."""
    path = Path(str(make_url(database).database))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        messages, text = connection.execute(_TEXT.format(bytes="blob")).fetchone()
    return messages, text, path.stat().st_size


def postgres_sizes(database: str) -> tuple[int, int, int]:
    """Return messages, bytes of their text, and bytes of all tables with their indexes, vacuumed."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("VACUUM FULL")
        row = connection.execute(_TEXT.format(bytes="bytea").encode()).fetchone()
        assert row is not None
        sizes = connection.execute(_POSTGRES_SIZES).fetchall()
    return row[0], int(row[1]), sum(size for _, size in sizes)


def main(turns: int = 2000) -> str:
    """Print the table and return it."""
    lines = []
    with running(1) as url, ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="convokit-bench-"))
        server = Postgres(durable=True)
        stack.callback(server.close)
        files = Files(Path(folder))
        for name, migrated, sizes in (
            ("SQLite", files.migrated, sqlite_sizes),
            ("PostgreSQL", server.migrated, postgres_sizes),
        ):
            bare, whole = migrated(), migrated()
            talked(url, bare, turns, search=False)
            talked(url, whole, turns, search=True)
            messages, text, stored = sizes(bare)
            own, beside = text / messages, stored / messages
            index = sizes(whole)[2] / messages - beside
            over = beside - 1.4 * own
            cells = (f"{own:,.0f}", f"{beside:,.0f}", f"{over:,.0f}", f"{index:,.0f}", f"{index / own:.2f}")
            lines.append([name, f"{messages:,}", *cells])
    head = ["", "messages", "text, bytes a message", "stored", "beyond 1.4 x the text", "search index", "index / text"]
    table = page.table(head, lines)
    print(table)
    return table


if __name__ == "__main__":
    page.run("disk", main)
