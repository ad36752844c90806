"""Databases of very many conversations, all of a kind: what a million messages look like after years, made in minutes.

Turns are stored as a kit stores them (salts, chain, calls, search index; `verify` passes), but in the order of time over all
conversations: what belongs together lies far apart. Texts are drawn from a few thousand, half of them Japanese; some words are
planted, to be looked for.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Table
from sqlalchemy.engine import make_url

from convokit.domain import hashchain, search_periods, search_words
from convokit.domain.ids import derive_conversation_id
from convokit.domain.message import MessageRow
from convokit.domain.search_words import build_keys
from convokit.domain.turn import CallRow
from convokit.store import migrations, schema
from convokit.store.dialects import postgresql_search
from convokit.store.dialects.protocol import INDEX_COLUMNS
from convokit.store.engine import open_engine, parse_database_url
from tests.benchmarks.search import texts
from tests.benchmarks.verify import DIGEST, PROMPT, turn

TURNS = 50
"""Of each conversation."""
RARE = ("xylograph", "鑿鱚")
"""Each in 20 messages of every tenant, however many there are."""
SOME = ("quokka", "鯱鉾")
"""Each in one of a hundred messages."""
_KNOWN = 4_000
_BATCH = 500
_ENDED = ("id", "branch", "question_seq", "reply_seq", "state", "epoch", "started_at", "ended_at")


@dataclass(slots=True)
class Talk:
    """A conversation on its way. `number` counts those of its tenant."""

    id: UUID
    tenant: str
    key: str
    number: int
    last: int = 0
    head: bytes = b""
    at: int = 0


@dataclass(slots=True)
class Rows:
    """What is written together."""

    messages: list[Any] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    turns: list[Any] = field(default_factory=list)
    entries: list[Any] = field(default_factory=list)
    found: list[tuple[Any, ...]] = field(default_factory=list)
    """Conversation, seq, role, time, keys."""


def said() -> list[tuple[str, set[str]]]:
    """Return texts of 150 (Japanese) and 400 (English) characters, with what they are found by."""
    cut = [each[: 400 if number % 2 else 150] for number, each in enumerate(texts(_KNOWN))]
    return [(each, build_keys(each)) for each in cut]


def common() -> tuple[str, str]:
    """Return the English word and the two characters that most messages of their language hold."""
    known = [found for _, found in said()]
    held = [Counter(key for each in known[at::2] for key in each if len(key) > 1) for at in (1, 0)]
    return held[0].most_common(1)[0][0], held[1].most_common(1)[0][0]


def planted(talk: Talk, number: int, of: int) -> tuple[str, ...]:
    """Return the words that a question holds besides."""
    if number == 7 and talk.number % (of // 20) == 0:
        return RARE
    return SOME if (talk.number + number) % 50 == 11 else ()


def batches(talks: Sequence[Talk], sizes: dict[str, int]) -> Iterator[Rows]:
    """Yield what is said in all conversations, turn by turn."""
    known, at = said(), int(time.time()) - TURNS * len(talks)  # a second each, up to now
    for number in range(TURNS):
        for first in range(0, len(talks), _BATCH):
            rows = Rows()
            for talk in talks[first : first + _BATCH]:
                at += 1
                place = 2 * (number * 7 + talk.number * 31) % _KNOWN
                extra = planted(talk, number, sizes[talk.tenant])
                (asked, found), (answer, more) = known[place], known[place + 1]
                asked = f"{asked} {' '.join(extra)}" if extra else asked
                made = turn(number, asked, answer, at * 1_000_000)
                links = hashchain.extend_chain(talk.last, talk.head, [each.hash_input() for each in made])
                talk.last, talk.head, talk.at = links[-1].number, links[-1].hash, at * 1_000_000
                rows.messages += [(talk.id, *_values(each)) for each in made[:2]]
                rows.calls.append((talk.id, *_values(made[2])))
                ended = (made[2].turn_id, 0, made[0].seq, made[1].seq, "completed", 1, talk.at, talk.at + 1)
                rows.turns.append((talk.id, *ended))
                rows.entries += [(talk.id, *_values(each)) for each in links]
                own = search_words.build_owner_keys(talk.tenant, talk.id)
                for row, words in (
                    (made[0], {*found, *(key for word in extra for key in build_keys(word))}),
                    (made[1], more),
                ):
                    rows.found.append((talk.id, row.seq, row.role, row.created_at, (*words, *own)))
            yield rows


def _values(row: Any) -> list[Any]:
    return [getattr(row, name) for name in row.__slots__]


def fill(database: str, sizes: dict[str, int]) -> dict[str, list[str]]:
    """Give each tenant so many conversations; return their keys."""
    engine = open_engine(parse_database_url(database))
    with engine.begin() as connection:
        database_id = migrations.check_schema(connection, "it")
    engine.dispose()
    names = {tenant: [f"{tenant} {number}" for number in range(count)] for tenant, count in sizes.items()}
    talks = []
    for tenant, named in names.items():
        for number, key in enumerate(named):
            place = derive_conversation_id(database_id, tenant, key)
            talks.append(Talk(place, tenant, key, number, head=hashchain.genesis_hash(place)))
    talks.sort(key=lambda talk: talk.id)  # at random: no tenant's rows lie together
    (_sqlite if make_url(database).get_backend_name() == "sqlite" else _postgresql)(database, talks, sizes)
    return names


def _load(put: Callable[[Table[Any], Iterable[str], list[Any]], None], rows: Rows) -> None:
    put(schema.message, MessageRow.__slots__, rows.messages)
    put(schema.completion, CallRow.__slots__, rows.calls)
    put(schema.turn, _ENDED, rows.turns)
    put(schema.entry, hashchain.Entry.__slots__, rows.entries)


def _conversations(talks: Sequence[Talk]) -> list[tuple[Any, ...]]:
    last = 2 * TURNS
    return [(each.id, each.tenant, each.key, last, last, each.last, each.head, each.at, each.at) for each in talks]


def _owner(table: Table[Any]) -> list[str]:
    return [] if table is schema.conversation or table is schema.prompt else ["conversation_id"]


_OF_CONVERSATION = (
    "id",
    "tenant",
    "key",
    "head_seq",
    "last_seq",
    "last_entry",
    "chain_hash",
    "created_at",
    "updated_at",
)
_PROMPTS = ("tenant", "digest", "body")


def _numbers(words: tuple[str, ...], at: int) -> list[int]:
    """Return what PostgreSQL's index holds of a message; the last two words are its owners' keys."""
    return sorted(
        postgresql_search.hash_keys(words[:-2])
        | set(map(postgresql_search.hash_key, (*words[-2:], *search_periods.build_period_keys(at))))
    )


def _sqlite(database: str, talks: Sequence[Talk], sizes: dict[str, int]) -> None:
    with closing(sqlite3.connect(str(make_url(database).database), isolation_level=None)) as connection:
        for pragma in ("synchronous=OFF", "foreign_keys=OFF", "cache_size=-2000000", "wal_autocheckpoint=100000"):
            connection.execute(f"PRAGMA {pragma}").fetchall()

        def put(table: Table[Any], names: Iterable[str], rows: list[Any]) -> None:
            columns = [*_owner(table), *names]
            marks = ", ".join("?" * len(columns))
            hexed = [tuple(each.hex if isinstance(each, UUID) else each for each in row) for row in rows]
            connection.executemany(f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({marks})", hexed)

        id_ = 0
        for rows in batches(talks, sizes):
            connection.execute("BEGIN")
            _load(put, rows)
            found = []
            for place, seq, role, at, words in rows.found:
                id_ += 1
                joined = " ".join((*sorted(words[:-2]), *words[-2:]))
                found.append((id_, place.hex, seq, role, at, zlib.crc32(joined.encode()), joined))
            connection.executemany(
                "INSERT INTO convokit_search (id, conversation_id, seq, role, created_at, words) VALUES (?, ?, ?, ?, ?, ?)",
                [each[:-1] for each in found],
            )
            connection.executemany(
                "INSERT INTO convokit_search_words (rowid, words) VALUES (?, ?)",
                [(each[0], each[-1]) for each in found],
            )
            connection.execute("COMMIT")
        put(schema.conversation, _OF_CONVERSATION, _conversations(talks))
        put(schema.prompt, _PROMPTS, [(tenant, DIGEST, PROMPT) for tenant in sizes])
        put(schema.prompt_use, ("digest",), [(each.id, DIGEST) for each in talks])
        connection.execute("ANALYZE")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _postgresql(database: str, talks: Sequence[Talk], sizes: dict[str, int]) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # no look-up of the conversation for every row
        made = connection.execute("SELECT pg_get_indexdef('convokit_search_found'::regclass)").fetchone()
        assert made is not None
        connection.execute("DROP INDEX convokit_search_found")

        def put(table: Table[Any], names: Iterable[str], rows: list[Any]) -> None:
            columns = [*_owner(table), *names]
            with connection.cursor().copy(f"COPY {table.name} ({', '.join(columns)}) FROM STDIN".encode()) as copy:
                for row in rows:
                    copy.write_row(row)

        for rows in batches(talks, sizes):
            with connection.transaction():
                _load(put, rows)
                found = [(place, seq, role, at, _numbers(words, at)) for place, seq, role, at, words in rows.found]
                put(schema.search, INDEX_COLUMNS, found)
        put(schema.conversation, _OF_CONVERSATION, _conversations(talks))
        put(schema.prompt, _PROMPTS, [(tenant, DIGEST, PROMPT) for tenant in sizes])
        put(schema.prompt_use, ("digest",), [(each.id, DIGEST) for each in talks])
        connection.execute("SET maintenance_work_mem = '512MB'")
        connection.execute(made[0].encode())
        connection.execute("VACUUM (ANALYZE)")  # as it will have been long since, and not while we measure
