"""Write the rows that a step adds to a conversation.

Nothing is written where the conversation was moved by someone else since it was read. On PostgreSQL it is one statement: each
statement is a round trip there, and the conversation's row is locked for all of them. Every part of it is keyed by the
conversation and none calls a volatile function, so that it runs on a distributed PostgreSQL as well. SQLite, in our own
process, takes its statements one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Executable,
    Table,
    bindparam,
    cast,
    func,
    insert,
    literal,
    select,
    union_all,
)

from convokit.domain.conversation import ConversationRow
from convokit.domain.hashchain import Entry
from convokit.domain.message import MessageRow
from convokit.domain.turn import CallRow
from convokit.store import api_calls, chain, conversations, message_tree, messages, search_index, turns
from convokit.store.dialects import dialect_of
from convokit.store.dialects.protocol import INDEX_COLUMNS, IndexRow
from convokit.store.schema import completion, conversation, entry, message, turn
from convokit.store.schema import search as search_table

Written = Literal["all", "nothing", "turn"]
"""`nothing`: the turn is no longer open under its epoch. `turn`: it was closed, but the conversation has moved meanwhile."""
MANY = 8
"""Rows of one table beyond which a statement of its own takes them: every number of rows is another statement to prepare."""


@dataclass(slots=True, repr=False)
class WriteBatch:
    """What is written together. `moved` is the conversation as it becomes, `row` as it was read."""

    row: ConversationRow
    moved: ConversationRow
    branch: int
    head: int | None
    """The branch's new head; None leaves it where it is."""
    entries: Sequence[Entry]
    messages: Sequence[MessageRow]
    created: bool = False
    unarchives: bool = False
    """Whether the conversation leaves the archive: with a new turn and an append."""
    was: int | None = None
    """Where the branch's head was when it was read, for a turn that begins."""
    opened: Mapping[str, Any] | None = None
    """The turn that begins, as `turns.build_open_values` gives it."""
    ended: Mapping[str, Any] | None = None
    """The turn that ends, as `turns.build_end_values` gives it: where it is not open any more, nothing is written."""
    begun_call: CallRow | None = None
    ended_call: CallRow | None = None
    search_keys: Sequence[set[str]] | None = None
    """The keys of each message's words; None computes them in the transaction."""


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


def write(connection: Connection, given: WriteBatch) -> Written:
    """Write an addition. Anything but "all" is for the caller to undo, or to go on from.

    Raises: IntegrityError when a key or an index refuses one of its rows.
    """
    few = max(len(given.messages), len(given.entries)) <= MANY
    return (_at_once if few and dialect_of(connection).has_write_batches else _one_by_one)(connection, given)


def _one_by_one(connection: Connection, given: WriteBatch) -> Written:
    row = given.row
    if given.ended is not None and not turns.end(connection, given.ended):
        return "nothing"
    if given.created:
        conversations.create(connection, given.moved)
    elif not conversations.advance(
        connection,
        row,
        given.moved,
        _main_head(given),
        same_head=given.opened is not None,
        unarchives=given.unarchives,
    ):
        return "nothing" if given.ended is None else "turn"
    if given.opened is not None:
        turns.insert_open(connection, row.id, given.opened)
    messages.append(connection, row.id, given.messages, row.tenant, given.search_keys)
    chain.append_entries(connection, row.id, given.entries)
    if given.ended_call is not None:
        api_calls.end_call(connection, row.id, given.ended_call)
    if given.begun_call is not None:
        api_calls.insert_call(connection, row.id, given.begun_call)
    return "all" if _move_branch(connection, given) else "nothing"


def _at_once(connection: Connection, given: WriteBatch) -> Written:
    found: list[IndexRow] = []
    if search_index.is_indexing(connection):
        index = dialect_of(connection).search
        found = search_index.build_rows(index, given.row.tenant, given.row.id, given.messages, given.search_keys)
        if given.created and given.moved.title is not None:
            title = search_index.build_title_row(index, given.row.tenant, given.moved.title, given.moved.created_at)
            found += [] if title is None else [title]
    shape = BatchShape(
        created=given.created,
        opens=given.opened is not None,
        ends=given.ended is not None,
        messages=len(given.messages),
        entries=len(given.entries),
        begins_call=given.begun_call is not None,
        ends_call=given.ended_call is not None,
        found=len(found),
    )
    ended, moved = connection.execute(_statement(shape), _values(given, found)).one()
    if not moved:
        return "turn" if given.ended is not None and ended else "nothing"
    return "all" if _move_branch(connection, given) else "nothing"


def _main_head(given: WriteBatch) -> int | None:
    return None if given.branch else given.head


