"""Run rounds of tool calls.

Tool calls are committed before they run, and their results before the model gets them. Bad arguments, unknown names and
exceptions are results too. If the process dies between the two commits, the calls stay without results: the next
request leaves them out, and nothing runs a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from convokit.completion.call import ActiveCall, LeaseLost
from convokit.completion.call_rows import lease_us, new_call_row
from convokit.completion.effects import Flow, RunTools
from convokit.completion.prepare import prepare_next, shift_request
from convokit.completion.result import Outcome, list_audio_blobs, make_reply_rows
from convokit.completion.state import KitState
from convokit.completion.tool_results import make_result_row
from convokit.completion.write_retry import SAVE_S, update_turn_flow
from convokit.context.new_messages import place_new_rows
from convokit.domain.content import ToolResult
from convokit.domain.message import MessageRow
from convokit.domain.text import repair_text
from convokit.domain.turn import ToolCallRow
from convokit.errors import ContextOverflow, ConvokitError, TooManyRounds, UnknownTool
from convokit.store.turn_end import TurnUpdate
from convokit.tools.arguments import bind_arguments, find_tool
from convokit.tools.results import format_error, format_result
from convokit.tools.tool import Tool

ToolCall = dict[str, Any]
"""A tool call in the API's shape."""
BoundCall = tuple[Callable[..., Any], dict[str, Any]]


def list_tool_calls_to_run(call: ActiveCall) -> list[ToolCall]:
    """Return the tool calls of the reply, or none if one of them is for the caller to run."""
    options, choices = call.request.options, call.parse_reply().choices
    tool_calls: list[ToolCall] = choices[0].tool_calls if choices else []
    if options.max_tool_rounds == 0 or not options.tools:
        return []
    tools = [find_tool(options.tools, _name_and_arguments(each)[0]) for each in tool_calls]
    if any(each.get("type") != "function" for each in tool_calls):
        return []
    if any(tool is not None and not tool.is_run_by_turn for tool in tools):
        return []
    return tool_calls


def run_round_flow(kit: KitState, call: ActiveCall, tool_calls: list[ToolCall], rounds: int) -> Flow[None]:
    """Commit the tool calls, run them, commit their results with the next API call, and become that call."""
    if rounds > call.request.options.max_tool_rounds:
        raise TooManyRounds(call.request.options.max_tool_rounds)
    now = kit.clock.now_us()
    tool_rows = [
        ToolCallRow(repair_text(str(each["id"])), repair_text(_name_and_arguments(each)[0]), "running", now)
        for each in tool_calls
    ]
    update = _new_update(call, make_reply_rows(call, Outcome("open", "complete"), now), now)
    update.call, update.started_tools, update.blobs = call.row, tool_rows, list_audio_blobs(call)
    written = yield from update_turn_flow(kit, update, patience_s=SAVE_S)
    if written is None:
        raise LeaseLost
    call.conversation, call.recorded = written.conversation, True
    if call.observed is not None:
        call.observed.end_call()
        call.observed.start_tools(call.request, tool_rows, tool_calls)
    outcomes = yield from _run_flow(call, tool_calls)
    yield from _record_results_flow(kit, call, written.rows[0], tool_rows, outcomes)


def _name_and_arguments(tool_call: ToolCall) -> tuple[str, str]:
    function = tool_call.get("function") or {}
    return str(function.get("name") or ""), str(function.get("arguments") or "")


def _run_flow(call: ActiveCall, tool_calls: list[ToolCall]) -> Flow[list[Any]]:
    """Return what each tool call returned or raised, in order."""
    tools = call.request.options.tools
    bound = [_bind(tools, *_name_and_arguments(each)) for each in tool_calls]
    if call.observed is not None:
        time_tool = call.observed.time_tool
        bound = [each if isinstance(each, ConvokitError) else time_tool(at, each) for at, each in enumerate(bound)]
    runnable = [each for each in bound if not isinstance(each, ConvokitError)]
    results = iter((yield RunTools(runnable)) if runnable else [])
    return [each if isinstance(each, ConvokitError) else next(results) for each in bound]


def _bind(tools: Mapping[str, Tool], name: str, arguments: str) -> BoundCall | ConvokitError:
    tool = find_tool(tools, name)
    if tool is None or tool.function is None:
        return UnknownTool(name, f"there is no such tool; there are {', '.join(sorted(tools))}")
    try:
        return tool.function, bind_arguments(tool, arguments)
    except ConvokitError as error:
        return error


def _record_results_flow(
    kit: KitState, call: ActiveCall, asking: MessageRow, tool_rows: list[ToolCallRow], outcomes: list[Any]
) -> Flow[None]:
    now = kit.clock.now_us()
    rows = []
    for tool_row, outcome in zip(tool_rows, outcomes, strict=True):
        failed = isinstance(outcome, Exception)
        tool_row.state, tool_row.ended_at = ("failed" if failed else "done"), now
        tool_row.error = type(outcome).__name__ if failed else None
        text = format_error(outcome) if failed else format_result(outcome, kit.limits.tool_result_bytes)
        result = ToolResult(tool_row.call_id, text)
        rows.append(make_result_row(result, call.request.options.counter, call.row.turn_id, now))
    rows = place_new_rows(rows, call.conversation.last_seq, asking)
    update = _new_update(call, rows, now)
    update.finished_tools = tool_rows
    try:
        request = prepare_next(kit, call.request, [asking, *rows])
    except ContextOverflow as error:
        yield from update_turn_flow(kit, update, patience_s=SAVE_S)
        if call.observed is not None:
            call.observed.end_tools(rows)
        detail = "the results of this turn's tools are saved, but do not fit; return less, or raise the budget"
        raise ContextOverflow(error.needed, error.available, counter=error.counter, detail=detail) from None
    next_call = new_call_row(request, call.row.turn_id, now, number=call.row.number + 1)
    update.next_call, update.next_manifest, update.prompts = next_call, request.record.manifest, request.record.prompts
    written = yield from update_turn_flow(kit, update, patience_s=SAVE_S)
    if call.observed is not None:
        call.observed.end_tools(rows)
    if written is not None:
        by = written.rows[0].seq - rows[0].seq
        if by:
            request = shift_request(request, update.conversation.last_seq, by)
            next_call.manifest = request.record.manifest.to_json()
        call.parent = written.rows[-1]
    call.advance(written, request, next_call)


def _new_update(call: ActiveCall, rows: list[MessageRow], now: int) -> TurnUpdate:
    return TurnUpdate(
        conversation=call.conversation,
        branch=call.branch,
        turn_id=call.row.turn_id,
        at=now,
        rows=rows,
        call=None,
        moves_head=call.moves_head,
        epoch=call.epoch,
        lease_us=lease_us(call.request.options.timeouts.total_s),
    )
