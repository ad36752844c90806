"""What `verify` reads of the rows that the chain commits to, and of those beside it: by pages, in the order of their keys.

Nothing here is read while a conversation is being talked in. A long conversation takes longer, not more memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast
from uuid import UUID

from sqlalchemy import BindParameter, Connection, and_, bindparam, exists, func, select, tuple_

from convokit.domain.content import Blob
from convokit.domain.message import TOOL, MessageRow
from convokit.domain.turn import CallRow
from convokit.domain.verification import CheckpointHead
from convokit.store.schema import (
    blob,
    completion,
    conversation,
    entry,
    message,
    prompt,
    removal,
    schema_,
    tool_call,
    turn,
)

PAGE = 500
_BLOBS = 8
"""Binaries are read so many at a time: each may be as large as `Limits.attachment_bytes` allows."""
_ID: BindParameter[Any] = bindparam("id")
_AFTER: BindParameter[Any] = bindparam("after")
_LIMIT: BindParameter[Any] = bindparam("limit")
_MESSAGES = (
    select(*(message.c[name] for name in MessageRow.__slots__))
    .where(message.c.conversation_id == _ID, message.c.seq > _AFTER)
    .order_by(message.c.seq)
    .limit(_LIMIT)
)
_CALLS = select(*(completion.c[name] for name in CallRow.__slots__)).where(
    completion.c.conversation_id == _ID,
    tuple_(completion.c.turn_id, completion.c.number).in_(bindparam("keys", expanding=True)),
)
_PROMPTS = select(prompt.c.digest, prompt.c.body).where(
    prompt.c.tenant == bindparam("tenant"), prompt.c.digest.in_(bindparam("digests", expanding=True))
)
_REMOVALS = (
    select(removal.c.number, removal.c.ref, removal.c.author, removal.c.reason, removal.c.created_at, removal.c.salt)
    .where(removal.c.conversation_id == _ID, removal.c.number > _AFTER)
    .order_by(removal.c.number)
    .limit(_LIMIT)
)
_STORED_BLOBS = (
    select(blob.c.digest, blob.c.media_type, blob.c.data)
    .where(blob.c.conversation_id == _ID, blob.c.digest >= _AFTER)
    .order_by(blob.c.digest)
    .limit(_LIMIT)
)


_HEADS = (
    select(conversation.c.id, conversation.c.last_entry, conversation.c.chain_hash)
    .where(conversation.c.tenant == bindparam("tenant"), conversation.c.id > _AFTER)
    .order_by(conversation.c.id)
    .limit(_LIMIT)
)
_COUNT = select(func.count()).select_from(conversation).where(conversation.c.tenant == bindparam("tenant"))


class RemovalRow(NamedTuple):
    """A row of the removal table."""

    number: int
    ref: str
    author: str | None
    reason: str | None
    created_at: int
    salt: bytes

    def covered(self) -> list[object]:
        """Return the values the chain commits to, in a fixed order."""
        return [self.number, self.ref, self.author, self.reason, self.created_at]


class ToolCallSeen(NamedTuple):
    """A tool call, the message that asked for it and the one that answers it: None where there is no such message."""

    turn_id: UUID
    message_seq: int
    position: int
    call_id: str
    name: str
    state: str
    result_seq: int | None
    asker_turn: UUID | None
    asker_role: str | None
    asker_status: str | None
    asked: str | None
    answer_turn: UUID | None
    answer_role: str | None
    answer_parent: int | None
    answers: str | None


def count_conversations(connection: Connection, tenant: str) -> int:
    """Return how many conversations the tenant has."""
    return int(connection.execute(_COUNT, {"tenant": tenant}).scalar_one())


def heads(connection: Connection, tenant: str, after: UUID, limit: int) -> list[CheckpointHead]:
    """Return the heads of the tenant's next conversations, in the order of their ids."""
    rows = connection.execute(_HEADS, {"tenant": tenant, "after": after, "limit": limit})
    return [CheckpointHead(cast("UUID", row[0]), row[1], bytes(row[2]).hex()) for row in rows]


def messages(connection: Connection, conversation_id: UUID, after: int, limit: int) -> list[MessageRow]:
    """Return the `limit` messages behind a seq, in order."""
    values = {"id": conversation_id, "after": after, "limit": limit}
    return [MessageRow(*row) for row in connection.execute(_MESSAGES, values)]


def calls(
    connection: Connection, conversation_id: UUID, keys: Iterable[tuple[UUID, int]]
) -> dict[tuple[UUID, int], CallRow]:
    """Return these API calls by turn and number, as many of them as there are."""
    wanted = list(keys)
    if not wanted:
        return {}
    rows = [CallRow(*row) for row in connection.execute(_CALLS, {"id": conversation_id, "keys": wanted})]
    return {(row.turn_id, row.number): row for row in rows}


def prompts(connection: Connection, tenant: str, digests: Iterable[bytes]) -> dict[bytes, str]:
    """Return these prompts and tool sets, as many of them as there are."""
    wanted = list(digests)
    if not wanted:
        return {}
    rows = connection.execute(_PROMPTS, {"tenant": tenant, "digests": wanted})
    return {bytes(digest): body for digest, body in rows}


