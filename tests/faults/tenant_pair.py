"""Two databases, the same but for what tenant A has in one of them; and what tenant B gets to see in each.

B must not be able to tell them apart: not by a value, an error, a count, or what is sent to the model on its behalf.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from sqlalchemy import Engine, update

from convokit import Convokit, Retry, Stream
from convokit.errors import ModelError
from convokit.runtime.aio import AsyncStream
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.keys import ApiKeyRow, insert_key
from convokit.store.schema import turn
from tests.faults.shared_kit import FACES, dump
from tests.support.databases import Files, Postgres
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, chunk, failure

SECRET = "the secret of A"
KEYS = ("whole", "failed", "broken", "left")
"""A's conversations, by how their last turn ended; B uses the same keys."""
ONCE = "the key of a request"
SUBJECT = "a person"
ANCHOR = b"the digest of the secret"
API_KEY_NAME = "the key of a program"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass
class Known:
    """What B has learnt of A's names."""

    ids: list[UUID]
    messages: list[str]
    turns: list[UUID]
    cursor: str
    found: str
    """The cursor of a search."""
    left: UUID
    """The conversation whose turn is open."""

    @property
    def words(self) -> set[str]:
        """Every name that may appear in an answer because B has just said it."""
        return {str(each) for each in [*self.ids, *self.turns]}


@dataclass
class Side:
    """Tenant B on one of the databases."""

    face: Face
    kit: Any
    database: str
    server: LoopbackServer
    engine: Engine
    known: Known

    def chats(self) -> Iterator[Any]:
        """Yield B's handles on everything of A's: by key and by id."""
        for key in KEYS:
            yield self.kit.chat(key)
        for each in self.known.ids:
            yield self.kit.chat(id=each)
            yield self.kit.chat(id=str(each))

    def outcome(self, call: Callable[[], Any]) -> Any:
        """Return what a call gives, or the error it ends in, and what it sent to the model."""
        before = len(self.server.requests)
        try:
            value = call()
            if isinstance(value, Stream | AsyncStream):
                value = [self.face.collect(value), value.reply]
            found = shown(self.face.settle(value))
        except Exception as error:  # whatever it is, B must see the same
            found = [type(error).__name__, str(error), shown(vars(error))]
        sent = [request.body for request in self.server.requests[before:]]
        return masked(repr([found, sent]), self.known.words)


Attack = Callable[[Side], Iterator[Callable[[], Any]]]
"""What B tries: each call it yields is made, and its outcome noted."""


@dataclass
class Pair:
    """B beside A, and B alone."""

    beside: Side
    alone: Side

    def differences(self, attack: Attack) -> list[tuple[str, str]]:
        """Return each outcome that differs between the two, and what changed of A's rows."""
        before = _counted(self.beside.engine)
        sides = [[side.outcome(call) for call in attack(side)] for side in (self.beside, self.alone)]
        assert sides[0], "the scenario tries nothing"
        found = [each for each in zip(*sides, strict=True) if each[0] != each[1]]
        lost = before - _counted(self.beside.engine)
        return found + [(row, "(changed, or gone)") for row in lost if "'acme'" in row or self._is_of_a(row)]

    def _is_of_a(self, row: str) -> bool:
        return any(repr(each) in row for each in self.beside.known.ids)


def _counted(engine: Engine) -> Counter[str]:
    return Counter(f"{table}: {row}" for table, rows in dump(engine).items() for row in rows)


def shown(value: Any) -> Any:
    """Return a value as plain data, without the times in it."""
    if isinstance(value, BaseModel):
        return {name: shown(item) for name, item in value.__dict__.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return [type(value).__name__, *(shown(getattr(value, name)) for name in names)]
    if isinstance(value, Mapping):
        return {str(name): shown(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    return "(time)" if isinstance(value, datetime) else str(value)


def masked(text: str, kept: set[str]) -> str:
    """Return the text without the ids that were drawn at random, but with those in `kept`."""
    return _UUID.sub(lambda found: found.group() if found.group() in kept else "(drawn)", text)


def _fill(database: str, server: LoopbackServer) -> Known:
    """Write what A has: a whole conversation, one that failed, one that broke off, and one whose worker is gone."""
    with Convokit(database, model="loop-1", base_url=server.url, tenant="acme") as kit:
        options = {"retry": Retry(attempts=1), "idempotency_key": ONCE, "anchor": lambda message: ANCHOR}
        for key in KEYS:
            chat = kit.chat(key, subject=SUBJECT, title=SECRET, metadata={"of": SECRET}, developer_prompt=SECRET)
            if key == "failed":
                server.script(failure(500))
            if key == "broken":
                server.script(Script([chunk({"content": SECRET}), None], headers={"content-type": "text/event-stream"}))
            with contextlib.suppress(ModelError):
                list(chat.stream(SECRET, **options))  # type: ignore[arg-type]
        chats = [kit.chat(key) for key in KEYS]
        messages = [each.id for chat in chats for each in chat.messages()]
        turns = [each.turn_id for chat in chats for each in chat.messages() if each.turn_id]
        cursor = kit.conversations(limit=1).next
        found = kit.search("secret", limit=1).next
        ids = [each.id for each in kit.conversations()]
        left = chats[-1].id
        assert left
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        held = {"state": "open", "claim": 0, "owner": '["elsewhere","b",1,"2"]', "lease_until": 5, "ended_at": None}
        connection.execute(update(turn).where(turn.c.conversation_id == left).values(held))
        insert_key(connection, ApiKeyRow(b"of A", "acme", API_KEY_NAME, ("chat", "read"), (SECRET,), None, 1))
    engine.dispose()
    assert cursor
    assert found
    return Known(ids, messages, turns, cursor, found, left)


def paired() -> Callable[..., Iterator[Pair]]:
    """Return a fixture of the module: tenant B on both databases, for both backends and faces."""

    def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
        backend, name = request.param
        held: Files | Postgres = request.getfixturevalue("files" if backend == "sqlite" else "postgres")
        face = Face(name)
        databases, servers = [held.migrated(), held.migrated()], [LoopbackServer().start(), LoopbackServer().start()]
        known = _fill(databases[0], servers[0])
        sides = []
        for database, server in zip(databases, servers, strict=True):
            kit = face.kit(database, model="loop-1", base_url=server.url, tenant="rival")
            sides.append(Side(face, kit, database, server, open_engine(parse_database_url(database)), known))
        yield Pair(*sides)
        face.close()
        for side in sides:
            side.engine.dispose()
            side.server.stop()
        if isinstance(held, Postgres):
            for database in databases:
                held.release(database)

    return pytest.fixture(scope="module", params=FACES, ids="-".join)(pair)
