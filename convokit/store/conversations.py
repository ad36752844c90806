"""Conversations and their branches' heads.

Branches, and what the tree of messages is asked: who lies beside a message, where paths end, all in the order of writing.

A message that lies right behind its parent (its seq is one more) needs no index to be found from it. The others, where paths
part, are in the small index `convokit_message_parting`: so children and ends are found without reading what lies between.
"""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    Connection,
    Integer,
    and_,
    bindparam,
    func,
    insert,
    not_,
    select,
    tuple_,
    union,
    union_all,
    update,
)

from convokit.domain.conversation import MAIN, BranchRow, ConversationRow
from convokit.domain.ids import derive_conversation_id
from convokit.domain.message import SUMMARY, USER, MessageRow
from convokit.store.schema import branch, conversation, message, schema_

_COLUMNS = tuple(getattr(conversation.c, name) for name in ConversationRow.__slots__)
_BY_ID = select(*_COLUMNS).where(conversation.c.id == bindparam("id"), conversation.c.tenant == bindparam("tenant"))
_BRANCH_HEAD = select(branch.c.head_seq).where(
    branch.c.conversation_id == bindparam("id"), branch.c.number == bindparam("number")
)
_LOCK = select(conversation.c.id).where(conversation.c.id == bindparam("id")).with_for_update()
_DATABASE_ID = select(schema_.c.database_id)
_INSERT = insert(conversation)
ADVANCE = (
    update(conversation)
    .where(
        conversation.c.id == bindparam("b_id"),
        conversation.c.tenant == bindparam("b_tenant"),
        conversation.c.last_entry == bindparam("b_last_entry"),
    )
    .values(
        last_seq=bindparam("last_seq"),
        last_entry=bindparam("new_last_entry"),
        chain_hash=bindparam("chain_hash"),
        head_seq=func.coalesce(bindparam("new_head_seq", type_=Integer), conversation.c.head_seq),
        updated_at=bindparam("updated_at"),
    )
)
"""The head stays where it is unless a new one is given: it may move without an entry (`checkout`), unseen by the comparison."""
HEAD_IS_UNCHANGED = conversation.c.head_seq.is_not_distinct_from(bindparam("b_head_seq", type_=Integer))
"""What a turn that begins compares besides: it answers the path that was read."""
_BEGIN = ADVANCE.where(HEAD_IS_UNCHANGED)
_MOVE_BRANCH = (
    update(branch)
    .where(branch.c.conversation_id == bindparam("b_id"), branch.c.number == bindparam("b_number"))
    .values(head_seq=bindparam("head_seq"))
)
_MOVE_BRANCH_FROM = _MOVE_BRANCH.where(branch.c.head_seq.is_not_distinct_from(bindparam("b_head_seq", type_=Integer)))
_SETTINGS = (
    update(conversation)
    .where(conversation.c.id == bindparam("b_id"), conversation.c.tenant == bindparam("b_tenant"))
    .values({name: bindparam(f"new_{name}") for name in ("settings", "subject", "title", "metadata")})
)

_POINT = (
    update(conversation)
    .where(conversation.c.id == bindparam("b_id"), conversation.c.tenant == bindparam("b_tenant"))
    .values(head_seq=bindparam("new_head_seq"))
)
_PINS = (
    update(conversation)
    .where(conversation.c.id == bindparam("b_id"), conversation.c.tenant == bindparam("b_tenant"))
    .values(pins=bindparam("new_pins"))
)
_BRANCH_COLUMNS = tuple(getattr(message.c, name) for name in MessageRow.__slots__)
_OF_IT = message.c.conversation_id == bindparam("id")
_PARTS = message.c.run_start_seq == message.c.seq
"""The condition of the small index, word for word."""
_OF_PATHS = message.c.status != SUMMARY
"""Whether a message lies on any path: a summary lies beside them."""
_WAS_BESIDE = and_(message.c.status == "redacted", message.c.role == USER, message.c.tokens == 0)
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
_INSERT_BRANCH = insert(branch)
_FIRSTS = select(*_BRANCH_COLUMNS).where(_OF_IT, message.c.parent_seq.is_(None), _PARTS).order_by(message.c.seq)
_CHILDREN = union_all(
    select(*_BRANCH_COLUMNS).where(
        _OF_IT, message.c.seq == bindparam("parent") + 1, message.c.parent_seq == bindparam("parent")
    ),
    select(*_BRANCH_COLUMNS).where(
        _OF_IT, message.c.parent_seq == bindparam("parent"), _PARTS, message.c.seq != bindparam("parent") + 1, _OF_PATHS
    ),
).order_by("seq")
_LOG = (
    select(*_BRANCH_COLUMNS)
    .where(_OF_IT, message.c.seq < bindparam("before"))
    .order_by(message.c.seq.desc())
    .limit(bindparam("limit"))
)


