"""From a question and what is stored to the request that will be sent: pure, but for the one read in the middle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from convokit.completion.effects import Flow, read
from convokit.completion.options import Options, Plan, settle
from convokit.completion.scope import Scope, Target, identify
from convokit.context.report import Context
from convokit.context.tokens import message_tokens, schema_tokens
from convokit.context.window import Item, window_rule
from convokit.domain import chain
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow
from convokit.domain.text import compact_json
from convokit.store import steps
from convokit.wire import messages as wire_messages
from convokit.wire import request as wire_request

DIGEST_BYTES = 16


@dataclass(slots=True)
class Prepared:
    """A request, and everything that has to be stored about it."""

    conversation_id: UUID
    seen: steps.Snapshot
    plan: Plan
    context: Context
    rendered: wire_request.Rendered
    manifest: str
    prompts: list[tuple[bytes, str]]
    question_tokens: int

    @property
    def rule(self) -> int:
        """The checksum that the next window compares."""
        return _rule(self.plan)


def plan_for(scope: Scope, target: Target, call: Options, row: ConversationRow | None) -> Plan:
    """Return the settled plan: call over chat over what the chat stored over kit."""
    stored = Options.from_json(row.settings if row is not None else None)
    return settle(call.over(target.options).over(stored).over(scope.options), scope.base_url)


def look(scope: Scope, target: Target, call: Options, text: str) -> Flow[steps.Snapshot]:
    """Read what a turn needs: the conversation, and the end of its path as far as the window may reach."""
    conversation_id = yield from identify(scope, target)
    enough = _enough(scope, target, call, text)
    return (yield from read(steps.snapshot, scope.tenant, conversation_id, target.branch, enough))


def prepare(scope: Scope, target: Target, call: Options, seen: steps.Snapshot, text: str, *, stream: bool) -> Prepared:
    """Build the request for `text` after what was seen. Raises: SettingsError, ContextOverflow."""
    assert target.id is not None
    plan = plan_for(scope, target, call, seen.conversation)
    question = {"role": "user", "content": text}
    tokens = message_tokens(plan.counter, question)
    context = assemble(plan, seen, [Item(_next_seq(seen), question, tokens, _path_tokens(seen))])
    rendered = wire_request.render(
        model=plan.model,
        messages=wire_messages.for_wire(context.messages, plan.profile, now=scope.clock.time()),
        params=plan.params,
        profile=plan.profile,
        stream=stream,
        mode=plan.mode,
    )
    manifest, prompts = _manifest(plan, context, stream=stream)
    return Prepared(target.id, seen, plan, context, rendered, manifest, prompts, tokens)


def assemble(plan: Plan, seen: steps.Snapshot, behind: list[Item]) -> Context:
    """Return the context of the path that was read, with `behind` after it."""
    rows = seen.path.rows
    return plan.builder.assemble(
        [*(_item(plan, row) for row in rows), *behind],
        developer_prompt=plan.developer_prompt,
        response_format=plan.params.get("response_format"),
        reply_tokens=plan.reply_tokens,
        complete=seen.path.complete,
        floor=_floor(plan, reversed(rows)),
    )


def _item(plan: Plan, row: MessageRow) -> Item:
    shape = row.as_wire()
    tokens = row.tokens if row.counter == plan.counter.name else message_tokens(plan.counter, shape)
    return Item(row.seq, shape, tokens, row.path_tokens - row.tokens, row.status)


def _enough(
    scope: Scope, target: Target, call: Options, text: str
) -> Callable[[ConversationRow, list[MessageRow]], int]:
    """Return how many more rows the window may need: those back to where it last began, or until the budget is full."""
    plan: Plan | None = None
    room = 0

    def enough(conversation: ConversationRow, rows: list[MessageRow]) -> int:
        nonlocal plan, room
        if plan is None:
            plan = plan_for(scope, target, call, conversation)
            room = _room(plan, text)
        floor = _floor(plan, rows)
        oldest = rows[-1]
        if floor is not None:
            return max(oldest.seq - floor, 0)
        spent = rows[0].path_tokens - oldest.path_tokens + oldest.tokens
        return 0 if spent > room else len(rows)

    return enough


def _room(plan: Plan, text: str) -> int:
    fixed = plan.counter.count(plan.developer_prompt or "")
    fixed += schema_tokens(plan.counter, plan.params.get("response_format")) + plan.counter.count(text)
    return plan.builder.available(fixed, plan.reply_tokens)


def _floor(plan: Plan, newest_first: Any) -> int | None:
    """Return where the last reply's window began, if model, counter and step are still what they were."""
    for row in newest_first:
        if row.window_from_seq is not None:
            return int(row.window_from_seq) if row.window_rule == _rule(plan) else None
    return None


def _rule(plan: Plan) -> int:
    return window_rule(plan.model, plan.counter.name, plan.builder.step_tokens)


def _next_seq(seen: steps.Snapshot) -> int:
    return seen.conversation.last_seq + 1 if seen.conversation is not None else 1


def _path_tokens(seen: steps.Snapshot) -> int:
    return seen.path.rows[-1].path_tokens if seen.path.rows else 0


def _manifest(plan: Plan, context: Context, *, stream: bool) -> tuple[str, list[tuple[bytes, str]]]:
    """Return what the request was made of, by reference, and the texts it refers to that are stored apart."""
    prompts = []
    values: dict[str, Any] = {"v": wire_request.RENDERER, "window": _ranges(context)}
    if plan.developer_prompt:
        digest = hashlib.sha256(plan.developer_prompt.encode("utf-8")).digest()[:DIGEST_BYTES]
        prompts.append((digest, plan.developer_prompt))
        values["prompt"] = digest.hex()
    if plan.params:
        values["params"] = plan.params
    values["profile"] = plan.profile.model_dump(mode="json", exclude_defaults=True)
    if plan.mode != "drop":
        values["mode"] = plan.mode
    if stream:
        values["stream"] = True
    return compact_json(values), prompts


def _ranges(context: Context) -> list[list[int]]:
    """Return the seqs that were sent, as closed ranges."""
    ranges: list[list[int]] = []
    for part in context.report.parts:
        if part.kind != "message" or not part.included or part.key is None:
            continue
        if ranges and part.key == ranges[-1][1] + 1:
            ranges[-1][1] = part.key
        else:
            ranges.append([part.key, part.key])
    return ranges


def body_digest(rendered: wire_request.Rendered) -> tuple[bytes, bytes]:
    """Return a new salt and the salted digest of the exact bytes to be sent."""
    salt = chain.new_salt()
    return salt, chain.salted_digest(salt, rendered.data)
