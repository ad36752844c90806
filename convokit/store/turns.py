"""Read and write turns.

Every write of an open turn is a compare-and-swap on the turn's epoch. A takeover raises the epoch, so the writes of the
previous worker match no row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Connection, and_, bindparam, case, exists, func, insert, not_, or_, select, update

from convokit.domain.conversation import ConversationRow
from convokit.domain.message import TOOL
from convokit.domain.turn import IdempotencyKey, OpenTurn, TurnRow
from convokit.store.dialects import now_us
from convokit.store.schema import completion, conversation, message, tool_call, turn

NEW_LEASE = now_us() + bindparam("lease_us")
OPEN_TURN_COLUMNS = (
    *("id", "branch", "claim", "question_seq", "after_seq", "after_entry", "epoch", "state", "owner", "started_at"),
    *("idempotency_hash", "fingerprint", "fingerprint_salt", "metadata"),
)
"""Columns of a new turn, besides `lease_until`."""


def _select_last_call(conversation_id: Any) -> Any:
    """Return the number of a turn's last call. With a bound id, a distributed database asks one server for it."""
    return select(func.coalesce(func.max(completion.c.number), 0)).where(
        completion.c.conversation_id == conversation_id, completion.c.turn_id == turn.c.id
    )


WORKER_COLUMNS = (turn.c.owner, case((turn.c.lease_until < now_us(), True), else_=False), now_us() - turn.c.started_at)
"""The owner of an open turn, whether its lease has run out, and its age, by the clock of the database."""


def _build_open_columns(conversation_id: Any) -> tuple[Any, ...]:
    return (
        turn.c.id,
        turn.c.question_seq,
        turn.c.epoch,
        *WORKER_COLUMNS,
        _select_last_call(conversation_id).where(completion.c.ended_at.is_(None)).scalar_subquery(),
        turn.c.after_seq,
    )


