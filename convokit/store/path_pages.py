"""Read pages of a path, whole paths, and their partings.

A path is a sequence of runs, and a run is a range of seqs. So the runs tell which seqs follow a message on the path to a head.
The database walks over the runs between them; it reads the messages of the page only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, and_, bindparam, func, literal, not_, or_, select, union_all

from convokit.domain.message import SUMMARY, MessageRow, Parting
from convokit.store import messages
from convokit.store.message_tree import PARTS, WAS_PASSAGE_OR_SUMMARY
from convokit.store.messages import COLUMNS, build_runs
from convokit.store.schema import message

_IN_CONVERSATION = message.c.conversation_id == bindparam("id")
_runs = build_runs()
_SELECT_OLDEST_RUNS = (
    select(_runs.c.run_start_seq, _runs.c.seq).order_by(_runs.c.run_start_seq).limit(bindparam("limit"))
)
_SELECT_RANGE = (
    select(*COLUMNS)
    .where(_IN_CONVERSATION, message.c.seq >= bindparam("first"), message.c.seq <= bindparam("last"))
    .order_by(message.c.seq)
)
_SELECT_WHOLE = select(*COLUMNS).join_from(
    _runs,
    message,
    and_(
        _IN_CONVERSATION,
        message.c.seq >= _runs.c.run_start_seq,
        message.c.seq <= _runs.c.seq,
        message.c.seq > bindparam("after"),
    ),
)
_next = message.alias("next")
_HAS_NEXT = (
    select(_next.c.seq)
    .where(_next.c.conversation_id == bindparam("id"), _next.c.seq == message.c.seq + 1)
    .where(_next.c.parent_seq == message.c.seq)
    .exists()
)
# A redacted passage still leads to its question. A redacted summary leads nowhere, and is recognized by that.
_IS_OF_TREE = and_(message.c.status != SUMMARY, or_(not_(WAS_PASSAGE_OR_SUMMARY), _HAS_NEXT))
_continuing = message.alias("continuing")
_COUNT_CONTINUING = (
    select(func.count())
    .select_from(_continuing)
    .where(_continuing.c.conversation_id == bindparam("id"), _continuing.c.seq == message.c.parent_seq + 1)
    .where(_continuing.c.parent_seq == message.c.parent_seq, _continuing.c.run_start_seq != _continuing.c.seq)
    .scalar_subquery()
)
"""1 if the run of a parting's parent goes on behind the parent, else 0."""
_IS_PARTING = and_(_IN_CONVERSATION, PARTS, _IS_OF_TREE)
SELECT_BEHIND = select(message.c.seq, message.c.parent_seq, _COUNT_CONTINUING).where(
    _IS_PARTING, message.c.parent_seq.is_not(None)
)
"""The partings behind messages: first seq of the new run, seq of its parent, and `_COUNT_CONTINUING`."""
SELECT_ROOTS = select(message.c.seq, message.c.parent_seq, literal(0)).where(
    _IS_PARTING, message.c.parent_seq.is_(None)
)
"""The same for the first messages of paths, which have no parent."""
_SELECT_BEHIND_PAGE = SELECT_BEHIND.where(message.c.parent_seq.in_(bindparam("seqs", expanding=True)))
_SELECT_ALL = union_all(SELECT_BEHIND, SELECT_ROOTS)
_SELECT_OF_PAGE = {False: _SELECT_BEHIND_PAGE, True: union_all(_SELECT_BEHIND_PAGE, SELECT_ROOTS)}
"""By whether the page reaches the first message of the path."""
_MAX_LISTED = 1000
_BEFORE_PAGE = 4
"""Messages read before a page, to find the one that its first question follows. More than three passages take a statement."""


@dataclass(slots=True)
class PathPage:
    """Consecutive messages of a path, oldest first, without the passages if the caller does not want them."""

    rows: list[MessageRow]
    previous: int = 0
    """The seq of the message that the first one follows, passages apart; 0 before the first message."""


def read_before(
    connection: Connection, conversation_id: UUID, last: int | None, limit: int, *, passages: bool = False
) -> PathPage:
    """Return the last `limit` messages of the path to `last`."""

    def select_rows(rows: list[MessageRow]) -> list[MessageRow]:
        return rows if passages else [row for row in rows if not row.is_passage]

    def count_missing(rows: list[MessageRow]) -> int:
        selected = len(select_rows(rows))
        missing = limit + 1 - selected  # one more: the message that the first one follows
        # Expect the same share of passages among the next rows as among these.
        return missing * len(rows) // selected if selected else len(rows)

    path = messages.read_backwards(connection, conversation_id, last, count_missing, with_items=True)
    rows = select_rows(path.rows)[-limit:]
    if not rows:
        return PathPage([])
    earlier = [row.seq for row in path.rows if row.seq < rows[0].seq and not row.is_passage]
    if earlier or path.complete:
        return PathPage(rows, max(earlier, default=0))
    return PathPage(rows, find_before_passages(connection, conversation_id, rows[0].parent_seq) or 0)


