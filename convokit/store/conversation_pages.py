"""List conversations with their last message, by last use or by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, and_, bindparam, func, select, tuple_

from convokit.domain.conversation import (
    MAIN,
    BranchRow,
    Conversation,
    ConversationRow,
    ListedConversation,
    PreviewRow,
)
from convokit.domain.removal import RemovalRow
from convokit.store import removal_records
from convokit.store.dialects import dialect_of
from convokit.store.message_tree import PREVIEW_COLUMNS
from convokit.store.schema import branch, conversation, message, turn

Position = tuple[int, UUID] | str
"""The last conversation of a page: its `updated_at` and id, or its key in a listing by key."""
_COLUMNS = tuple(getattr(conversation.c, name) for name in ConversationRow.__slots__)
# `claim >= 0` instead of IS NOT NULL: a condition that both databases look up in the index.
_IS_OPEN = select(turn.c.claim).where(turn.c.claim >= 0)
_SELECT = select(
    *_COLUMNS, _IS_OPEN.where(turn.c.conversation_id == conversation.c.id).exists().label("is_open"), *PREVIEW_COLUMNS
).join_from(
    conversation,
    message,
    (message.c.conversation_id == conversation.c.id) & (message.c.seq == conversation.c.head_seq),
    isouter=True,
)
_SELECT_ONE = (
    select(
        *_COLUMNS, _IS_OPEN.where(turn.c.conversation_id == bindparam("id")).exists().label("is_open"), *PREVIEW_COLUMNS
    )
    .join_from(
        conversation,
        message,
        (message.c.conversation_id == bindparam("id")) & (message.c.seq == conversation.c.head_seq),
        isouter=True,
    )
    .where(conversation.c.id == bindparam("id"), conversation.c.tenant == bindparam("tenant"))
)
_BRANCH_COLUMNS = tuple(getattr(branch.c, name) for name in BranchRow.__slots__)
_SELECT_ONE_WITH_BRANCH = {
    is_name: _SELECT_ONE.add_columns(*_BRANCH_COLUMNS).outerjoin(
        branch,
        and_(
            branch.c.conversation_id == bindparam("id"),
            (branch.c.name if is_name else branch.c.number) == bindparam("wanted"),
        ),
    )
    for is_name in (False, True)
}
"""By whether the branch is wanted by its name or by its number."""


@dataclass(frozen=True, slots=True)
class ListingFilter:
    """Conditions on conversations. None is no condition. Times are microseconds since 1970, `until` not included."""

    subject: str | None = None
    prefix: str | None = None
    """The beginning of the key. The page is in the order of the keys, by code points."""
    archived: bool | None = None
    open: bool | None = None
    since: int | None = None
    until: int | None = None
    ids: Sequence[UUID] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def find_with_preview(connection: Connection, tenant: str, conversation_id: UUID) -> Conversation | None:
    """Return the tenant's conversation with its last message, or None."""
    listed = find_listed(connection, tenant, conversation_id)
    return None if listed is None else Conversation.from_row(listed, find_erasure(connection, listed))


def find_listed(connection: Connection, tenant: str, conversation_id: UUID) -> ListedConversation | None:
    """Return the row of the tenant's conversation with its last message, or None."""
    row = connection.execute(_SELECT_ONE, {"id": conversation_id, "tenant": tenant}).one_or_none()
    return None if row is None else _to_listed(row)


def find_listed_branch(
    connection: Connection, tenant: str, conversation_id: UUID, wanted: int | str
) -> tuple[ListedConversation | None, BranchRow | None]:
    """Return the row of the tenant's conversation with its last message, and its branch with this number or name, or None."""
    if wanted in (0, MAIN):
        listed = find_listed(connection, tenant, conversation_id)
        return listed, None if listed is None else BranchRow(0, MAIN, listed.row.head_seq, listed.row.created_at)
    statement = _SELECT_ONE_WITH_BRANCH[isinstance(wanted, str)]
    row = connection.execute(statement, {"id": conversation_id, "tenant": tenant, "wanted": wanted}).one_or_none()
    if row is None:
        return None, None
    start = len(row) - len(_BRANCH_COLUMNS)
    branch_row: Any = row[start:]
    return _to_listed(row[:start]), None if branch_row[0] is None else BranchRow(*branch_row)


