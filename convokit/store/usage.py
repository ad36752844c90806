"""What servers reported of their calls, across conversations."""

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


@dataclass(slots=True)
class ReportedCall:
    """A call whose prompt tokens the server reported, and what its request was made of."""

    conversation_id: UUID
    manifest: str
    prompt_tokens: int


def reported(connection: Connection, tenant: str, model: str, limit: int) -> list[ReportedCall]:
    """Return the tenant's latest calls of a model that have reported usage."""
    values = {"tenant": tenant, "model": model, "limit": limit}
    return [ReportedCall(*row) for row in connection.execute(_REPORTED, values)]
