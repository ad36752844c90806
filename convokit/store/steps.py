"""The steps of a turn's life, each the work of one transaction.

`snapshot` reads everything a turn needs at once; `begin` makes the question, the turn and its first API call durable before a
byte is sent; `settle` closes the turn, whoever closes it and however it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from convokit.domain import chain as chains
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow
from convokit.domain.turn import CompletionRow, OpenTurn
from convokit.store import chain, conversations, messages, turns


class Conflict(Exception):  # not a user's error: read again and try once more
    """Someone else moved the conversation since it was read. Nothing was written."""


@dataclass(slots=True)
class Snapshot:
    """What a turn reads, from one transaction."""

    conversation: ConversationRow | None
    head: int | None = None
    path: messages.Path = field(default_factory=lambda: messages.Path([], complete=True))
    open_turn: OpenTurn | None = None


@dataclass(slots=True)
class Beginning:
    """What `begin` writes. `created` says that the conversation itself is new."""

    conversation: ConversationRow
    created: bool
    branch: int
    question: MessageRow
    completion: CompletionRow
    owner: str
    lease_us: int
    at: int
    prompts: Sequence[tuple[bytes, str]] = ()
    described: bool = False
    """Whether the conversation's own settings, subject or title changed."""


@dataclass(slots=True)
class Settlement:
    """What `settle` writes: `rows` builds the replies once the seq before them is known."""

    conversation: ConversationRow
    branch: int
    turn_id: UUID
    epoch: int
    state: str
    rows: Callable[[ConversationRow], list[MessageRow]]
    completion: CompletionRow | None
    at: int
    error: str | None = None
    first_token_at: int | None = None
    takeover: bool = False


@dataclass(slots=True)
class Settled:
    """What `settle` wrote."""

    conversation: ConversationRow
    rows: list[MessageRow]


def snapshot(
    connection: Connection,
    tenant: str,
    conversation_id: UUID,
    branch: int,
    enough: Callable[[ConversationRow, list[MessageRow]], int],
) -> Snapshot:
    """Read the conversation, the end of the branch's path as far as `enough` asks, and whether a turn is open on it."""
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return Snapshot(None)
    found = row
    head = conversations.head(connection, row, branch)
    path = messages.read_back(connection, row.id, head, lambda rows: enough(found, rows))
    return Snapshot(row, head, path, turns.open_on(connection, row.id, branch))


def begin(connection: Connection, beginning: Beginning) -> ConversationRow:
    """Make a turn durable: question, turn and API call, together. Return the conversation as it is now.

    Raises: Conflict when the conversation moved, was created by another process, or has an open turn on this branch.
    """
    row, question = beginning.conversation, beginning.question
    entries = chains.extend(row.last_entry, row.chain_hash, [question.leaf()])
    moved = _moved(row, beginning.branch, question.seq, question.seq, entries, beginning.at)
    try:
        if beginning.created:
            conversations.create(connection, moved)
        elif not conversations.advance(
            connection,
            row,
            beginning.branch,
            head_seq=question.seq,
            last_seq=question.seq,
            entries=entries,
            at=beginning.at,
        ):
            raise Conflict
        if beginning.described:
            conversations.describe(connection, moved)
        turns.insert_open(
            connection,
            row.id,
            beginning.completion.turn_id,
            branch=beginning.branch,
            question_seq=question.seq,
            owner=beginning.owner,
            lease_us=beginning.lease_us,
            at=beginning.at,
        )
    except IntegrityError:
        raise Conflict from None
    messages.append(connection, row.id, [question])
    chain.append(connection, row.id, entries)
    for digest, body in beginning.prompts:
        chain.keep_prompt(connection, row.tenant, digest, body)
    turns.insert_call(connection, row.id, beginning.completion)
    return moved


