"""Turns, their API calls and the pieces of replies on their way.

Every write of a running turn begins with a compare-and-swap on its epoch: a worker that was taken over finds no row and
writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Connection, bindparam, case, func, insert, select, update

from convokit.domain.conversation import ConversationRow
from convokit.domain.turn import CallRow, IdempotencyKey, OpenTurn, TurnRow
from convokit.store.dialects import now_us
from convokit.store.schema import completion, conversation, turn

_CALLS = select(func.coalesce(func.max(completion.c.number), 0)).where(
    completion.c.conversation_id == turn.c.conversation_id, completion.c.turn_id == turn.c.id
)
_OPEN_COLUMNS = (
    turn.c.id,
    turn.c.question_seq,
    turn.c.epoch,
    turn.c.owner,
    case((turn.c.lease_until < now_us(), True), else_=False),
    now_us() - turn.c.started_at,
    _CALLS.where(completion.c.ended_at.is_(None)).scalar_subquery(),
    turn.c.after_seq,
)
_OPEN = select(*_OPEN_COLUMNS).where(turn.c.conversation_id == bindparam("id"), turn.c.claim == bindparam("branch"))
_OPEN_IN = (
    select(turn.c.conversation_id, turn.c.branch, *_OPEN_COLUMNS)
    .join(conversation, conversation.c.id == turn.c.conversation_id)
    .where(turn.c.claim.is_not(None), conversation.c.tenant == bindparam("tenant"))
    .order_by(turn.c.lease_until)
)
_TENANTS = (
    select(conversation.c.tenant)
    .join(turn, turn.c.conversation_id == conversation.c.id)
    .where(turn.c.claim.is_not(None))
    .distinct()
    .order_by(conversation.c.tenant)
)
_FOUND = select(*(getattr(turn.c, name) for name in TurnRow.__slots__ if name != "calls"), _CALLS.scalar_subquery())
_BY_ID = _FOUND.where(turn.c.conversation_id == bindparam("id"), turn.c.id == bindparam("turn"))
_AMONG = _FOUND.where(turn.c.conversation_id == bindparam("id"), turn.c.id.in_(bindparam("turns", expanding=True)))
_AGAIN = _FOUND.where(
    turn.c.conversation_id == bindparam("id"),
    turn.c.question_seq.in_(bindparam("questions", expanding=True)),
    turn.c.branch == bindparam("branch"),
    turn.c.after_entry.is_not(None),
).order_by(turn.c.after_entry)
_BY_KEY = _FOUND.join(conversation, conversation.c.id == turn.c.conversation_id).where(
    turn.c.conversation_id == bindparam("id"),
    conversation.c.tenant == bindparam("tenant"),
    turn.c.idempotency_hash == bindparam("hash"),
)
_REOPEN = (
    update(turn)
    .where(
        turn.c.conversation_id == bindparam("b_id"),
        turn.c.id == bindparam("b_turn"),
        turn.c.epoch == bindparam("b_epoch"),
        turn.c.state.in_(("interrupted", "cancelled", "failed", "abandoned")),
    )
    .values(
        state="open",
        claim=turn.c.branch,
        epoch=turn.c.epoch + 1,
        owner=bindparam("new_owner"),
        lease_until=now_us() + bindparam("lease_us"),
        reply_seq=None,
        error=None,
        ended_at=None,
    )
)
_HELD = (
    turn.c.conversation_id == bindparam("b_id"),
    turn.c.id == bindparam("b_turn"),
    turn.c.epoch == bindparam("b_epoch"),
    turn.c.state == "open",
)
NEW_LEASE = now_us() + bindparam("lease_us")
OPEN_TURN_COLUMNS = (
    *("id", "branch", "claim", "question_seq", "after_seq", "after_entry", "epoch", "state", "owner", "started_at"),
    *("idempotency_hash", "fingerprint", "fingerprint_salt"),
)
_BEGIN = insert(turn).values(lease_until=NEW_LEASE)
_RENEW = (
    update(turn)
    .where(*_HELD)
    .values(
        lease_until=now_us() + bindparam("lease_us"),
        first_token_at=func.coalesce(turn.c.first_token_at, bindparam("first_token_at")),
    )
)
END_TURN = (
    update(turn)
    .where(*_HELD)
    .values(
        state=bindparam("new_state"),
        claim=None,
        owner=None,
        lease_until=None,
        epoch=turn.c.epoch + bindparam("b_raise"),
        reply_seq=bindparam("reply_seq"),
        error=bindparam("error"),
        first_token_at=func.coalesce(turn.c.first_token_at, bindparam("first_token_at")),
        ended_at=bindparam("ended_at"),
    )
)
_CORRECT = (
    update(turn)
    .where(turn.c.conversation_id == bindparam("b_id"), turn.c.id == bindparam("b_turn"))
    .values(reply_seq=bindparam("new_reply_seq"))
)
_COMPLETION = insert(completion)
_SENT = ("turn_id", "number", "manifest", "body_salt", "body_digest", "requested_model", "provider", "started_at")
"""What is known of a call before it is made, and stays."""
_CALL_FIELDS = tuple(name for name in CallRow.__slots__ if name not in _SENT)
END_CALL = (
    update(completion)
    .where(
        completion.c.conversation_id == bindparam("b_id"),
        completion.c.turn_id == bindparam("b_turn"),
        completion.c.number == bindparam("b_number"),
    )
    .values({name: bindparam(f"v_{name}") for name in _CALL_FIELDS})
)
_CALL = select(*(getattr(completion.c, name) for name in CallRow.__slots__)).where(
    completion.c.conversation_id == bindparam("id"),
    completion.c.turn_id == bindparam("turn"),
    completion.c.number == bindparam("number"),
)
_CALLS_OF = (
    select(*(getattr(completion.c, name) for name in CallRow.__slots__))
    .where(completion.c.conversation_id == bindparam("id"), completion.c.turn_id == bindparam("turn"))
    .order_by(completion.c.number)
)
_ENDED_CALLS = (
    select(func.count())
    .select_from(completion)
    .where(completion.c.conversation_id == bindparam("id"), completion.c.ended_at.is_not(None))
)


def find_open(connection: Connection, conversation_id: UUID, branch: int) -> OpenTurn | None:
    """Return the branch's open turn, if there is one."""
    row = connection.execute(_OPEN, {"id": conversation_id, "branch": branch}).one_or_none()
    if row is None:
        return None
    return _open_turn(row)


