"""Read the rows that `verify` checks, in pages.

A turn runs none of these statements. A long history takes more time, and the same memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast
from uuid import UUID

from sqlalchemy import BindParameter, Connection, and_, bindparam, func, not_, select, tuple_

from convokit.domain.content import Blob
from convokit.domain.message import TOOL, MessageRow
from convokit.domain.removal import RemovalRow
from convokit.domain.turn import CallRow
from convokit.domain.verification import CheckpointHead
from convokit.store.schema import (
    blob,
    branch,
    completion,
    conversation,
    entry,
    message,
    prompt,
    prompt_use,
    removal,
    schema_,
    tool_call,
    turn,
)
from convokit.store.tool_calls import IS_FROM_CALLER

PAGE = 500
_BLOB_PAGE = 8  # a binary may be as large as `Limits.attachment_bytes` allows
LOWEST_INT = -(2**31)
"""The lowest number of the columns: a page behind it also has the inserted rows that are numbered below 1."""
_ID: BindParameter[Any] = bindparam("id")
_AFTER: BindParameter[Any] = bindparam("after")
_LIMIT: BindParameter[Any] = bindparam("limit")
_HEADS = (
    select(conversation.c.id, conversation.c.last_entry, conversation.c.chain_hash, conversation.c.head_seq)
    .where(conversation.c.tenant == bindparam("tenant"), conversation.c.id > _AFTER)
    .order_by(conversation.c.id)
    .limit(_LIMIT)
)
_BRANCH_HEADS = (
    select(branch.c.conversation_id, branch.c.number, branch.c.head_seq)
    .where(branch.c.conversation_id.in_(bindparam("ids", expanding=True)))
    .order_by(branch.c.conversation_id, branch.c.number)
)
_BRANCHES = (
    select(branch.c.number, branch.c.name, branch.c.head_seq)
    .where(branch.c.conversation_id == _ID)
    .order_by(branch.c.number)
)
_COUNT = select(func.count()).select_from(conversation).where(conversation.c.tenant == bindparam("tenant"))
_MESSAGES = (
    select(*(message.c[name] for name in MessageRow.__slots__))
    .where(message.c.conversation_id == _ID, message.c.seq > _AFTER)
    .order_by(message.c.seq)
    .limit(_LIMIT)
)
_TREE = (
    select(message.c.seq, message.c.parent_seq, message.c.status.in_(("complete", "partial")))
    .where(message.c.conversation_id == _ID, message.c.seq < bindparam("before"))
    .order_by(message.c.seq.desc())
    .limit(_LIMIT)
)
_CALLS = select(*(completion.c[name] for name in CallRow.__slots__)).where(
    completion.c.conversation_id == _ID,
    tuple_(completion.c.turn_id, completion.c.number).in_(bindparam("keys", expanding=True)),
)
_PROMPTS = select(prompt.c.digest, prompt.c.body).where(
    prompt.c.tenant == bindparam("tenant"), prompt.c.digest.in_(bindparam("digests", expanding=True))
)
_PROMPT_USES = select(prompt_use.c.digest).where(
    prompt_use.c.conversation_id == _ID, prompt_use.c.digest.in_(bindparam("digests", expanding=True))
)
_REMOVALS = (
    select(*(removal.c[name] for name in RemovalRow.__slots__))
    .where(removal.c.conversation_id == _ID, removal.c.number > _AFTER)
    .order_by(removal.c.number)
    .limit(_LIMIT)
)
_BLOBS = (
    select(blob.c.digest, blob.c.media_type, blob.c.data)
    .where(blob.c.conversation_id == _ID, blob.c.digest >= _AFTER)
    .order_by(blob.c.digest)
    .limit(_LIMIT)
)
_asking, _result = message.alias("asking"), message.alias("result")
_TOOL_CALLS = (
    select(
        tool_call.c.turn_id,
        tool_call.c.message_seq,
        tool_call.c.position,
        tool_call.c.call_id,
        tool_call.c.name,
        tool_call.c.state,
        tool_call.c.result_seq,
        _asking.c.turn_id,
        _asking.c.role,
        _asking.c.status,
        _asking.c.tool_calls,
        _result.c.turn_id,
        _result.c.role,
        _result.c.parent_seq,
        _result.c.tool_call_id,
    )
    .outerjoin(_asking, and_(_asking.c.conversation_id == _ID, _asking.c.seq == tool_call.c.message_seq))
    .outerjoin(_result, and_(_result.c.conversation_id == _ID, _result.c.seq == tool_call.c.result_seq))
    .where(
        tool_call.c.conversation_id == _ID,
        tuple_(tool_call.c.message_seq, tool_call.c.position)
        > tuple_(bindparam("after_seq"), bindparam("after_position")),
    )
    .order_by(tool_call.c.message_seq, tool_call.c.position)
    .limit(_LIMIT)
)
_TOOL_RESULTS = (
    select(message.c.seq)
    # An imported message may have no turn here, and then no tool call either.
    .join(turn, and_(turn.c.conversation_id == _ID, turn.c.id == message.c.turn_id))
    .where(message.c.conversation_id == _ID, message.c.role == TOOL, not_(IS_FROM_CALLER))
)
_NAMED_RESULTS = select(tool_call.c.result_seq).where(
    tool_call.c.conversation_id == _ID, tool_call.c.result_seq.is_not(None)
)
_ENDED_CALLS = (
    select(completion.c.turn_id, completion.c.number)
    .where(completion.c.conversation_id == _ID, completion.c.ended_at.is_not(None))
    .order_by(completion.c.turn_id, completion.c.number)
)
_REFS = select(entry.c.ref).where(entry.c.conversation_id == _ID, entry.c.kind == bindparam("kind"))
_ENTRY_NUMBER = select(func.min(entry.c.number)).where(
    entry.c.conversation_id == _ID, entry.c.kind == bindparam("kind"), entry.c.ref == bindparam("ref")
)


class LinkedToolCall(NamedTuple):
    """A tool call, joined with the message that asked for it and the message that holds its result.

    The columns of a message that does not exist are None.
    """

    turn_id: UUID
    message_seq: int
    position: int
    call_id: str
    name: str
    state: str
    result_seq: int | None
    asking_turn_id: UUID | None
    asking_role: str | None
    asking_status: str | None
    asking_tool_calls: str | None
    result_turn_id: UUID | None
    result_role: str | None
    result_parent_seq: int | None
    result_call_id: str | None


class TreeNode(NamedTuple):
    """The position of a message in the tree of messages."""

    seq: int
    parent_seq: int | None
    is_counted: bool
    """Whether the message is complete or partial: late replies, summaries and passages are beside the paths."""


def count_conversations(connection: Connection, tenant: str) -> int:
    """Return how many conversations the tenant has."""
    return int(connection.execute(_COUNT, {"tenant": tenant}).scalar_one())


def read_heads(connection: Connection, tenant: str, after: UUID, limit: int) -> list[CheckpointHead]:
    """Return the heads of the tenant's next conversations, with the heads of their branches, in the order of their ids."""
    rows = connection.execute(_HEADS, {"tenant": tenant, "after": after, "limit": limit}).all()
    branch_heads: dict[UUID, dict[int, int | None]] = {cast("UUID", row[0]): {0: row[3]} for row in rows}
    if branch_heads:
        for conversation_id, number, head_seq in connection.execute(_BRANCH_HEADS, {"ids": list(branch_heads)}):
            branch_heads[cast("UUID", conversation_id)][number] = head_seq
    return [
        CheckpointHead(each, row[1], bytes(row[2]).hex(), branch_heads=branch_heads[each])
        for row, each in zip(rows, branch_heads, strict=True)
    ]


