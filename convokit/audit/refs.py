"""The names that entries and manifests give to rows, read without trusting them: whoever altered a row chose its text."""

from __future__ import annotations

import hashlib
import json
import re
from uuid import UUID

from sqlalchemy import Connection

from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import keyed_id
from convokit.errors import ChainBroken
from convokit.store import proof

PROMPT_BYTES = 16
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_CALL = re.compile(rf"({_UUID}):([1-9][0-9]{{0,8}})")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_IMPORT = re.compile(r".+:[0-9]{1,18}:[0-9a-f]{64}", re.DOTALL)
_DIGEST = re.compile(r"[0-9a-f]{32}")


def call_key(ref: str) -> tuple[UUID, int] | None:
    """Return the turn and number of an API call, None where the ref names none."""
    found = _CALL.fullmatch(ref)
    return None if found is None else (UUID(found[1]), int(found[2]))


def is_import(ref: str) -> bool:
    """Return whether a ref names where a history came from: a source, how many entries it had there, and its hash."""
    return _IMPORT.fullmatch(ref) is not None


def is_removal(ref: str, messages: int) -> bool:
    """Return whether a ref names what can be removed while there are so many `messages`."""
    kind, _, name = ref.partition(":")
    if kind == "message":
        return _NUMBER.fullmatch(name) is not None and int(name) <= messages
    return ref == "*" or (kind == "completion" and call_key(name) is not None)


def prompts_of(manifest: str) -> list[bytes]:
    """Return the digests of the texts that a request was made of and that are stored apart."""
    try:
        values = json.loads(manifest)
    except ValueError:
        return []
    named = [values.get(name) for name in ("prompt", "tools")] if isinstance(values, dict) else []
    return [bytes.fromhex(each) for each in named if isinstance(each, str) and _DIGEST.fullmatch(each)]


def prompt_digest(body: str) -> bytes:
    """Return the digest a text is kept under."""
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).digest()[:PROMPT_BYTES]


def check_identity(connection: Connection, row: ConversationRow) -> None:
    """Check that a conversation has the id that its tenant and key give it. Raises: ChainBroken."""
    if row.key is None:
        if row.id.version == 8:
            raise ChainBroken(row.id, 0, "key", "its key is missing: it has an id that is made from one")
    elif row.id != keyed_id(proof.database_id(connection), row.tenant, row.key):
        raise ChainBroken(row.id, 0, "key", "its id is not the one that database, tenant and key give it")
