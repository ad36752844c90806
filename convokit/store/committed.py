"""What an earlier try of a step has written: asked when its commit's acknowledgement was lost, before it is tried again.

Each function answers like the step itself, or with None where nothing of it is there. A step is known by what only it can have
written: its turn's id, its call's salted digest, its epoch.
"""

from __future__ import annotations

from sqlalchemy import Connection

from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow
from convokit.domain.turn import CallRow
from convokit.store import api_calls, conversations, messages, turns
from convokit.store.turn_changes import TurnEnd, TurnReopen, TurnStart, TurnUpdate, Written


def begun(connection: Connection, beginning: TurnStart) -> ConversationRow | None:
    """Return the conversation if `begin` took place."""
    row = beginning.conversation
    if turns.find(connection, row.id, beginning.completion.turn_id) is None:
        return None
    return conversations.find(connection, row.tenant, row.id)


def reopened(connection: Connection, reopening: TurnReopen) -> bool | None:
    """Return True if `reopen` took place."""
    return True if _is_there(connection, reopening.conversation, reopening.completion) else None


def recorded(connection: Connection, recording: TurnUpdate) -> Written | None:
    """Return what `record` wrote, if it took place."""
    rows = _written(connection, recording)
    following = recording.following
    there = bool(rows) if following is None else _is_there(connection, recording.conversation, following)
    if not there:
        return None
    for position, each in enumerate(recording.tool_calls):
        each.message_seq, each.position = rows[0].seq, position
    return _settled(connection, recording, rows)


def settled(connection: Connection, settlement: TurnEnd) -> Written | None:
    """Return what `settle` wrote, if it took place: a turn that someone else closed has another epoch."""
    found = turns.find(connection, settlement.conversation.id, settlement.turn_id)
    if found is None or found.state == "open" or found.epoch != settlement.epoch + settlement.takeover:
        return None
    return _settled(connection, settlement, _written(connection, settlement))


def kept_late(connection: Connection, settlement: TurnEnd) -> Written | None:
    """Return what `append_late` wrote, if it took place."""
    call = settlement.completion
    if call is None or not _is_there(connection, settlement.conversation, call):
        return None
    return _settled(connection, settlement, _written(connection, settlement))


def _is_there(connection: Connection, row: ConversationRow, completion: CallRow) -> bool:
    stored = api_calls.find_call(connection, row.id, completion.turn_id, completion.number)
    # not by its salt, which a redaction takes away: the digest is as random as the salt it was made with
    return stored is not None and stored.body_digest == completion.body_digest


def _written(connection: Connection, step: TurnEnd | TurnUpdate) -> list[MessageRow]:
    """Return the messages that the step appended: those of its turn behind the last that its writer had seen."""
    row = step.conversation
    return messages.list_turn_messages(connection, row.id, step.turn_id, after=row.last_seq, limit=len(step.rows(row)))


def _settled(connection: Connection, step: TurnEnd | TurnUpdate, rows: list[MessageRow]) -> Written | None:
    fresh = conversations.find(connection, step.conversation.tenant, step.conversation.id)
    return None if fresh is None else Written(fresh, rows)
