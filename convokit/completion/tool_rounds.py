"""Rounds of tool calls: recorded before they run, recorded after they ran, and only then told to the model.

A call whose function is known here is run; bad arguments, unknown names and exceptions are told to the model as results. Killed
between the two records, the calls stay without results: the next request leaves them out, and nothing is run a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convokit.completion import call as calls
from convokit.completion.begin import renumbered
from convokit.completion.effects import Flow, RunTools
from convokit.completion.prepare import again
from convokit.completion.result import Outcome, rows_of, sounds_of
from convokit.completion.state import KitState
from convokit.domain import hashchain
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import TOOL, MessageRow
from convokit.domain.text import repair_text
from convokit.domain.tool import Tool
from convokit.domain.turn import ToolCallRow
from convokit.errors import ContextOverflow, ConvokitError, TooManyRounds, UnknownTool
from convokit.store import turn_changes
from convokit.tokens.counter import count_message
from convokit.tools import arguments as tools_arguments
from convokit.tools import results

Prepared = tuple[Callable[..., Any], dict[str, Any]] | ConvokitError


def wanted(call: calls.ActiveCall) -> list[dict[str, Any]]:
    """Return the calls to run: all that the reply asks for, or none when one of them is the caller's own to run."""
    assert call.reader is not None
    answers = call.reader.build_reply().choices
    asked = answers[0].tool_calls if answers else []
    tools = call.prepared.plan.tools
    own = [tools.get(_function(each)[0]) for each in asked]
    if call.prepared.plan.max_tool_rounds == 0:
        return []
    if any(each.get("type") != "function" for each in asked) or any(tool and not tool.function for tool in own):
        return []
    return asked if tools else []


def run_round(scope: KitState, call: calls.ActiveCall, asked: list[dict[str, Any]], rounds: int) -> Flow[None]:
    """Record the calls, run them, record their results with the next API call, and turn to that one."""
    if rounds > call.prepared.plan.max_tool_rounds:
        raise TooManyRounds(call.prepared.plan.max_tool_rounds)
    now = scope.clock.now_us()
    tool_rows = [
        ToolCallRow(repair_text(str(each["id"])), repair_text(_function(each)[0]), "running", now) for each in asked
    ]
    asking = rows_of(call, Outcome("open", "complete"), now)
    recording = _recording(call, now, rows=asking, ended=call.row, tool_calls=tool_rows, blobs=sounds_of(call))
    recorded = yield from calls.record(scope, recording)
    if recorded is None:
        raise calls.LeaseLost
    call.conversation, call.recorded = recorded.conversation, True
    outcomes = yield from _run(call, asked)
    yield from _record_results(scope, call, recorded.rows[0], tool_rows, asked, outcomes)


def _function(asked: dict[str, Any]) -> tuple[str, str]:
    function = asked.get("function") or {}
    return str(function.get("name") or ""), str(function.get("arguments") or "")


def _run(call: calls.ActiveCall, asked: list[dict[str, Any]]) -> Flow[list[Any]]:
    """Return what each call returned, or the error it ended in, in order."""
    tools = call.prepared.plan.tools
    prepared = [_bound(tools, *_function(each)) for each in asked]
    runnable = [each for each in prepared if not isinstance(each, ConvokitError)]
    ran = iter((yield RunTools(runnable)) if runnable else [])
    return [each if isinstance(each, ConvokitError) else next(ran) for each in prepared]


def _bound(tools: Any, name: str, arguments: str) -> Prepared:
    tool: Tool | None = tools.get(name)
    if tool is None or tool.function is None:
        return UnknownTool(name, f"there is no such tool; there are {', '.join(sorted(tools))}")
    try:
        return tool.function, tools_arguments.bind_arguments(tool, arguments)
    except ConvokitError as error:
        return error


def _record_results(
    scope: KitState,
    call: calls.ActiveCall,
    asker: MessageRow,
    tool_rows: list[ToolCallRow],
    asked: list[dict[str, Any]],
    outcomes: list[Any],
) -> Flow[None]:
    now = scope.clock.now_us()
    limit = scope.limits.tool_result_bytes
    texts = []
    for row, outcome in zip(tool_rows, outcomes, strict=True):
        failed = isinstance(outcome, Exception)
        texts.append(results.format_error(outcome) if failed else results.format_result(outcome, limit))
        row.state, row.ended_at = ("failed" if failed else "done"), now
        row.error = type(outcome).__name__ if failed else None
    drafts = [_result(call, asker, each, text, now) for each, text in zip(asked, texts, strict=True)]

    def rows(conversation: ConversationRow) -> list[MessageRow]:
        before = asker
        for number, draft in enumerate(drafts, 1):
            draft.seq = conversation.last_seq + number
            draft.parent_seq = before.seq
            draft.run_start_seq = before.run_start_seq if draft.seq == before.seq + 1 else draft.seq
            draft.path_tokens = before.path_tokens + draft.tokens
            draft.salt = hashchain.new_salt()
            before = draft
        return drafts

    try:
        prepared = again(scope, call.prepared, [asker, *rows(call.conversation)])
    except ContextOverflow as error:
        yield from calls.record(scope, _recording(call, now, rows=rows, ran=tool_rows))
        detail = "the results of this turn's tools are saved, but do not fit; return less, or raise the budget"
        raise ContextOverflow(error.needed, error.available, counter=error.counter, detail=detail) from None
    following = calls.new_row(prepared, call.row.turn_id, now, number=call.row.number + 1)
    expected = [draft.seq for draft in drafts]

    def written(conversation: ConversationRow) -> list[MessageRow]:
        following.manifest = renumbered(prepared, expected, rows(conversation)).manifest.text
        return drafts

    recorded = yield from calls.record(
        scope,
        _recording(call, now, rows=written, ran=tool_rows, following=following, prompts=prepared.manifest.prompts),
    )
    if recorded is not None:
        prepared = renumbered(prepared, expected, recorded.rows)
        following.manifest = prepared.manifest.text
        call.parent = recorded.rows[-1]
    calls.follow(call, recorded, prepared, following)


def _recording(call: calls.ActiveCall, now: int, **values: Any) -> turn_changes.TurnUpdate:
    timeouts = call.prepared.plan.timeouts
    return turn_changes.TurnUpdate(
        conversation=call.conversation,
        branch=call.branch,
        turn_id=call.row.turn_id,
        epoch=call.epoch,
        lease_us=calls.lease_us(timeouts.total_s),
        at=now,
        moves_head=call.moves_head,
        **values,
    )


def _result(call: calls.ActiveCall, asker: MessageRow, asked: dict[str, Any], text: str, now: int) -> MessageRow:
    """Return a result's row, without its place."""
    shape = {"role": TOOL, "tool_call_id": repair_text(str(asked["id"])), "content": text}
    counter = call.prepared.plan.counter
    return MessageRow(
        seq=0,
        parent_seq=None,
        run_start_seq=0,
        turn_id=asker.turn_id,
        role=TOOL,
        content=text,
        tool_call_id=shape["tool_call_id"],
        status="complete",
        tokens=count_message(counter, shape),
        counter=counter.name,
        path_tokens=0,
        created_at=now,
    )