def _open_turn(values: Any) -> OpenTurn:
    turn_id, question_seq, epoch, owner, expired, age_us, calls, after_seq = values
    return OpenTurn(turn_id, question_seq, epoch, owner, bool(expired), age_us, calls, after_seq)


def find(connection: Connection, conversation_id: UUID, turn_id: UUID) -> TurnRow | None:
    """Return a turn."""
    row = connection.execute(_BY_ID, {"id": conversation_id, "turn": turn_id}).one_or_none()
    return None if row is None else TurnRow(*cast("Any", row))


def find_by_idempotency_key(
    connection: Connection, tenant: str, conversation_id: UUID, idempotency_hash: bytes
) -> TurnRow | None:
    """Return the turn that was sent under an idempotency key, in a conversation of this tenant."""
    values = {"id": conversation_id, "tenant": tenant, "hash": idempotency_hash}
    row = connection.execute(_BY_KEY, values).one_or_none()
    return None if row is None else TurnRow(*cast("Any", row))


def read_many(connection: Connection, conversation_id: UUID, turn_ids: Sequence[UUID]) -> list[TurnRow]:
    """Return these turns, as many of them as there are."""
    rows = connection.execute(_AMONG, {"id": conversation_id, "turns": list(turn_ids)})
    return [TurnRow(*cast("Any", row)) for row in rows]


def find_regenerations(
    connection: Connection, conversation_id: UUID, branch: int, question_seqs: Sequence[int]
) -> dict[int, TurnRow]:
    """Return the newest turn of a branch for each of these questions that it asked another reply for."""
    values = {"id": conversation_id, "branch": branch, "questions": list(question_seqs)}
    found = (TurnRow(*cast("Any", row)) for row in connection.execute(_AGAIN, values))
    return {row.question_seq: row for row in found}


def reopen(
    connection: Connection, conversation_id: UUID, turn_id: UUID, epoch: int, *, owner: str, lease_us: int
) -> bool:
    """Open a turn again that ended without a whole reply, if nobody else did."""
    values = {"b_id": conversation_id, "b_turn": turn_id, "b_epoch": epoch, "new_owner": owner, "lease_us": lease_us}
    return connection.execute(_REOPEN, values).rowcount == 1


def list_open(connection: Connection, tenant: str) -> list[tuple[UUID, int, OpenTurn]]:
    """Return every open turn of a tenant with its conversation and branch, the oldest lease first."""
    rows = connection.execute(_OPEN_IN, {"tenant": tenant})
    return [(cast("UUID", row[0]), row[1], _open_turn(row[2:])) for row in rows]


def list_tenants_with_open_turns(connection: Connection) -> list[str]:
    """Return every tenant that has an open turn: for an operator, who is bound to none."""
    return list(connection.execute(_TENANTS).scalars())


