"""Read and write summaries of earlier messages.

A summary belongs to every path that contains the last message it summarizes. A branch that forks below that message uses the
summary; a branch that forks above does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from uuid import UUID

from sqlalchemy import Connection, bindparam, func, insert, select

from convokit.domain.conversation import StoredSummary, SummaryRow
from convokit.domain.message import SUMMARY
from convokit.store import messages
from convokit.store.schema import message, summary

MAX_SUMMARIES = 4
"""Summaries read for a path. More than one, because the newest may summarize more than the path's window leaves out."""
_PAGE = 16
_MAX_NUMBER = 2**31 - 1
_has_text = (
    select(message.c.seq)
    .where(
        message.c.conversation_id == bindparam("id"),
        message.c.seq == summary.c.message_seq,
        message.c.status == SUMMARY,
    )
    .exists()
)
_SELECT_NEWEST_WITH_TEXT = (
    select(*(getattr(summary.c, field.name) for field in fields(SummaryRow)))
    .where(summary.c.conversation_id == bindparam("id"), summary.c.number < bindparam("below"), _has_text)
    .order_by(summary.c.number.desc())
    .limit(_PAGE)
)
_SELECT_NEWEST = (
    select(*(getattr(summary.c, field.name) for field in fields(SummaryRow)))
    .where(summary.c.conversation_id == bindparam("id"), summary.c.number < bindparam("below"))
    .order_by(summary.c.number.desc())
    .limit(bindparam("limit"))
)
_SELECT_OF_MESSAGES = (
    select(*(getattr(summary.c, field.name) for field in fields(SummaryRow)))
    .where(summary.c.conversation_id == bindparam("id"), summary.c.message_seq.in_(bindparam("seqs", expanding=True)))
    .order_by(summary.c.number)
)
_SELECT_LAST_NUMBER = select(func.coalesce(func.max(summary.c.number), 0)).where(
    summary.c.conversation_id == bindparam("id")
)
_INSERT = insert(summary)


def insert_summary(connection: Connection, conversation_id: UUID, row: SummaryRow) -> None:
    """Insert a summary and set its number in `row`.

    The conversation must be locked, and the summary's message inserted in the same transaction.
    """
    row.number = connection.execute(_SELECT_LAST_NUMBER, {"id": conversation_id}).scalar_one() + 1
    values = {field.name: getattr(row, field.name) for field in fields(SummaryRow)}
    connection.execute(_INSERT, {"conversation_id": conversation_id, **values})


def list_newest(connection: Connection, conversation_id: UUID, below: int, limit: int) -> list[SummaryRow]:
    """Return the newest `limit` summaries below a number, of all paths, in order. Those without text are among them."""
    values = {"id": conversation_id, "below": below, "limit": limit}
    return [SummaryRow(*row) for row in connection.execute(_SELECT_NEWEST, values)][::-1]


def find_of_messages(connection: Connection, conversation_id: UUID, message_seqs: Sequence[int]) -> list[SummaryRow]:
    """Return the summaries whose texts are these messages, in order. Those without text are among them."""
    rows = connection.execute(_SELECT_OF_MESSAGES, {"id": conversation_id, "seqs": list(message_seqs)})
    return [SummaryRow(*row) for row in rows]


def list_path_summaries(connection: Connection, conversation_id: UUID, head: int | None) -> list[StoredSummary]:
    """Return the newest summaries of the path to `head` that were not redacted, newest first, at most four."""
    found: list[SummaryRow] = []
    below = _MAX_NUMBER
    while head is not None and len(found) < MAX_SUMMARIES:
        values = {"id": conversation_id, "below": below}
        page = [SummaryRow(*row) for row in connection.execute(_SELECT_NEWEST_WITH_TEXT, values)]
        if not page:
            break
        on_path = set(messages.filter_on_path(connection, conversation_id, head, {row.to_seq for row in page}))
        found += [row for row in page if row.to_seq in on_path]
        below = page[-1].number
    rows = messages.read_many(connection, conversation_id, [row.message_seq for row in found[:MAX_SUMMARIES]])
    by_seq = {row.seq: row for row in rows}
    return [StoredSummary(row, by_seq[row.message_seq]) for row in found[:MAX_SUMMARIES]]
