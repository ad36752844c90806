"""Read the messages of a path, or a page of them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, read_flow
from convokit.completion.start_point import MessageLike
from convokit.completion.state import ChatRef, KitState, identify_flow, is_unused_key, not_found
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import parse_message_seq
from convokit.domain.message import SUMMARY, Message, MessageRow
from convokit.domain.paging import validate_limit
from convokit.errors import InvalidInput, NotFound
from convokit.store import conversations, message_tree, messages, path_pages, path_through
from convokit.store.path_pages import PathPage


@dataclass(frozen=True, slots=True)
class MessageQuery:
    """The part of a path to read. At most one of the three seqs is set."""

    limit: int | None
    before: int | None = None
    after: int | None = None
    around: int | None = None
    passages: bool = False

    @property
    def needs_message(self) -> bool:
        """Whether the query names a message, which must exist. 0 is before the first message and names none."""
        return bool(self.before or self.after) or self.around is not None


def parse_message_query(
    conversation_id: UUID,
    limit: int | None,
    *,
    before: MessageLike | None,
    after: MessageLike | None,
    around: MessageLike | None,
    passages: bool,
) -> MessageQuery:
    """Return the part of a path that a caller asked for. Raises: InvalidInput."""
    if limit is not None:
        validate_limit(limit)
    given = {
        name: each for name, each in (("before", before), ("after", after), ("around", around)) if each is not None
    }
    if len(given) > 1:
        raise InvalidInput(list(given)[1], f"pass only one of before, after and around, not {' and '.join(given)}")
    seqs = {
        name: parse_message_seq(conversation_id, each.id if isinstance(each, Message) else each)
        for name, each in given.items()
    }
    return MessageQuery(limit, **seqs, passages=passages)


def list_messages_flow(
    kit: KitState,
    chat: ChatRef,
    *,
    limit: int | None,
    before: MessageLike | None,
    after: MessageLike | None,
    around: MessageLike | None,
    passages: bool,
) -> Flow[list[Message]]:
    """Return a page of the chat's path, or all of it. Raises: InvalidInput, NotFound."""
    conversation_id = yield from identify_flow(kit, chat)
    query = parse_message_query(conversation_id, limit, before=before, after=after, around=around, passages=passages)

    def read(connection: Connection) -> list[Message] | None:
        row = conversations.find(connection, kit.tenant, conversation_id)
        if row is None:
            return None
        page = _read_path_page(connection, row, chat.branch, query)
        return Message.from_rows(row.id, page.rows, path_pages.find_partings(connection, row.id, page))

    found = yield from read_flow(read)
    if found is None and (query.needs_message or not is_unused_key(chat)):
        raise not_found(chat)
    return found or []


def _read_path_page(connection: Connection, row: ConversationRow, branch: int, query: MessageQuery) -> PathPage:
    head = message_tree.read_head(connection, row, branch)
    if query.after is not None:
        return read_after(connection, row, head, query.after, query)
    if query.around is not None:
        return _read_around(connection, row, head, query.around, query)
    if query.before is not None:
        head = find_page_message(connection, row, "before", query.before).parent_seq if query.before else None
    if query.limit is None:
        return path_pages.read_whole(connection, row.id, head, passages=query.passages) or PathPage([])
    return path_pages.read_before(connection, row.id, head, query.limit, passages=query.passages)


def read_after(
    connection: Connection, row: ConversationRow, head: int | None, after: int, query: MessageQuery
) -> PathPage:
    """Return the messages that follow `after`. Raises: NotFound, InvalidInput if it is not on the path to `head`."""
    if query.limit is None:
        page = path_pages.read_whole(connection, row.id, head, after=after, passages=query.passages)
    else:
        page = path_pages.read_after(connection, row.id, head, after, query.limit, passages=query.passages)
    if page is None:
        find_page_message(connection, row, "after", after)
        problem = (
            f"message {after} is not on this branch; around={after} reads the path through it, and "
            f"fork(after={after}) makes a branch of it"
        )
        raise InvalidInput("after", problem)
    return page


def _read_around(
    connection: Connection, row: ConversationRow, head: int | None, around: int, query: MessageQuery
) -> PathPage:
    target = find_page_message(connection, row, "around", around)
    end = path_through.find_path_through(connection, row, head, target)
    passages = query.passages
    if query.limit is None:
        return path_pages.read_whole(connection, row.id, end, passages=passages) or PathPage([])
    page = PathPage([])
    if query.limit > 1 and target.parent_seq is not None:
        page = path_pages.read_before(connection, row.id, target.parent_seq, query.limit // 2, passages=passages)
    elif target.parent_seq is not None:
        page.previous = path_pages.find_before_passages(connection, row.id, target.parent_seq) or 0
    if passages or not target.is_passage:
        page.rows.append(target)
    missing = query.limit - len(page.rows)
    if missing:
        page.rows += path_pages.read_rows_after(connection, row.id, end, around, missing, passages=passages) or []
    return page


def find_page_message(connection: Connection, row: ConversationRow, name: str, seq: int) -> MessageRow:
    """Return the message that a page starts from. Raises: NotFound, InvalidInput for a summary."""
    found = messages.find(connection, row.id, seq)
    if found is None:
        raise NotFound("message", seq, f"`{name}` takes a message of this conversation, its id or its seq")
    if found.status == SUMMARY:
        raise InvalidInput(name, f"message {seq} is a summary and on no path; pass one of the messages it summarizes")
    return found