def build_open_values(
    turn_id: UUID,
    *,
    branch: int,
    question_seq: int,
    owner: str,
    lease_us: int,
    at: int,
    key: IdempotencyKey | None = None,
    after: ConversationRow | None = None,
) -> dict[str, Any]:
    """Return the values of a turn that begins; `after` is the conversation it found, when its question is there already."""
    return {
        "id": turn_id,
        "branch": branch,
        "claim": branch,
        "question_seq": question_seq,
        "after_seq": None if after is None else after.last_seq,
        "after_entry": None if after is None else after.last_entry,
        "epoch": 1,
        "state": "open",
        "owner": owner,
        "lease_us": lease_us,
        "started_at": at,
        "idempotency_hash": key.hash if key is not None else None,
        "fingerprint": key.fingerprint if key is not None else None,
        "fingerprint_salt": key.salt if key is not None else None,
    }


def insert_open(connection: Connection, conversation_id: UUID, opened: Mapping[str, Any]) -> None:
    """Insert an open turn. Unique indexes refuse a second one on the same branch, or under the same idempotency key."""
    connection.execute(_BEGIN, {"conversation_id": conversation_id, **opened})


def renew_lease(
    connection: Connection,
    conversation_id: UUID,
    turn_id: UUID,
    epoch: int,
    *,
    lease_us: int,
    first_token_at: int | None,
) -> bool:
    """Prolong the lease. Return False when another worker holds the turn now: then write nothing more."""
    values: dict[str, Any] = {"b_id": conversation_id, "b_turn": turn_id, "b_epoch": epoch}
    return connection.execute(_RENEW, {**values, "lease_us": lease_us, "first_token_at": first_token_at}).rowcount == 1


def build_end_values(
    conversation_id: UUID,
    turn_id: UUID,
    epoch: int,
    *,
    state: str,
    reply_seq: int | None,
    error: str | None,
    first_token_at: int | None,
    at: int,
    takeover: bool = False,
) -> dict[str, Any]:
    """Return the values of `END`."""
    return {
        "b_id": conversation_id,
        "b_turn": turn_id,
        "b_epoch": epoch,
        "b_raise": int(takeover),
        "new_state": state,
        "reply_seq": reply_seq,
        "error": error,
        "first_token_at": first_token_at,
        "ended_at": at,
    }


def end(connection: Connection, ended: Mapping[str, Any]) -> bool:
    """Close the turn, if it is still ours. Return False when it is not: then write nothing."""
    return connection.execute(END_TURN, ended).rowcount == 1


def correct_reply_seq(connection: Connection, conversation_id: UUID, turn_id: UUID, reply_seq: int) -> None:
    """Name the reply again, after another branch took the seq it was going to have."""
    connection.execute(_CORRECT, {"b_id": conversation_id, "b_turn": turn_id, "new_reply_seq": reply_seq})


def insert_call(connection: Connection, conversation_id: UUID, row: CallRow) -> None:
    """Record an API call; committed before its first byte is sent."""
    values = {name: getattr(row, name) for name in row.__slots__}
    connection.execute(_COMPLETION, {"conversation_id": conversation_id, **values})


def end_call(connection: Connection, conversation_id: UUID, row: CallRow) -> None:
    """Write an API call's outcome."""
    connection.execute(END_CALL, build_call_end_values(conversation_id, row))


def build_call_end_values(conversation_id: UUID, row: CallRow) -> dict[str, Any]:
    """Return the values of `END_CALL`."""
    values = {f"v_{name}": getattr(row, name) for name in _CALL_FIELDS}
    return {"b_id": conversation_id, "b_turn": row.turn_id, "b_number": row.number, **values}


def find_call(connection: Connection, conversation_id: UUID, turn_id: UUID, number: int) -> CallRow | None:
    """Return one API call of a turn."""
    row = connection.execute(_CALL, {"id": conversation_id, "turn": turn_id, "number": number}).one_or_none()
    return None if row is None else CallRow(**dict(row._mapping))


def list_calls(connection: Connection, conversation_id: UUID, turn_id: UUID) -> list[CallRow]:
    """Return every API call of a turn, in order."""
    rows = connection.execute(_CALLS_OF, {"id": conversation_id, "turn": turn_id})
    return [CallRow(**dict(row._mapping)) for row in rows]


def count_ended_calls(connection: Connection, conversation_id: UUID) -> int:
    """Return how many API calls of the conversation have ended."""
    return int(connection.execute(_ENDED_CALLS, {"id": conversation_id}).scalar_one())
