"""Read pages of messages, turns, branches and conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, read_flow
from convokit.completion.recovery import close_turn_flow, find_open_turn, is_worker_gone, resolve_counter
from convokit.completion.start_point import (
    MessageLike,
    check_path_end,
    find_path_end,
    resolve_seq_flow,
)
from convokit.completion.state import (
    ChatRef,
    KitState,
    find_conversation_flow,
    find_listed_conversation_flow,
    identify_flow,
    is_unused_key,
    not_found,
)
from convokit.domain.conversation import Branch, ConversationRow
from convokit.domain.ids import MAX_SEQ, parse_id, parse_message_seq
from convokit.domain.message import SUMMARY, Message, MessageRow
from convokit.domain.paging import validate_limit
from convokit.domain.turn import OpenTurn, Turn, TurnRow, hash_key
from convokit.errors import InvalidInput, NotFound
from convokit.store import conversations, message_tree, messages, path_pages, summaries, turns
from convokit.store.turn_pages import list_turns_of_question, read_turns_page

_Value = TypeVar("_Value")
_BEHIND_PASSAGE = 4
"""Messages read behind a passage, to find its question. More than three passages of a question take another statement."""


def list_log_flow(kit: KitState, chat: ChatRef, *, limit: int, before: str | int | None) -> Flow[list[Message]]:
    """Return the newest messages of all branches, in the order of writing."""

    def read(connection: Connection, row: ConversationRow) -> list[Message]:
        rows = messages.list_newest(connection, row.id, end, limit)
        seqs = [each.seq for each in rows if each.status == SUMMARY]
        found = summaries.find_of_messages(connection, row.id, seqs) if seqs else []
        spans = {each.message_seq: (each.from_seq, each.to_seq) for each in found}
        return Message.from_rows(row.id, rows, spans=spans)

    validate_limit(limit)
    end = MAX_SEQ if before is None else parse_message_seq((yield from identify_flow(kit, chat)), before)
    return (yield from read_conversation_flow(kit, chat, read)) or []


def list_leaves_flow(kit: KitState, chat: ChatRef, *, limit: int, before: str | int | None) -> Flow[list[Message]]:
    """Return the newest messages that no message follows, newest first."""

    def read(connection: Connection, row: ConversationRow) -> list[MessageRow]:
        return message_tree.list_leaves(connection, row, end, limit)

    validate_limit(limit)
    end = MAX_SEQ if before is None else parse_message_seq((yield from identify_flow(kit, chat)), before)
    return (yield from _read_messages_flow(kit, chat, read))


def list_siblings_flow(kit: KitState, chat: ChatRef, message: MessageLike) -> Flow[list[Message]]:
    """Return the messages that follow the same message as this one, in the order of writing, this one among them."""
    seq = yield from resolve_seq_flow(kit, chat, message)

    def read(connection: Connection, row: ConversationRow) -> list[MessageRow]:
        page = path_pages.read_to(connection, row.id, seq, 1)
        if not page.rows:
            raise NotFound("message", seq)
        check_path_end(page.rows[-1])
        children = message_tree.list_children(connection, row.id, page.previous or None)
        return _skip_passages(connection, row.id, children)

    return (yield from _read_messages_flow(kit, chat, read, is_listing=False))


def list_children_flow(
    kit: KitState, chat: ChatRef, message: MessageLike, *, limit: int, before: str | int | None
) -> Flow[list[Message]]:
    """Return the newest messages that follow a message on any branch, in the order of writing; 0 has the first messages."""
    validate_limit(limit)
    seq = yield from resolve_seq_flow(kit, chat, message)
    end = MAX_SEQ if before is None else parse_message_seq((yield from identify_flow(kit, chat)), before)

    def read(connection: Connection, row: ConversationRow) -> list[MessageRow]:
        parent = find_path_end(connection, row.id, seq).seq if seq else None
        found: list[MessageRow] = []
        below = end
        while len(found) < limit:
            children = message_tree.list_children(connection, row.id, parent, below, limit - len(found))
            # The passages of the question `before` have lower seqs than the question.
            found = [each for each in _skip_passages(connection, row.id, children) if each.seq < end] + found
            if not children:
                break
            below = children[0].seq
        return found

    return (yield from _read_messages_flow(kit, chat, read, is_listing=not seq))


def _skip_passages(connection: Connection, conversation_id: UUID, rows: Sequence[MessageRow]) -> list[MessageRow]:
    """Replace each passage by the question that it belongs to. One statement reads the next messages of all of them."""
    found = [row for row in rows if not row.is_passage]
    passages = [row.seq for row in rows if row.is_passage]
    while passages:
        # A passage is written together with the message behind it, so that one has the next seq.
        seqs = [seq + step for seq in passages for step in range(1, _BEHIND_PASSAGE + 1)]
        following = {row.seq: row for row in messages.read_many(connection, conversation_id, seqs, with_items=True)}
        ends = [_follow_passages(following, seq) for seq in passages]
        found += [row for row in ends if row is not None and not row.is_passage]
        passages = [row.seq for row in ends if row is not None and row.is_passage]
    return sorted(found, key=lambda row: row.seq)


def _follow_passages(following: Mapping[int, MessageRow], seq: int) -> MessageRow | None:
    """Return the first message behind passage `seq` that is no passage, else the last passage among the following ones."""
    row: MessageRow | None = None
    while (row is None or row.is_passage) and seq + 1 in following and following[seq + 1].parent_seq == seq:
        seq += 1
        row = following[seq]
    return row


def _read_messages_flow(
    kit: KitState,
    chat: ChatRef,
    read: Callable[[Connection, ConversationRow], Sequence[MessageRow]],
    *,
    is_listing: bool = True,
) -> Flow[list[Message]]:
    """Read messages of the chat's conversation in one transaction. A listing of an unused key is empty. Raises: NotFound."""

    def read_messages(connection: Connection, row: ConversationRow) -> list[Message]:
        return Message.from_rows(row.id, read(connection, row))

    return (yield from read_conversation_flow(kit, chat, read_messages, is_listing=is_listing)) or []


