"""Parse the references between rows, and check ids and binaries against them.

Entries name rows by a `ref`. Manifests name prompts, and messages name binaries, by a digest. The parsers accept any text:
whoever altered a row chose its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit import sql
from convokit.domain.content import Blob
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import derive_conversation_id
from convokit.domain.removal import EVERYTHING
from convokit.errors import ChainBroken

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_CALL = re.compile(rf"({_UUID}):([1-9][0-9]{{0,8}})")
_SEQ = re.compile(r"[1-9][0-9]{0,9}")
_IMPORT = re.compile(r".+:[0-9]{1,18}:[0-9a-f]{64}", re.DOTALL)
_DIGEST = re.compile(r"[0-9a-f]{32}")


def parse_call_ref(ref: str) -> tuple[UUID, int] | None:
    """Return turn and number of an API call (`<turn id>:<number>`), None for another ref."""
    match = _CALL.fullmatch(ref)
    return None if match is None else (UUID(match[1]), int(match[2]))


def is_import_ref(ref: str) -> bool:
    """Return whether a ref names the chain that a history was copied from: `<source>:<entries>:<hash>`."""
    return _IMPORT.fullmatch(ref) is not None


def is_removal_ref(ref: str, last_seq: int) -> bool:
    """Return whether a ref names a row that can be removed from a conversation of `last_seq` messages."""
    kind, _, name = ref.partition(":")
    if kind == "message":
        return _SEQ.fullmatch(name) is not None and int(name) <= last_seq
    return ref == EVERYTHING or (kind == "completion" and parse_call_ref(name) is not None)


def find_prompt_digests(manifest: str) -> list[bytes]:
    """Return the digests of the developer prompt and the tool set that a manifest names."""
    try:
        values = json.loads(manifest)
    except ValueError:
        return []
    named = [values.get(name) for name in ("prompt", "tools")] if isinstance(values, dict) else []
    return [bytes.fromhex(each) for each in named if isinstance(each, str) and _DIGEST.fullmatch(each)]


def check_identity(connection: Connection, row: ConversationRow, *, imported: bool) -> None:
    """Check that the id of a conversation is the one that database, tenant and key give. Raises: ChainBroken.

    A conversation that was `imported` without a key has an id that is derived from its source.
    """
    if row.key is None:
        if row.id.version == 8 and not imported:  # version 8 is derived from a key, version 7 is random
            raise ChainBroken(row.id, 0, "key", "the key was removed: the conversation's id was derived from one")
    elif row.id != derive_conversation_id(sql.read_database_id(connection), row.tenant, row.key):
        raise ChainBroken(row.id, 0, "key", "the conversation's id does not match database, tenant and key")


def check_blobs(connection: Connection, row: ConversationRow, last_entry: int, referring: Mapping[bytes, int]) -> None:
    """Check that the stored binaries are those that messages refer to. Raises: ChainBroken.

    `referring` maps the digest of each binary to the first entry whose message refers to it.
    """
    missing = dict(referring)
    for blob in sql.read_all_blobs(connection, row.id):
        name, entry = f"blob:{blob.digest.hex()}", missing.pop(blob.digest, None)
        if Blob.of(blob.media_type, blob.data).digest != blob.digest:
            raise ChainBroken(row.id, entry or last_entry, name, "the binary does not match its digest")
        if entry is None:
            raise ChainBroken(row.id, last_entry, name, "no message refers to this binary")
    for digest, entry in missing.items():
        raise ChainBroken(row.id, entry, f"blob:{digest.hex()}", "the binary is missing")