def read_branches(connection: Connection, conversation_id: UUID) -> list[tuple[int, str | None, int | None]]:
    """Return number, name and head of every branch but the main branch, in the order of their numbers."""
    rows = connection.execute(_BRANCHES, {"id": conversation_id})
    return [(number, name, head_seq) for number, name, head_seq in rows]


def read_tree(connection: Connection, conversation_id: UUID, last_seq: int) -> Iterator[TreeNode]:
    """Yield the position of every message in the tree, from message `last_seq` to the first."""
    before = last_seq + 1
    while True:
        rows = connection.execute(_TREE, {"id": conversation_id, "before": before, "limit": PAGE}).all()
        yield from (TreeNode(*row) for row in rows)
        if len(rows) < PAGE:
            return
        before = rows[-1][0]


def read_messages(connection: Connection, conversation_id: UUID, after: int, limit: int) -> list[MessageRow]:
    """Return the next messages behind seq `after`, at most `limit`."""
    values = {"id": conversation_id, "after": after, "limit": limit}
    return [MessageRow(*row) for row in connection.execute(_MESSAGES, values)]


def read_calls(
    connection: Connection, conversation_id: UUID, keys: Iterable[tuple[UUID, int]]
) -> dict[tuple[UUID, int], CallRow]:
    """Return those API calls that exist, by turn and number."""
    wanted = list(keys)
    if not wanted:
        return {}
    rows = [CallRow(*row) for row in connection.execute(_CALLS, {"id": conversation_id, "keys": wanted})]
    return {(row.turn_id, row.number): row for row in rows}


