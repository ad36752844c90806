"""Append messages and read them by path.

A path through the tree of messages is a sequence of runs: ranges of consecutive seqs. `run_start_seq` is the first seq of a
message's run. The end of a path is read backwards in pages. A page within one run is one range scan. A page that continues in
earlier runs takes a second statement, which walks from each message to its parent, however many runs there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Integer, and_, bindparam, case, func, insert, or_, select

from convokit.domain.message import PASSAGE, SUMMARY, USER, MessageRow
from convokit.store import search_index
from convokit.store.schema import message

FIRST_PAGE = 32
"""Rows of the first page, before the window is known."""
_MAX_LISTED = 10_000
"""SQLite takes at most 32,766 values for a statement."""
COLUMNS = tuple(getattr(message.c, name) for name in MessageRow.__slots__)
# No request sends an item, and an item may be larger than its message. It is the row's last column.
_WINDOW_COLUMNS = COLUMNS[:-1]
_IN_CONVERSATION = message.c.conversation_id == bindparam("id")
RUN_START_OF_LAST = (
    select(message.c.run_start_seq).where(_IN_CONVERSATION, message.c.seq == bindparam("last")).scalar_subquery()
)


def _build_end_of_run(columns: Sequence[Any]) -> Any:
    """Return the statement that reads the end of a run backwards."""
    return (
        select(*columns)
        .where(_IN_CONVERSATION, message.c.seq <= bindparam("last"), message.c.seq >= RUN_START_OF_LAST)
        .order_by(message.c.seq.desc())
        .limit(bindparam("limit"))
    )


def _build_walk(columns: Sequence[Any]) -> Any:
    """Return the statement that reads a path backwards from message to parent."""
    head = select(*columns, bindparam("limit", type_=Integer).label("left"))
    path = head.where(_IN_CONVERSATION, message.c.seq == bindparam("last")).cte("path", recursive=True)
    step = select(*columns, path.c.left - 1).where(
        path.c.left > 1, _IN_CONVERSATION, message.c.seq == path.c.parent_seq
    )
    path = path.union_all(step)
    return select(*(path.c[column.name] for column in columns)).order_by(path.c.seq.desc())


def build_runs() -> Any:
    """Return the CTE of a path's runs (first seq, last seq, parent of the first), back to the run that contains `lowest`."""
    first = message.alias("first")
    # A subquery instead of a join: for a conversation of one run, PostgreSQL may join by reading all of it.
    before = select(first.c.parent_seq).where(
        first.c.conversation_id == bindparam("id"), first.c.seq == message.c.run_start_seq
    )
    run = select(message.c.run_start_seq, message.c.seq, before.scalar_subquery().label("before"))
    runs = run.where(_IN_CONVERSATION, message.c.seq == bindparam("last")).cte("runs", recursive=True)
    is_previous = (_IN_CONVERSATION, message.c.seq == runs.c.before, runs.c.before >= bindparam("lowest"))
    return runs.union_all(run.where(*is_previous))


