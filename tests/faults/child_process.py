"""What the tests of load and pauses share: child processes of this checkout, and looking at a database from beside the kit."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import text as sql

from convokit.completion.effects import Clock
from convokit.store.engine import WRITE, open_engine, parse_database_url

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE_S = 90.0
"""How long a test waits for something that is bound to come: long enough for a slow machine, and never asserted on."""


class Child:
    """A process that runs a module of this folder and says what it does as JSON, one value a line."""

    def __init__(self, module: str, *arguments: object) -> None:
        command = [sys.executable, "-m", f"tests.faults.{module}", *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)

    def said(self) -> Any:
        """Return what the child says next. Raises: AssertionError when it ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the child ended with {self.process.wait()} and said nothing more"
        return json.loads(line)

    def rest(self) -> list[Any]:
        """Return all that the child says until it ends, which it must do well."""
        try:
            out, _ = self.process.communicate(timeout=PATIENCE_S * 4)
        finally:
            self.process.kill()
        assert self.process.returncode == 0, out
        return [json.loads(line) for line in out.splitlines()]

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def opened(database: str) -> Iterator[Connection]:
    """Yield a writing connection of the test's own; what is done with it is committed."""
    engine = open_engine(parse_database_url(database))
    try:
        with engine.execution_options(**{WRITE: True}).begin() as connection:
            yield connection
    finally:
        engine.dispose()


def rows(database: str, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    """Return what a statement selects. Nothing is locked by it."""
    engine = open_engine(parse_database_url(database))
    try:
        with engine.begin() as connection:
            return [tuple(row) for row in connection.execute(sql(statement), values)]
    finally:
        engine.dispose()


def may_write(database: str) -> bool:
    """Return whether nobody is in the middle of writing: on SQLite a process that is stopped there stops everybody."""
    if not database.startswith("sqlite"):
        return True
    with closing(
        sqlite3.connect(str(parse_database_url(database).database), timeout=0, isolation_level=None)
    ) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def hurried(kit: Any) -> Any:
    """Have a kit's own patience end thirty times sooner: a full disk is waited for as long as a database that restarts."""
    kit._state = replace(kit._state, clock=Clock(monotonic=lambda: time.monotonic() * 30))
    return kit