def read_to(connection: Connection, conversation_id: UUID, last: int | None, limit: int) -> PathPage:
    """Return the last `limit` messages of the path to `last`, passages included. Four passages or more take more statements."""

    def count_missing(found: list[MessageRow]) -> int:
        return max(limit + 1 - len(found), 0)

    found = messages.read_backwards(
        connection,
        conversation_id,
        last,
        count_missing,
        first_page=limit + _BEFORE_PAGE,
        crosses_runs=True,
        with_items=True,
    )
    return PathPage(found.rows[-limit:], _find_previous_among(connection, conversation_id, found.rows[:-limit]))


def _find_previous_among(connection: Connection, conversation_id: UUID, earlier: list[MessageRow]) -> int:
    """Return the last message before a page that is not a passage; 0 for the first page. `earlier` are messages before it."""
    found = next((row.seq for row in reversed(earlier) if not row.is_passage), None)
    if found is None and earlier:
        first = earlier[0]
        # A run never starts behind a passage: a question is written together with its passages.
        is_run_start = first.seq == first.run_start_seq
        found = (
            first.parent_seq if is_run_start else find_before_passages(connection, conversation_id, first.parent_seq)
        )
    return found or 0


def read_page(
    connection: Connection, conversation_id: UUID, last: int | None, limit: int, *, passages: bool = False
) -> list[MessageRow]:
    """Return the last `limit` messages of the path to `last`, oldest first. `passages` includes retrieved passages."""
    return read_before(connection, conversation_id, last, limit, passages=passages).rows


def read_after(
    connection: Connection, conversation_id: UUID, head: int | None, after: int, limit: int, *, passages: bool = False
) -> PathPage | None:
    """Return the first `limit` messages that follow message `after` on the path to `head`; None if it is not on the path.

    An `after` of 0 returns the first messages of the path.
    """
    found = _read_rows_from(connection, conversation_id, head, after, limit, passages=passages, with_start=True)
    if found is None:
        return None
    start, rows = found
    if not start or not start[-1].is_passage:
        return PathPage(rows, after)
    return PathPage(rows, _find_previous_among(connection, conversation_id, start))


def read_rows_after(
    connection: Connection, conversation_id: UUID, head: int | None, after: int, limit: int, *, passages: bool = False
) -> list[MessageRow] | None:
    """Return the messages of `read_after`."""
    found = _read_rows_from(connection, conversation_id, head, after, limit, passages=passages, with_start=False)
    return None if found is None else found[1]


def _read_rows_from(
    connection: Connection,
    conversation_id: UUID,
    head: int | None,
    after: int,
    limit: int,
    *,
    passages: bool,
    with_start: bool,
) -> tuple[list[MessageRow], list[MessageRow]] | None:
    """Return the messages of a run up to `after`, and the messages of `read_after`.

    The first list is empty without `with_start`, before the first message, and if no message follows `after`.
    """
    if head is None:
        return None if after else ([], [])
    start: list[MessageRow] = []
    rows: list[MessageRow] = []
    at = after
    while len(rows) < limit:
        runs = _list_oldest_runs(connection, conversation_id, head, at, limit + 1)
        if at and not (runs and runs[0][0] <= at <= runs[0][1]):
            return None
        seqs = list(islice(list_seqs(runs, at), limit - len(rows)))
        if not seqs:
            break
        reads_start = with_start and at == after and after > 0
        before = range(max(runs[0][0], after - _BEFORE_PAGE), after + 1) if reads_start else ()
        found = read_seqs(connection, conversation_id, [*before, *seqs])
        if reads_start:
            start, found = found[: len(before)], found[len(before) :]
        rows += [row for row in found if passages or not row.is_passage]
        at = seqs[-1]
        if at == head:
            break
    return start, rows


def _list_oldest_runs(
    connection: Connection, conversation_id: UUID, head: int, lowest: int, limit: int
) -> list[tuple[int, int]]:
    """Return the first and last seq of the oldest runs of the path to `head`, from the run with seq `lowest` on."""
    values = {"id": conversation_id, "last": head, "lowest": lowest, "limit": limit}
    return [(row[0], row[1]) for row in connection.execute(_SELECT_OLDEST_RUNS, values)]


