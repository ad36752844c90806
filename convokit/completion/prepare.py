"""From a question and what is stored to the request that will be sent: pure, but for the one read in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from convokit.completion import items as completion_items
from convokit.completion import manifest as manifests
from convokit.completion.effects import Flow, read_flow
from convokit.completion.options import Options, ResolvedOptions
from convokit.completion.state import ChatRef, KitState, given, identify_flow, plan_for
from convokit.context.report import Context, Earlier, Part
from convokit.context.strategy import Item, StepWindow, compute_window_rule
from convokit.context.summary import format_transcript
from convokit.domain.content import Blob, Content, inline_blobs
from convokit.domain.conversation import ConversationRow, StoredSummary
from convokit.domain.message import USER, MessageRow
from convokit.domain.reply import Change
from convokit.errors import ContextOverflow, ModelError
from convokit.settings import Budget, Summary
from convokit.store import snapshot
from convokit.tokens.counter import count_message, count_schema, count_tools
from convokit.wire import messages as wire_messages
from convokit.wire import request as wire_request


@dataclass(frozen=True, slots=True, repr=False)
class SummaryRequest:
    """The call that sums up what falls out of a request's window, before that request: `parent` is the last message of it."""

    prepared: PreparedRequest
    from_seq: int
    parent: MessageRow


@dataclass(frozen=True, slots=True, repr=False)
class PreparedRequest:
    """A request, and everything that has to be stored about it."""

    conversation_id: UUID
    seen: snapshot.Snapshot
    plan: ResolvedOptions
    items: tuple[Item, ...]
    blobs: Mapping[bytes, Blob]
    context: Context
    rendered: wire_request.RenderedRequest
    manifest: manifests.Written
    stream: bool
    earlier: Earlier | None = None
    """What the request before it sent of the path."""
    retrimmed: bool = False
    changes: tuple[Change, ...] = ()
    """What was dropped because the server said so, besides what the renderer changed."""
    at: float = 0.0
    """When the messages were made fit for the server (Unix time)."""
    floor: int | None = None
    """The key before which the window may not begin."""
    note: Part | None = None
    """What the report says of a summary that was not made."""
    transcript_of: tuple[int, ...] = ()
    """The messages that are in the request as one text: it is the call that sums them up."""
    summarising: SummaryRequest | None = None

    @property
    def first(self) -> PreparedRequest:
        """The request that is made first: the summary's, where one is due."""
        return self if self.summarising is None else self.summarising.prepared

    @property
    def rule(self) -> int:
        """The checksum that the next window compares."""
        return _rule(self.plan)


def look(
    scope: KitState, target: ChatRef, call: Options, content: Content, at: int | None = None
) -> Flow[snapshot.Snapshot]:
    """Read what a turn needs: the conversation, and the end of its path (or of the path to `at`) as far as the window goes."""
    conversation_id = yield from identify_flow(scope, target)
    enough = _enough(scope, target, call, content)
    summarised = isinstance(given(scope, target, call, "summary"), Summary)
    return (
        yield from read_flow(
            snapshot.read_snapshot, scope.tenant, conversation_id, target.branch, enough, at, summarised=summarised
        )
    )


def prepare(
    scope: KitState, target: ChatRef, call: Options, seen: snapshot.Snapshot, content: Content, *, stream: bool
) -> PreparedRequest:
    """Build the request for a question after what was seen. Raises: SettingsError, ContextOverflow."""
    assert target.id is not None
    plan = plan_for(scope, target, call, seen.conversation)
    items = (*completion_items.history(plan, seen), *completion_items.asked(plan, seen, content))
    blobs = {**seen.blobs, **{blob.digest: blob for blob in content.blobs}}
    floor, earlier = _floor(plan, reversed(seen.path.rows)), _earlier(plan, seen)
    return _built(scope, target.id, seen, plan, items, blobs, stream=stream, floor=floor, earlier=earlier)


def prepare_again(
    scope: KitState, target: ChatRef, call: Options, seen: snapshot.Snapshot, *, stream: bool
) -> PreparedRequest:
    """Build the request for a question that is stored already: the path that was read ends with it."""
    assert target.id is not None
    plan = plan_for(scope, target, call, seen.conversation)
    floor, earlier = _floor(plan, reversed(seen.path.rows)), _earlier(plan, seen)
    items = tuple(completion_items.current(plan, seen))
    return _built(scope, target.id, seen, plan, items, seen.blobs, stream=stream, floor=floor, earlier=earlier)