_READ_BACKWARDS = {
    with_items: (_build_end_of_run(columns), _build_walk(columns))
    for with_items, columns in ((False, _WINDOW_COLUMNS), (True, COLUMNS))
}
_SELECT_RUNS = select(build_runs())
_next = message.alias("next")
# Redaction overwrites the status. A passage is followed by its question, and a summary by nothing.
_is_followed = select(_next.c.seq).where(
    _next.c.conversation_id == bindparam("id"),
    _next.c.seq == message.c.seq + 1,
    _next.c.parent_seq == message.c.seq,
)
_SELECT_ONE = select(*COLUMNS).where(_IN_CONVERSATION, message.c.seq == bindparam("seq"))
_SELECT_MANY = {
    with_items: select(*columns).where(_IN_CONVERSATION, message.c.seq.in_(bindparam("seqs", expanding=True)))
    for with_items, columns in ((False, _WINDOW_COLUMNS), (True, COLUMNS))
}
_SUM_TOKENS = select(func.coalesce(func.sum(message.c.tokens), 0)).where(_IN_CONVERSATION)
_SUM_TOKENS_OF_MANY = _SUM_TOKENS.where(message.c.seq.in_(bindparam("seqs", expanding=True)))
_SUM_TOKENS_BETWEEN = _SUM_TOKENS.where(message.c.seq.between(bindparam("first"), bindparam("last")))
_SELECT_PASSAGES_AND_SUMMARIES = select(
    message.c.seq,
    case((message.c.status != "redacted", message.c.status), (_is_followed.exists(), PASSAGE), else_=SUMMARY),
).where(
    _IN_CONVERSATION,
    message.c.seq.in_(bindparam("seqs", expanding=True)),
    message.c.role == USER,
    or_(
        message.c.status.in_((PASSAGE, SUMMARY)),
        and_(message.c.status == "redacted", message.c.tokens == 0),
    ),
)
_SELECT_NEWEST = (
    select(*COLUMNS)
    .where(_IN_CONVERSATION, message.c.seq < bindparam("before"))
    .order_by(message.c.seq.desc())
    .limit(bindparam("limit"))
)
_SELECT_OF_TURN = (
    select(*COLUMNS)
    .where(_IN_CONVERSATION, message.c.seq > bindparam("after"), message.c.turn_id == bindparam("turn"))
    .order_by(message.c.seq)
    .limit(bindparam("limit"))
)
_SELECT_LAST_SEQ_OF_TURN = select(func.max(message.c.seq)).where(
    _IN_CONVERSATION,
    message.c.seq >= bindparam("first"),
    message.c.turn_id == bindparam("turn"),
    message.c.status == "complete",
)
_INSERT = insert(message)


@dataclass(slots=True)
class MessagePath:
    """The end of a path, oldest message first. `complete` is True if it begins at the first message."""

    rows: list[MessageRow]
    complete: bool


def append(
    connection: Connection,
    conversation_id: UUID,
    rows: Sequence[MessageRow],
    owner: str | None = None,
    search_keys: Sequence[set[str]] | None = None,
) -> None:
    """Insert messages and index them for the search.

    `owner` is the conversation's tenant; None reads it. `search_keys` are the keys of the rows' words; None computes them.
    """
    if not rows:
        return
    values = [
        {"conversation_id": conversation_id, **{name: getattr(row, name) for name in row.__slots__}} for row in rows
    ]
    connection.execute(_INSERT, values)
    search_index.add_messages(connection, conversation_id, rows, owner, search_keys)


def find(connection: Connection, conversation_id: UUID, seq: int) -> MessageRow | None:
    """Return one message, or None."""
    row = connection.execute(_SELECT_ONE, {"id": conversation_id, "seq": seq}).one_or_none()
    return None if row is None else MessageRow(*row)


def read_many(
    connection: Connection, conversation_id: UUID, seqs: Sequence[int], *, with_items: bool = False
) -> list[MessageRow]:
    """Return the messages of these seqs that exist, in no particular order."""
    values = {"id": conversation_id, "seqs": list(seqs)}
    return [MessageRow(*row) for row in connection.execute(_SELECT_MANY[with_items], values)]


def sum_tokens(connection: Connection, conversation_id: UUID, seqs: Sequence[int]) -> int:
    """Return the sum of the tokens of messages. `seqs` ascend."""
    if seqs and seqs[-1] - seqs[0] == len(seqs) - 1:
        values = {"id": conversation_id, "first": seqs[0], "last": seqs[-1]}
        return int(connection.execute(_SUM_TOKENS_BETWEEN, values).scalar_one())
    total = 0
    for start in range(0, len(seqs), _MAX_LISTED):
        listed = {"id": conversation_id, "seqs": seqs[start : start + _MAX_LISTED]}
        total += connection.execute(_SUM_TOKENS_OF_MANY, listed).scalar_one()
    return total


