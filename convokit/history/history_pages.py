"""Read a page of messages with their turns, calls and removals.

Everything is read in one transaction, so that messages, turns and removals agree. The cost does not depend on the length of the
conversation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, read_flow
from convokit.completion.state import ChatRef, KitState, check_schema_flow, not_found
from convokit.domain.conversation import Branch, BranchRow, Conversation, ListedConversation
from convokit.domain.history import History
from convokit.domain.ids import derive_conversation_id
from convokit.domain.message import SUMMARY, Message, Parting
from convokit.domain.removal import EVERYTHING, RemovalRow
from convokit.domain.stored_records import ChainEntry
from convokit.errors import NotFound
from convokit.history.message_pages import MessageQuery, find_page_message, parse_message_query, read_after
from convokit.history.records import make_turn_record
from convokit.store import (
    conversation_pages,
    messages,
    path_pages,
    path_through,
    removal_records,
    turn_pages,
)
from convokit.store.path_pages import PathPage
from convokit.store.path_through import PartedPage, PathEnd
from convokit.store.turn_pages import TurnWithCalls


@dataclass(slots=True)
class _HistoryRows:
    """The rows of a page."""

    listed: ListedConversation
    branch: BranchRow
    page: PathPage
    partings: dict[int, Parting]
    erasure: RemovalRow | None = None
    turns: list[TurnWithCalls] = field(default_factory=list)
    removals: list[ChainEntry] = field(default_factory=list)
    has_later: bool = False


def read_history_flow(
    kit: KitState,
    chat: ChatRef,
    *,
    limit: int,
    before: Message | str | int | None,
    after: Message | str | int | None,
    around: Message | str | int | None,
) -> Flow[History]:
    """Return a page of the chat's path. Raises: InvalidInput, NotFound."""
    database_id = yield from check_schema_flow(kit)
    if chat.id is None:
        assert chat.key is not None
        chat.id = derive_conversation_id(database_id, kit.tenant, chat.key)
    query = parse_message_query(chat.id, limit, before=before, after=after, around=around, passages=True)
    rows = yield from read_flow(_read_rows, kit.tenant, chat, chat.id, query)
    chat.branch, chat.unresolved_branch = rows.branch.number, None
    conversation_id = rows.listed.row.id
    found = rows.page.rows
    return History.model_construct(
        conversation=Conversation.from_row(rows.listed, rows.erasure),
        branch=Branch.from_row(conversation_id, rows.branch),
        messages=Message.from_rows(conversation_id, found, rows.partings),
        turns=[make_turn_record(kit, conversation_id, each) for each in rows.turns],
        removals=rows.removals,
        has_earlier=bool(found) and found[0].parent_seq is not None,
        has_later=rows.has_later,
    )


def _read_rows(
    connection: Connection, tenant: str, chat: ChatRef, conversation_id: UUID, query: MessageQuery
) -> _HistoryRows:
    wanted = chat.branch if chat.unresolved_branch is None else chat.unresolved_branch
    listed, branch = conversation_pages.find_listed_branch(connection, tenant, conversation_id, wanted)
    if listed is None:
        raise not_found(chat)
    if branch is None:
        raise NotFound("branch", f"{wanted!r} of {chat.name}", "`fork` makes one")
    parted = _read_page(connection, listed, branch, query)
    page, partings = parted.page, parted.partings
    if partings is None:
        partings = {} if _is_one_run(listed) else path_pages.find_partings(connection, conversation_id, page)
    found = _HistoryRows(listed, branch, page, partings, has_later=parted.has_later)
    turn_ids = list({row.turn_id for row in page.rows if row.turn_id is not None})
    if turn_ids:
        found.turns = turn_pages.read_with_calls(connection, conversation_id, turn_ids)
    _read_removals(connection, conversation_id, found)
    return found


def _is_one_run(listed: ListedConversation) -> bool:
    """Return whether each message of the conversation follows the one written before it, so that no path parts."""
    return (
        listed.preview is not None and listed.preview.run_start_seq == 1 and listed.row.head_seq == listed.row.last_seq
    )


def _read_page(
    connection: Connection, listed: ListedConversation, branch: BranchRow, query: MessageQuery
) -> PartedPage:
    """Return the messages of a page, and whether the path has messages after them."""
    assert query.limit is not None
    row, head = listed.row, branch.head_seq
    if query.after is not None:
        page = read_after(connection, row, head, query.after, query)
        return PartedPage(page, has_later=bool(page.rows) and page.rows[-1].seq != head, partings=None)
    if query.around is not None:
        return _read_around(connection, listed, branch, query.around, query.limit)
    if query.before is None:
        return PartedPage(path_pages.read_to(connection, row.id, head, query.limit), has_later=False, partings=None)
    if not query.before:
        return PartedPage(PathPage([]), has_later=True, partings=None)
    # The message itself is read with those before it, and is not part of the page.
    page = path_pages.read_to(connection, row.id, query.before, query.limit + 1)
    if not page.rows or page.rows[-1].status == SUMMARY:
        find_page_message(connection, row, "before", query.before)
    return PartedPage(PathPage(page.rows[:-1], page.previous), has_later=True, partings=None)


def _read_around(
    connection: Connection, listed: ListedConversation, branch: BranchRow, around: int, limit: int
) -> PartedPage:
    page = path_pages.read_to(connection, listed.row.id, around, min(limit // 2 + 1, limit))
    if not page.rows or page.rows[-1].status == SUMMARY:
        find_page_message(connection, listed.row, "around", around)
    return path_through.read_around(connection, listed.row, _find_end(connection, listed, branch), page, limit)


def _find_end(connection: Connection, listed: ListedConversation, branch: BranchRow) -> PathEnd:
    """Return the end of a branch. The last message of the main branch was read with the conversation."""
    if branch.head_seq is None:
        return PathEnd(None, None)
    if branch.number == 0 and listed.preview is not None:
        return PathEnd(branch.head_seq, listed.preview.run_start_seq)
    head = messages.find(connection, listed.row.id, branch.head_seq)
    return PathEnd(branch.head_seq, None if head is None else head.run_start_seq)


def _read_removals(connection: Connection, conversation_id: UUID, rows: _HistoryRows) -> None:
    """Read the removals of the page's messages, and the erasure of a conversation that is erased now."""
    refs = [f"message:{row.seq}" for row in rows.page.rows if row.status == "redacted"]
    if not refs and not conversation_pages.may_be_erased(rows.listed):
        return
    found = removal_records.list_of_refs(connection, conversation_id, [*refs, EVERYTHING])
    rows.erasure = removal_records.find_last_erasure(found, rows.listed.row.last_entry)
    if refs or rows.erasure is not None:
        rows.removals = [ChainEntry.from_entry(conversation_id, entry, removal) for entry, removal in found]
