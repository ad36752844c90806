"""What storing a turn costs: convokit's `begin` and `settle` against the same rows and commits by hand.

`python -m tests.benchmarks.append [TURNS] [CONVERSATIONS] [ROUNDS]`: TURNS turns by 8 threads, to one hot conversation and
spread over CONVERSATIONS, on a SQLite file and on PostgreSQL, both waiting for the disk. No HTTP. "By hand" is sqlite3 or
psycopg: the conversation is locked and counted on, question, turn, call, one commit; then turn, conversation, reply, call, a
second one, with the same full text; no chain. Contenders take turns in one run; medians of wall time, as ratios.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Connection, insert
from sqlalchemy.engine import make_url

from convokit.domain import hashchain
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import new_id
from convokit.domain.message import MessageRow
from convokit.domain.profiles import Profile
from convokit.domain.stored_request import Manifest
from convokit.domain.turn import CallRow
from convokit.runtime.sync_store import SyncStore
from convokit.store import conversations, schema
from convokit.store.engine import open_engine, parse_database_url
from convokit.store.turn_end import TurnEnd
from convokit.store.turn_start import TurnStart, Written
from convokit.store.write_batch import Conflict
from tests.benchmarks.hand import Run, found_on_postgresql, found_on_sqlite
from tests.support.databases import Files, Postgres

THREADS = 8
TEXT = "some eighty words of an ordinary message, as they are typed. " * 8
MOVE = "UPDATE convokit_conversation SET last_seq = last_seq + 1, head_seq = last_seq + 1, updated_at = 1 WHERE id = ?"
QUESTION = """INSERT INTO convokit_message (conversation_id, seq, parent_seq, run_start_seq, turn_id, role, content, status,
    tokens, counter, path_tokens, created_at) VALUES (?, ?, ?, 1, ?, ?, ?, 'complete', 90, 'c', ?, 1)"""
TURN = """INSERT INTO convokit_turn (conversation_id, id, branch, question_seq, state, epoch, started_at)
    VALUES (?, ?, 0, ?, 'open', 1, 1)"""
CALL = """INSERT INTO convokit_completion (conversation_id, turn_id, number, state, manifest, body_digest, requested_model,
    started_at) VALUES (?, ?, 1, 'sending', '{}', ?, 'm', 1)"""
END = "UPDATE convokit_turn SET state = 'completed', reply_seq = ?, ended_at = 2 WHERE conversation_id = ? AND id = ?"
END_CALL = """UPDATE convokit_completion SET state = 'ok', prompt_tokens = 9, completion_tokens = 9, ended_at = 2
    WHERE conversation_id = ? AND turn_id = ? AND number = 1"""


def by_hand(run: Run, index: Callable[..., None], commit: Callable[[], Any], place: object, turn: object) -> None:
    """Store one turn. The conversation's row is moved first, so that others wait for it and places are dense."""
    seq = run(MOVE + " RETURNING last_seq", (place,)).fetchone()[0]
    run(QUESTION, (place, seq, seq - 1, turn, "user", TEXT, seq * 90))
    index(run, place, seq, "user", TEXT, 1)
    run(TURN, (place, turn, seq))
    run(CALL, (place, turn, b"d" * 32))
    commit()
    seq = run(MOVE + " RETURNING last_seq", (place,)).fetchone()[0]
    run(QUESTION, (place, seq, seq - 1, turn, "assistant", TEXT, seq * 90))
    index(run, place, seq, "assistant", TEXT, 1)
    run(END, (seq, place, turn))
    run(END_CALL, (place, turn))
    commit()


class SqliteByHand:
    """sqlite3, at the durability that convokit sets."""

    def __init__(self, url: str) -> None:
        self.path = str(make_url(url).database)
        self.lock = threading.Lock()

    def appender(self, places: Sequence[UUID], thread: int) -> Callable[[int], None]:
        """Return what stores one turn, for one thread."""
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}").fetchall()

        def run(statement: str, values: tuple[object, ...]) -> Any:
            if not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")
            return connection.execute(statement, values)

        def once(number: int) -> None:
            with self.lock:  # as convokit does: SQLite's own waiting is not fair
                by_hand(run, found_on_sqlite, connection.commit, places[number % len(places)].hex, new_id().hex)

        return once


class PostgresByHand:
    """psycopg, a connection a thread."""

    def __init__(self, url: str) -> None:
        self.url = url

    def appender(self, places: Sequence[UUID], thread: int) -> Callable[[int], None]:
        """Return what stores one turn, for one thread."""
        connection = psycopg.connect(self.url)

        def run(statement: str, values: tuple[object, ...]) -> Any:
            return connection.execute(statement.replace("?", "%s").encode(), values)

        return lambda number: by_hand(
            run, found_on_postgresql, connection.commit, places[number % len(places)], new_id()
        )


