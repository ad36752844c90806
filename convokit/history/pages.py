"""Read pages of messages, turns, branches and conversations."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.anchor import (
    MessageLike,
    find_anchor_message,
    find_seq_before_passages,
    resolve_seq_flow,
)
from convokit.completion.effects import Flow, read_flow
from convokit.completion.recovery import close_turn_flow, find_open_turn, is_worker_gone, resolve_counter
from convokit.completion.state import (
    ChatRef,
    KitState,
    check_schema_flow,
    find_conversation_flow,
    identify_flow,
    not_found,
)
from convokit.domain.conversation import Branch, Conversation, ConversationRow
from convokit.domain.ids import MAX_SEQ, parse_id, parse_message_seq
from convokit.domain.message import Message, MessageRow
from convokit.domain.paging import Page, validate_limit
from convokit.domain.removal import RemovalRow
from convokit.domain.text import validate_text
from convokit.domain.turn import OpenTurn, Turn, TurnRow
from convokit.errors import InvalidInput, NotFound
from convokit.store import conversations, message_tree, messages, removal_records, turns
from convokit.store.turn_pages import list_turns_of_question, read_turns_page


def list_messages_flow(
    kit: KitState, chat: ChatRef, *, limit: int, before: str | int | None, passages: bool
) -> Flow[list[Message]]:
    """Return the newest `limit` messages of the chat's path, oldest first; `before` goes further back."""

    def read(connection: Connection, row: ConversationRow) -> list[MessageRow]:
        last = message_tree.read_head(connection, row, chat.branch)
        if before_seq is not None:
            message = messages.find(connection, row.id, before_seq)
            last = None if message is None else message.parent_seq
        return messages.read_page(connection, row.id, last, limit, passages=passages)

    validate_limit(limit)
    before_seq = None if before is None else parse_message_seq((yield from identify_flow(kit, chat)), before)
    return (yield from _read_messages_flow(kit, chat, read))


def list_log_flow(kit: KitState, chat: ChatRef, *, limit: int, before: str | int | None) -> Flow[list[Message]]:
    """Return the newest messages of all branches, in the order of writing."""

    def read(connection: Connection, row: ConversationRow) -> list[MessageRow]:
        return messages.list_newest(connection, row.id, end, limit)

    validate_limit(limit)
    end = MAX_SEQ if before is None else parse_message_seq((yield from identify_flow(kit, chat)), before)
    return (yield from _read_messages_flow(kit, chat, read))


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
        anchor = find_anchor_message(connection, row.id, seq)
        parent = find_seq_before_passages(connection, row.id, anchor)
        children = message_tree.list_children(connection, row.id, parent)
        questions = (_skip_passages(connection, row.id, child) for child in children)
        return [question for question in questions if question is not None]

    return (yield from _read_messages_flow(kit, chat, read))


def list_children_flow(
    kit: KitState, chat: ChatRef, message: MessageLike, *, limit: int, before: str | int | None
) -> Flow[list[Message]]:
    """Return the newest messages that follow a message on any branch, in the order of writing; 0 has the first messages."""
    validate_limit(limit)
    seq = yield from resolve_seq_flow(kit, chat, message)
    end = MAX_SEQ if before is None else parse_message_seq((yield from identify_flow(kit, chat)), before)

    def read(connection: Connection, row: ConversationRow) -> list[MessageRow]:
        parent = find_anchor_message(connection, row.id, seq).seq if seq else None
        found: list[MessageRow] = []
        below = end
        while len(found) < limit:
            children = message_tree.list_children(connection, row.id, parent, below, limit - len(found))
            shown = (_skip_passages(connection, row.id, child) for child in children)
            # The passages of the question `before` have lower seqs than the question.
            found = [each for each in shown if each is not None and each.seq < end] + found
            if not children:
                break
            below = children[0].seq
        return found

    return (yield from _read_messages_flow(kit, chat, read))


def _skip_passages(connection: Connection, conversation_id: UUID, row: MessageRow) -> MessageRow | None:
    """Return the question that a passage belongs to; any other message as it is."""
    while row.is_passage:
        after = message_tree.list_children(connection, conversation_id, row.seq)
        if not after:
            return None
        row = after[0]
    return row


def _read_messages_flow(
    kit: KitState, chat: ChatRef, read: Callable[[Connection, ConversationRow], Sequence[MessageRow]]
) -> Flow[list[Message]]:
    """Read messages of the chat's conversation in one transaction. Raises: NotFound."""

    def read_conversation(connection: Connection) -> list[Message] | None:
        row = conversations.find(connection, kit.tenant, conversation_id)
        return None if row is None else [Message.from_row(row.id, each) for each in read(connection, row)]

    conversation_id = yield from identify_flow(kit, chat)
    found = yield from read_flow(read_conversation)
    if found is None:
        raise not_found(chat)
    return found


