"""Measure appends of an agent's items beside openai-agents' sessions, on SQLite.

`python -m tests.benchmarks.append_items [ROUNDS]`: 200 appends of 5 items each, then reading all 1,000 and the last 20, and
taking back the last one. Each item is stored verbatim. convokit also stores it as a message that can be sent and searched, in
the hash chain. The contenders take turns in one run, each with a new file: medians of wall time, and how many times
convokit's they are. openai-agents gets an environment of its own, made with uv at the first run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile

from tests.benchmarks import page
from tests.benchmarks.peers.__main__ import HERE, environment

PACKAGES = ("openai-agents[sqlalchemy]==0.24.0", "aiosqlite")
CONTENDERS = {
    "convokit": ("our_session", "default"),
    "convokit, `search=False`": ("our_session", "bare"),
    "openai-agents, SQLiteSession": ("agents_sessions", "sqlite"),
    "openai-agents, SQLAlchemySession": ("agents_sessions", "sqlalchemy"),
}
HEAD = ("", "200 appends of 5 items", "read 1,000", "read 20", "take back 1")


def measure(script: str, variant: str) -> list[float]:
    """Return the milliseconds of one round of a contender."""
    is_ours = script == "our_session"
    python = sys.executable if is_ours else environment("agents_sessions", PACKAGES)
    paths = {"PYTHONPATH": str(HERE.parents[2])} if is_ours else {}
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(HERE / f"{script}.py"), folder, variant]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **paths})
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return times


def main(rounds: int = 5) -> str:
    """Return the table."""
    found: dict[str, list[list[float]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, contender in CONTENDERS.items():
            found[name].append(measure(*contender))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    ours = medians["convokit"]
    rows = [
        [name, *(f"{value:,.3g} ms ({value / own:.2f})" for value, own in zip(times, ours, strict=True))]
        for name, times in medians.items()
    ]
    result = page.table(HEAD, rows)
    print(result)
    return result


if __name__ == "__main__":
    page.run("append-items", main)
