"""Read and write branches, their heads, and the tree of messages.

The tree is read through the partial index `convokit_message_parting`. It contains the messages whose seq is not one more than
their parent's: there the paths part. Every other message follows its parent directly and needs no index. Children and leaves
are found without reading the messages between them.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Integer, and_, bindparam, func, insert, not_, select, union, union_all, update

from convokit.domain.conversation import MAIN, MAX_PARTS_CHARS, PREVIEW_CHARS, BranchRow, ConversationRow, PreviewRow
from convokit.domain.ids import MAX_SEQ
from convokit.domain.message import SUMMARY, USER, MessageRow
from convokit.store.schema import branch, conversation, message

_IN_CONVERSATION = branch.c.conversation_id == bindparam("id")
_SELECT_HEAD = select(branch.c.head_seq).where(_IN_CONVERSATION, branch.c.number == bindparam("number"))
_SELECT_PAGE = (
    select(*(getattr(branch.c, name) for name in BranchRow.__slots__))
    .where(_IN_CONVERSATION, branch.c.number > 0, branch.c.number < bindparam("before"))
    .order_by(branch.c.number.desc())
    .limit(bindparam("limit"))
)
_SELECT_ANY_NUMBER = select(branch.c.number).where(
    _IN_CONVERSATION,
    select(conversation.c.id)
    .where(conversation.c.id == bindparam("id"), conversation.c.tenant == bindparam("tenant"))
    .exists(),
)
_SELECT_NUMBER = _SELECT_ANY_NUMBER.where(branch.c.number == bindparam("wanted"))
_SELECT_NUMBER_BY_NAME = _SELECT_ANY_NUMBER.where(branch.c.name == bindparam("wanted"))
_SELECT_NAME_CREATED_AT = select(branch.c.name).where(
    _IN_CONVERSATION, branch.c.number == bindparam("number"), branch.c.created_at == bindparam("at")
)
_SELECT_LAST_NUMBER = (
    select(branch.c.number).where(_IN_CONVERSATION, branch.c.number > 0).order_by(branch.c.number.desc()).limit(1)
)
_INSERT = insert(branch)
_MOVE_HEAD = (
    update(branch)
    .where(branch.c.conversation_id == bindparam("b_id"), branch.c.number == bindparam("b_number"))
    .values(head_seq=bindparam("head_seq"))
)
MOVE_HEAD_FROM = _MOVE_HEAD.where(branch.c.head_seq.is_not_distinct_from(bindparam("b_head_seq", type_=Integer)))
"""Matches no row if the head of the branch is not `b_head_seq` any more."""
_SET_MAIN_HEAD = (
    update(conversation)
    .where(conversation.c.id == bindparam("b_id"), conversation.c.tenant == bindparam("b_tenant"))
    .values(head_seq=bindparam("new_head_seq"))
)

_MESSAGE_COLUMNS = tuple(getattr(message.c, name) for name in MessageRow.__slots__)
_MESSAGE_IN_CONVERSATION = message.c.conversation_id == bindparam("id")
# Word for word the condition of the partial index: otherwise neither database uses it.
PARTS = message.c.run_start_seq == message.c.seq
_IS_NOT_SUMMARY = message.c.status != SUMMARY
# `MessageRow.is_passage` in SQL. A redacted passage or summary is recognized by its zero tokens.
WAS_PASSAGE_OR_SUMMARY = and_(message.c.status == "redacted", message.c.role == USER, message.c.tokens == 0)
# `+ 0`: SQLite would otherwise read the whole conversation by its primary key, for the order or the range of seqs.
_BEHIND_PARTING = (
    select(*_MESSAGE_COLUMNS)
    .where(
        _MESSAGE_IN_CONVERSATION,
        PARTS,
        _IS_NOT_SUMMARY,
        message.c.seq + 0 < bindparam("before"),
    )
    .order_by((message.c.seq + 0).desc())
    .limit(bindparam("limit"))
)
_SELECT_ROOTS = _BEHIND_PARTING.where(message.c.parent_seq.is_(None))
PREVIEW_COLUMNS = (
    message.c.seq,
    message.c.role,
    message.c.status,
    func.substr(message.c.content, 1, PREVIEW_CHARS + 1),
    func.substr(message.c.parts, 1, MAX_PARTS_CHARS),
    func.substr(message.c.refusal, 1, PREVIEW_CHARS + 1),
    message.c.created_at,
    message.c.run_start_seq,
)
"""The columns of a `PreviewRow`, in their order."""
_SELECT_RUNS = (
    select(*PREVIEW_COLUMNS, message.c.parent_seq)
    .where(_MESSAGE_IN_CONVERSATION, PARTS, message.c.seq + 0 < bindparam("before"))
    .order_by((message.c.seq + 0).desc())
    .limit(bindparam("limit"))
)
_IS_CHILD = message.c.parent_seq == bindparam("parent")
_IS_NEXT = message.c.seq == bindparam("parent") + 1
_SELECT_CHILDREN = union_all(
    select(*_MESSAGE_COLUMNS).where(
        _MESSAGE_IN_CONVERSATION, _IS_NEXT, _IS_CHILD, _IS_NOT_SUMMARY, message.c.seq < bindparam("before")
    ),
    select(_BEHIND_PARTING.where(_IS_CHILD, not_(_IS_NEXT)).cte("behind_parting")),
)


def _build_select_leaves() -> Any:
    # A path ends at the last message or at a message before a parting, unless another message follows there. Before the first
    # message is seq 0, which is not a message.
    child = message.alias("child")
    before_partings = select((message.c.seq - 1).label("seq")).where(_MESSAGE_IN_CONVERSATION, PARTS)
    ends = union(before_partings, select(bindparam("last", type_=Integer).label("seq"))).cte("ends")
    children = select(child.c.seq).where(
        child.c.conversation_id == bindparam("id"),
        child.c.parent_seq == ends.c.seq,
        child.c.run_start_seq == child.c.seq,
    )
    newest = (
        select(ends.c.seq)
        .join(message, and_(_MESSAGE_IN_CONVERSATION, message.c.seq == ends.c.seq))
        .where(
            ends.c.seq > 0,
            ends.c.seq < bindparam("before"),
            ~children.exists(),
            _IS_NOT_SUMMARY,
            not_(WAS_PASSAGE_OR_SUMMARY),
        )
        .order_by(ends.c.seq.desc())
        .limit(bindparam("limit"))
        .cte("newest")
    )
    return (
        select(*_MESSAGE_COLUMNS)
        .join(newest, message.c.seq == newest.c.seq)
        .where(_MESSAGE_IN_CONVERSATION)
        .order_by(message.c.seq.desc())
    )


_SELECT_LEAVES = _build_select_leaves()


def read_head(connection: Connection, row: ConversationRow, number: int) -> int | None:
    """Return the seq of a branch's last message; None before the first message. Branch 0 is the main branch."""
    if number == 0:
        return row.head_seq
    head: int | None = connection.execute(_SELECT_HEAD, {"id": row.id, "number": number}).scalar_one_or_none()
    return head


