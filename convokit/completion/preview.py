"""Build the context of a send without making a call."""

from __future__ import annotations

import json
from collections.abc import Sequence

from convokit.completion.effects import Flow, read_flow, thread_flow
from convokit.completion.options import Options
from convokit.completion.prepare import assemble_path
from convokit.completion.read_path import find_last_reply, read_snapshot_flow
from convokit.completion.state import ChatRef, KitState, not_found, resolve_options
from convokit.completion.summary_state import announce_summary
from convokit.context.report import Context, LastCall, Report
from convokit.domain.content import Content, validate_passages, validate_question
from convokit.errors import InvalidInput
from convokit.store import api_calls


def preview_flow(
    kit: KitState, chat: ChatRef, question: object, passages: Sequence[str], call_options: Options
) -> Flow[Context]:
    """Return what `send(question)` would send; with None, what the last turn's window holds now."""
    if question is None and validate_passages(passages, kit.limits):
        raise InvalidInput("passages", "belong to a question, and none was given")
    content = None if question is None else validate_question(question, passages, kit.limits)
    snapshot = yield from read_snapshot_flow(kit, chat, call_options, content or Content(""))
    if snapshot.conversation is None and content is None:
        raise not_found(chat)
    options = resolve_options(kit, chat, call_options, snapshot.conversation)
    # A window of thousands of messages takes a tenth of a second and more. Nothing is written, so a thread may take it.
    context = yield from thread_flow(assemble_path, options=options, snapshot=snapshot, content=content)
    if content is not None:
        context = announce_summary(options, snapshot, context)
    reply = find_last_reply(reversed(snapshot.path.rows))
    if snapshot.conversation is None or reply is None or reply.turn_id is None:
        return context
    call = yield from read_flow(api_calls.find_last_answered_call, snapshot.conversation.id, reply.turn_id)
    return context if call is None else context.model_copy(update={"report": _add_last_call(context.report, call)})


def _add_last_call(report: Report, call: api_calls.AnsweredCall) -> Report:
    """Return the report with the tokens that the path's last call took from the cache, as the server counted them."""
    is_reported = call.usage_source == "reported"
    last_call = LastCall(
        expected_tokens=json.loads(call.manifest).get("stable", 0),
        prompt_tokens=call.prompt_tokens if is_reported else None,
        cached_tokens=call.cached_tokens if is_reported else None,
    )
    return report.model_copy(update={"last_call": last_call})