def find(connection: Connection, tenant: str, conversation_id: UUID) -> ConversationRow | None:
    """Return the tenant's conversation, or None; another tenant's looks exactly like one that is not there."""
    row = connection.execute(_BY_ID, {"id": conversation_id, "tenant": tenant}).one_or_none()
    return None if row is None else ConversationRow(*row)


def lock(connection: Connection, conversation_id: UUID) -> None:
    """Wait until no other transaction writes this conversation, and keep others from it. SQLite has one writer anyway."""
    connection.execute(_LOCK, {"id": conversation_id})


def find_by_key(connection: Connection, tenant: str, key: str) -> ConversationRow | None:
    """Return the conversation that the tenant keeps under `key`, or None."""
    database_id = cast("UUID", connection.execute(_DATABASE_ID).scalar_one())
    return find(connection, tenant, derive_conversation_id(database_id, tenant, key))


def read_head(connection: Connection, row: ConversationRow, number: int) -> int | None:
    """Return the last message of a branch; 0 is the main branch."""
    if number == 0:
        return row.head_seq
    found: int | None = connection.execute(_BRANCH_HEAD, {"id": row.id, "number": number}).scalar_one_or_none()
    return found


def create(connection: Connection, row: ConversationRow) -> None:
    """Insert a new conversation."""
    connection.execute(_INSERT, {name: getattr(row, name) for name in ConversationRow.__slots__})


def advance(
    connection: Connection, row: ConversationRow, moved: ConversationRow, head: int | None, *, begins: bool = False
) -> bool:
    """Move the conversation on, if nobody moved it since `row` was read, and its head if one is given. Return whether it moved.

    A turn that `begins` wants the head where it was, too.
    """
    values = build_advance_values(row, moved, head)
    if begins:
        values["b_head_seq"] = row.head_seq
    return connection.execute(_BEGIN if begins else ADVANCE, values).rowcount == 1


def build_advance_values(row: ConversationRow, moved: ConversationRow, head: int | None) -> dict[str, Any]:
    """Return the values of `ADVANCE`."""
    return {
        "b_id": row.id,
        "b_tenant": row.tenant,
        "b_last_entry": row.last_entry,
        "last_seq": moved.last_seq,
        "new_last_entry": moved.last_entry,
        "chain_hash": moved.chain_hash,
        "new_head_seq": head,
        "updated_at": moved.updated_at,
    }


def move_head(connection: Connection, conversation_id: UUID, number: int, head_seq: int) -> None:
    """Move the head of a branch that is not the main one."""
    connection.execute(_MOVE_BRANCH, {"b_id": conversation_id, "b_number": number, "head_seq": head_seq})


def move_head_from(connection: Connection, conversation_id: UUID, number: int, was: int | None, head_seq: int) -> bool:
    """Move the head of a branch that is not the main one, if it is where it was. Return whether it moved."""
    values = {"b_id": conversation_id, "b_number": number, "b_head_seq": was, "head_seq": head_seq}
    return connection.execute(_MOVE_BRANCH_FROM, values).rowcount == 1


def set_head(connection: Connection, row: ConversationRow, number: int, head_seq: int) -> None:
    """Have a branch end elsewhere; its conversation's row must be locked."""
    if number:
        move_head(connection, row.id, number, head_seq)
    else:
        connection.execute(_POINT, {"b_id": row.id, "b_tenant": row.tenant, "new_head_seq": head_seq})


def update_description(connection: Connection, row: ConversationRow) -> None:
    """Write a conversation's own settings, subject, title and metadata."""
    values = {f"new_{name}": getattr(row, name) for name in ("settings", "subject", "title", "metadata")}
    connection.execute(_SETTINGS, {"b_id": row.id, "b_tenant": row.tenant, **values})