def find_erasure(connection: Connection, listed: ListedConversation) -> RemovalRow | None:
    """Return the erasure of a conversation that is erased now, or None."""
    if not may_be_erased(listed):
        return None
    return removal_records.find_erasure(connection, listed.row.id, listed.row.last_entry)


def may_be_erased(listed: ListedConversation) -> bool:
    """Return whether the removals of a conversation must be asked for its erasure."""
    # An erasure redacts every message. So a last message with text tells that there was none since.
    return listed.preview is None or listed.preview.status == "redacted"


def list_with_previews(
    connection: Connection, tenant: str, wanted: ListingFilter, *, limit: int, after: Position | None = None
) -> list[Conversation]:
    """Return a page of the tenant's conversations: with a prefix in the order of their keys, else the last used first."""
    query = _SELECT.where(*_build_conditions(connection, tenant, wanted))
    if wanted.prefix is None:
        order: Any = (conversation.c.updated_at, conversation.c.id)
        if after is not None:
            query = query.where(tuple_(*order) < after)
        query = query.order_by(*(column.desc() for column in order))
    else:
        key = conversation.c.key.collate(dialect_of(connection).code_point_collation)
        if after is not None:
            query = query.where(key > after)
        query = query.order_by(key)
    return _list(connection, query.limit(limit))


def list_matches(connection: Connection, tenant: str, matches: Any, order: Sequence[Any]) -> list[Conversation]:
    """Return the tenant's conversations in a subquery with the column `conversation_id`, each with its last message."""
    query = _SELECT.join(matches, matches.c.conversation_id == conversation.c.id)
    query = query.where(conversation.c.tenant == tenant)
    return _list(connection, query.order_by(*order))


def _list(connection: Connection, query: Any) -> list[Conversation]:
    found = [_to_listed(row) for row in connection.execute(query)]
    erasures = removal_records.find_erasures(connection, [each.row.id for each in found if may_be_erased(each)])
    return [Conversation.from_row(each, erasures.get(each.row.id)) for each in found]


def _build_conditions(connection: Connection, tenant: str, wanted: ListingFilter) -> list[Any]:
    dialect, is_own = dialect_of(connection), conversation.c.tenant == tenant
    conditions: list[Any] = []
    if wanted.open:
        conditions.append(conversation.c.id.in_(select(turn.c.conversation_id).where(turn.c.claim >= 0)))
    elif wanted.open is False:
        conditions.append(~_IS_OPEN.where(turn.c.conversation_id == conversation.c.id).exists())
    if wanted.ids is not None:
        conditions.append(conversation.c.id.in_(wanted.ids))
    # Few conversations have an open turn. Without the function, the database may read all of the tenant to find them.
    conditions.append(func.coalesce(is_own, False) if wanted.open or wanted.ids is not None else is_own)
    if wanted.subject is not None:
        conditions.append(conversation.c.subject == wanted.subject)
    if wanted.prefix is not None:
        key = conversation.c.key.collate(dialect.code_point_collation)
        conditions += [conversation.c.key.is_not(None), key >= wanted.prefix]
        if (end := find_prefix_end(wanted.prefix)) is not None:
            conditions.append(key < end)
    if wanted.archived is not None:
        archived_at = conversation.c.archived_at
        # Without the function, a PostgreSQL without statistics expects few such rows, and reads and sorts all of the tenant.
        conditions.append(archived_at.is_not(None) if wanted.archived else func.coalesce(archived_at.is_(None), False))
    if wanted.since is not None:
        conditions.append(conversation.c.updated_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(conversation.c.updated_at < wanted.until)
    conditions += (dialect.search.match_metadata(name, value) for name, value in wanted.metadata.items())
    return conditions


def find_prefix_end(prefix: str) -> str | None:
    """Return the first text, by code points, after all texts that begin with `prefix`. None: there is no such text.

    >>> find_prefix_end("user_"), find_prefix_end("東京")
    ('user`', '東亭')
    """
    for length in range(len(prefix), 0, -1):
        code = ord(prefix[length - 1])
        if code < 0x10FFFF:
            following = 0xE000 if code == 0xD7FF else code + 1  # surrogates are no characters
            return prefix[: length - 1] + chr(following)
    return None


def _to_listed(row: Any) -> ListedConversation:
    columns, count = tuple(row), len(_COLUMNS)
    preview = None if columns[count + 1] is None else PreviewRow(*columns[count + 1 :])
    return ListedConversation(ConversationRow(*columns[:count]), bool(columns[count]), preview)
