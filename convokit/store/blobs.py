"""Store binaries, prompts and tool sets once under their digest.

Binaries belong to a conversation. Prompts and tool sets belong to a tenant, because its conversations share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import Connection, bindparam, select

from convokit.domain.content import Blob
from convokit.store.dialects import dialect_of
from convokit.store.schema import blob, prompt

_SELECT_BLOBS = select(blob.c.digest, blob.c.media_type, blob.c.data).where(
    blob.c.conversation_id == bindparam("id"), blob.c.digest.in_(bindparam("digests", expanding=True))
)
_SELECT_PROMPT = select(prompt.c.body).where(
    prompt.c.tenant == bindparam("tenant"), prompt.c.digest == bindparam("digest")
)


def insert_blobs(connection: Connection, conversation_id: UUID, given: Sequence[Blob]) -> None:
    """Store binaries, unless they are stored."""
    if given:
        values = [{"digest": each.digest, "media_type": each.media_type, "data": each.data} for each in given]
        rows = [{"conversation_id": conversation_id, **each} for each in values]
        connection.execute(dialect_of(connection).insert_or_ignore(blob), rows)


def read_blobs(connection: Connection, conversation_id: UUID, digests: Iterable[bytes]) -> dict[bytes, Blob]:
    """Return the binaries of these digests that exist, by digest."""
    rows = connection.execute(_SELECT_BLOBS, {"id": conversation_id, "digests": list(digests)})
    return {bytes(digest): Blob(bytes(digest), media_type, bytes(data)) for digest, media_type, data in rows}


def insert_prompt(connection: Connection, tenant: str, digest: bytes, body: str) -> None:
    """Store a developer prompt or tool set, unless it is stored."""
    # Read first: nearly every turn repeats a known prompt, and a read costs less than an INSERT that is ignored.
    if connection.execute(_SELECT_PROMPT, {"tenant": tenant, "digest": digest}).one_or_none() is None:
        statement = dialect_of(connection).insert_or_ignore(prompt)
        connection.execute(statement, {"tenant": tenant, "digest": digest, "body": body})


def find_prompt(connection: Connection, tenant: str, digest: bytes) -> str | None:
    """Return the developer prompt or tool set under a digest, or None."""
    body: str | None = connection.execute(_SELECT_PROMPT, {"tenant": tenant, "digest": digest}).scalar_one_or_none()
    return body
