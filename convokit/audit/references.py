"""Parse and check the references between rows.

Entries name rows by a `ref`. Manifests name prompts, and messages name binaries, by a digest. Tool calls name messages by
their `seq`. The parsers accept any text: whoever altered a row chose its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NoReturn
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit import sql
from convokit.audit.sql import LinkedToolCall
from convokit.domain.content import Blob
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import derive_conversation_id
from convokit.domain.message import ASSISTANT, TOOL
from convokit.domain.removal import EVERYTHING
from convokit.domain.text import repair_text
from convokit.errors import ChainBroken

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_CALL = re.compile(rf"({_UUID}):([1-9][0-9]{{0,8}})")
_SEQ = re.compile(r"[1-9][0-9]{0,9}")
_IMPORT = re.compile(r".+:[0-9]{1,18}:[0-9a-f]{64}", re.DOTALL)
_DIGEST = re.compile(r"[0-9a-f]{32}")
_TOOL_CALL_STATES = ("running", "done", "failed", "unknown")
_STATES_WITH_RESULT = ("done", "failed")


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
        if Blob.from_bytes(blob.media_type, blob.data).digest != blob.digest:
            raise ChainBroken(row.id, entry or last_entry, name, "the binary does not match its digest")
        if entry is None:
            raise ChainBroken(row.id, last_entry, name, "no message refers to this binary")
    for digest, entry in missing.items():
        raise ChainBroken(row.id, entry, f"blob:{digest.hex()}", "the binary is missing")


def check_tool_calls(connection: Connection, row: ConversationRow, last_entry: int) -> int:
    """Check tool calls against the messages that ask for them and hold their results; return their number.

    A tool call has no entry, and these messages have one. So a tool call that contradicts them was altered. Raises:
    ChainBroken.
    """
    count = results = 0
    previous: LinkedToolCall | None = None
    for call in sql.read_tool_calls(connection, row.id):
        if previous is not None and previous.message_seq != call.message_seq:
            _check_last_of_message(connection, row, last_entry, previous)
            previous = None
        problem = _find_problem(call, previous)
        if problem is not None:
            _raise_broken(connection, row, last_entry, call, problem)
        count, results = count + 1, results + (call.result_seq is not None)
        previous = call
    if previous is not None:
        _check_last_of_message(connection, row, last_entry, previous)
    if results != sql.count_tool_results(connection, row.id):
        seq = sql.find_unnamed_result(connection, row.id)
        if seq is not None:  # otherwise a turn is missing, which the consistency check reports
            entry = sql.find_entry_number(connection, row.id, "message", str(seq))
            raise ChainBroken(row.id, entry or last_entry, str(seq), f"message {seq} is the result of no tool call")
    return count


def _raise_broken(
    connection: Connection, row: ConversationRow, last_entry: int, call: LinkedToolCall, problem: str
) -> NoReturn:
    entry = sql.find_entry_number(connection, row.id, "message", str(call.message_seq))
    name = f"tool_call:{call.message_seq}:{call.position}"
    problem = f"tool call {call.position} of message {call.message_seq} {problem}"
    raise ChainBroken(row.id, entry or last_entry, name, problem)


def _check_last_of_message(connection: Connection, row: ConversationRow, last_entry: int, call: LinkedToolCall) -> None:
    """Check that the message asks for no more tool calls than this last one."""
    if call.asking_tool_calls is not None and len(_parse_requests(call.asking_tool_calls)) > call.position + 1:
        _raise_broken(connection, row, last_entry, call, "is followed by another one that is missing")


def _find_problem(call: LinkedToolCall, previous: LinkedToolCall | None) -> str | None:
    """Return the first problem of a tool call; `previous` is the one before it of the same message."""
    if call.asking_role != ASSISTANT or call.asking_turn_id != call.turn_id:
        return "belongs to no reply of its turn"
    if call.position != (0 if previous is None else previous.position + 1):
        return "does not follow the one before it"
    if call.asking_tool_calls is not None:
        requests = _parse_requests(call.asking_tool_calls)
        if call.position >= len(requests) or requests[call.position] != (call.call_id, call.name):
            return "differs from the call that the message asks for"
    elif call.asking_status != "redacted":
        return "belongs to a message that asks for no tool call"
    has_result = call.result_seq is not None
    if call.state not in _TOOL_CALL_STATES or (call.state in _STATES_WITH_RESULT) != has_result:
        return f"has the state {call.state!r} and {'a' if has_result else 'no'} result"
    if not has_result:
        return None
    # The results of one message follow it as a chain, in the order of the calls.
    parent_seq = call.message_seq if previous is None else previous.result_seq
    if call.result_role != TOOL or call.result_turn_id != call.turn_id or call.result_parent_seq != parent_seq:
        return "names a result that belongs elsewhere"
    return None if call.result_call_id == call.call_id else "names the result of another call"


def _parse_requests(tool_calls: str) -> list[tuple[str, str]]:
    """Return id and function name of each call that a message asks for, as the tool call table stores them."""
    requests = []
    for each in json.loads(tool_calls):
        function = each.get("function") or {}
        requests.append((repair_text(str(each.get("id"))), repair_text(str(function.get("name") or ""))))
    return requests