def _built(
    scope: KitState,
    conversation_id: UUID,
    seen: snapshot.Snapshot,
    plan: ResolvedOptions,
    items: tuple[Item, ...],
    blobs: Mapping[bytes, Blob],
    *,
    stream: bool,
    floor: int | None = None,
    earlier: Earlier | None = None,
    note: Part | None = None,
    transcript_of: tuple[int, ...] = (),
) -> PreparedRequest:
    context = assemble(plan, seen, items, floor=floor, earlier=earlier).noted(note)
    now = scope.clock.time()
    rendered = wire_request.render_request(
        model=plan.model,
        messages=wire_messages.to_wire_messages(
            inline_blobs(context.messages, blobs), plan.profile, unsupported=plan.unsupported, now=now
        ),
        params=plan.params,
        profile=plan.profile,
        stream=stream,
        tools=plan.wire_tools,
        mode=plan.mode,
    )
    made_of = manifests.written(plan, context, stream=stream, now=now, transcript_of=transcript_of)
    built = PreparedRequest(
        conversation_id, seen, plan, items, blobs, context, rendered, made_of, stream, earlier, at=now
    )
    return replace(built, floor=floor, note=note, transcript_of=transcript_of)


def again(scope: KitState, prepared: PreparedRequest, more: Iterable[MessageRow]) -> PreparedRequest:
    """Build the next request of the same turn: the same window, and what was added since."""
    plan = prepared.plan
    items = (*prepared.items, *(completion_items.item(plan, row) for row in more))
    start = prepared.context.report.start
    sent = None if start is None else Earlier(start, prepared.items[-1].key)
    built = _rebuilt(scope, replace(prepared, items=items, earlier=sent), plan, start)
    return replace(built, changes=prepared.changes, retrimmed=prepared.retrimmed)


def adapted_to(scope: KitState, prepared: PreparedRequest, error: Exception) -> PreparedRequest | None:
    """Return the request that answers what the server complained of, if the retry policy allows; None when there is none."""
    plan, policy = prepared.plan, prepared.plan.retry
    start = prepared.context.report.start
    if isinstance(error, ModelError) and policy.drop_unsupported:
        fewer = wire_request.drop_parameter(plan.params, error)
        if fewer is not None:
            dropped = Change(parameter=str(error.param), action="dropped", reason="the server does not support it")
            built = _rebuilt(scope, prepared, replace(plan, params=fewer), start)
            return replace(built, changes=(*prepared.changes, dropped), retrimmed=prepared.retrimmed)
    if isinstance(error, ContextOverflow) and policy.retrim and not prepared.retrimmed:
        smaller = _smaller(prepared, error)
        return replace(_rebuilt(scope, prepared, smaller, None), changes=prepared.changes, retrimmed=True)
    return None


def _rebuilt(scope: KitState, prepared: PreparedRequest, plan: ResolvedOptions, floor: int | None) -> PreparedRequest:
    return _built(
        scope,
        prepared.conversation_id,
        prepared.seen,
        plan,
        prepared.items,
        prepared.blobs,
        stream=prepared.stream,
        floor=floor,
        earlier=prepared.earlier,
        note=prepared.note,
        transcript_of=prepared.transcript_of,
    )


def summing_up(
    scope: KitState, prepared: PreparedRequest, plan: ResolvedOptions, sources: Sequence[MessageRow]
) -> PreparedRequest:
    """Build the request that sums up messages, which are in it as one text. Raises: ContextOverflow."""
    shape = {"role": USER, "content": format_transcript([row.as_wire() for row in sources])}
    items = (Item(0, shape, count_message(plan.counter, shape), 0),)
    seqs = tuple(row.seq for row in sources)
    nothing = snapshot.Snapshot(None)
    return _built(scope, prepared.conversation_id, nothing, plan, items, {}, stream=False, transcript_of=seqs)


def with_summaries(
    scope: KitState, prepared: PreparedRequest, stored: Sequence[StoredSummary], note: Part | None = None
) -> PreparedRequest:
    """Build the request again, with these summaries on its path, and no other to be made."""
    seen = replace(prepared.seen, summaries=list(stored))
    return _rebuilt(scope, replace(prepared, seen=seen, note=note), prepared.plan, prepared.floor)


def _smaller(prepared: PreparedRequest, error: ContextOverflow) -> ResolvedOptions:
    """Return the plan with the window the server has, in our counter's tokens, and a tenth to spare."""
    plan, report = prepared.plan, prepared.context.report
    step = plan.builder.budget.step_tokens
    share = error.available / error.needed if error.available and error.needed else 0.5
    window = max(int(report.tokens * min(share, 1.0) * 0.9) + report.reply_tokens, report.reply_tokens + 1)
    smaller = Budget(context_tokens=window, reply_tokens=report.reply_tokens, step_tokens=step)
    return replace(plan, builder=plan.builder.with_budget(smaller))


