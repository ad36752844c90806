"""Write the rows that a step adds to a conversation.

A step first advances the conversation, which locks it and shows whether another writer was faster. It then inserts its rows.
All statements are plain statements on one table and name the conversation. So a distributed PostgreSQL sends them to the one
server that holds the conversation. On PostgreSQL a step takes two round trips and the COMMIT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Executable

from convokit.domain.conversation import ConversationRow
from convokit.domain.hashchain import Entry
from convokit.domain.message import MessageRow
from convokit.domain.turn import CallRow
from convokit.store import api_calls, blobs, chain, conversations, message_tree, messages, turns
from convokit.store.pipeline import pipeline


class Conflict(Exception):  # never reaches a user: the flow reads again and tries once more
    """Another process changed the conversation since it was read. The transaction has to be rolled back."""


class TurnLost(Exception):  # never reaches a user: the flow goes on without the turn
    """The turn is no longer open under its epoch: another worker took it over. The transaction has to be rolled back."""


@dataclass(slots=True, repr=False)
class WriteBatch:
    """The rows that are written together. `moved` is the conversation as it becomes, `row` as it is stored."""

    row: ConversationRow
    moved: ConversationRow
    branch: int
    head: int | None
    """The branch's new head; None leaves it where it is."""
    entries: Sequence[Entry]
    messages: list[MessageRow]
    created: bool = False
    unarchives: bool = False
    """Whether the conversation leaves the archive: with a new turn and an append."""
    was: int | None = None
    """The branch head when it was read, for a turn that begins."""
    opened: Mapping[str, Any] | None = None
    """The turn that begins, as `turns.build_open_values` gives it."""
    begun_call: CallRow | None = None
    ended_call: CallRow | None = None
    search_keys: Sequence[set[str]] | None = None
    """The keys of each message's words; None computes them in the transaction."""
    prompts: Sequence[tuple[bytes, str]] = ()
    """The prompts of the call that begins, after their digests. `advance` removes those that the conversation uses already."""


def advance_row(
    row: ConversationRow, branch: int, head: int | None, last: int, entries: Sequence[Entry], at: int
) -> ConversationRow:
    """Return the conversation as it is with these entries behind it, `last` its last seq and `head` the branch's new head.

    Its time never goes back, though another host's clock may: no message is newer than its conversation.
    """
    moved = replace(row, last_seq=last, updated_at=max(at, row.updated_at))
    if entries:
        moved.last_entry, moved.chain_hash = entries[-1].number, entries[-1].hash
    if branch == 0 and head is not None:
        moved.head_seq = head
    return moved


def advance(
    connection: Connection, given: WriteBatch, guard: tuple[Executable, Mapping[str, Any]] | None = None
) -> bool:
    """Advance the conversation. Return False if another writer advanced it since `given.row` was read; it is not locked then.

    `guard` is an UPDATE of the turn that matches no row once another worker has the turn. It locks the turn after the
    conversation, as every transaction does.

    Raises: TurnLost.
    """
    if given.created:
        return True
    head = None if given.branch else given.head
    values = conversations.build_advance_values(given.row, given.moved, head, unarchives=given.unarchives)
    # `checkout` moves the main branch without an entry. A turn starts on the path that its request was built from.
    statement = conversations.ADVANCE if given.opened is None else conversations.ADVANCE_FROM_HEAD
    with pipeline(connection) as sending:
        advanced: Any = sending.execute(statement, values)
        guarded: Any = None if guard is None else sending.execute(*guard)
        uses = [sending.execute(*blobs.build_use_query(given.row.id, digest)) for digest, _ in given.prompts]
    given.prompts = [each for each, use in zip(given.prompts, uses, strict=True) if use.first() is None]
    if guarded is not None and guarded.rowcount != 1:
        raise TurnLost
    return bool(advanced.rowcount == 1)


@contextmanager
def write(connection: Connection, given: WriteBatch) -> Iterator[Connection]:
    """Insert the rows of an addition together with the statements of the block, which gets the connection to send them.

    The conversation was advanced.
    Raises: IntegrityError when a key or an index refuses a row; Conflict if a turn starts on a branch that has moved.
    """
    row = given.row
    moved_branch: Any = None
    with pipeline(connection) as sending:
        if given.created:
            conversations.create(sending, given.moved)
        if given.opened is not None:
            turns.insert_open(sending, row.id, given.opened)
        messages.append(sending, row.id, given.messages, row.tenant, given.search_keys)
        chain.append_entries(sending, row.id, given.entries)
        if given.ended_call is not None:
            api_calls.end_call(sending, row.id, given.ended_call)
        if given.begun_call is not None:
            api_calls.insert_call(sending, row.id, given.begun_call)
        if given.branch and given.head is not None:
            if given.opened is None:
                message_tree.move_head(sending, row.id, given.branch, given.head)
            else:
                values = message_tree.build_move_values(row.id, given.branch, given.head, given.was)
                moved_branch = sending.execute(message_tree.MOVE_HEAD_FROM, values)
        yield sending
    blobs.insert_prompts(connection, row.tenant, row.id, given.prompts)
    if moved_branch is not None and moved_branch.rowcount != 1:
        raise Conflict