def move_head(connection: Connection, conversation_id: UUID, number: int, head_seq: int | None) -> None:
    """Move the head of a branch other than the main branch."""
    connection.execute(_MOVE_HEAD, {"b_id": conversation_id, "b_number": number, "head_seq": head_seq})


def build_move_values(conversation_id: UUID, number: int, head_seq: int, previous: int | None) -> dict[str, Any]:
    """Return the parameters of `MOVE_HEAD_FROM`."""
    return {"b_id": conversation_id, "b_number": number, "b_head_seq": previous, "head_seq": head_seq}


def set_head(connection: Connection, row: ConversationRow, number: int, head_seq: int | None) -> None:
    """Set the head of any branch; None is before the first message. The conversation's row must be locked."""
    if number:
        move_head(connection, row.id, number, head_seq)
    else:
        connection.execute(_SET_MAIN_HEAD, {"b_id": row.id, "b_tenant": row.tenant, "new_head_seq": head_seq})


def list_branches(connection: Connection, row: ConversationRow, before: int, limit: int) -> list[BranchRow]:
    """Return the newest `limit` branches below number `before`, in order. The main branch is the first."""
    values = {"id": row.id, "before": before, "limit": limit}
    found = [BranchRow(*each) for each in connection.execute(_SELECT_PAGE, values)][::-1]
    return found if len(found) == limit else [BranchRow(0, MAIN, row.head_seq, row.created_at), *found]


def find_branch_number(connection: Connection, tenant: str, conversation_id: UUID, wanted: int | str) -> int | None:
    """Return the number of the branch with this number or name of the tenant's conversation, or None."""
    statement = _SELECT_NUMBER_BY_NAME if isinstance(wanted, str) else _SELECT_NUMBER
    found = connection.execute(statement, {"id": conversation_id, "tenant": tenant, "wanted": wanted})
    number: int | None = found.scalar_one_or_none()
    return number


def create_branch(connection: Connection, conversation_id: UUID, row: BranchRow) -> None:
    """Insert a branch and set its number in `row`. The conversation's row must be locked."""
    row.number = (connection.execute(_SELECT_LAST_NUMBER, {"id": conversation_id}).scalar_one_or_none() or 0) + 1
    values = {name: getattr(row, name) for name in BranchRow.__slots__}
    connection.execute(_INSERT, {"conversation_id": conversation_id, **values})


def find_created_branch(connection: Connection, conversation_id: UUID, row: BranchRow) -> int | None:
    """Return the number of the branch that an earlier `create_branch` committed, or None."""
    # If that attempt failed, another branch may have the number, but hardly also the name and the microsecond.
    values = {"id": conversation_id, "number": row.number, "at": row.created_at}
    found = connection.execute(_SELECT_NAME_CREATED_AT, values).one_or_none()
    return row.number if found is not None and found[0] == row.name else None


def list_children(
    connection: Connection, conversation_id: UUID, parent_seq: int | None, before: int = MAX_SEQ, limit: int = MAX_SEQ
) -> list[MessageRow]:
    """Return the newest `limit` messages below seq `before` whose parent is `parent_seq`, on all paths, by seq.

    A `parent_seq` of None returns the first messages.
    """
    values = {"id": conversation_id, "parent": parent_seq, "before": before, "limit": limit}
    statement: Any = _SELECT_ROOTS if parent_seq is None else _SELECT_CHILDREN
    children = (MessageRow(*row) for row in connection.execute(statement, values))
    return sorted(children, key=lambda row: row.seq)[-limit:]


def list_leaves(connection: Connection, row: ConversationRow, before: int, limit: int) -> list[MessageRow]:
    """Return the newest `limit` messages below seq `before` that have no children, newest first."""
    values = {"id": row.id, "last": row.last_seq, "before": before, "limit": limit}
    return [MessageRow(*each) for each in connection.execute(_SELECT_LEAVES, values)]


def list_runs(
    connection: Connection, row: ConversationRow, before: int, limit: int
) -> list[tuple[PreviewRow, int | None]]:
    """Return the first messages of the newest `limit` runs below seq `before` with their parents, by seq."""
    values = {"id": row.id, "before": before, "limit": limit}
    found: list[Any] = [tuple(each) for each in connection.execute(_SELECT_RUNS, values)]
    return [(PreviewRow(*each[:-1]), each[-1]) for each in reversed(found)]
