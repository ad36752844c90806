"""Read the usage that servers reported of single calls."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, bindparam, select

from convokit.store.schema import completion, conversation

_REPORTED = (
    select(completion.c.conversation_id, completion.c.manifest, completion.c.prompt_tokens)
    .join(conversation, conversation.c.id == completion.c.conversation_id)
    .where(
        conversation.c.tenant == bindparam("tenant"),
        completion.c.requested_model == bindparam("model"),
        completion.c.usage_source == "reported",
        completion.c.prompt_tokens > 0,
    )
    .order_by(completion.c.started_at.desc())
    .limit(bindparam("limit"))
)


_LAST = (
    select(completion.c.manifest, completion.c.prompt_tokens, completion.c.cached_tokens, completion.c.usage_source)
    .where(
        completion.c.conversation_id == bindparam("id"),
        completion.c.turn_id == bindparam("turn"),
        completion.c.first_byte_at.is_not(None),
        completion.c.ended_at.is_not(None),
    )
    .order_by(completion.c.number.desc())
    .limit(1)
)


@dataclass(slots=True)
class ReportedCall:
    """A call whose prompt tokens the server reported, and what its request was made of."""

    conversation_id: UUID
    manifest: str
    prompt_tokens: int


def list_reported_calls(connection: Connection, tenant: str, model: str, limit: int) -> list[ReportedCall]:
    """Return the tenant's latest calls of a model that have reported usage."""
    values = {"tenant": tenant, "model": model, "limit": limit}
    return [ReportedCall(*row) for row in connection.execute(_REPORTED, values)]


@dataclass(slots=True)
class AnsweredCall:
    """A call that was answered: what its request was made of, and what was said of its prompt's tokens."""

    manifest: str
    prompt_tokens: int | None
    cached_tokens: int | None
    usage_source: str | None


def find_last_answered_call(connection: Connection, conversation_id: UUID, turn_id: UUID) -> AnsweredCall | None:
    """Return the last call of a turn that was answered."""
    row = connection.execute(_LAST, {"id": conversation_id, "turn": turn_id}).one_or_none()
    return None if row is None else AnsweredCall(*row)