def assemble(
    plan: ResolvedOptions,
    seen: snapshot.Snapshot,
    items: Sequence[Item],
    *,
    floor: int | None,
    earlier: Earlier | None = None,
) -> Context:
    """Return the context of counted messages under a plan, with the pins and summaries of the path that was read."""
    return plan.builder.assemble(
        list(items),
        developer_prompt=plan.instructions,
        tools=plan.wire_tools,
        response_format=plan.params.get("response_format"),
        reply_tokens=plan.reply_tokens,
        complete=seen.path.complete,
        floor=floor,
        pinned=completion_items.pinned(plan, seen, items),
        model=plan.model,
        earlier=earlier,
        summaries=completion_items.summaries(plan, seen),
        kept_free=plan.kept_free,
    )


def assemble_seen(plan: ResolvedOptions, seen: snapshot.Snapshot, content: Content | None) -> Context:
    """Return the context of the path that was read, with a question behind it."""
    asked = [] if content is None else completion_items.asked(plan, seen, content)
    items = [*completion_items.history(plan, seen), *asked] if asked else completion_items.current(plan, seen)
    floor = _floor(plan, reversed(seen.path.rows))
    return assemble(plan, seen, items, floor=floor, earlier=_earlier(plan, seen))


def _enough(
    scope: KitState, target: ChatRef, call: Options, content: Content
) -> Callable[[ConversationRow, list[MessageRow]], int]:
    """Return how many more rows the window may need: those back to where it last began, or until the budget is full."""
    plan: ResolvedOptions | None = None
    room = 0

    def enough(conversation: ConversationRow, rows: list[MessageRow]) -> int:
        nonlocal plan, room
        if plan is None:
            plan = plan_for(scope, target, call, conversation)
            room = _room(plan, content)
        oldest, strategy = rows[-1], plan.builder.strategy
        if _begins_within(rows):
            return len(rows)  # the newest turn's passages: it may be resumed with all of them
        floor = _floor(plan, rows) if isinstance(strategy, StepWindow) else None
        if floor is not None:
            return max(oldest.seq - floor, 0)
        asked = sum(row.role == USER and not row.is_passage for row in rows)
        if strategy.most_turns is not None and asked >= strategy.most_turns:
            return 0
        return 0 if _spent(plan, rows) > room else len(rows)

    return enough


def _begins_within(rows: list[MessageRow]) -> bool:
    """Return whether rows, newest first, may end amid the passages of the newest turn: those lie before its one question."""
    oldest = rows[-1]
    asked = [row.turn_id for row in rows if row.role == USER and not row.is_passage]
    turn_id = asked[0] if asked else None  # the turn that asked it, whichever answers it
    return turn_id is not None and oldest.turn_id == turn_id and oldest.role == USER and asked.count(turn_id) == 1


def _spent(plan: ResolvedOptions, rows: list[MessageRow]) -> int:
    """Return what the rows cost, counted as this plan counts. Passages cost nothing once their turn is over.

    What cannot be sent any more counts here, if not in the window: else a long stretch of it would be read in every turn.
    """
    name = plan.counter.name
    return sum(
        row.tokens if row.counter == name else count_message(plan.counter, row.as_wire())
        for row in rows
        if not row.is_passage
    )


def _room(plan: ResolvedOptions, content: Content) -> int:
    fixed = plan.counter.count(plan.instructions or "") + count_tools(plan.counter, plan.wire_tools)
    fixed += count_schema(plan.counter, plan.params.get("response_format"))
    fixed += completion_items.question_tokens(plan, content)
    return plan.builder.available(fixed, plan.reply_tokens)


def _floor(plan: ResolvedOptions, newest_first: Iterable[MessageRow]) -> int | None:
    """Return where the last reply's window began, if model, counter and step are still what they were."""
    row = last_reply(newest_first)
    return row.window_from_seq if row is not None and row.window_rule == _rule(plan) else None


def last_reply(newest_first: Iterable[MessageRow]) -> MessageRow | None:
    """Return the newest message that a call brought: it knows where the window of its request began."""
    return next((row for row in newest_first if row.window_from_seq is not None), None)


def _earlier(plan: ResolvedOptions, seen: snapshot.Snapshot) -> Earlier | None:
    """Return what the path's last request sent of it: from its window's start to the message that its reply follows."""
    row = last_reply(reversed(seen.path.rows))
    if row is None or row.window_from_seq is None or row.parent_seq is None or row.window_rule != _rule(plan):
        return None
    return Earlier(row.window_from_seq, row.parent_seq)


def _rule(plan: ResolvedOptions) -> int:
    return compute_window_rule(plan.model, plan.counter.name, plan.builder.step_tokens, plan.builder.strategy.name)
