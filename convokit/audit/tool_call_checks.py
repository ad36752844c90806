"""Check tool calls against the messages that asked for them and the messages that hold their results.

A tool call has no entry of its own. The messages have one: they were checked before, so a tool call that contradicts them
was altered.
"""

from __future__ import annotations

import json
from typing import NoReturn

from sqlalchemy import Connection

from convokit.audit import sql
from convokit.audit.sql import LinkedToolCall
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import ASSISTANT, TOOL
from convokit.domain.text import repair_text
from convokit.errors import ChainBroken

_STATES = ("running", "done", "failed", "unknown")
_STATES_WITH_RESULT = ("done", "failed")


def check_tool_calls(connection: Connection, row: ConversationRow, last_entry: int) -> int:
    """Return how many tool calls the conversation has. Raises: ChainBroken."""
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
    if call.state not in _STATES or (call.state in _STATES_WITH_RESULT) != has_result:
        return f"has the state {call.state!r} and {'a' if has_result else 'no'} result"
    if not has_result:
        return None
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
