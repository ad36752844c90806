"""Build the context that a send would have, without a call."""

from __future__ import annotations

import json
from collections.abc import Sequence

from convokit.completion import summarize
from convokit.completion.effects import Flow, read_flow
from convokit.completion.options import Options
from convokit.completion.prepare import assemble_seen, last_reply, look
from convokit.completion.state import ChatRef, KitState, not_found, plan_for
from convokit.context.report import Context, LastCall, Report
from convokit.domain.content import Content, validate_passages, validate_question
from convokit.errors import InvalidInput
from convokit.store import api_calls


def preview_flow(
    scope: KitState, target: ChatRef, given: object, passages: Sequence[str], call: Options
) -> Flow[Context]:
    """Return what `send(given)` would send, or with None what the last turn's window holds now. No call is made."""
    if given is None and validate_passages(passages, scope.limits):
        raise InvalidInput("context", "belongs to a question, and none was given")
    content = None if given is None else validate_question(given, passages, scope.limits)
    seen = yield from look(scope, target, call, content or Content(""))
    if seen.conversation is None and given is None:
        raise not_found(target)
    plan = plan_for(scope, target, call, seen.conversation)
    found = assemble_seen(plan, seen, None if given is None else content)
    if given is not None:
        found = summarize.announced(plan, seen, found)
    reply = last_reply(reversed(seen.path.rows))
    if seen.conversation is None or reply is None or reply.turn_id is None:
        return found
    last = yield from read_flow(api_calls.find_last_answered_call, seen.conversation.id, reply.turn_id)
    return found if last is None else found.model_copy(update={"report": _beside(found.report, last)})


def _beside(report: Report, call: api_calls.AnsweredCall) -> Report:
    """Return the report with what the path's last call took from the cache, in the server's own counts."""
    reported = call.usage_source == "reported"
    last = LastCall(
        expected_tokens=json.loads(call.manifest).get("stable", 0),
        prompt_tokens=call.prompt_tokens if reported else None,
        cached_tokens=call.cached_tokens if reported else None,
    )
    return report.model_copy(update={"last_call": last})
