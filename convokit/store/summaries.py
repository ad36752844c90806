"""Summaries: found from a path's end, and from a message that one of them stands for.

A summary belongs to every path that holds the last message it stands for: so a branch that forks below that message uses it,
and one that forks from before does not.
"""

from __future__ import annotations

from dataclasses import fields
from uuid import UUID

from sqlalchemy import Connection, bindparam, func, insert, select

from convokit.domain.conversation import StoredSummary, SummaryRow
from convokit.domain.message import SUMMARY
from convokit.store import messages
from convokit.store.schema import message, summary

MOST = 4
"""How many of a path's newest summaries are read: another branch may have made newer ones of messages both have."""
_PAGE = 16
_COLUMNS = tuple(getattr(summary.c, field.name) for field in fields(SummaryRow))
_there = (
    select(message.c.seq)
    .where(
        message.c.conversation_id == bindparam("id"),
        message.c.seq == summary.c.message_seq,
        message.c.status == SUMMARY,
    )
    .exists()
)
_NEWEST = (
    select(*_COLUMNS)
    .where(summary.c.conversation_id == bindparam("id"), summary.c.number < bindparam("below"), _there)
    .order_by(summary.c.number.desc())
    .limit(_PAGE)
)
_AROUND = (
    select(*_COLUMNS)
    .where(
        summary.c.conversation_id == bindparam("id"),
        summary.c.from_seq <= bindparam("seq"),
        summary.c.to_seq >= bindparam("seq"),
    )
    .order_by(summary.c.number)
)
_LAST = select(func.coalesce(func.max(summary.c.number), 0)).where(summary.c.conversation_id == bindparam("id"))
_INSERT = insert(summary)
_NUMBERS = 2**31 - 1


def insert_summary(connection: Connection, conversation_id: UUID, row: SummaryRow) -> None:
    """Insert a summary under the next number, in the transaction that inserts its message and holds the conversation."""
    row.number = connection.execute(_LAST, {"id": conversation_id}).scalar_one() + 1
    values = {field.name: getattr(row, field.name) for field in fields(SummaryRow)}
    connection.execute(_INSERT, {"conversation_id": conversation_id, **values})


def list_path_summaries(connection: Connection, conversation_id: UUID, head: int | None) -> list[StoredSummary]:
    """Return the newest summaries of the path to `head` whose text is still there, the newest first, at most four."""
    found: list[SummaryRow] = []
    below = _NUMBERS
    while head is not None and len(found) < MOST:
        rows = [SummaryRow(*row) for row in connection.execute(_NEWEST, {"id": conversation_id, "below": below})]
        if not rows:
            break
        there = set(messages.filter_on_path(connection, conversation_id, head, {row.to_seq for row in rows}))
        found += [row for row in rows if row.to_seq in there]
        below = rows[-1].number
    texts = messages.read_many(connection, conversation_id, [row.message_seq for row in found[:MOST]])
    by_seq = {each.seq: each for each in texts}
    return [StoredSummary(row, by_seq[row.message_seq]) for row in found[:MOST]]


def covering(connection: Connection, conversation_id: UUID, seq: int) -> list[SummaryRow]:
    """Return every summary that something of message `seq` may be in, the oldest first: what has to go when it goes."""
    rows = [SummaryRow(*row) for row in connection.execute(_AROUND, {"id": conversation_id, "seq": seq})]
    return [row for row in rows if messages.filter_on_path(connection, conversation_id, row.to_seq, [seq])]
