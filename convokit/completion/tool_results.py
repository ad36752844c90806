"""Match results from callers with the open tool calls of a branch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any
from uuid import UUID

from convokit.completion.effects import Flow, read_flow
from convokit.completion.on_busy import OnBusy
from convokit.completion.state import ChatRef, KitState, identify_flow, is_unused_key, not_found
from convokit.context.message_draft import MessageDraft
from convokit.context.validity import list_call_ids
from convokit.domain.content import Content, ToolResult
from convokit.domain.message import ASSISTANT, PASSAGE, TOOL, USER, MessageRow
from convokit.domain.text import dump_json
from convokit.errors import InvalidInput
from convokit.store.snapshot import Snapshot, find_asking, read_open_calls
from convokit.tokens.counter import Counter

_MAX_LISTED = 20


class AlreadyAnswered(Exception):  # never reaches a user: the sender gets the reply of that turn
    """The branch ends with a turn that was started with the same results. Nothing was written."""

    def __init__(self, turn_id: UUID, *, has_reply: bool) -> None:
        self.turn_id, self.has_reply = turn_id, has_reply


class ResultMatcher:
    """Matches the results of one send, each time that the conversation is read."""

    def __init__(self, content: Content, on_busy: OnBusy) -> None:
        self._content = content
        self._on_busy = on_busy
        self._answered_seq: int | None = None
        """The message whose calls were answered by another turn when this sender began to wait."""

    def match(self, snapshot: Snapshot) -> Content:
        """Return the content with its results in the order of the open calls; unchanged if the sender must wait.

        Raises: AlreadyAnswered, InvalidInput for an id that is not open, or for an open call without a result if there is no
        question.
        """
        content, rows = self._content, snapshot.path.rows
        open_ids = [str(call["id"]) for call in snapshot.open_calls]
        results = {result.call_id: result for result in content.results}
        unknown = [call_id for call_id in results if call_id not in open_ids]
        if not unknown:
            asking = find_asking(rows)
            if self._answered_seq is not None and (asking is None or asking.seq != self._answered_seq):
                # A server may number its calls from the start in each reply. These results belong to earlier calls.
                raise _make_error(
                    results, open_ids, "was answered by another sender; the ids are open again for new calls"
                )
            missing = [call_id for call_id in open_ids if call_id not in results]
            if missing and not content.has_question:
                problem = f"has no result for {_list_ids(missing)}: answer every open call, or pass content too"
                raise InvalidInput("tool_results", problem)
            return replace(content, results=tuple(results[call_id] for call_id in open_ids if call_id in results))
        turn_id = _find_answering_turn(rows, content)
        if turn_id is not None:
            raise AlreadyAnswered(turn_id, has_reply=rows[-1].role == ASSISTANT)
        if snapshot.open_turn is None or self._on_busy == "supersede":  # a superseded turn leaves no open call behind
            is_unfinished = bool(rows) and rows[-1].role == TOOL
            hint = " (its calls have results, and no reply yet: `resume` asks for one)" if is_unfinished else ""
            raise _make_error(unknown, open_ids, f"is not an open call{hint}")
        if self._answered_seq is None:
            self._answered_seq = _find_asking_seq(rows, results)
        return content


def make_result_row(result: ToolResult, counter: Counter, turn_id: UUID, now: int) -> MessageRow:
    """Return the row of a tool result, counted, without its position."""
    draft = MessageDraft(TOOL, None, result.text, result.parts, tool_call_id=result.call_id)
    return replace(draft.to_row(counter, now), turn_id=turn_id)


def _make_error(call_ids: Iterable[str], open_ids: Sequence[str], problem: str) -> InvalidInput:
    there_are = f"the open calls are {_list_ids(open_ids)}" if open_ids else "the chat has no open call"
    return InvalidInput("tool_results", f"{next(iter(call_ids))!r} {problem}; {there_are}")


def _list_ids(call_ids: Sequence[str]) -> str:
    more = f" and {len(call_ids) - _MAX_LISTED} more" if len(call_ids) > _MAX_LISTED else ""
    return ", ".join(map(repr, call_ids[:_MAX_LISTED])) + more


def _find_answering_turn(rows: Sequence[MessageRow], content: Content) -> UUID | None:
    """Return the turn that the path ends with, if it was started with the messages of `content`."""
    turn_id = rows[-1].turn_id if rows else None
    first = len(rows)
    while first and rows[first - 1].turn_id == turn_id:
        first -= 1
    if not first or turn_id is None:
        return None
    results = list(takewhile(lambda row: row.role == TOOL, rows[first:]))
    asked = takewhile(lambda row: row.role == USER, rows[first + len(results) :])
    expected: list[tuple[str | None, str | None, str]] = [(text, None, PASSAGE) for text in content.passages]
    if content.has_question:
        expected.append((content.text, _encode(content.parts), "complete"))
    is_same = {row.tool_call_id: (row.content, row.parts) for row in results} == {
        result.call_id: (result.text, _encode(result.parts)) for result in content.results
    } and [(row.content, row.parts, row.status) for row in asked] == expected
    return turn_id if is_same else None


def _encode(parts: list[dict[str, Any]] | None) -> str | None:
    return None if parts is None else dump_json(parts)


def _find_asking_seq(rows: Sequence[MessageRow], call_ids: Iterable[str]) -> int | None:
    """Return the seq of the last reply that made all of these calls."""
    wanted = set(call_ids)
    replies = (row for row in reversed(rows) if row.role == ASSISTANT and row.tool_calls is not None)
    return next((row.seq for row in replies if wanted <= set(list_call_ids(row.as_wire()))), None)


def list_open_calls_flow(kit: KitState, chat: ChatRef) -> Flow[list[dict[str, Any]]]:
    """Return the tool calls at the branch's end that wait for results; none for a key that was never used."""
    conversation_id = yield from identify_flow(kit, chat)
    found = yield from read_flow(read_open_calls, kit.tenant, conversation_id, chat.branch)
    if found is None and not is_unused_key(chat):
        raise not_found(chat)
    return found or []