def list_turns_flow(
    kit: KitState, chat: ChatRef, question: MessageLike | None, *, limit: int, before: UUID | str | None
) -> Flow[list[Turn]]:
    """Return the newest `limit` turns of the chat's path, or of a question, oldest first.

    A turn of the branch whose worker is gone is closed first, unless the kit is read-only.
    """
    validate_limit(limit)
    last = None if before is None else parse_id(before, "before")
    seq = None if question is None else (yield from resolve_seq_flow(kit, chat, question))
    conversation = yield from find_conversation_flow(kit, chat)
    found = yield from read_flow(find_open_turn, conversation.id, chat.branch, None)
    if found is not None and not kit.read_only and is_worker_gone(kit, found[1]):
        counter = resolve_counter(kit, conversation)
        yield from close_turn_flow(kit, conversation, *found, counter, "abandoned")
        conversation = yield from find_conversation_flow(kit, chat)
    if seq is None:
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
    open_turns = [] if known is None else [known]
    branches = [row.branch for row in rows if row.state == "open" and (known is None or row.id != known.id)]
    if branches:
        open_turns += yield from read_flow(_read_open_turns, conversation_id, branches)
    open_ids = {row.id for row in rows if row.state == "open"}
    return {turn.id for turn in open_turns if turn.id in open_ids and is_worker_gone(kit, turn)}


def _read_open_turns(connection: Connection, conversation_id: UUID, branches: Sequence[int]) -> list[OpenTurn]:
    found = (turns.find_open(connection, conversation_id, branch) for branch in branches)
    return [turn for turn in found if turn is not None]


def _read_turns_of_question(
    connection: Connection, conversation_id: UUID, seq: int, limit: int, before: UUID | None
) -> list[TurnRow] | None:
    """Return the newest turns of a question, oldest first; None if the turn `before` does not exist."""
    row = find_anchor_message(connection, conversation_id, seq)
    if not row.is_question:
        raise InvalidInput("question", f"message {seq} is not a question; pass the message of a user")
    return list_turns_of_question(connection, conversation_id, row, limit, before)


def list_branches_flow(kit: KitState, chat: ChatRef, *, limit: int, before: int | None) -> Flow[list[Branch]]:
    """Return the conversation's newest branches, by number."""
    validate_limit(limit)
    if before is not None and (isinstance(before, bool) or not isinstance(before, int) or not 0 < before <= MAX_SEQ):
        raise InvalidInput("before", f"must be the number of a branch, 1 or more, not {before!r}")
    conversation = yield from find_conversation_flow(kit, chat)
    end = MAX_SEQ if before is None else before
    rows = yield from read_flow(message_tree.list_branches, conversation, end, limit)
    return [Branch.from_row(conversation.id, row) for row in rows]


def list_conversations_flow(
    kit: KitState, *, subject: str | None, limit: int, before: str | None
) -> Flow[Page[Conversation]]:
    """Return a page of the tenant's conversations, the last used first."""
    validate_limit(limit)
    cursor = None if before is None else _decode_cursor(before)
    if subject is not None:
        validate_text("subject", subject, limit=kit.limits.key_chars * 4, setting="Limits.key_chars")
    yield from check_schema_flow(kit)

    def read(connection: Connection) -> tuple[list[ConversationRow], dict[UUID, RemovalRow]]:
        rows = conversations.list_recent(connection, kit.tenant, subject=subject, limit=limit + 1, before=cursor)
        return rows, removal_records.find_erasures(connection, [row.id for row in rows])

    rows, erasures = yield from read_flow(read)
    items = [Conversation.from_row(row, erasures.get(row.id)) for row in rows[:limit]]
    has_more = len(rows) > limit
    following = _encode_cursor(rows[limit - 1].updated_at, rows[limit - 1].id) if has_more else None
    return Page[Conversation].model_construct(items=items, next=following)


def _encode_cursor(updated_at: int, conversation_id: UUID) -> str:
    return base64.urlsafe_b64encode(f"{updated_at}:{conversation_id}".encode()).decode()


def _decode_cursor(text: str) -> tuple[int, UUID]:
    try:
        updated_at, _, conversation_id = base64.urlsafe_b64decode(text.encode()).decode().partition(":")
        cursor = int(updated_at), UUID(conversation_id)
        if not 0 <= cursor[0] < 2**63:
            raise ValueError(updated_at)
        return cursor
    except (ValueError, binascii.Error, AttributeError):
        raise InvalidInput("before", "is not a cursor of this listing: pass the page's `next`") from None
