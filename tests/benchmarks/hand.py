"""A turn by hand: sqlite3 or psycopg, json and httpx, on convokit's own tables.

The same commits at the same durability with the same indexes and full text, the columns that a user reads, a token count for
each message and a window of them; no chain, no manifest, no salts. It is what a careful person writes for one database and one
tenant, and the limit that others are measured by. The words of a message are cut, and its tokens counted, by convokit's own
functions: whoever wants to find two characters of Japanese cuts words so. Columns of convokit's tables that nobody by hand
would have, but that may not be null, get a constant.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import psycopg
from sqlalchemy.engine import make_url

from convokit.domain.ids import new_id
from convokit.domain.search_words import build_keys
from convokit.store.dialects.postgresql_search import hash_keys
from convokit.tokens.estimate import CharacterEstimate

MOST_TOKENS = 7_168
MESSAGES = 50
"""Messages of a request, unless a benchmark says what convokit sent in the same place."""
CONVERSATION = "SELECT last_seq FROM convokit_conversation WHERE id = ?"
HISTORY = (
    """SELECT role, content, tokens FROM convokit_message WHERE conversation_id = ? AND seq > ? ORDER BY seq DESC"""
)
MOVE = "UPDATE convokit_conversation SET last_seq = ?, head_seq = ?, updated_at = ? WHERE id = ? AND last_seq = ?"
MESSAGE = """INSERT INTO convokit_message (conversation_id, seq, parent_seq, run_start_seq, turn_id, role, content, status,
    tokens, counter, path_tokens, created_at) VALUES (?, ?, ?, 1, ?, ?, ?, 'complete', ?, 'c', 0, ?)"""
TURN = """INSERT INTO convokit_turn (conversation_id, id, branch, question_seq, state, claim, epoch, started_at, lease_until)
    VALUES (?, ?, 0, ?, 'open', 0, 1, ?, ?)"""
CALL = """INSERT INTO convokit_completion (conversation_id, turn_id, number, state, manifest, body_digest, requested_model,
    started_at) VALUES (?, ?, 1, 'sending', '{}', ?, 'bench', ?)"""
END = """UPDATE convokit_turn SET state = 'completed', claim = NULL, lease_until = NULL, reply_seq = ?, ended_at = ?
    WHERE conversation_id = ? AND id = ?"""
END_CALL = """UPDATE convokit_completion SET state = 'ok', response_id = ?, served_model = ?, finish_reason = ?,
    prompt_tokens = ?, completion_tokens = ?, ended_at = ? WHERE conversation_id = ? AND turn_id = ? AND number = 1"""
PLACE = "INSERT INTO convokit_search (conversation_id, seq, role, created_at) VALUES (?, ?, ?, ?)"
"""The row that FTS5's rowid names: a message's own rowid is another one after a VACUUM."""
WORDS = "INSERT INTO convokit_search_words (rowid, words) VALUES (?, ?)"
FOUND = """INSERT INTO convokit_search (conversation_id, seq, role, created_at, words)
    VALUES (?, ?, ?, ?, CAST(? AS integer[]))"""

JSON = {"content-type": "application/json"}


Run = Callable[[str, tuple[object, ...]], Any]
"""Executes a statement."""


def found_on_sqlite(run: Run, place: object, seq: int, role: str, text: str, now: int) -> None:
    """Have a message found by its words."""
    row = run(PLACE, (place, seq, role, now)).lastrowid
    run(WORDS, (row, " ".join(build_keys(text))))


def found_on_postgresql(run: Run, place: object, seq: int, role: str, text: str, now: int) -> None:
    """Have a message found by its words."""
    run(FOUND, (place, seq, role, now, sorted(hash_keys(build_keys(text)))))


@dataclass(slots=True)
class Asked:
    """A question that is stored, and the request it makes."""

    place: object
    turn: object
    seq: int
    data: bytes


class ByHand:
    """Turns by hand. Subclasses say how a statement is run."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client()
        self.url = f"{url}/chat/completions"
        self.count = CharacterEstimate().count
        self.wanted = MESSAGES
        self.sent = 0

    def run(self, statement: str, values: tuple[object, ...], *, write: bool = False) -> Any:
        """Execute a statement, in a transaction that it begins where none is open."""
        raise NotImplementedError

    def commit(self) -> None:
        """End the transaction."""
        raise NotImplementedError

    def index(self, place: object, seq: int, role: str, text: str, now: int) -> None:
        """Have a message found by its words."""
        raise NotImplementedError

    def key(self, value: UUID) -> object:
        """Return an id as the driver takes it."""
        return value

    def turn(self, conversation: UUID, text: str) -> str:
        """Answer one question."""
        asked = self.ask(conversation, text)
        return self.save(asked, self.client.post(self.url, content=asked.data, headers=JSON).json())

    def ask(self, conversation: UUID, text: str) -> Asked:
        """Read the window, make the body, and commit the question."""
        place, turn = self.key(conversation), self.key(new_id())
        last = self.run(CONVERSATION, (place,)).fetchone()[0]
        rows: list[dict[str, Any]] = []
        spent = 0
        for role, content, tokens in self.run(HISTORY, (place, last - 64)).fetchall():
            spent += tokens
            if len(rows) + 1 == self.wanted or spent > MOST_TOKENS:
                break
            rows.append({"role": role, "content": content})
        self.commit()
        rows.reverse()
        data = json.dumps({"model": "bench", "messages": [*rows, {"role": "user", "content": text}]}).encode()
        now, seq = time.time_ns() // 1000, last + 1
        self.move(place, last, now)
        self.add(place, seq, turn, "user", text, now)
        self.run(TURN, (place, turn, seq, now, now + 60_000_000), write=True)
        self.run(CALL, (place, turn, b"d" * 32, now), write=True)
        self.commit()
        self.sent = len(rows) + 1
        return Asked(place, turn, seq, data)

    def save(self, asked: Asked, found: Any) -> str:
        """Commit the reply."""
        choice, usage = found["choices"][0], found["usage"]
        reply = str(choice["message"]["content"])
        now, place, turn, seq = time.time_ns() // 1000, asked.place, asked.turn, asked.seq
        self.move(place, seq, now)
        self.add(place, seq + 1, turn, "assistant", reply, now)
        self.run(END, (seq + 1, now, place, turn), write=True)
        call = (
            found["id"],
            found["model"],
            choice["finish_reason"],
            usage["prompt_tokens"],
            usage["completion_tokens"],
        )
        self.run(END_CALL, (*call, now, place, turn), write=True)
        self.commit()
        return reply

    def move(self, place: object, last: int, now: int) -> None:
        """Move the conversation on by a message, if nobody else did."""
        if self.run(MOVE, (last + 1, last + 1, now, place, last), write=True).rowcount != 1:
            raise RuntimeError("the conversation was moved by another")

    def add(self, place: object, seq: int, turn: object, role: str, text: str, now: int) -> None:
        """Append a message."""
        self.run(MESSAGE, (place, seq, seq - 1, turn, role, text, self.count(text), now), write=True)
        self.index(place, seq, role, text, now)

    def close(self) -> None:
        self.client.close()