def is_on_path(connection: Connection, conversation_id: UUID, head: int, seq: int) -> bool:
    """Return whether a message is on the path to `head`."""
    runs = _list_oldest_runs(connection, conversation_id, head, seq, 1)
    return bool(runs) and runs[0][0] <= seq <= runs[0][1]


def list_seqs(runs: Sequence[tuple[int, int]], after: int) -> Iterator[int]:
    """Yield the seqs of runs, oldest first, that are higher than `after`."""
    for first, last in runs:
        yield from range(max(first, after + 1), last + 1)


def read_seqs(connection: Connection, conversation_id: UUID, seqs: Sequence[int]) -> list[MessageRow]:
    """Return the messages of ascending seqs that exist, in order."""
    if seqs[-1] - seqs[0] == len(seqs) - 1:
        values = {"id": conversation_id, "first": seqs[0], "last": seqs[-1]}
        return [MessageRow(*row) for row in connection.execute(_SELECT_RANGE, values)]
    rows = messages.read_many(connection, conversation_id, seqs, with_items=True)
    return sorted(rows, key=_get_seq)


def _get_seq(row: MessageRow) -> int:
    return row.seq


def read_whole(
    connection: Connection, conversation_id: UUID, head: int | None, *, after: int = 0, passages: bool = False
) -> PathPage | None:
    """Return all messages that follow message `after` on the path to `head`; None if it is not on the path."""
    if head is None:
        return None if after else PathPage([])
    if after and not is_on_path(connection, conversation_id, head, after):
        return None
    values = {"id": conversation_id, "last": head, "lowest": after, "after": after}
    rows = [MessageRow(*row) for row in connection.execute(_SELECT_WHOLE, values)]
    rows.sort(key=_get_seq)
    shown = rows if passages else [row for row in rows if not row.is_passage]
    return PathPage(shown, _find_previous(connection, conversation_id, after))


def _find_previous(connection: Connection, conversation_id: UUID, after: int) -> int:
    row = messages.find(connection, conversation_id, after) if after else None
    if row is None or not row.is_passage:
        return after
    return find_before_passages(connection, conversation_id, row.parent_seq) or 0


def find_before_passages(connection: Connection, conversation_id: UUID, seq: int | None) -> int | None:
    """Return the seq of the last message on the path to `seq` that is not a passage."""

    def rows_needed(rows: list[MessageRow]) -> int:
        return len(rows) if rows[-1].is_passage else 0

    rows = messages.read_backwards(connection, conversation_id, seq, rows_needed).rows
    return next((row.seq for row in reversed(rows) if not row.is_passage), None)


def find_partings(connection: Connection, conversation_id: UUID, page: PathPage) -> dict[int, Parting]:
    """Return where the path of a page parts, by the seqs of its messages.

    A question follows the message before its passages. One statement reads the partial index of partings.
    """
    followed = list_followed(page)
    if not followed:
        return {}
    statement: Any = _SELECT_ALL
    values: dict[str, Any] = {"id": conversation_id}
    seqs = [seq for seq in followed.values() if seq]
    if len(followed) <= _MAX_LISTED:
        statement, values["seqs"] = _SELECT_OF_PAGE[len(seqs) < len(followed)], seqs
    return select_partings(followed, (tuple(row) for row in connection.execute(statement, values)))


def select_partings(followed: Mapping[int, int], starts: Iterable[tuple[int, int | None, int]]) -> dict[int, Parting]:
    """Return where a path parts.

    `followed` is what `list_followed` returns. `starts` are the first seqs of runs with the seqs of their parents, and whether
    the run of the parent goes on behind it.
    """
    versions: dict[int, set[int]] = {at: set() for at in followed.values()}
    for seq, parent_seq, continues in starts:
        at = parent_seq or 0
        if at in versions:
            versions[at].update({seq, at + 1} if continues else {seq})
    parted = {at: Parting(at, tuple(sorted(seqs))) for at, seqs in versions.items() if len(seqs) > 1}
    return {seq: parted[at] for seq, at in followed.items() if at in parted}


def list_followed(page: PathPage) -> dict[int, int]:
    """Return the seq of the message that each message of a page follows, passages apart; 0 for the first of the path."""
    followed: dict[int, int] = {}
    at = page.previous
    for row in page.rows:
        if not row.is_passage:
            followed[row.seq] = at
            at = row.seq
    return followed
