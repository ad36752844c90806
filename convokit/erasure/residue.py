"""What a removal leaves behind outside its rows: prompts that nobody refers to any more, bytes in a SQLite file and its log.

SQLite overwrites what it deletes (`secure_delete`), but an older state of a page stays in the write-ahead log until that is
copied into the file and truncated, which nobody may hinder by reading an older state.
"""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, LargeBinary, Text, bindparam, cast, delete, func, or_, select, tuple_

from convokit.store.dialects import dialect_of
from convokit.store.schema import completion, conversation, metadata, prompt

_REFERENCE = re.compile(r'"(?:prompt|tools)":"([0-9a-f]{32})"')
_PAGE = 1000
_CONVERSATIONS = 100
BLOCK_BYTES = 1024 * 1024
WAIT_S = 2.0
"""How long a checkpoint waits for readers: they are in no hurry, and whoever erases can come back."""
_KEPT: dict[tuple[int, int], int] = {}
"""Open files that were searched, by device and inode. They stay open: closing any of them would drop every lock that this
process holds on the file, SQLite's own among them (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled)."""


def referred(manifest: str) -> list[bytes]:
    """Return the digests of the prompts that a manifest refers to."""
    return [bytes.fromhex(found) for found in _REFERENCE.findall(manifest)]


def unreferenced(
    connection: Connection, tenant: str, among: Collection[bytes] | None, without: Collection[UUID] = ()
) -> set[bytes]:
    """Return the tenant's prompts, `among` these or all, that no request refers to, but those of the conversations `without`.

    One pass over the tenant's requests, the latest conversations first; it ends as soon as each prompt was met.
    """
    query = select(prompt.c.digest).where(prompt.c.tenant == tenant)
    if among is not None:
        query = query.where(prompt.c.digest.in_(among))
    left = {bytes(digest) for digest in connection.execute(query).scalars()} if among is None or among else set()
    place = (conversation.c.updated_at, conversation.c.id)
    query_ids = select(*place).where(conversation.c.tenant == tenant).order_by(*(each.desc() for each in place))
    last: Any = None
    while left:
        page = query_ids if last is None else query_ids.where(tuple_(*place) < tuple(last))
        rows = connection.execute(page.limit(_CONVERSATIONS)).all()
        if not rows:
            return left
        last = rows[-1]
        ids: list[Any] = [row[1] for row in rows if row[1] not in without]
        for manifest in _manifests(connection, ids):
            left.difference_update(referred(manifest))
            if not left:
                break
    return left


def _manifests(connection: Connection, ids: Sequence[UUID]) -> Iterator[str]:
    key = (completion.c.conversation_id, completion.c.turn_id, completion.c.number)
    query = select(completion.c.manifest, *key).where(completion.c.conversation_id.in_(ids)).order_by(*key).limit(_PAGE)
    page = query
    while ids and (rows := connection.execute(page).all()):
        yield from (row[0] for row in rows)
        if len(rows) < _PAGE:
            return
        page = query.where(tuple_(*key) > tuple(rows[-1][1:]))


def drop_prompts(connection: Connection, tenant: str, among: Collection[bytes]) -> int:
    """Delete those of these prompts that no request refers to, in a writing transaction of its own. Return how many.

    A turn that begins meanwhile records its request first, and stores its prompts then: on PostgreSQL the lock makes it wait in
    between until we are done, so that it finds them gone and stores them anew. SQLite has one writer.
    """
    dialect_of(connection).lock_prompts(connection)
    gone = unreferenced(connection, tenant, among)
    if not gone:
        return 0
    mine = (prompt.c.tenant == tenant, prompt.c.digest.in_(gone))
    return int(connection.execute(delete(prompt).where(*mine)).rowcount)


def stands_elsewhere(connection: Connection, piece: bytes) -> bool:
    """Return whether a row of any table says the same: bytes found in the file are its own then. SQLite only."""
    for table in metadata.tables.values():
        columns = [each for each in table.columns if isinstance(each.type, Text | LargeBinary)]
        says = [func.instr(cast(each, LargeBinary), bindparam("piece", type_=LargeBinary)) > 0 for each in columns]
        if says and connection.execute(select(1).where(or_(*says)).limit(1), {"piece": piece}).first() is not None:
            return True
    return False


def file_of(connection: Connection) -> str | None:
    """Return the path of a SQLite database; None on a server."""
    return dialect_of(connection).file_of(connection)


def scrub(path: str, pieces: Sequence[bytes]) -> list[bytes] | None:
    """Copy the log into the file and truncate it, then return those pieces that still stand in either.

    None when somebody reads an older state, so that the log must stay. Raises: sqlite3.Error, OSError.
    """
    with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as connection:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return None if busy else standing(path, pieces)


def standing(path: str, pieces: Sequence[bytes]) -> list[bytes]:
    """Return those pieces that stand in a SQLite file or its log, read a block at a time. Raises: OSError."""
    left = list(dict.fromkeys(pieces))
    found: list[bytes] = []
    longest = max(map(len, left), default=1)
    for name in (path, f"{path}-wal"):
        with _reading(name) as blocks:
            tail = b""
            for block in blocks if left else ():
                seen = tail + block
                here = [piece for piece in left if piece in seen]
                found += here
                left = [piece for piece in left if piece not in here]
                tail = seen[-longest + 1 :] if longest > 1 else b""
    return found


@contextmanager
def _reading(name: str) -> Iterator[Iterator[bytes]]:
    """Yield a file's blocks; none where there is no such file."""
    try:
        found = os.stat(name)
    except FileNotFoundError:
        yield iter(())
        return
    if name.endswith("-wal") or sys.platform == "win32":  # nobody locks a log, and no lock is lost there
        with open(name, "rb") as file:
            yield iter(lambda: file.read(BLOCK_BYTES), b"")
        return
    place = (found.st_dev, found.st_ino)
    if place not in _KEPT:
        _KEPT[place] = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    yield _blocks(_KEPT[place])


def _blocks(descriptor: int) -> Iterator[bytes]:
    at = 0
    while block := os.pread(descriptor, BLOCK_BYTES, at):
        yield block
        at += len(block)
