"""Store binaries, prompts and tool sets once under their digest.

Binaries belong to a conversation. Prompts and tool sets belong to a tenant, because its conversations share them. A row of
`prompt_use` says that a request of the conversation names the prompt. A prompt is deleted when its last use is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, delete, select

from convokit.domain.content import Blob
from convokit.store.dialects import dialect_of
from convokit.store.schema import blob, prompt, prompt_use

_SELECT_BLOBS = select(blob.c.digest, blob.c.media_type, blob.c.data).where(
    blob.c.conversation_id == bindparam("id"), blob.c.digest.in_(bindparam("digests", expanding=True))
)
_SELECT_PROMPTS = select(prompt.c.digest, prompt.c.body).where(
    prompt.c.tenant == bindparam("tenant"), prompt.c.digest.in_(bindparam("digests", expanding=True))
)
_SELECT_PROMPT = select(prompt.c.body).where(
    prompt.c.tenant == bindparam("tenant"), prompt.c.digest == bindparam("digest")
)
_LOCK_PROMPT = (
    select(prompt.c.digest)
    .where(prompt.c.tenant == bindparam("tenant"), prompt.c.digest == bindparam("digest"))
    .with_for_update(read=True, key_share=True)
)
_SELECT_USE = select(prompt_use.c.digest).where(
    prompt_use.c.conversation_id == bindparam("id"), prompt_use.c.digest == bindparam("digest")
)
_SELECT_USES = (
    select(prompt_use.c.digest).where(prompt_use.c.conversation_id == bindparam("id")).order_by(prompt_use.c.digest)
)
_DELETE_USES = delete(prompt_use).where(prompt_use.c.conversation_id == bindparam("b_id"))


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


def insert_prompts(
    connection: Connection, tenant: str, conversation_id: UUID, prompts: Iterable[tuple[bytes, str]]
) -> None:
    """Store the developer prompt and the tool set of a request as used by its conversation."""
    # In the order of the digests, as an erasure locks them: two transactions cannot wait for each other.
    for digest, body in sorted(prompts):
        insert_prompt(connection, tenant, digest, body)
        insert_uses(connection, conversation_id, [digest])


def build_use_query(conversation_id: UUID, digest: bytes) -> tuple[Any, dict[str, Any]]:
    """Return the statement, with its values, that finds a row if the conversation uses a prompt."""
    return _SELECT_USE, {"id": conversation_id, "digest": digest}


def insert_prompt(connection: Connection, tenant: str, digest: bytes, body: str) -> None:
    """Store a developer prompt or tool set unless it is stored, and lock it until its use is committed.

    An erasure deletes a prompt without uses. It waits for this lock, and then sees the use.
    """
    key = {"tenant": tenant, "digest": digest}
    while connection.execute(_LOCK_PROMPT, key).first() is None:
        connection.execute(dialect_of(connection).insert_or_ignore(prompt), {**key, "body": body})


def insert_uses(connection: Connection, conversation_id: UUID, digests: Iterable[bytes]) -> None:
    """Record that requests of a conversation name these prompts."""
    if rows := [{"conversation_id": conversation_id, "digest": digest} for digest in digests]:
        connection.execute(dialect_of(connection).insert_or_ignore(prompt_use), rows)


def list_uses(connection: Connection, conversation_id: UUID) -> list[bytes]:
    """Return the digests of the prompts that a conversation uses."""
    return [bytes(digest) for digest in connection.execute(_SELECT_USES, {"id": conversation_id}).scalars()]


def delete_uses(connection: Connection, conversation_id: UUID) -> None:
    """Delete what says that the conversation uses prompts, once no manifest of it names one."""
    connection.execute(_DELETE_USES, {"b_id": conversation_id})


def find_prompt(connection: Connection, tenant: str, digest: bytes) -> str | None:
    """Return the developer prompt or tool set under a digest, or None."""
    body: str | None = connection.execute(_SELECT_PROMPT, {"tenant": tenant, "digest": digest}).scalar_one_or_none()
    return body


def find_prompts(connection: Connection, tenant: str, digests: Sequence[bytes]) -> dict[bytes, str]:
    """Return those of the developer prompts and tool sets that exist, by digest."""
    rows = connection.execute(_SELECT_PROMPTS, {"tenant": tenant, "digests": list(digests)})
    return {bytes(row[0]): row[1] for row in rows}
