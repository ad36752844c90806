"""One kit on one database for a whole module, so that hundreds of cases cost one database; and what the tables hold.

A case that must change nothing is run inside `stage.untouched()`: no row appears in any table, and nothing is called.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, union_all

from convokit.store.engine import open_engine, parse_database_url
from convokit.store.schema import completion, metadata
from tests.support.databases import Files, Postgres
from tests.support.faces import Face
from tests.support.server import LoopbackServer

FACES = [(backend, face) for backend in ("sqlite", "postgresql") for face in ("sync", "async")]
EACH_ONCE = [("sqlite", "sync"), ("postgresql", "async")]
"""Each database and each face once, for what is decided before either of them is reached, or behind both."""
_numbers = itertools.count(1)


def dump(engine: Engine) -> dict[str, list[str]]:
    """Return every row of every table, as text and in an order of its own."""
    with engine.connect() as connection:
        tables = metadata.tables.values()
        return {table.name: sorted(map(repr, connection.execute(table.select()).all())) for table in tables}


_COUNTS = union_all(*(select(func.count()).select_from(table) for table in metadata.tables.values()))
"""The number of rows of every table, in one statement: nothing is ever deleted and written anew."""


def circle() -> dict[str, Any]:
    """Return a mapping that holds itself."""
    made: dict[str, Any] = {}
    made["again"] = made
    return made


def nested(depth: int) -> dict[str, Any]:
    """Return a mapping `depth` levels deep."""
    made: dict[str, Any] = {}
    for _ in range(depth - 1):
        made = {"in": made}
    return made


@dataclass
class Stage:
    """A kit of one face on one database, its server, and a look past both."""

    face: Face
    database: str
    server: LoopbackServer
    kit: Any
    engine: Engine

    def settle(self, value: Any) -> Any:
        """Return a value, waiting for it if it has to be awaited."""
        return self.face.settle(value)

    def chat(self, **settings: Any) -> Any:
        """Return a chat nobody has opened."""
        return self.kit.chat(f"stage-{next(_numbers)}", **settings)

    def dump(self) -> dict[str, list[str]]:
        """Return every row of every table."""
        return dump(self.engine)

    def calls(self, chat: Any) -> list[str]:
        """Return the states of a chat's API calls, in their order."""
        columns = completion.c
        query = select(columns.state).where(columns.conversation_id == chat.id)
        with self.engine.connect() as connection:
            return list(connection.execute(query.order_by(columns.started_at, columns.number)).scalars())

    def goes_on(self, chat: Any, partial: str) -> None:
        """Hold that the question "x" and what came of its reply are stored, and that the conversation goes on elsewhere."""
        stored = self.settle(chat.messages())
        kept = [(partial, "partial")] if partial else []
        assert [(each.text, each.status) for each in stored] == [("x", "complete"), *kept]
        assert self.settle(self.kit.chat(chat.key).send("go on")).text == "echo: go on"
        self.settle(chat.verify())

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Hold that nothing is written and nothing is called."""
        rows, requests = self._counts(), len(self.server.requests)
        yield
        assert len(self.server.requests) == requests, "the server was called"
        assert self._counts() == rows, "something was written"

    def _counts(self) -> list[int]:
        with self.engine.connect() as connection:
            return list(connection.execute(_COUNTS).scalars())


def staged(on: list[tuple[str, str]] = FACES, **settings: Any) -> Callable[..., Iterator[Stage]]:
    """Return a fixture of the module: a stage on each of these databases and faces."""

    def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
        backend, name = request.param
        held: Files | Postgres = request.getfixturevalue("files" if backend == "sqlite" else "postgres")
        database = held.migrated()
        face, server = Face(name), LoopbackServer().start()
        engine = open_engine(parse_database_url(database))
        kit = face.kit(database, model="loop-1", base_url=server.url, **settings)
        yield Stage(face, database, server, kit, engine)
        face.close()
        server.stop()
        engine.dispose()
        if isinstance(held, Postgres):
            held.release(database)

    return pytest.fixture(scope="module", params=on, ids="-".join)(stage)
