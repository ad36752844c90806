"""Read the turns of a path, a page at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeGuard, cast
from uuid import UUID

from sqlalchemy import Connection, Integer, Uuid, and_, bindparam, select, tuple_

from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import MAX_SEQ
from convokit.domain.message import TOOL, USER, MessageRow
from convokit.domain.turn import CallRow, OpenTurn, TurnRow
from convokit.store import message_tree, messages, path_pages, turns
from convokit.store.messages import FIRST_PAGE, RUN_START_OF_LAST
from convokit.store.schema import completion, message, turn

# A range: without statistics, SQLite takes the primary key for an equality, and reads all turns of the conversation.
_IS_OF_QUESTION = turn.c.question_seq.between(bindparam("question"), bindparam("question"))
_SELECT_LATER_OF_QUESTION = (
    turns.SELECT_TURN.where(
        turn.c.conversation_id == bindparam("id"),
        _IS_OF_QUESTION,
        turn.c.after_entry.is_not(None),
        tuple_(turn.c.after_entry, turn.c.id)
        < tuple_(bindparam("before", type_=Integer), bindparam("before_id", type_=Uuid)),
    )
    .order_by(turn.c.after_entry.desc(), turn.c.id.desc())
    .limit(bindparam("limit"))
)

_SELECT_WITH_TURN = (
    select(message.c.seq)
    .where(
        message.c.conversation_id == bindparam("id"),
        message.c.seq < bindparam("below"),
        message.c.seq > bindparam("above"),
        message.c.turn_id.is_not(None),
    )
    .order_by(message.c.seq.desc())
    .limit(bindparam("limit"))
)
_SELECT_ANSWERED = (
    select(turn.c.question_seq)
    .where(
        turn.c.conversation_id == bindparam("id"),
        turn.c.question_seq < bindparam("below"),
        turn.c.question_seq > bindparam("above"),
        turn.c.after_entry.is_not(None),
    )
    .order_by(turn.c.question_seq.desc())
    .limit(bindparam("limit"))
)
_SELECT_OF_QUESTION = select(turn.c.after_seq, turn.c.reply_seq).where(
    turn.c.conversation_id == bindparam("id"),
    _IS_OF_QUESTION,
    turn.c.after_entry.is_not(None),
)
_TURN_COLUMNS = tuple(getattr(turn.c, name) for name in TurnRow.__slots__ if name != "calls")
_FIRST_OF_CALL = len(_TURN_COLUMNS) + len(turns.WORKER_COLUMNS)
"""The index of the first column of the call in a row."""
_SELECT_ANY_WITH_CALLS = (
    select(*_TURN_COLUMNS, *turns.WORKER_COLUMNS, *(getattr(completion.c, name) for name in CallRow.__slots__))
    .join_from(
        turn,
        completion,
        and_(completion.c.conversation_id == bindparam("id"), completion.c.turn_id == turn.c.id),
        isouter=True,
    )
    .where(turn.c.conversation_id == bindparam("id"))
    .order_by(turn.c.started_at, turn.c.id, completion.c.number)
)
_SELECT_WITH_CALLS = _SELECT_ANY_WITH_CALLS.where(turn.c.id.in_(bindparam("turns", expanding=True)))
_SELECT_NEWEST_WITH_CALLS = _SELECT_ANY_WITH_CALLS.where(
    turn.c.id
    == select(message.c.turn_id)
    .where(
        message.c.conversation_id == bindparam("id"),
        message.c.seq <= bindparam("last"),
        message.c.seq >= RUN_START_OF_LAST,
        message.c.turn_id.is_not(None),
    )
    .order_by(message.c.seq.desc())
    .limit(1)
    .scalar_subquery()
)


@dataclass(slots=True)
class TurnWithCalls:
    """A turn with its API calls, by number."""

    row: TurnRow
    open_turn: OpenTurn | None
    """The turn with its worker, if it is open."""
    calls: list[CallRow] = field(default_factory=list)


def read_turns_page(
    connection: Connection, conversation: ConversationRow, branch: int, limit: int, before: UUID | None
) -> list[TurnRow] | None:
    """Return the newest turns of the branch's path, oldest first; None if the turn `before` does not exist."""
    head = message_tree.read_head(connection, conversation, branch)
    if before is not None:
        turn = turns.find(connection, conversation.id, before)
        start = None if turn is None else _find_start(connection, conversation.id, turn)
        if start is None:
            return None
        head = start.parent_seq

    rows = _read_path_with_turns(connection, conversation.id, head, limit)
    waiting = [row.seq for row, after in pairwise([*rows, None]) if _is_waiting(row, after)]
    again = turns.find_regenerations(connection, conversation.id, branch, waiting) if waiting else {}
    ids = list(dict.fromkeys(_list_turn_ids(rows, again)))[-limit:]
    found = {row.id: row for row in turns.read_many(connection, conversation.id, ids)}
    return [found[each] for each in ids if each in found]