def list_passages_and_summaries(connection: Connection, conversation_id: UUID, seqs: Sequence[int]) -> dict[int, str]:
    """Return those of the messages `seqs` that are passages or summaries, with the status that they were written with."""
    found: dict[int, str] = {}
    for start in range(0, len(seqs), _MAX_LISTED):
        values = {"id": conversation_id, "seqs": seqs[start : start + _MAX_LISTED]}
        found |= {row[0]: row[1] for row in connection.execute(_SELECT_PASSAGES_AND_SUMMARIES, values)}
    return found


def list_newest(connection: Connection, conversation_id: UUID, before: int, limit: int) -> list[MessageRow]:
    """Return the newest `limit` messages below seq `before`, on all paths, oldest first."""
    values = {"id": conversation_id, "before": before, "limit": limit}
    return [MessageRow(*row) for row in connection.execute(_SELECT_NEWEST, values)][::-1]


def list_turn_messages(
    connection: Connection, conversation_id: UUID, turn_id: UUID, *, after: int, limit: int
) -> list[MessageRow]:
    """Return the first `limit` messages of a turn above seq `after`, oldest first."""
    values = {"id": conversation_id, "turn": turn_id, "after": after, "limit": limit}
    return [MessageRow(*row) for row in connection.execute(_SELECT_OF_TURN, values)]


def find_last_seq_of_turn(
    connection: Connection, conversation_id: UUID, turn_id: UUID, question_seq: int, from_seq: int
) -> int:
    """Return the seq of a turn's last complete message: its question, or the last tool result from `from_seq` on."""
    values = {"id": conversation_id, "turn": turn_id, "first": from_seq}
    return connection.execute(_SELECT_LAST_SEQ_OF_TURN, values).scalar_one() or question_seq


def read_backwards(
    connection: Connection,
    conversation_id: UUID,
    head: int | None,
    enough: Callable[[list[MessageRow]], int],
    *,
    first_page: int = FIRST_PAGE,
    crosses_runs: bool = False,
    with_items: bool = False,
) -> MessagePath:
    """Return the end of the path to `head`, which is read backwards in pages, the first of `first_page` messages.

    After each page, `enough` receives all rows so far, newest first, and returns how many more to read. 0 stops.
    With `crosses_runs`, one statement reads the first page also where it lies in several runs.
    """
    end_of_run, walk = _READ_BACKWARDS[with_items]
    rows: list[MessageRow] = []
    wanted = first_page
    last = head
    while last is not None and wanted > 0:
        values = {"id": conversation_id, "last": last, "limit": wanted}
        page = [MessageRow(*row) for row in connection.execute(walk if crosses_runs else end_of_run, values)]
        if not page:
            break
        rows += page
        last = rows[-1].parent_seq
        # A short page ended at the start of its run. The rest of the page lies in earlier runs.
        crosses_runs = len(page) < wanted
        wanted = wanted - len(page) if crosses_runs else enough(rows)
    rows.reverse()
    return MessagePath(rows, complete=not rows or rows[0].parent_seq is None)


def filter_on_path(connection: Connection, conversation_id: UUID, head: int | None, seqs: Collection[int]) -> list[int]:
    """Return those of `seqs` that are on the path to `head`, sorted. Reads one row for each run, not for each message."""
    if not seqs:
        return []
    values = {"id": conversation_id, "last": head, "lowest": min(seqs)}
    runs: list[tuple[int, ...]] = [tuple(row) for row in connection.execute(_SELECT_RUNS, values)]
    return sorted(seq for seq in set(seqs) if any(first <= seq <= last for first, last, *_ in runs))


def list_runs(connection: Connection, conversation_id: UUID, head: int) -> list[tuple[int, int]]:
    """Return the first and last seq of each run of the path to `head`, in order."""
    values = {"id": conversation_id, "last": head, "lowest": 0}
    return sorted((first, last) for first, last, *_ in map(tuple, connection.execute(_SELECT_RUNS, values)))
