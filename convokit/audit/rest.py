"""What the chain does not name itself, and what must agree with it all the same: binaries, tool calls, turns, branches.

It runs after the chain was found whole, so the messages and ended API calls are as they were written, and whatever contradicts
them is at fault.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NoReturn

from sqlalchemy import Connection

from convokit.domain.conversation import ConversationRow
from convokit.domain.parts import Blob
from convokit.domain.text import repaired
from convokit.errors import ChainBroken
from convokit.store import contradictions, proof


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
    for found in contradictions.find(connection, row.id, row.last_seq, imported=imported):
        own = found.table in ("message", "completion")
        if found.table == "completion":
            place = proof.place(connection, row.id, "completion", found.name)
        else:
            place = 0 if found.seq is None else proof.place(connection, row.id, "message", str(found.seq))
        name = found.name if own else f"{found.table}:{found.name}"
        problem = f"{_WORDS.get(found.table, found.table)} {found.name} {found.problem}"
        raise ChainBroken(row.id, place or last, name, problem)
    return checked


def _check_blobs(connection: Connection, row: ConversationRow, last: int, referred: dict[bytes, int]) -> None:
    for stored in proof.stored_blobs(connection, row.id):
        name, place = f"blob:{stored.digest.hex()}", referred.pop(stored.digest, None)
        if Blob.of(stored.media_type, stored.data).digest != stored.digest:
            raise ChainBroken(row.id, place or last, name, "the binary is not what was stored")
        if place is None:
            raise ChainBroken(row.id, last, name, "no message refers to this binary")
    for digest, place in referred.items():
        raise ChainBroken(row.id, place, f"blob:{digest.hex()}", "the binary is missing")


def _check_tool_calls(connection: Connection, row: ConversationRow, last: int) -> int:
    """Check every tool call against the message that asked for it and the one that answers it. Return how many there are."""
    count = answered = 0
    before: proof.ToolCallSeen | None = None
    for call in proof.tool_calls(connection, row.id):
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
    if answered != proof.count_answers(connection, row.id):
        seq = proof.unanswered(connection, row.id)
        if seq is not None:  # else a turn is missing, which is told as such
            place = proof.place(connection, row.id, "message", str(seq))
            raise ChainBroken(row.id, place or last, str(seq), f"message {seq} answers no tool call that is there")
    return count


def _raise(connection: Connection, row: ConversationRow, last: int, call: proof.ToolCallSeen, problem: str) -> NoReturn:
    place = proof.place(connection, row.id, "message", str(call.message_seq))
    name = f"tool_call:{call.message_seq}:{call.position}"
    raise ChainBroken(row.id, place or last, name, f"tool call {call.position} of message {call.message_seq} {problem}")


def _problem(call: proof.ToolCallSeen, before: proof.ToolCallSeen | None) -> str | None:
    """Return what is wrong with a tool call; `before` is the one before it of the same message."""
    if call.asker_role != "assistant" or call.asker_turn != call.turn_id:
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
    if call.answer_role != "tool" or call.answer_turn != call.turn_id or call.answer_parent != follows:
        return "names a result that is not its own"
    return None if call.answers == call.call_id else "names a result that answers another call"


def _lacking(last: proof.ToolCallSeen) -> str | None:
    """Return what is wrong when this is the last call of its message, None where the message asks for no more."""
    more = last.asked is not None and len(_asked(last.asked)) > last.position + 1
    return "is followed by another one that is missing" if more else None


def _asked(tool_calls: str) -> list[tuple[str, str]]:
    """Return the id and the function's name of each call that a message asks for, as they were recorded."""
    asked = []
    for each in json.loads(tool_calls):
        function = each.get("function") or {}
        asked.append((repaired(str(each.get("id"))), repaired(str(function.get("name") or ""))))
    return asked