def set_pins(connection: Connection, row: ConversationRow, pins: str | None) -> None:
    """Write which messages are pinned."""
    connection.execute(_PINS, {"b_id": row.id, "b_tenant": row.tenant, "new_pins": pins})


def list_recent(
    connection: Connection, tenant: str, *, subject: str | None, limit: int, before: tuple[int, UUID] | None
) -> list[ConversationRow]:
    """Return the tenant's conversations, the last used first; `before` is where the page before ended."""
    query = select(*_COLUMNS).where(conversation.c.tenant == tenant)
    if subject is not None:
        query = query.where(conversation.c.subject == subject)
    if before is not None:
        query = query.where(tuple_(conversation.c.updated_at, conversation.c.id) < before)
    query = query.order_by(conversation.c.updated_at.desc(), conversation.c.id.desc()).limit(limit)
    return [ConversationRow(*row) for row in connection.execute(query)]


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
    return (
        select(*_BRANCH_COLUMNS)
        .join(newest, message.c.seq == newest.c.seq)
        .where(_OF_IT)
        .order_by(message.c.seq.desc())
    )


_LEAVES = _leaves()


def list_branches(connection: Connection, row: ConversationRow, before: int, limit: int) -> list[BranchRow]:
    """Return the newest `limit` branches before a number, by number; the main one is the oldest."""
    values = {"id": row.id, "before": before, "limit": limit}
    found = [BranchRow(*each) for each in connection.execute(_BRANCHES, values)][::-1]
    return found if len(found) == limit else [BranchRow(0, MAIN, row.head_seq, row.created_at), *found]


def find_branch_number(connection: Connection, conversation_id: UUID, wanted: int | str) -> int | None:
    """Return the number of the branch with this number or name, None where there is none."""
    if wanted in (0, MAIN):
        return 0
    if isinstance(wanted, str):
        found: int | None = connection.execute(_NAMED, {"id": conversation_id, "name": wanted}).scalar_one_or_none()
    else:
        values = {"id": conversation_id, "number": wanted}
        found = connection.execute(_NUMBERED, values).scalar_one_or_none()
    return found


def create_branch(connection: Connection, conversation_id: UUID, row: BranchRow) -> None:
    """Make a branch under the next number, which its row is given. The conversation's row must be locked."""
    row.number = (connection.execute(_LAST, {"id": conversation_id}).scalar_one_or_none() or 0) + 1
    values = {name: getattr(row, name) for name in BranchRow.__slots__}
    connection.execute(_INSERT_BRANCH, {"conversation_id": conversation_id, **values})


def find_created_branch(connection: Connection, conversation_id: UUID, row: BranchRow) -> int | None:
    """Return the number of a branch that `make` was to make, None where it is not there.

    Another one may have its number, where that try came to nothing, but hardly also its name and its microsecond.
    """
    values = {"id": conversation_id, "number": row.number, "at": row.created_at}
    found = connection.execute(_MADE, values).one_or_none()
    return row.number if found is not None and found[0] == row.name else None


def list_children(connection: Connection, conversation_id: UUID, parent_seq: int | None) -> list[MessageRow]:
    """Return the messages that follow this one, on any path, in the order of writing; with None, all that follow nothing."""
    values = {"id": conversation_id, "parent": parent_seq}
    statement: Any = _FIRSTS if parent_seq is None else _CHILDREN
    return [MessageRow(*row) for row in connection.execute(statement, values)]


def list_leaves(connection: Connection, row: ConversationRow, before: int, limit: int) -> list[MessageRow]:
    """Return the newest `limit` messages before a seq that nothing follows, newest first."""
    values = {"id": row.id, "last": row.last_seq, "before": before, "limit": limit}
    return [MessageRow(*each) for each in connection.execute(_LEAVES, values)]


def list_log(connection: Connection, conversation_id: UUID, before: int, limit: int) -> list[MessageRow]:
    """Return the newest `limit` messages before a seq, on whatever path, oldest first."""
    values = {"id": conversation_id, "before": before, "limit": limit}
    return [MessageRow(*row) for row in connection.execute(_LOG, values)][::-1]
