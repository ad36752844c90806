"""Read the path through a message that may be on no branch.

Behind the message it goes to the branch's end, or else to the newest leaf. The tree behind a message is known from its
partings: each is the first message of a run, and tells which run it left where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, and_, bindparam, func, literal, select, union_all

from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow, Parting
from convokit.store.message_tree import PARTS
from convokit.store.path_pages import (
    SELECT_BEHIND,
    SELECT_ROOTS,
    PathPage,
    is_on_path,
    list_followed,
    list_seqs,
    read_seqs,
    select_partings,
)
from convokit.store.schema import message

_IN_CONVERSATION = message.c.conversation_id == bindparam("id")
_parent = message.alias("parent")
_SELECT_PARTINGS = (
    SELECT_BEHIND.add_columns(_parent.c.run_start_seq)
    .join(_parent, and_(_parent.c.conversation_id == bindparam("id"), _parent.c.seq == message.c.parent_seq))
    .where(message.c.parent_seq >= bindparam("first"))
)
_SELECT_PARTINGS_AND_ROOTS = union_all(_SELECT_PARTINGS, SELECT_ROOTS.add_columns(literal(0)))
# `+ 0`: SQLite would otherwise read the messages of the run, in the order of its primary key.
_SELECT_NEXT_RUN = select(func.min(message.c.seq + 0)).where(
    _IN_CONVERSATION, PARTS, message.c.seq + 0 > bindparam("after")
)


_RunStart = tuple[int, int | None, int, int]
"""The first message of a run: its seq and its parent's, 1 if the run that it left goes on behind the parent (else 0), and the
first seq of that run (0 without a parent). A plain tuple, because a conversation may have ten thousand."""


@dataclass(frozen=True, slots=True)
class PathEnd:
    """The last message of a path and the first of its run. Both are None before the first message."""

    seq: int | None
    run_start_seq: int | None


@dataclass(slots=True)
class PartedPage:
    """A page of a path, with what follows it and where it parts."""

    page: PathPage
    has_later: bool
    """Whether the path has messages after the page."""
    partings: dict[int, Parting] | None
    """See `path_pages.find_partings`. None: they were not read, because the page is in the branch's last run."""


def read_around(
    connection: Connection, conversation: ConversationRow, end: PathEnd, page: PathPage, limit: int
) -> PartedPage:
    """Return a page with the messages that follow its last one, passages included: at most `limit` in all.

    They are on the path to `end` if the last message is, else on the path to the newest leaf behind it.
    """
    row = page.rows[-1]
    starts: list[_RunStart] = []
    is_in_last_run = end.seq is not None and row.run_start_seq == end.run_start_seq and row.seq <= end.seq
    if is_in_last_run:
        runs = [(row.run_start_seq, end.seq or 0)]
    else:
        statement = _SELECT_PARTINGS if page.previous else _SELECT_PARTINGS_AND_ROOTS
        first = page.previous or page.rows[0].seq
        starts = _read_run_starts(connection, statement, conversation.id, first)
        runs = _list_runs_behind(row, starts, end, conversation.last_seq)
    seqs = list(islice(list_seqs(runs, row.seq), limit - len(page.rows) + 1))
    following = read_seqs(connection, conversation.id, seqs) if seqs else []
    # Only the rows tell where the run of the newest leaf ends.
    firsts = {first for first, _ in runs}
    rows = [*page.rows, *(each for each in following if each.run_start_seq in firsts)]
    found = PathPage(rows[:limit], page.previous)
    partings = None
    if not is_in_last_run:
        partings = select_partings(list_followed(found), (each[:3] for each in starts))
    return PartedPage(found, len(rows) > limit, partings)


def find_path_through(connection: Connection, conversation: ConversationRow, head: int | None, row: MessageRow) -> int:
    """Return the end of a path through a message: `head` if the message is on its path, else the newest leaf behind it."""
    if head is not None and is_on_path(connection, conversation.id, head, row.seq):
        return head
    starts = _read_run_starts(connection, _SELECT_PARTINGS, conversation.id, row.seq)
    newest = _list_runs_behind(row, starts, PathEnd(None, None), conversation.last_seq)[-1][0]
    following = connection.execute(_SELECT_NEXT_RUN, {"id": conversation.id, "after": max(newest, row.seq)}).scalar()
    return conversation.last_seq if following is None else int(following) - 1


def _read_run_starts(connection: Connection, statement: Any, conversation_id: UUID, first: int) -> list[_RunStart]:
    """Return the first messages of the runs that leave the messages from `first` on, by seq."""
    rows = connection.execute(statement, {"id": conversation_id, "first": first})
    return sorted(tuple(row) for row in rows)


def _list_runs_behind(
    row: MessageRow, starts: Sequence[_RunStart], end: PathEnd, last_seq: int
) -> list[tuple[int, int]]:
    """Return the first and last seqs of the runs from a message to `end`, else to the newest leaf behind it, oldest first.

    The run of the newest leaf ends with the conversation, although other runs may start before that.
    """
    # The runs behind the message, by their first seqs. A run starts behind a run that was found before it.
    previous: dict[int, tuple[int, int]] = {}
    for seq, parent_seq, _, parent_run in starts:
        if parent_seq is None or parent_seq < row.seq:
            continue
        if parent_run == row.run_start_seq or parent_run in previous:
            previous[seq] = (parent_run, parent_seq)
    at, last = max(previous, default=row.run_start_seq), last_seq
    if end.seq is not None and end.run_start_seq in previous:
        at, last = end.run_start_seq, end.seq
    runs = [(at, last)]
    while at != row.run_start_seq:
        at, last = previous[at]
        runs.append((at, last))
    return runs[::-1]
