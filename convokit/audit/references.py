"""What the chain does not name itself, and what must agree with it all the same: binaries, tool calls, turns, branches.

It runs after the chain was found whole, so the messages and ended API calls are as they were written, and whatever contradicts
them is at fault.

The names that entries and manifests give to rows, read without trusting them: whoever altered a row chose its text.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import NoReturn
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit import consistency, sql
from convokit.domain.content import Blob
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import derive_conversation_id
from convokit.domain.message import ASSISTANT, TOOL
from convokit.domain.text import repair_text
from convokit.errors import ChainBroken

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


def check_identity(connection: Connection, row: ConversationRow, *, imported: bool) -> None:
    """Check that a conversation has the id that its tenant and key give it. Raises: ChainBroken.

    One that was `imported` without a key has an id that is made from what it came from.
    """
    if row.key is None:
        if row.id.version == 8 and not imported:
            raise ChainBroken(row.id, 0, "key", "its key is missing: it has an id that is made from one")
    elif row.id != derive_conversation_id(sql.database_id(connection), row.tenant, row.key):
        raise ChainBroken(row.id, 0, "key", "its id is not the one that database, tenant and key give it")


@dataclass(slots=True)
class Checked:
    """How many rows were found to agree."""

    tool_calls: int = 0


_WORDS = {"chunk": "a piece of turn"}
_STATES = ("running", "done", "failed", "unknown")


def check_rest(
    connection: Connection, row: ConversationRow, last: int, blobs: dict[bytes, int], *, imported: bool
) -> Checked:
    """Check everything but the chain. `blobs` maps each binary that is referred to onto the first entry that does;
    `imported` says that the chain begins with another one.

    Raises: ChainBroken.
    """
    _check_blobs(connection, row, last, dict(blobs))
    checked = Checked(_check_tool_calls(connection, row, last))
    for found in consistency.find(connection, row.id, row.last_seq, imported=imported):
        own = found.table in ("message", "completion")
        if found.table == "completion":
            place = sql.place(connection, row.id, "completion", found.name)
        else:
            place = 0 if found.seq is None else sql.place(connection, row.id, "message", str(found.seq))
        name = found.name if own else f"{found.table}:{found.name}"
        problem = f"{_WORDS.get(found.table, found.table)} {found.name} {found.problem}"
        raise ChainBroken(row.id, place or last, name, problem)
    return checked


def _check_blobs(connection: Connection, row: ConversationRow, last: int, referred: dict[bytes, int]) -> None:
    for stored in sql.stored_blobs(connection, row.id):
        name, place = f"blob:{stored.digest.hex()}", referred.pop(stored.digest, None)
        if Blob.from_bytes(stored.media_type, stored.data).digest != stored.digest:
            raise ChainBroken(row.id, place or last, name, "the binary is not what was stored")
        if place is None:
            raise ChainBroken(row.id, last, name, "no message refers to this binary")
    for digest, place in referred.items():
        raise ChainBroken(row.id, place, f"blob:{digest.hex()}", "the binary is missing")


def _check_tool_calls(connection: Connection, row: ConversationRow, last: int) -> int:
    """Check every tool call against the message that asked for it and the one that answers it. Return how many there are."""
    count = answered = 0
    before: sql.ToolCallSeen | None = None
    for call in sql.tool_calls(connection, row.id):
        same = before is not None and before.message_seq == call.message_seq
        problem = _lacking(before) if before is not None and not same else None
        told = before if problem is not None and before is not None else call
        problem = problem or _problem(call, before if same else None)
        if problem is not None:
            _raise(connection, row, last, told, problem)
        count, answered = count + 1, answered + (call.result_seq is not None)
        before = call
    lacking = None if before is None else _lacking(before)
    if before is not None and lacking is not None:
        _raise(connection, row, last, before, lacking)
    if answered != sql.count_answers(connection, row.id):
        seq = sql.unanswered(connection, row.id)
        if seq is not None:  # else a turn is missing, which is told as such
            place = sql.place(connection, row.id, "message", str(seq))
            raise ChainBroken(row.id, place or last, str(seq), f"message {seq} answers no tool call that is there")
    return count


def _raise(connection: Connection, row: ConversationRow, last: int, call: sql.ToolCallSeen, problem: str) -> NoReturn:
    place = sql.place(connection, row.id, "message", str(call.message_seq))
    name = f"tool_call:{call.message_seq}:{call.position}"
    raise ChainBroken(row.id, place or last, name, f"tool call {call.position} of message {call.message_seq} {problem}")


def _problem(call: sql.ToolCallSeen, before: sql.ToolCallSeen | None) -> str | None:
    """Return what is wrong with a tool call; `before` is the one before it of the same message."""
    if call.asker_role != ASSISTANT or call.asker_turn != call.turn_id:
        return "belongs to no reply of its turn"
    if call.position != (0 if before is None else before.position + 1):
        return "does not follow the one before it"
    if call.asked is not None:
        asked = _asked(call.asked)
        if call.position >= len(asked) or asked[call.position] != (call.call_id, call.name):
            return "is not what the message asks for"
    elif call.asker_status != "redacted":
        return "belongs to a message that asks for none"
    if call.state not in _STATES or (call.state in ("done", "failed")) != (call.result_seq is not None):
        return f"is {call.state!r}, and {'has a' if call.result_seq is not None else 'has no'} result"
    if call.result_seq is None:
        return None
    follows = call.message_seq if before is None else before.result_seq
    if call.answer_role != TOOL or call.answer_turn != call.turn_id or call.answer_parent != follows:
        return "names a result that is not its own"
    return None if call.answers == call.call_id else "names a result that answers another call"


def _lacking(last: sql.ToolCallSeen) -> str | None:
    """Return what is wrong when this is the last call of its message, None where the message asks for no more."""
    more = last.asked is not None and len(_asked(last.asked)) > last.position + 1
    return "is followed by another one that is missing" if more else None


def _asked(tool_calls: str) -> list[tuple[str, str]]:
    """Return the id and the function's name of each call that a message asks for, as they were recorded."""
    asked = []
    for each in json.loads(tool_calls):
        function = each.get("function") or {}
        asked.append((repair_text(str(each.get("id"))), repair_text(str(function.get("name") or ""))))
    return asked
