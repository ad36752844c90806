"""Messages: appended once, read by range.

A path through the tree of messages is a chain of contiguous runs (`run_start_seq`), so reading the end of any path is a few
range scans from its head backwards, never more than what is asked for. A page is one statement, and one more where it goes on
in earlier runs: that one walks from message to message, so a path over many branches takes no more statements than that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Integer, bindparam, func, insert, select

from convokit.domain.message import MessageRow
from convokit.store import search_index
from convokit.store.schema import message

_COLUMNS = tuple(getattr(message.c, name) for name in MessageRow.__slots__)
_run_start = (
    select(message.c.run_start_seq)
    .where(message.c.conversation_id == bindparam("id"), message.c.seq == bindparam("last"))
    .scalar_subquery()
)
_RUN = (
    select(*_COLUMNS)
    .where(
        message.c.conversation_id == bindparam("id"),
        message.c.seq <= bindparam("last"),
        message.c.seq >= _run_start,
    )
    .order_by(message.c.seq.desc())
    .limit(bindparam("limit"))
)


def _walk() -> Any:
    """Return the statement that walks from message to message: for the part of a page that lies before its first run."""
    of_it = message.c.conversation_id == bindparam("id")
    head = select(*_COLUMNS, bindparam("limit", type_=Integer).label("left"))
    path = head.where(of_it, message.c.seq == bindparam("last")).cte("path", recursive=True)
    step = select(*_COLUMNS, path.c.left - 1).where(path.c.left > 1, of_it, message.c.seq == path.c.parent_seq)
    path = path.union_all(step)
    return select(*(path.c[column.name] for column in _COLUMNS)).order_by(path.c.seq.desc())


_WALK = _walk()
_ONE = select(*_COLUMNS).where(message.c.conversation_id == bindparam("id"), message.c.seq == bindparam("seq"))
_AMONG = select(*_COLUMNS).where(
    message.c.conversation_id == bindparam("id"), message.c.seq.in_(bindparam("seqs", expanding=True))
)
_OF_TURN = (
    select(*_COLUMNS)
    .where(
        message.c.conversation_id == bindparam("id"),
        message.c.seq > bindparam("after"),
        message.c.turn_id == bindparam("turn"),
    )
    .order_by(message.c.seq)
    .limit(bindparam("limit"))
)


def _runs() -> Any:
    """Return the statement that lists a path's runs, back to the one that holds seq `lowest`."""
    of_it, first = message.c.conversation_id == bindparam("id"), message.alias("first")
    # a subquery, not a join: PostgreSQL may join by reading the whole conversation where all of it is one run
    before = select(first.c.parent_seq).where(
        first.c.conversation_id == bindparam("id"), first.c.seq == message.c.run_start_seq
    )
    run = select(message.c.run_start_seq, message.c.seq, before.scalar_subquery().label("before"))
    runs = run.where(of_it, message.c.seq == bindparam("last")).cte("runs", recursive=True)
    at_end = (of_it, message.c.seq == runs.c.before, runs.c.before >= bindparam("lowest"))
    return select(runs.union_all(run.where(*at_end)))


_RUNS = _runs()
_INSERT = insert(message)
FIRST_PAGE = 32
"""Rows read before anything is known of the window: a turn reads at most twice the rows it sends, and these."""

_LAST_OF_TURN = select(func.max(message.c.seq)).where(
    message.c.conversation_id == bindparam("id"),
    message.c.seq >= bindparam("first"),
    message.c.turn_id == bindparam("turn"),
    message.c.status == "complete",
)


@dataclass(slots=True)
class MessagePath:
    """The end of a path, oldest message first. `complete` says that it begins at the root."""

    rows: list[MessageRow]
    complete: bool


def append(
    connection: Connection, conversation_id: UUID, rows: Sequence[MessageRow], found_by: str | None = None
) -> None:
    """Insert final messages, and into the search index what they are found by. `found_by` is the conversation's
    tenant, read where it is not given."""
    if rows:
        connection.execute(
            _INSERT,
            [
                {"conversation_id": conversation_id, **{name: getattr(row, name) for name in row.__slots__}}
                for row in rows
            ],
        )
        search_index.add_messages(connection, conversation_id, rows, found_by)