def _move_branch(connection: Connection, given: WriteBatch) -> bool:
    """Move the head of a branch that is not the main one. Return False where a turn would begin on a path that is not its."""
    if given.branch and given.opened is not None:
        assert given.head is not None
        return message_tree.move_head_from(connection, given.row.id, given.branch, given.was, given.head)
    if given.branch and given.head is not None:
        message_tree.move_head(connection, given.row.id, given.branch, given.head)
    return True


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What tells one statement from another: which parts it has, and how many rows."""

    created: bool
    opens: bool
    ends: bool
    messages: int
    entries: int
    begins_call: bool
    ends_call: bool
    found: int
    """Rows of the search index."""


@lru_cache(maxsize=64)
def _statement(shape: BatchShape) -> Executable:
    """Return the statement: each part takes its one row from the part that moves the conversation, or finds none there."""
    ended = turns.END_TURN.returning(turn.c.conversation_id).cte("ended") if shape.ends else None
    if shape.created:
        moved = insert(conversation).values(_bound(conversation, ConversationRow.__slots__, 0))
        source = moved.returning(conversation.c.id).cte("moved")
    else:
        advance = conversations.ADVANCE if ended is None else conversations.ADVANCE.where(select(ended).exists())
        if shape.opens:
            advance = advance.where(conversations.HEAD_IS_UNCHANGED)
        source = advance.returning(conversation.c.id).cte("moved")
    parts = []
    if shape.opens:
        parts.append(_build_insert(turn, turns.OPEN_TURN_COLUMNS, source, lease_until=turns.NEW_LEASE))
    if shape.messages:
        parts.append(_build_insert(message, MessageRow.__slots__, source, shape.messages))
    if shape.found:
        parts.append(_build_insert(search_table, INDEX_COLUMNS, source, shape.found))
    if shape.entries:
        parts.append(_build_insert(entry, Entry.__slots__, source, shape.entries))
    if shape.ends_call:
        parts.append(api_calls.END_CALL.where(select(source).exists()).cte("ended_call"))
    if shape.begins_call:
        parts.append(_build_insert(completion, CallRow.__slots__, source))
    counts = [_count(ended) if ended is not None else literal(0), _count(source)]
    return select(*counts).add_cte(*parts)


def _build_insert(into: Table[Any], names: Iterable[str], source: CTE, count: int = 1, **computed: Any) -> CTE:
    """Return the part that inserts `count` rows, if `source` has its row."""
    rows = [select(source.c.id, *_bound(into, names, each).values(), *computed.values()) for each in range(count)]
    return insert(into).from_select(["conversation_id", *names, *computed], union_all(*rows)).cte(f"new_{into.name}")


def _bound(table: Table[Any], names: Iterable[str], number: int) -> dict[str, ColumnElement[Any]]:
    """Return the values of one row. The CAST says what an empty value is: in a SELECT no column is there to tell."""
    types = {name: table.c[name].type for name in names}
    return {name: cast(bindparam(f"{table.name}_{name}_{number}", type_=types[name]), types[name]) for name in names}


def _count(part: CTE) -> ColumnElement[int]:
    return select(func.count()).select_from(part).scalar_subquery()


def _values(given: WriteBatch, found: Sequence[IndexRow]) -> dict[str, Any]:
    """Return the statement's values, under the names that its parts gave them."""
    row, values = given.row, dict(given.ended or ())
    if given.created:
        values |= _name_values(conversation, ConversationRow.__slots__, given.moved, 0)
    else:
        values |= conversations.build_advance_values(row, given.moved, _main_head(given), unarchives=given.unarchives)
    if given.opened is not None:
        values |= {f"{turn.name}_{name}_0": value for name, value in given.opened.items()}
        values["lease_us"], values["b_head_seq"] = given.opened["lease_us"], row.head_seq
    for number, each in enumerate(given.messages):
        values |= _name_values(message, MessageRow.__slots__, each, number)
    for number, indexed in enumerate(found):
        values |= _name_values(search_table, INDEX_COLUMNS, indexed, number)
    for number, link in enumerate(given.entries):
        values |= _name_values(entry, Entry.__slots__, link, number)
    if given.ended_call is not None:
        values |= api_calls.build_call_end_values(row.id, given.ended_call)
    if given.begun_call is not None:
        values |= _name_values(completion, CallRow.__slots__, given.begun_call, 0)
    return values


def _name_values(table: Table[Any], names: Iterable[str], row: object, number: int) -> dict[str, Any]:
    return {f"{table.name}_{name}_{number}": getattr(row, name) for name in names}