def _read_path_with_turns(
    connection: Connection, conversation_id: UUID, head: int | None, limit: int
) -> list[MessageRow]:
    """Return the end of a path with the messages of `limit` turns, oldest first.

    Thousands of messages without a turn, or of one turn, may stand between two turns. The database skips them: a statement
    returns the positions of the next messages with another turn.
    """

    def rows_needed(rows: list[MessageRow]) -> int:
        newer = {row.turn_id for row in (*rows[:-FIRST_PAGE], *after)}
        has_new = any(row.turn_id not in newer for row in rows[-FIRST_PAGE:])
        is_enough = len(set(_list_turn_ids([*rows[::-1], *after], {}))) >= limit
        return len(rows) if has_new and not is_enough and rows[-1].turn_id is not None else 0

    after: list[MessageRow] = []
    while head is not None:
        path = messages.read_backwards(connection, conversation_id, head, rows_needed)
        after = [*path.rows, *after]
        if path.complete or len(set(_list_turn_ids(after, {}))) >= limit:
            break
        oldest = path.rows[0]
        head = _find_last_of_turn(connection, conversation_id, oldest, limit)
        if head is not None:
            # Behind it may stand messages of a turn that has no reply.
            end = oldest.parent_seq
            after = [
                *(path_pages.read_rows_after(connection, conversation_id, end, head, FIRST_PAGE, passages=True) or ()),
                *after,
            ]
    return after


def _find_last_of_turn(connection: Connection, conversation_id: UUID, oldest: MessageRow, limit: int) -> int | None:
    """Return the last message on the path before `oldest` that belongs to another turn; None if there is none."""
    if oldest.parent_seq is None:
        return None
    row = None if oldest.turn_id is None else turns.find(connection, conversation_id, oldest.turn_id)
    if row is not None and row.question_seq < oldest.seq:
        # Between a turn and its question stand only turns that answered tool calls of the same question.
        same = connection.execute(_SELECT_OF_QUESTION, {"id": conversation_id, "question": row.question_seq})
        started = [seq for after_seq, reply_seq in same for seq in (after_seq + 1, reply_seq) if seq is not None]
        seqs = [seq for seq in (row.question_seq, *started) if seq < oldest.seq]
        path = messages.filter_on_path(connection, conversation_id, oldest.parent_seq, seqs)
        if path:
            return path[-1]
    position = 0
    # Imported questions belong to no turn, but turns may have answered them. The second statement finds these.
    for statement in (_SELECT_WITH_TURN, _SELECT_ANSWERED):
        below, size = oldest.seq, limit
        while True:
            values = {"id": conversation_id, "above": position, "below": below, "limit": size}
            seqs = list(connection.execute(statement, values).scalars())
            path = messages.filter_on_path(connection, conversation_id, oldest.parent_seq, seqs)
            if path:
                position = path[-1]
            if path or len(seqs) < size:
                break
            below, size = seqs[-1], size * 2
    return position or None


def _find_start(connection: Connection, conversation_id: UUID, turn: TurnRow) -> MessageRow | None:
    """Return the message that a turn starts with: the first of its tool results from the caller, else its question."""
    if turn.after_seq is not None:
        first = messages.find(connection, conversation_id, turn.after_seq + 1)
        if first is not None and first.turn_id == turn.id and first.role == TOOL:
            return first
    return messages.find(connection, conversation_id, turn.question_seq)