def find(connection: Connection, conversation_id: UUID, seq: int) -> MessageRow | None:
    """Return one message."""
    row = connection.execute(_ONE, {"id": conversation_id, "seq": seq}).one_or_none()
    return None if row is None else MessageRow(*row)


def read_many(connection: Connection, conversation_id: UUID, seqs: Sequence[int]) -> list[MessageRow]:
    """Return these messages, as many of them as there are."""
    return [MessageRow(*row) for row in connection.execute(_AMONG, {"id": conversation_id, "seqs": list(seqs)})]


def list_turn_messages(
    connection: Connection, conversation_id: UUID, turn_id: UUID, *, after: int, limit: int
) -> list[MessageRow]:
    """Return the first `limit` messages of a turn behind a seq, oldest first."""
    values = {"id": conversation_id, "turn": turn_id, "after": after, "limit": limit}
    return [MessageRow(*row) for row in connection.execute(_OF_TURN, values)]


def find_last_seq_of_turn(
    connection: Connection, conversation_id: UUID, turn_id: UUID, question_seq: int, from_seq: int
) -> int:
    """Return the seq of a turn's last whole message: its question, or the last result of its tools, from `from_seq` on."""
    values = {"id": conversation_id, "turn": turn_id, "first": from_seq}
    return connection.execute(_LAST_OF_TURN, values).scalar_one() or question_seq


def read_backwards(
    connection: Connection, conversation_id: UUID, head: int | None, enough: Callable[[list[MessageRow]], int]
) -> MessagePath:
    """Return the end of the path to `head`, reading pages backwards.

    After each page, `enough` is shown all rows so far, newest first, and returns how many more to read; 0 ends the reading.
    """
    rows: list[MessageRow] = []
    wanted = FIRST_PAGE
    last, crossing = head, False
    while last is not None and wanted > 0:
        values = {"id": conversation_id, "last": last, "limit": wanted}
        found = [MessageRow(*row) for row in connection.execute(_WALK if crossing else _RUN, values)]
        if not found:
            break
        rows += found
        last = rows[-1].parent_seq
        crossing = len(found) < wanted
        wanted = wanted - len(found) if crossing else enough(rows)
    rows.reverse()
    return MessagePath(rows, complete=not rows or rows[0].parent_seq is None)


def filter_on_path(connection: Connection, conversation_id: UUID, head: int | None, seqs: Collection[int]) -> list[int]:
    """Return those of `seqs` that lie on the path to `head`, in order: found by the path's runs, not message by message."""
    if not seqs:
        return []
    values = {"id": conversation_id, "last": head, "lowest": min(seqs)}
    runs: list[tuple[int, ...]] = [tuple(row) for row in connection.execute(_RUNS, values)]
    return sorted(seq for seq in set(seqs) if any(first <= seq <= last for first, last, *_ in runs))


def list_runs(connection: Connection, conversation_id: UUID, head: int) -> list[tuple[int, int]]:
    """Return the first and last seq of each run of the path to `head`, in order."""
    values = {"id": conversation_id, "last": head, "lowest": 0}
    return sorted((first, last) for first, last, *_ in map(tuple, connection.execute(_RUNS, values)))


def read_page(
    connection: Connection, conversation_id: UUID, last: int | None, limit: int, *, passages: bool = False
) -> list[MessageRow]:
    """Return the `limit` messages of the path that ends at `last`, oldest first: those of the talk, or with its passages."""

    def wanted(rows: list[MessageRow]) -> list[MessageRow]:
        return rows if passages else [row for row in rows if not row.is_passage]

    def enough(rows: list[MessageRow]) -> int:
        found = len(wanted(rows))
        left = limit - found
        return left * len(rows) // found if found else len(rows)  # as many passages among the rest as among these

    path = read_backwards(connection, conversation_id, last, enough)
    return wanted(path.rows)[-limit:]