def settle(connection: Connection, settlement: Settlement) -> Settled | None:
    """Close a turn, if it is still held under this epoch; return None, and write nothing, when it is not."""
    row, call = settlement.conversation, settlement.completion
    rows = settlement.rows(row)
    named = rows[0].seq if rows else None
    ended = turns.end(
        connection,
        row.id,
        settlement.turn_id,
        settlement.epoch,
        state=settlement.state,
        reply_seq=named,
        error=settlement.error,
        first_token_at=settlement.first_token_at,
        at=settlement.at,
        takeover=settlement.takeover,
    )
    if not ended:
        return None
    settled = _extend(connection, settlement, rows)
    if call is not None:
        turns.end_call(connection, row.id, call)
    turns.prune_chunks(connection, row.id, settlement.turn_id)
    if settled.rows and settled.rows[0].seq != named:
        turns.correct_reply(connection, row.id, settlement.turn_id, settled.rows[0].seq)
    return settled


def _extend(connection: Connection, settlement: Settlement, rows: list[MessageRow]) -> Settled:
    """Append the replies and the chain's entries; again, on a fresh row, while other branches come between."""
    row = settlement.conversation
    call = [settlement.completion.leaf()] if settlement.completion is not None else []
    while True:
        entries = chains.extend(row.last_entry, row.chain_hash, [*(each.leaf() for each in rows), *call])
        head = rows[0].seq if rows else conversations.head(connection, row, settlement.branch)
        last = rows[-1].seq if rows else row.last_seq
        if conversations.advance(
            connection, row, settlement.branch, head_seq=head, last_seq=last, entries=entries, at=settlement.at
        ):
            messages.append(connection, row.id, rows)
            chain.append(connection, row.id, entries)
            return Settled(_moved(row, settlement.branch, head, last, entries, settlement.at), rows)
        row = _again(connection, row)
        rows = settlement.rows(row)


def _again(connection: Connection, row: ConversationRow) -> ConversationRow:
    fresh = conversations.find(connection, row.tenant, row.id)
    if fresh is None:
        raise Conflict
    return fresh


def _moved(
    row: ConversationRow, branch: int, head: int | None, last: int, entries: Sequence[chains.Entry], at: int
) -> ConversationRow:
    values = {name: getattr(row, name) for name in row.__slots__}
    values |= {"last_seq": last, "updated_at": at}
    if entries:
        values |= {"last_entry": entries[-1].number, "chain_hash": entries[-1].hash}
    if branch == 0:
        values["head_seq"] = head
    return ConversationRow(**values)


def try_again(
    connection: Connection,
    conversation: ConversationRow,
    epoch: int,
    failed: CompletionRow,
    following: CompletionRow,
    lease_us: int,
) -> ConversationRow | None:
    """Record that a call failed and that another follows, before its first byte. None: the turn is no longer ours."""
    if not turns.renew(connection, conversation.id, failed.turn_id, epoch, lease_us=lease_us, first_token_at=None):
        return None
    turns.end_call(connection, conversation.id, failed)
    turns.insert_call(connection, conversation.id, following)
    return enter(connection, conversation, [failed.leaf()], failed.ended_at or conversation.updated_at)


def enter(connection: Connection, row: ConversationRow, leaves: Sequence[chains.Leaf], at: int) -> ConversationRow:
    """Append entries that add no message."""
    while True:
        entries = chains.extend(row.last_entry, row.chain_hash, leaves)
        if conversations.advance(
            connection, row, 0, head_seq=row.head_seq, last_seq=row.last_seq, entries=entries, at=at
        ):
            chain.append(connection, row.id, entries)
            return _moved(row, 0, row.head_seq, row.last_seq, entries, at)
        row = _again(connection, row)


def save_piece(
    connection: Connection,
    conversation_id: UUID,
    completion: CompletionRow,
    epoch: int,
    number: int,
    text: str,
    *,
    lease_us: int,
    first_token_at: int,
) -> bool:
    """Store a piece of the reply and prolong the lease. False: the turn is no longer ours, stop reading."""
    turn_id = completion.turn_id
    if not turns.renew(connection, conversation_id, turn_id, epoch, lease_us=lease_us, first_token_at=first_token_at):
        return False
    turns.append_chunk(connection, conversation_id, turn_id, completion.number, number, text)
    return True