def read_prompts(connection: Connection, tenant: str, digests: Iterable[bytes]) -> dict[bytes, str]:
    """Return those developer prompts and tool sets that exist, by digest."""
    wanted = list(digests)
    if not wanted:
        return {}
    rows = connection.execute(_PROMPTS, {"tenant": tenant, "digests": wanted})
    return {bytes(digest): body for digest, body in rows}


def read_prompt_uses(connection: Connection, conversation_id: UUID, digests: Iterable[bytes]) -> set[bytes]:
    """Return those of the digests that a row of `prompt_use` names for this conversation."""
    wanted = list(digests)
    if not wanted:
        return set()
    found = connection.execute(_PROMPT_USES, {"id": conversation_id, "digests": wanted}).scalars()
    return {bytes(digest) for digest in found}


def read_removals(connection: Connection, conversation_id: UUID) -> Iterator[RemovalRow]:
    """Yield every removal in order."""
    after = LOWEST_INT
    while True:
        rows = connection.execute(_REMOVALS, {"id": conversation_id, "after": after, "limit": PAGE}).all()
        yield from (RemovalRow(*row) for row in rows)
        if len(rows) < PAGE:
            return
        after = rows[-1][0]


def read_all_blobs(connection: Connection, conversation_id: UUID) -> Iterator[Blob]:
    """Yield every binary as it is stored; its digest is the stored one."""
    after = b""
    while True:
        values = {"id": conversation_id, "after": after, "limit": _BLOB_PAGE}
        rows = connection.execute(_BLOBS, values).all()
        yield from (Blob(bytes(digest), media_type, bytes(data)) for digest, media_type, data in rows)
        if len(rows) < _BLOB_PAGE:
            return
        after = bytes(rows[-1][0]) + b"\x00"  # the lowest digest behind it


def read_tool_calls(connection: Connection, conversation_id: UUID) -> Iterator[LinkedToolCall]:
    """Yield every tool call in the order of message and position."""
    after = (LOWEST_INT, LOWEST_INT)
    while True:
        values = {"id": conversation_id, "after_seq": after[0], "after_position": after[1], "limit": PAGE}
        rows: list[Any] = list(connection.execute(_TOOL_CALLS, values))
        yield from (LinkedToolCall(*row) for row in rows)
        if len(rows) < PAGE:
            return
        after = (rows[-1][1], rows[-1][2])


def count_tool_results(connection: Connection, conversation_id: UUID) -> int:
    """Return how many tool messages are results of functions that a turn of this conversation ran."""
    counted = select(func.count()).select_from(_TOOL_RESULTS.subquery())
    return int(connection.execute(counted, {"id": conversation_id}).scalar_one())


def find_unnamed_result(connection: Connection, conversation_id: UUID) -> int | None:
    """Return the seq of the first tool message that no tool call names as its result.

    It reads the seqs of all tool messages into memory. Call it only to name a fault that was found.
    """
    named = set(connection.execute(_NAMED_RESULTS, {"id": conversation_id}).scalars())
    seqs = connection.execute(_TOOL_RESULTS.order_by(message.c.seq), {"id": conversation_id}).scalars()
    return next((seq for seq in seqs if seq not in named), None)


def find_unchained_call(connection: Connection, conversation_id: UUID) -> str | None:
    """Return the ref of the first ended API call that has no entry.

    It reads the refs of all calls into memory. Call it only to name a fault that was found.
    """
    entered = set(connection.execute(_REFS, {"id": conversation_id, "kind": "completion"}).scalars())
    refs = (f"{turn_id}:{number}" for turn_id, number in connection.execute(_ENDED_CALLS, {"id": conversation_id}))
    return next((ref for ref in refs if ref not in entered), None)


def find_entry_number(connection: Connection, conversation_id: UUID, kind: str, ref: str) -> int:
    """Return the number of a row's entry, 0 when the row has none."""
    values = {"id": conversation_id, "kind": kind, "ref": ref}
    return connection.execute(_ENTRY_NUMBER, values).scalar_one() or 0


def read_database_id(connection: Connection) -> UUID:
    """Return the id of this database."""
    return cast("UUID", connection.execute(select(schema_.c.database_id)).scalar_one())