def removals(connection: Connection, conversation_id: UUID) -> Iterator[RemovalRow]:
    """Yield every removal in order, read by pages."""
    after = -(2**31)
    while True:
        rows = connection.execute(_REMOVALS, {"id": conversation_id, "after": after, "limit": PAGE}).all()
        yield from (RemovalRow(*row) for row in rows)
        if len(rows) < PAGE:
            return
        after = rows[-1][0]


def stored_blobs(connection: Connection, conversation_id: UUID) -> Iterator[Blob]:
    """Yield every binary as it is stored, a few at a time."""
    after = b""
    while True:
        values = {"id": conversation_id, "after": after, "limit": _BLOBS}
        rows = connection.execute(_STORED_BLOBS, values).all()
        yield from (Blob(bytes(digest), media_type, bytes(data)) for digest, media_type, data in rows)
        if len(rows) < _BLOBS:
            return
        after = bytes(rows[-1][0]) + b"\x00"  # the lowest digest behind it


def _tool_calls() -> Any:
    asker, answer = message.alias("asker"), message.alias("answer")
    return (
        select(
            tool_call.c.turn_id,
            tool_call.c.message_seq,
            tool_call.c.position,
            tool_call.c.call_id,
            tool_call.c.name,
            tool_call.c.state,
            tool_call.c.result_seq,
            asker.c.turn_id,
            asker.c.role,
            asker.c.status,
            asker.c.tool_calls,
            answer.c.turn_id,
            answer.c.role,
            answer.c.parent_seq,
            answer.c.tool_call_id,
        )
        .outerjoin(asker, and_(asker.c.conversation_id == _ID, asker.c.seq == tool_call.c.message_seq))
        .outerjoin(answer, and_(answer.c.conversation_id == _ID, answer.c.seq == tool_call.c.result_seq))
        .where(
            tool_call.c.conversation_id == _ID,
            tuple_(tool_call.c.message_seq, tool_call.c.position)
            > tuple_(bindparam("after_seq"), bindparam("after_position")),
        )
        .order_by(tool_call.c.message_seq, tool_call.c.position)
        .limit(_LIMIT)
    )


_TOOL_CALLS = _tool_calls()


def tool_calls(connection: Connection, conversation_id: UUID) -> Iterator[ToolCallSeen]:
    """Yield every tool call with what asked for it and what answers it, in order, read by pages."""
    after = (-(2**31), -(2**31))
    while True:
        values = {"id": conversation_id, "after_seq": after[0], "after_position": after[1], "limit": PAGE}
        rows: list[Any] = list(connection.execute(_TOOL_CALLS, values))
        yield from (ToolCallSeen(*row) for row in rows)
        if len(rows) < PAGE:
            return
        after = (rows[-1][1], rows[-1][2])


_ANSWERS = select(message.c.seq).where(
    message.c.conversation_id == _ID,
    message.c.role == TOOL,
    exists().where(turn.c.conversation_id == _ID, turn.c.id == message.c.turn_id),
)
_ANSWERED = select(tool_call.c.result_seq).where(
    tool_call.c.conversation_id == _ID, tool_call.c.result_seq.is_not(None)
)
_ENDED = (
    select(completion.c.turn_id, completion.c.number)
    .where(completion.c.conversation_id == _ID, completion.c.ended_at.is_not(None))
    .order_by(completion.c.turn_id, completion.c.number)
)
_ENTERED = select(entry.c.ref).where(entry.c.conversation_id == _ID, entry.c.kind == bindparam("kind"))
_PLACE = select(func.min(entry.c.number)).where(
    entry.c.conversation_id == _ID, entry.c.kind == bindparam("kind"), entry.c.ref == bindparam("ref")
)


def count_answers(connection: Connection, conversation_id: UUID) -> int:
    """Return how many messages are results of tools that were run here."""
    counted = select(func.count()).select_from(_ANSWERS.subquery())
    return int(connection.execute(counted, {"id": conversation_id}).scalar_one())


def unanswered(connection: Connection, conversation_id: UUID) -> int | None:
    """Return the first result of a tool that no tool call names. For naming it only: holds all their seqs at once."""
    named = set(connection.execute(_ANSWERED, {"id": conversation_id}).scalars())
    rows = connection.execute(_ANSWERS.order_by(message.c.seq), {"id": conversation_id}).scalars()
    return next((seq for seq in rows if seq not in named), None)


def never_entered(connection: Connection, conversation_id: UUID) -> tuple[UUID, int] | None:
    """Return the first ended API call that the chain does not name. For naming it only: holds all their names at once."""
    named = set(connection.execute(_ENTERED, {"id": conversation_id, "kind": "completion"}).scalars())
    rows = connection.execute(_ENDED, {"id": conversation_id})
    return next(((cast("UUID", row[0]), row[1]) for row in rows if f"{row[0]}:{row[1]}" not in named), None)


def place(connection: Connection, conversation_id: UUID, kind: str, ref: str) -> int:
    """Return the number of a row's entry, 0 where it has none."""
    values = {"id": conversation_id, "kind": kind, "ref": ref}
    return connection.execute(_PLACE, values).scalar_one() or 0


def database_id(connection: Connection) -> UUID:
    """Return the database's id."""
    return cast("UUID", connection.execute(select(schema_.c.database_id)).scalar_one())
