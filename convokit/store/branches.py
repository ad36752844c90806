"""Branches, and what the tree of messages is asked: who lies beside a message, where paths end, all in the order of writing.

A message that lies right behind its parent (its seq is one more) needs no index to be found from it. The others, where paths
part, are in the small index `convokit_message_parting`: so children and ends are found without reading what lies between.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Integer, and_, bindparam, insert, not_, select, union, union_all

from convokit.domain.branch import MAIN, BranchRow
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import SUMMARY, MessageRow
from convokit.store.schema import branch, message

_COLUMNS = tuple(getattr(message.c, name) for name in MessageRow.__slots__)
_OF_IT = message.c.conversation_id == bindparam("id")
_PARTS = message.c.run_start_seq == message.c.seq
"""The condition of the small index, word for word."""
_OF_PATHS = message.c.status != SUMMARY
"""Whether a message lies on any path: a summary lies beside them."""
_WAS_BESIDE = and_(message.c.status == "redacted", message.c.role == "user", message.c.tokens == 0)
"""Whether it was a passage or a summary before it was emptied: `MessageRow.is_passage`, in SQL."""
_BRANCHES = (
    select(*(getattr(branch.c, name) for name in BranchRow.__slots__))
    .where(branch.c.conversation_id == bindparam("id"), branch.c.number > 0, branch.c.number < bindparam("before"))
    .order_by(branch.c.number.desc())
    .limit(bindparam("limit"))
)
_NUMBERED = select(branch.c.number).where(
    branch.c.conversation_id == bindparam("id"), branch.c.number == bindparam("number")
)
_MADE = select(branch.c.name).where(
    branch.c.conversation_id == bindparam("id"),
    branch.c.number == bindparam("number"),
    branch.c.created_at == bindparam("at"),
)
_NAMED = select(branch.c.number).where(branch.c.conversation_id == bindparam("id"), branch.c.name == bindparam("name"))
_LAST = (
    select(branch.c.number)
    .where(branch.c.conversation_id == bindparam("id"), branch.c.number > 0)
    .order_by(branch.c.number.desc())
    .limit(1)
)
_INSERT = insert(branch)
_FIRSTS = select(*_COLUMNS).where(_OF_IT, message.c.parent_seq.is_(None), _PARTS).order_by(message.c.seq)
_CHILDREN = union_all(
    select(*_COLUMNS).where(
        _OF_IT, message.c.seq == bindparam("parent") + 1, message.c.parent_seq == bindparam("parent")
    ),
    select(*_COLUMNS).where(
        _OF_IT, message.c.parent_seq == bindparam("parent"), _PARTS, message.c.seq != bindparam("parent") + 1, _OF_PATHS
    ),
).order_by("seq")
_LOG = (
    select(*_COLUMNS)
    .where(_OF_IT, message.c.seq < bindparam("before"))
    .order_by(message.c.seq.desc())
    .limit(bindparam("limit"))
)


def _leaves() -> Any:
    """Return the statement for the ends of paths: the message before each parting, and the last, if nothing follows them."""
    child = message.alias("child")
    before = select((message.c.seq - 1).label("seq")).where(_OF_IT, _PARTS)
    ends = union(before, select(bindparam("last", type_=Integer).label("seq"))).cte("ends")
    follows = select(child.c.seq).where(
        child.c.conversation_id == bindparam("id"),
        child.c.parent_seq == ends.c.seq,
        child.c.run_start_seq == child.c.seq,
    )
    newest = (
        select(ends.c.seq)
        .join(message, and_(_OF_IT, message.c.seq == ends.c.seq))
        .where(ends.c.seq > 0, ends.c.seq < bindparam("before"), ~follows.exists(), _OF_PATHS, not_(_WAS_BESIDE))
        .order_by(ends.c.seq.desc())
        .limit(bindparam("limit"))
        .cte("newest")
    )
    return select(*_COLUMNS).join(newest, message.c.seq == newest.c.seq).where(_OF_IT).order_by(message.c.seq.desc())


_LEAVES = _leaves()


def listing(connection: Connection, row: ConversationRow, before: int, limit: int) -> list[BranchRow]:
    """Return the newest `limit` branches before a number, by number; the main one is the oldest."""
    values = {"id": row.id, "before": before, "limit": limit}
    found = [BranchRow(*each) for each in connection.execute(_BRANCHES, values)][::-1]
    return found if len(found) == limit else [BranchRow(0, MAIN, row.head_seq, row.created_at), *found]


def number_of(connection: Connection, conversation_id: UUID, wanted: int | str) -> int | None:
    """Return the number of the branch with this number or name, None where there is none."""
    if wanted in (0, MAIN):
        return 0
    if isinstance(wanted, str):
        found: int | None = connection.execute(_NAMED, {"id": conversation_id, "name": wanted}).scalar_one_or_none()
    else:
        values = {"id": conversation_id, "number": wanted}
        found = connection.execute(_NUMBERED, values).scalar_one_or_none()
    return found


def make(connection: Connection, conversation_id: UUID, row: BranchRow) -> None:
    """Make a branch under the next number, which its row is given. The conversation's row must be locked."""
    row.number = (connection.execute(_LAST, {"id": conversation_id}).scalar_one_or_none() or 0) + 1
    values = {name: getattr(row, name) for name in BranchRow.__slots__}
    connection.execute(_INSERT, {"conversation_id": conversation_id, **values})


def made(connection: Connection, conversation_id: UUID, row: BranchRow) -> int | None:
    """Return the number of a branch that `make` was to make, None where it is not there.

    Another one may have its number, where that try came to nothing, but hardly also its name and its microsecond.
    """
    values = {"id": conversation_id, "number": row.number, "at": row.created_at}
    found = connection.execute(_MADE, values).one_or_none()
    return row.number if found is not None and found[0] == row.name else None


def children(connection: Connection, conversation_id: UUID, parent_seq: int | None) -> list[MessageRow]:
    """Return the messages that follow this one, on any path, in the order of writing; with None, all that follow nothing."""
    values = {"id": conversation_id, "parent": parent_seq}
    statement: Any = _FIRSTS if parent_seq is None else _CHILDREN
    return [MessageRow(*row) for row in connection.execute(statement, values)]


def leaves(connection: Connection, row: ConversationRow, before: int, limit: int) -> list[MessageRow]:
    """Return the newest `limit` messages before a seq that nothing follows, newest first."""
    values = {"id": row.id, "last": row.last_seq, "before": before, "limit": limit}
    return [MessageRow(*each) for each in connection.execute(_LEAVES, values)]


def log(connection: Connection, conversation_id: UUID, before: int, limit: int) -> list[MessageRow]:
    """Return the newest `limit` messages before a seq, on whatever path, oldest first."""
    values = {"id": conversation_id, "before": before, "limit": limit}
    return [MessageRow(*row) for row in connection.execute(_LOG, values)][::-1]