_OPEN_TURN = _build_open_columns(bindparam("id"))
_SELECT_OPEN_ON_BRANCH = select(*_OPEN_TURN).where(
    turn.c.conversation_id == bindparam("id"), turn.c.claim == bindparam("branch")
)
# One statement for both: a turn with tool results costs what any turn costs.
_SELECT_OPEN_AND_RECORDED = (
    select(
        exists().where(tool_call.c.conversation_id == bindparam("id"), tool_call.c.message_seq == bindparam("asking")),
        *_OPEN_TURN,
    )
    .select_from(conversation)
    .outerjoin(turn, and_(turn.c.conversation_id == bindparam("id"), turn.c.claim == bindparam("branch")))
    .where(conversation.c.id == bindparam("id"))
)
_SELECT_OPEN_OF_TENANT = (
    select(turn.c.conversation_id, turn.c.branch, *_build_open_columns(turn.c.conversation_id))
    .join(conversation, conversation.c.id == turn.c.conversation_id)
    .where(turn.c.claim.is_not(None), conversation.c.tenant == bindparam("tenant"))
    .order_by(turn.c.lease_until)
)
_SELECT_TENANTS_WITH_OPEN = (
    select(conversation.c.tenant)
    .join(turn, turn.c.conversation_id == conversation.c.id)
    .where(turn.c.claim.is_not(None))
    .distinct()
    .order_by(conversation.c.tenant)
)
_COUNT_OPEN = select(
    func.count(), func.max(now_us() - turn.c.started_at), func.count().filter(turn.c.lease_until < now_us())
).where(turn.c.claim.is_not(None))
SELECT_TURN = select(
    *(getattr(turn.c, name) for name in TurnRow.__slots__ if name != "calls"),
    _select_last_call(bindparam("id")).scalar_subquery(),
)
"""Turns of the conversation `id`: the condition on `turn` is for the statement to add."""
_SELECT_BY_ID = SELECT_TURN.where(turn.c.conversation_id == bindparam("id"), turn.c.id == bindparam("turn"))
_SELECT_MANY = SELECT_TURN.where(
    turn.c.conversation_id == bindparam("id"), turn.c.id.in_(bindparam("turns", expanding=True))
)
# The first message of a turn that answers tool calls is written together with the turn.
_STARTS_WITH_RESULTS = exists().where(
    message.c.conversation_id == bindparam("id"),
    message.c.seq == turn.c.after_seq + 1,
    message.c.turn_id == turn.c.id,
    message.c.role == TOOL,
)
_SELECT_REGENERATIONS = SELECT_TURN.where(
    turn.c.conversation_id == bindparam("id"),
    turn.c.question_seq.in_(bindparam("questions", expanding=True)),
    # Without statistics, SQLite reads all turns of the conversation by the primary key, unless there is a range.
    turn.c.question_seq.between(bindparam("lowest"), bindparam("highest")),
    turn.c.branch == bindparam("branch"),
    turn.c.after_entry.is_not(None),
    not_(_STARTS_WITH_RESULTS),
).order_by(turn.c.after_entry)
_SELECT_BY_IDEMPOTENCY_KEY = SELECT_TURN.join(conversation, conversation.c.id == bindparam("id")).where(
    turn.c.conversation_id == bindparam("id"),
    conversation.c.tenant == bindparam("tenant"),
    turn.c.idempotency_hash == bindparam("hash"),
)
_INSERT_OPEN = insert(turn).values(lease_until=NEW_LEASE)
REOPEN = (
    update(turn)
    .where(
        turn.c.conversation_id == bindparam("b_id"),
        turn.c.id == bindparam("b_turn"),
        turn.c.epoch == bindparam("b_epoch"),
        # Not IN: SQLAlchemy compiles a list of values anew for each execution, and a pipeline takes constants only.
        or_(*(turn.c.state == state for state in ("interrupted", "cancelled", "failed", "abandoned"))),
    )
    .values(
        state="open",
        claim=turn.c.branch,
        epoch=turn.c.epoch + 1,
        owner=bindparam("new_owner"),
        lease_until=NEW_LEASE,
        reply_seq=None,
        error=None,
        ended_at=None,
    )
)
"""Opens a turn again that ended without a complete reply. Matches no row if its epoch has changed."""
_IS_OPEN_UNDER_EPOCH = (
    turn.c.conversation_id == bindparam("b_id"),
    turn.c.id == bindparam("b_turn"),
    turn.c.epoch == bindparam("b_epoch"),
    turn.c.state == "open",
)
RENEW_LEASE = (
    update(turn)
    .where(*_IS_OPEN_UNDER_EPOCH)
    .values(
        lease_until=NEW_LEASE,
        first_token_at=func.coalesce(turn.c.first_token_at, bindparam("first_token_at")),
    )
)
END_TURN = (
    update(turn)
    .where(*_IS_OPEN_UNDER_EPOCH)
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
_SET_REPLY_SEQ = (
    update(turn)
    .where(turn.c.conversation_id == bindparam("b_id"), turn.c.id == bindparam("b_turn"))
    .values(reply_seq=bindparam("new_reply_seq"))
)


@dataclass(frozen=True, slots=True)
class OpenTurnCount:
    """Open turns of a whole database, the age of the oldest, and how many leases have expired."""

    count: int
    oldest_us: int
    expired: int


def _build_open_turn(values: Any) -> OpenTurn:
    turn_id, question_seq, epoch, owner, is_expired, age_us, calls, after_seq = values
    return OpenTurn(turn_id, question_seq, epoch, owner, bool(is_expired), age_us, calls, after_seq)


def find_open(connection: Connection, conversation_id: UUID, branch: int) -> OpenTurn | None:
    """Return the open turn of a branch, or None."""
    row = connection.execute(_SELECT_OPEN_ON_BRANCH, {"id": conversation_id, "branch": branch}).one_or_none()
    return None if row is None else _build_open_turn(row)


def find_open_and_recorded(
    connection: Connection, conversation_id: UUID, branch: int, asking_seq: int
) -> tuple[OpenTurn | None, bool]:
    """Return the open turn of a branch or None, and whether a turn recorded the calls of message `asking_seq` to run them."""
    values = {"id": conversation_id, "branch": branch, "asking": asking_seq}
    found = connection.execute(_SELECT_OPEN_AND_RECORDED, values).one_or_none()
    if found is None:  # the conversation was purged meanwhile
        return None, True
    is_recorded, *row = found
    return None if row[0] is None else _build_open_turn(row), bool(is_recorded)


def list_open(connection: Connection, tenant: str) -> list[tuple[UUID, int, OpenTurn]]:
    """Return conversation, branch and turn of every open turn of a tenant, the oldest lease first."""
    rows = connection.execute(_SELECT_OPEN_OF_TENANT, {"tenant": tenant})
    return [(cast("UUID", row[0]), row[1], _build_open_turn(row[2:])) for row in rows]


def list_tenants_with_open_turns(connection: Connection) -> list[str]:
    """Return every tenant of the database that has an open turn, for an operator of all tenants."""
    return list(connection.execute(_SELECT_TENANTS_WITH_OPEN).scalars())


def count_open_turns(connection: Connection) -> OpenTurnCount:
    """Count the open turns of all tenants."""
    count, oldest_us, expired = connection.execute(_COUNT_OPEN).one()
    return OpenTurnCount(count, oldest_us or 0, expired or 0)


def find(connection: Connection, conversation_id: UUID, turn_id: UUID) -> TurnRow | None:
    """Return a turn, or None."""
    row = connection.execute(_SELECT_BY_ID, {"id": conversation_id, "turn": turn_id}).one_or_none()
    return None if row is None else TurnRow(*cast("Any", row))


def find_by_idempotency_key(
    connection: Connection, tenant: str, conversation_id: UUID, idempotency_hash: bytes
) -> TurnRow | None:
    """Return the turn that was sent under an idempotency key in a conversation of this tenant, or None."""
    values = {"id": conversation_id, "tenant": tenant, "hash": idempotency_hash}
    row = connection.execute(_SELECT_BY_IDEMPOTENCY_KEY, values).one_or_none()
    return None if row is None else TurnRow(*cast("Any", row))


def read_many(connection: Connection, conversation_id: UUID, turn_ids: Sequence[UUID]) -> list[TurnRow]:
    """Return the turns of these ids that exist, in no particular order."""
    rows = connection.execute(_SELECT_MANY, {"id": conversation_id, "turns": list(turn_ids)})
    return [TurnRow(*cast("Any", row)) for row in rows]


def find_regenerations(
    connection: Connection, conversation_id: UUID, branch: int, question_seqs: Sequence[int]
) -> dict[int, TurnRow]:
    """Return the newest turn that regenerated a reply to each of these questions on a branch, by the question's seq."""
    values = {"id": conversation_id, "branch": branch, "questions": list(question_seqs)}
    values |= {"lowest": min(question_seqs), "highest": max(question_seqs)}
    rows = (TurnRow(*cast("Any", row)) for row in connection.execute(_SELECT_REGENERATIONS, values))
    return {row.question_seq: row for row in rows}  # in order: the newest turn of a question replaces the others


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
    metadata: str | None = None,
) -> dict[str, Any]:
    """Return the values of a new turn for `insert_open`.

    `after` is the conversation as it was read, if the question exists already; None if the turn writes its question.
    """
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
        "metadata": metadata,
    }


