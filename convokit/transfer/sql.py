"""Read and insert whole conversations, page by page.

The columns come from the schema. A new column is exported and imported without a change here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Table, bindparam, func, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow
from convokit.errors import ConversationExists
from convokit.store import chain, conversations, messages
from convokit.store.schema import (
    blob,
    branch,
    completion,
    conversation,
    entry,
    message,
    removal,
    summary,
    tool_call,
    turn,
)

# The tables below a conversation, in the order of an export. An import checks entries against the removals before them.
CHILD_TABLES: dict[str, Table[Any]] = {
    "branch": branch,
    "message": message,
    "turn": turn,
    "completion": completion,
    "tool_call": tool_call,
    "summary": summary,
    "removal": removal,
    "entry": entry,
    "blob": blob,
}
PAGE = 100
# Columns that name the process of an open turn. Other databases have no use for them.
_NOT_EXPORTED = {"turn": ("claim", "owner", "lease_until")}
_IDS = (
    select(conversation.c.id)
    .where(conversation.c.tenant == bindparam("tenant"), conversation.c.id > bindparam("after"))
    .order_by(conversation.c.id)
    .limit(bindparam("limit"))
)
_LOWEST_ID = UUID(int=0)
_SET_CHAIN_END = (
    update(conversation)
    .where(conversation.c.id == bindparam("b_id"))
    .values(last_entry=bindparam("new_entry"), chain_hash=bindparam("new_hash"))
)
_SET_UPDATE_TIME = (
    update(conversation).where(conversation.c.id == bindparam("b_id")).values(updated_at=bindparam("new_time"))
)
_RUN_PAGE = (
    select(*(getattr(message.c, name) for name in MessageRow.__slots__))
    .where(
        message.c.conversation_id == bindparam("id"),
        message.c.seq >= bindparam("first"),
        message.c.seq <= bindparam("last"),
    )
    .order_by(message.c.seq)
    .limit(bindparam("limit"))
)
_LAST_MANIFEST = (
    select(completion.c.manifest)
    .where(completion.c.conversation_id == bindparam("id"))
    .order_by(completion.c.started_at.desc(), completion.c.number.desc())
    .limit(1)
)


@cache
def list_columns(name: str) -> list[str]:
    """Return the exported columns of a child table."""
    left_out = ("conversation_id", *_NOT_EXPORTED.get(name, ()))
    return [column.name for column in CHILD_TABLES[name].columns if column.name not in left_out]


@cache
def _list_key_columns(name: str) -> list[Any]:
    return [column for column in CHILD_TABLES[name].primary_key.columns if column.name != "conversation_id"]


@cache
def _build_page_query(name: str, *, has_after: bool) -> Any:
    table, key = CHILD_TABLES[name], _list_key_columns(name)
    query = select(*(table.c[each] for each in list_columns(name))).where(table.c.conversation_id == bindparam("id"))
    if has_after:
        after = [bindparam(f"after_{column.name}", type_=column.type) for column in key]
        query = query.where(tuple_(*key) > tuple_(*after) if len(key) > 1 else key[0] > after[0])
    return query.order_by(*key).limit(bindparam("limit"))


def read_row_pages(connection: Connection, conversation_id: UUID, name: str) -> Iterator[Sequence[Sequence[Any]]]:
    """Yield a conversation's rows of a child table in pages, in the order of the primary key."""
    limit = 1 if name == "blob" else PAGE  # a binary may be large
    values: dict[str, Any] = {"id": conversation_id, "limit": limit}
    rows = connection.execute(_build_page_query(name, has_after=False), values).all()
    while rows:
        yield rows
        if len(rows) < limit:
            return
        last = dict(zip(list_columns(name), rows[-1], strict=True))
        values |= {f"after_{column.name}": last[column.name] for column in _list_key_columns(name)}
        rows = connection.execute(_build_page_query(name, has_after=True), values).all()