def _is_waiting(row: MessageRow | None, after: MessageRow | None) -> TypeGuard[MessageRow]:
    """Return whether a message is a question that no reply follows on its path."""
    return row is not None and row.is_question and (after is None or after.role == USER)


def _list_turn_ids(rows: Sequence[MessageRow], again: Mapping[int, TurnRow]) -> Iterator[UUID]:
    """Yield the turns of a path: for a question, the turn whose reply follows it, else the newest turn that answers it.

    The turn of a tool result has a reply or a question on the path too, unless it ended before it had one.
    """
    for row, after in pairwise([*rows, None]):
        assert row is not None
        # An appended message is no reply: the turn of a question before it has none on this path.
        has_reply = after is not None and after.turn_id is not None
        is_answered = row.is_question and not _is_waiting(row, after) and has_reply
        if row.role == TOOL and after is not None and (after.role != USER or after.turn_id == row.turn_id):
            continue
        turn_id = again[row.seq].id if row.seq in again else row.turn_id
        if turn_id is not None and not row.is_passage and not is_answered:
            yield turn_id


def list_turns_of_question(
    connection: Connection, conversation_id: UUID, question: MessageRow, limit: int, before: UUID | None
) -> list[TurnRow] | None:
    """Return the newest `limit` turns that answered a question, oldest first; None if the turn `before` does not exist.

    The first is the turn that wrote the question, if a turn did. The others are found by their own index.
    """
    last = MAX_SEQ
    if before is not None:
        row = turns.find(connection, conversation_id, before)
        if row is None:
            return None
        last = -1 if row.after_entry is None else row.after_entry
    # Two branches may start to answer a question behind the same entry: the id orders these turns.
    values: dict[str, Any] = {"id": conversation_id, "question": question.seq, "limit": limit}
    values |= {"before": last, "before_id": before or conversation_id}
    later = [TurnRow(*cast("Any", row)) for row in connection.execute(_SELECT_LATER_OF_QUESTION, values)][::-1]
    if len(later) == limit or last < 0 or question.turn_id is None:
        return later
    first = turns.find(connection, conversation_id, question.turn_id)
    return later if first is None else [first, *later]


def read_with_calls(connection: Connection, conversation_id: UUID, turn_ids: Sequence[UUID]) -> list[TurnWithCalls]:
    """Return the turns of these ids that exist with their API calls, in the order of their start, by one statement."""
    return _group_calls(connection.execute(_SELECT_WITH_CALLS, {"id": conversation_id, "turns": list(turn_ids)}))


def read_newest_with_calls(connection: Connection, conversation_id: UUID, head: int) -> TurnWithCalls | None:
    """Return the turn of the last message of the run of `head` that has a turn, with its calls, by one statement."""
    rows = connection.execute(_SELECT_NEWEST_WITH_CALLS, {"id": conversation_id, "last": head})
    return next(iter(_group_calls(rows)), None)


def _group_calls(rows: Iterable[Any]) -> list[TurnWithCalls]:
    found: dict[UUID, TurnWithCalls] = {}
    for row in map(tuple, rows):
        turn_row = TurnRow(*cast("Any", (*row[: len(_TURN_COLUMNS)], 0)))
        turn = found.get(turn_row.id)
        if turn is None:
            turn = found[turn_row.id] = TurnWithCalls(
                turn_row, _make_open_turn(turn_row, *row[len(_TURN_COLUMNS) : _FIRST_OF_CALL])
            )
        if row[_FIRST_OF_CALL] is not None:
            turn.calls.append(CallRow(*cast("Any", row[_FIRST_OF_CALL:])))
    for turn in found.values():
        turn.row.calls = turn.calls[-1].number if turn.calls else 0
        if turn.open_turn is not None and turn.calls and turn.calls[-1].ended_at is None:
            turn.open_turn.calls = turn.calls[-1].number
    return list(found.values())


def _make_open_turn(row: TurnRow, owner: str | None, is_expired: int, age_us: int) -> OpenTurn | None:
    if row.state != "open":
        return None
    return OpenTurn(row.id, row.question_seq, row.epoch, owner, bool(is_expired), age_us, 0, row.after_seq)