class SqliteByHand(ByHand):
    """sqlite3, with the pragmas that convokit sets."""

    def __init__(self, url: str, database: str) -> None:
        super().__init__(url)
        self.connection = sqlite3.connect(
            str(make_url(database).database), isolation_level=None, check_same_thread=False
        )
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            self.connection.execute(f"PRAGMA {pragma}").fetchall()

    def run(self, statement: str, values: tuple[object, ...], *, write: bool = False) -> Any:
        if not self.connection.in_transaction:
            self.connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        return self.connection.execute(statement, values)

    def commit(self) -> None:
        self.connection.commit()

    def index(self, place: object, seq: int, role: str, text: str, now: int) -> None:
        found_on_sqlite(self.run, place, seq, role, text, now)

    def key(self, value: UUID) -> object:
        return value.hex

    def close(self) -> None:
        super().close()
        self.connection.close()


class PostgresByHand(ByHand):
    """psycopg, whose connection prepares what it runs often."""

    def __init__(self, url: str, database: str) -> None:
        super().__init__(url)
        self.connection = psycopg.connect(database)

    def run(self, statement: str, values: tuple[object, ...], *, write: bool = False) -> Any:
        return self.connection.execute(statement.replace("?", "%s").encode(), values)

    def commit(self) -> None:
        self.connection.commit()

    def index(self, place: object, seq: int, role: str, text: str, now: int) -> None:
        found_on_postgresql(self.run, place, seq, role, text, now)

    def close(self) -> None:
        super().close()
        self.connection.close()
