"""Export and import, rows a second, beside a raw read of the same rows with the driver.

    python -m tests.benchmarks.export [messages] [--each N]

The raw read fetches every row of every table and does nothing with them. What is compared is processor time.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from convokit import Convokit
from convokit.store.schema import metadata
from tests.support.databases import Files

WORDS = "nginx はポート80で待ち受けています。 Another web server is listening on it, most likely. "


def write(path: Path, count: int, each: int) -> None:
    """Write message arrays: `count` messages, `each` in a conversation."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(max(count // each, 1)):
            talk = [{"role": ("user", "assistant")[at % 2], "content": f"{at} {WORDS * 3}"} for at in range(each)]
            file.write(json.dumps({"key": f"{number}", "messages": talk}, ensure_ascii=False) + "\n")


def read_raw(file: str) -> int:
    """Fetch every row, and return how many there are."""
    connection = sqlite3.connect(file)
    rows = sum(1 for table in metadata.tables for _ in connection.execute(f"SELECT * FROM {table}"))
    connection.close()
    return rows


def timed(call: Callable[[], Any]) -> float:
    """Return the processor seconds of a call."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.export")
    parser.add_argument("messages", nargs="?", type=int, default=20_000)
    parser.add_argument("--each", type=int, default=100, help="messages in a conversation")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files, source, path = Files(Path(folder)), Path(folder) / "m.jsonl", Path(folder) / "out.jsonl"
        write(source, given.messages, given.each)
        urls = [files.migrated(), files.migrated(), files.empty()]
        first, same, other = (Convokit(url, model="m", durability="fast") for url in urls)
        other.migrate()
        into = timed(partial(first.import_, source, format="messages"))
        file = str(make_url(urls[0]).database)
        rows = read_raw(file)
        raw = timed(partial(read_raw, file))
        steps = {
            "raw read": raw,
            "export": timed(partial(first.export, path)),
            "restore": timed(partial(same.import_, path)),
            "re-chained import": timed(partial(other.import_, path)),
            "import of messages": into,
        }
        print(f"{given.messages:,} messages, {rows:,} rows, {path.stat().st_size / 1e6:.1f} MB")
        for name, seconds in steps.items():
            print(f"{name:20} {seconds:7.2f} s {rows / seconds:10,.0f} rows/s {seconds / raw:6.1f}x the raw read")
        for kit in (first, same, other):
            kit.close()


if __name__ == "__main__":
    main()