class Ours:
    """The start and the end of a turn, each in its transaction."""

    def __init__(self, url: str) -> None:
        self.store = SyncStore(open_engine(parse_database_url(url)), "benchmark")

    def appender(self, places: Sequence[UUID], thread: int) -> Callable[[int], None]:
        """Return what stores one turn, for one thread. In one conversation each has a branch, to have a turn open there."""
        branch = thread + 1 if len(places) == 1 else 0
        known: dict[UUID, ConversationRow] = {}
        heads: dict[UUID, int] = {}

        def once(number: int) -> None:
            place = places[number % len(places)]
            settled = self.turn(place, known.get(place), branch, heads.get(place))
            heads[place] = settled.rows[0].seq
            if branch == 0:
                known[place] = settled.conversation

        return once

    def turn(self, place: UUID, row: ConversationRow | None, branch: int, head: int | None) -> Written:
        """Store one turn; read the conversation again where somebody came between."""
        call = CallRow(new_id(), 1, "sending", "{}", b"s" * 16, b"d" * 32, "m", 1)
        while True:
            row = row or self.store.run(lambda connection: conversations.find(connection, "bench", place), write=False)
            assert row is not None
            question = message(row.last_seq + 1, call.turn_id, "user")
            manifest = Manifest(1, [], Profile())
            start = TurnStart(
                row, branch, head, question, [question], call, manifest, "bench", 60_000_000, 1, movable=False
            )
            try:
                row = self.store.run(start.write, write=True).conversation
                break
            except Conflict:
                row = None
        ended = CallRow(call.turn_id, 1, "ok", "{}", b"s" * 16, b"d" * 32, "m", 1, ended_at=2, salt=b"s" * 16)
        end = TurnEnd(
            conversation=row,
            branch=branch,
            turn_id=call.turn_id,
            at=2,
            rows=[message(row.last_seq + 1, call.turn_id, "assistant")],
            call=ended,
            epoch=1,
            state="completed",
            has_chunks=False,
        )
        return self.store.run(end.write, write=True)


def message(seq: int, turn_id: UUID, role: str) -> MessageRow:
    """Return a message in its place."""
    return MessageRow(
        seq, seq - 1, 1, turn_id, role, "complete", 90, "c", seq * 90, 1, content=TEXT, salt=hashchain.new_salt()
    )


def conversation(place: UUID) -> ConversationRow:
    """Return a new conversation."""
    genesis = hashchain.genesis_hash(place)
    return ConversationRow(place, "bench", None, None, None, None, None, None, 0, 0, genesis, 1, 1, None)


def create(connection: Connection, places: Sequence[UUID]) -> None:
    """Make conversations; where there is but one, a branch for each thread."""
    for place in places:
        conversations.create(connection, conversation(place))
    if len(places) == 1:
        numbers = range(1, THREADS + 1)
        rows = [{"conversation_id": places[0], "number": number, "created_at": 1} for number in numbers]
        connection.execute(insert(schema.branch), rows)


def timed(contender: Any, places: Sequence[UUID], turns: int) -> float:
    """Return the seconds that all threads took for `turns` turns."""
    start = threading.Barrier(THREADS + 1)
    failed: list[BaseException] = []

    def work(first: int) -> None:
        once = contender.appender(places, first)
        start.wait()
        try:
            for number in range(first, turns, THREADS):
                once(number)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(first,)) for first in range(THREADS)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return time.perf_counter() - began


def measure(url: str, hand: Any, turns: int, spread: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds by load and contender."""
    ours = Ours(url)
    loads: dict[str, dict[str, list[float]]] = {}
    for load, count in (("one conversation", 1), (f"{spread:,} conversations", spread)):
        contenders = {"by hand": hand, "convokit": ours}
        places = {name: [new_id() for _ in range(count)] for name in contenders}
        for each in places.values():
            ours.store.run(partial(create, places=each), write=True)
        loads[load] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                loads[load][name].append(timed(contender, places[name], turns))
    ours.store.close()
    return loads


def report(name: str, loads: dict[str, dict[str, list[float]]], turns: int) -> None:
    """Print the ratios of one database."""
    for load, taken in loads.items():
        medians = {contender: statistics.median(times) for contender, times in taken.items()}
        rates = ", ".join(f"{contender} {turns / seconds:,.0f} turns/s" for contender, seconds in medians.items())
        print(f"{name:10} {load:20} {medians['convokit'] / medians['by hand']:5.2f} x by hand ({rates})")


def main(turns: int = 2000, spread: int = 2000, rounds: int = 5) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        url = Files(Path(folder)).migrated()
        report("SQLite", measure(url, SqliteByHand(url), turns, spread, rounds), turns)
    with closing(Postgres(durable=True)) as server:
        url = server.migrated()
        report("PostgreSQL", measure(url, PostgresByHand(url), turns, spread, rounds), turns)
        server.release(url)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