def list_conversation_ids(
    connection: Connection, tenant: str, *, subject: str | None, after: UUID | None, limit: int
) -> list[UUID]:
    """Return the ids of the tenant's conversations, or of a subject's, that follow `after` in order."""
    query = _IDS if subject is None else _IDS.where(conversation.c.subject == subject)
    return list(connection.execute(query, {"tenant": tenant, "after": after or _LOWEST_ID, "limit": limit}).scalars())


def count_messages(connection: Connection, tenant: str, *, subject: str | None) -> int:
    """Return the number of messages in the tenant's conversations, or in a subject's."""
    query = select(func.coalesce(func.sum(conversation.c.last_seq), 0)).where(conversation.c.tenant == tenant)
    if subject is not None:
        query = query.where(conversation.c.subject == subject)
    return int(connection.execute(query).scalar_one())


def read_path_pages(connection: Connection, conversation_id: UUID, head: int | None) -> Iterator[list[MessageRow]]:
    """Yield the messages of the path that ends at `head` in pages, from its root on."""
    for first, last in [] if head is None else messages.list_runs(connection, conversation_id, head):
        after = first
        while after <= last:
            values = {"id": conversation_id, "first": after, "last": last, "limit": PAGE}
            rows = [MessageRow(*row) for row in connection.execute(_RUN_PAGE, values)]
            if not rows:
                break
            yield rows
            after = rows[-1].seq + 1


def find_last_manifest(connection: Connection, conversation_id: UUID) -> str | None:
    """Return the manifest of the conversation's newest API call."""
    manifest: str | None = connection.execute(_LAST_MANIFEST, {"id": conversation_id}).scalar_one_or_none()
    return manifest


def create_conversation(
    connection: Connection, row: ConversationRow, import_ref: str | None, file: str, line: int
) -> bool:
    """Insert the row of an imported conversation. Return False if an earlier import wrote this conversation.

    `import_ref` is the ref of its import entry, or None if it keeps its chain. Raises: ConversationExists, which names file and
    line, if the id belongs to another conversation.
    """
    if is_imported(connection, row, import_ref, file, line):
        return False
    try:
        conversations.create(connection, row)
    except IntegrityError:  # another tenant's conversation, or another process was faster
        raise _make_exists_error(row, file, line) from None
    return True


def is_imported(connection: Connection, row: ConversationRow, import_ref: str | None, file: str, line: int) -> bool:
    """Return whether an earlier import wrote this conversation. Raises: ConversationExists, as `create_conversation`."""
    if conversations.find(connection, row.tenant, row.id) is None:
        return False
    if not _is_same_conversation(connection, row, import_ref):
        raise _make_exists_error(row, file, line)
    return True


def _make_exists_error(row: ConversationRow, file: str, line: int) -> ConversationExists:
    problem = f"conversation {row.key or row.id} already exists with other content; it was not changed"
    return ConversationExists(file, problem, line)


def _is_same_conversation(connection: Connection, row: ConversationRow, import_ref: str | None) -> bool:
    """Return whether the stored conversation is the one in the file. It may have new turns since its import."""
    if import_ref is not None:
        first = chain.find_entry(connection, row.id, 1)
        return first is not None and (first.kind, first.ref) == ("import", import_ref)
    last = chain.find_entry(connection, row.id, row.last_entry)
    return last is not None and bytes(last.hash) == bytes(row.chain_hash)


def insert_rows(connection: Connection, conversation_id: UUID, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of a child table, each with all its columns."""
    connection.execute(insert(CHILD_TABLES[name]), [{"conversation_id": conversation_id, **row} for row in rows])


def set_update_time(connection: Connection, conversation_id: UUID, updated_at: int) -> None:
    """Store the time of the newest message in the row of a new conversation."""
    connection.execute(_SET_UPDATE_TIME, {"b_id": conversation_id, "new_time": updated_at})


def set_chain_end(connection: Connection, conversation_id: UUID, last_entry: int, chain_hash: bytes) -> None:
    """Store the last entry and its hash in the row of a new conversation."""
    connection.execute(_SET_CHAIN_END, {"b_id": conversation_id, "new_entry": last_entry, "new_hash": chain_hash})