def read_conversation_flow(
    kit: KitState, chat: ChatRef, read: Callable[[Connection, ConversationRow], _Value], *, is_listing: bool = True
) -> Flow[_Value | None]:
    """Read the chat's conversation and what `read` returns of it in one transaction.

    A listing of an unused key gives None. Raises: NotFound.
    """

    def read_both(connection: Connection) -> tuple[_Value] | None:
        row = conversations.find(connection, kit.tenant, conversation_id)
        return None if row is None else (read(connection, row),)

    conversation_id = yield from identify_flow(kit, chat)
    found = yield from read_flow(read_both)
    if found is None and not (is_listing and is_unused_key(chat)):
        raise not_found(chat)
    return None if found is None else found[0]


def list_turns_flow(
    kit: KitState,
    chat: ChatRef,
    question: MessageLike | None,
    idempotency_key: str | None,
    *,
    limit: int,
    before: UUID | str | None,
) -> Flow[list[Turn]]:
    """Return the newest `limit` turns of the chat's path, of a question, or the turn of a key, oldest first.

    A turn of the branch whose worker is gone is closed first, unless the kit is read-only.
    """
    validate_limit(limit)
    last = None if before is None else parse_id(before, "before")
    if idempotency_key is not None and (question is not None or before is not None):
        raise InvalidInput("idempotency_key", "names one turn: pass it alone, without question and before")
    seq = None if question is None else (yield from resolve_seq_flow(kit, chat, question))
    conversation = yield from find_listed_conversation_flow(kit, chat)
    if conversation is None and last is None and seq is None:
        return []
    if conversation is None:
        raise not_found(chat)
    found = yield from read_flow(find_open_turn, conversation.id, chat.branch, None)
    if found is not None and not kit.read_only and is_worker_gone(kit, found[1]):
        counter = resolve_counter(kit, conversation)
        yield from close_turn_flow(kit, conversation, *found, counter, "abandoned")
        conversation = yield from find_conversation_flow(kit, chat)
    rows: Sequence[TurnRow] | None
    if idempotency_key is not None:
        hash_ = hash_key(idempotency_key)
        turn = yield from read_flow(turns.find_by_idempotency_key, kit.tenant, conversation.id, hash_)
        rows = [] if turn is None else [turn]
    elif seq is None:
        rows = yield from read_flow(read_turns_page, conversation, chat.branch, limit, last)
    else:
        rows = yield from read_flow(_read_turns_of_question, conversation.id, seq, limit, last)
    if rows is None:
        raise NotFound("turn", last)
    gone = yield from find_gone_workers_flow(kit, conversation.id, rows, None if found is None else found[1])
    return [Turn.from_row(conversation.id, row, worker="gone" if row.id in gone else None) for row in rows]


def find_gone_workers_flow(
    kit: KitState, conversation_id: UUID, rows: Sequence[TurnRow], known: OpenTurn | None = None
) -> Flow[set[UUID]]:
    """Return the ids of those of the turns that are open and whose worker is gone. `known` was read already."""
    is_known = known is not None and any(row.id == known.id and row.state == "open" for row in rows)
    open_turns = [known] if known is not None and is_known else []
    others = [row for row in rows if row.state == "open" and (known is None or row.id != known.id)]
    if others:
        open_turns += yield from read_flow(read_open_turns, conversation_id, others)
    return {turn.id for turn in open_turns if is_worker_gone(kit, turn)}


def read_open_turns(connection: Connection, conversation_id: UUID, rows: Sequence[TurnRow]) -> list[OpenTurn]:
    """Return those of the turns that are open, with their workers, by one statement for each."""
    open_rows = [row for row in rows if row.state == "open"]
    found = [turns.find_open(connection, conversation_id, row.branch) for row in open_rows]
    # Another turn of the branch may be open by now, if the rows are of an earlier transaction.
    ids = {row.id for row in open_rows}
    return [turn for turn in found if turn is not None and turn.id in ids]


def _read_turns_of_question(
    connection: Connection, conversation_id: UUID, seq: int, limit: int, before: UUID | None
) -> list[TurnRow] | None:
    """Return the newest turns of a question, oldest first; None if the turn `before` does not exist."""
    row = find_path_end(connection, conversation_id, seq)
    if not row.is_question:
        raise InvalidInput("question", f"message {seq} is not a question; pass the message of a user")
    return list_turns_of_question(connection, conversation_id, row, limit, before)


def list_branches_flow(kit: KitState, chat: ChatRef, *, limit: int, before: int | None) -> Flow[list[Branch]]:
    """Return the conversation's newest branches, by number."""
    validate_limit(limit)
    if before is not None and (isinstance(before, bool) or not isinstance(before, int) or not 0 < before <= MAX_SEQ):
        raise InvalidInput("before", f"must be the number of a branch, 1 or more, not {before!r}")
    conversation = yield from find_listed_conversation_flow(kit, chat)
    if conversation is None:
        return []
    end = MAX_SEQ if before is None else before
    rows = yield from read_flow(message_tree.list_branches, conversation, end, limit)
    return [Branch.from_row(conversation.id, row) for row in rows]
