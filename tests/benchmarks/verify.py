"""What verifying a long conversation costs: `verify` against a bare read of the same rows.

`python -m tests.benchmarks.verify [MESSAGES] [ROUNDS] [--write PAGE]`: one conversation of MESSAGES messages (default 20,000)
in turns of two, each with its turn, its API call and three entries, on a SQLite file and on PostgreSQL. The bare read is
sqlite3 or psycopg with a cursor on the server, every column of every one of these rows, fetched by thousands, nothing done with
them. Both take turns; medians of wall time and of this process's CPU time (PostgreSQL's server is another).
"""

from __future__ import annotations

import hashlib
import json
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Connection, insert
from sqlalchemy.engine import make_url

from convokit.audit.verify import verify_conversation
from convokit.domain import hashchain
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import new_id
from convokit.domain.message import MessageRow
from convokit.domain.turn import CallRow
from convokit.domain.verification import Verified
from convokit.runtime.sync_store import SyncStore
from convokit.store import conversations, schema
from convokit.store.engine import open_engine, parse_database_url
from tests.benchmarks import page
from tests.support.databases import Files, Postgres

PROMPT = "You are a terse sysadmin."
DIGEST = hashlib.sha256(PROMPT.encode()).digest()[:16]
TEXT = "some forty words of an ordinary message, as they are typed. 普通の長さのメッセージです。 " * 4
READ = ("message", "completion", "turn", "entry", "tool_call", "blob", "removal")
BATCH = 1000


def turns(count: int) -> Iterator[list[tuple[MessageRow, MessageRow, CallRow]]]:
    """Yield so many turns, by batches: question, reply and API call."""
    for first in range(0, count, BATCH):
        yield [turn(number, TEXT, TEXT) for number in range(first, min(first + BATCH, count))]


def turn(number: int, question: str, reply: str, at_us: int = 1) -> tuple[MessageRow, MessageRow, CallRow]:
    """Return the rows of a conversation's turn, counted from 0; all of it happened at `at_us`."""
    turn_id, seq = new_id(), 2 * number + 1
    rows = []
    for at, role, text in ((seq, "user", question), (seq + 1, "assistant", reply)):
        row = MessageRow(at, at - 1 or None, 1, turn_id, role, "complete", 90, "c", at * 90, at_us, content=text)
        row.salt = hashchain.new_salt()
        rows.append(row)
    manifest = {"v": 1, "window": [[max(seq - 40, 1), seq]], "prompt": DIGEST.hex(), "params": {"temperature": 0.2}}
    call = CallRow(turn_id, 1, "ok", json.dumps(manifest), b"s" * 16, b"d" * 32, "m", at_us, ended_at=at_us + 1)
    call.served_model, call.usage_source, call.finish_reason = "m-1", "reported", "stop"
    call.prompt_tokens, call.completion_tokens, call.salt = 900, 90, hashchain.new_salt()
    return rows[0], rows[1], call


def fill(connection: Connection, place: UUID, count: int) -> None:
    """Write the conversation, chain and all."""
    row = ConversationRow(
        place, "bench", None, None, None, None, None, None, 0, 0, hashchain.genesis_hash(place), 1, 1, None
    )
    conversations.create(connection, row)
    connection.execute(insert(schema.prompt), {"tenant": "bench", "digest": DIGEST, "body": PROMPT})
    connection.execute(insert(schema.prompt_use), {"conversation_id": place, "digest": DIGEST})
    last, head = 0, row.chain_hash
    for batch in turns(count // 2):
        entries = hashchain.extend_chain(last, head, [each.hash_input() for made in batch for each in made])
        last, head = entries[-1].number, entries[-1].hash
        asked = [
            {"id": made[2].turn_id, "branch": 0, "question_seq": made[0].seq, "reply_seq": made[1].seq, "epoch": 1}
            for made in batch
        ]
        ended = {"state": "completed", "started_at": 1, "ended_at": 2}
        for table, values in (
            (schema.message, [_values(each) for made in batch for each in made[:2]]),
            (schema.completion, [_values(made[2]) for made in batch]),
            (schema.turn, [{**each, **ended} for each in asked]),
            (schema.entry, [_values(each) for each in entries]),
        ):
            connection.execute(insert(table), [{"conversation_id": place, **each} for each in values])
    moved = ConversationRow(**{name: getattr(row, name) for name in row.__slots__})
    moved.head_seq = moved.last_seq = 2 * (count // 2)
    moved.last_entry, moved.chain_hash = last, head
    assert conversations.advance(connection, row, moved, moved.head_seq)


def _values(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def bare(url: str, place: UUID) -> int:
    """Read every row of the conversation, and return how many there are."""
    parsed, count = make_url(url), 0
    if parsed.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(parsed.database))) as connection:
            for table in READ:
                query = f"SELECT * FROM convokit_{table} WHERE conversation_id = ?"
                cursor = connection.execute(query, (place.hex,))
                while found := cursor.fetchmany(BATCH):
                    count += len(found)
        return count
    with psycopg.connect(url) as server:
        for table in READ:
            with server.cursor(name="bare") as read:
                read.execute(f"SELECT * FROM convokit_{table} WHERE conversation_id = %s".encode(), (place,))
                while rows := read.fetchmany(BATCH):
                    count += len(rows)
    return count


def measure(url: str, count: int, rounds: int) -> dict[str, Any]:
    """Return the medians of both (wall, CPU), and how many rows there were."""
    store, place = SyncStore(open_engine(parse_database_url(url)), "benchmark"), new_id()
    store.run(lambda connection: fill(connection, place, count), write=True)
    rows = bare(url, place)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def verified() -> None:
        found = store.run(lambda connection: verify_conversation(connection, "bench", place), write=False)
        assert isinstance(found, Verified)
        assert found.messages == 2 * (count // 2)

    taken: dict[str, list[tuple[float, float]]] = {"bare": [], "verify": []}
    for _ in range(rounds):
        taken["bare"].append(seconds(lambda: bare(url, place)))
        taken["verify"].append(seconds(verified))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    store.close()
    medians = {name: [statistics.median(each) for each in zip(*times, strict=True)] for name, times in taken.items()}
    return {"rows": rows, "grown_kib": grown, **medians}


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the wall time and the CPU time of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(count: int = 20_000, rounds: int = 3) -> str:
    """Print the table and return it."""
    lines = []
    with tempfile.TemporaryDirectory() as folder, closing(Postgres(durable=True)) as server:
        for name, url in (("SQLite", Files(Path(folder)).migrated()), ("PostgreSQL", server.migrated())):
            found = measure(url, count, rounds)
            bare_s, own_s = found["bare"], found["verify"]
            speeds = [f"{found['rows'] / each[0]:,.0f}" for each in (bare_s, own_s)]
            ratios = [f"{own / least:.1f}" for own, least in zip(own_s, bare_s, strict=True)]
            cells = [*speeds, *ratios, f"{own_s[0]:.1f}", f"{found['grown_kib'] / 1024:.0f}"]
            lines.append([name, f"{count:,}", f"{found['rows']:,}", *cells])
    head = [
        "",
        "messages",
        "rows",
        "bare read, rows/s",
        "verify, rows/s",
        "verify / bare read, wall",
        "CPU",
        "verify, s",
    ]
    table = page.table([*head, "memory grew by, MB"], lines)
    print(table)
    return table


if __name__ == "__main__":
    page.run("verify", main)