def insert_open(connection: Connection, conversation_id: UUID, values: Mapping[str, Any]) -> None:
    """Insert an open turn from `build_open_values`.

    Raises: IntegrityError if a turn is open on the branch, or if the idempotency key exists.
    """
    connection.execute(_INSERT_OPEN, {"conversation_id": conversation_id, **values})


def build_reopen_values(
    conversation_id: UUID, turn_id: UUID, epoch: int, *, owner: str, lease_us: int
) -> dict[str, Any]:
    """Return the parameters of `REOPEN`."""
    return {"b_id": conversation_id, "b_turn": turn_id, "b_epoch": epoch, "new_owner": owner, "lease_us": lease_us}


def renew_lease(
    connection: Connection,
    conversation_id: UUID,
    turn_id: UUID,
    epoch: int,
    *,
    lease_us: int,
    first_token_at: int | None,
) -> bool:
    """Prolong the lease to `lease_us` from now. Return False if another worker has taken the turn over: write nothing more."""
    values = build_lease_values(conversation_id, turn_id, epoch, lease_us=lease_us, first_token_at=first_token_at)
    return connection.execute(RENEW_LEASE, values).rowcount == 1


def build_lease_values(
    conversation_id: UUID, turn_id: UUID, epoch: int, *, lease_us: int, first_token_at: int | None
) -> dict[str, Any]:
    """Return the parameters of `RENEW_LEASE`."""
    values: dict[str, Any] = {"b_id": conversation_id, "b_turn": turn_id, "b_epoch": epoch}
    return values | {"lease_us": lease_us, "first_token_at": first_token_at}


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
    """Return the parameters of `END_TURN`. A takeover raises the epoch."""
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


def correct_reply_seq(connection: Connection, conversation_id: UUID, turn_id: UUID, reply_seq: int) -> None:
    """Change the seq of a turn's reply, after another branch took the expected seq."""
    connection.execute(_SET_REPLY_SEQ, {"b_id": conversation_id, "b_turn": turn_id, "new_reply_seq": reply_seq})
