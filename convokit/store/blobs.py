"""Binary parts, once per conversation under their digest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import Connection, bindparam, select

from convokit.domain.content import Blob
from convokit.store.dialects import insert_new
from convokit.store.schema import blob

_AMONG = select(blob.c.digest, blob.c.media_type, blob.c.data).where(
    blob.c.conversation_id == bindparam("id"), blob.c.digest.in_(bindparam("digests", expanding=True))
)


def insert_blobs(connection: Connection, conversation_id: UUID, given: Sequence[Blob]) -> None:
    """Store binaries; those that are there already stay as they are."""
    if given:
        values = [{"digest": each.digest, "media_type": each.media_type, "data": each.data} for each in given]
        rows = [{"conversation_id": conversation_id, **each} for each in values]
        connection.execute(insert_new(connection.dialect.name, blob), rows)


def read_blobs(connection: Connection, conversation_id: UUID, digests: Iterable[bytes]) -> dict[bytes, Blob]:
    """Return these binaries, as many of them as there are."""
    rows = connection.execute(_AMONG, {"id": conversation_id, "digests": list(digests)})
    return {bytes(digest): Blob(bytes(digest), media_type, bytes(data)) for digest, media_type, data in rows}
