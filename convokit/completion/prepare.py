"""Prepare the API request of a call without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from convokit.completion.items import (
    count_summaries,
    pinned_items,
    start_items,
    to_item,
    turn_items,
)
from convokit.completion.manifest import RequestRecord, record_request
from convokit.completion.options import Options
from convokit.completion.read_path import held_start, previous_request
from convokit.completion.resolved_options import ResolvedOptions
from convokit.completion.state import ChatRef, KitState, resolve_options
from convokit.completion.summary_state import add_gaps
from convokit.context.builder import ContextInput
from convokit.context.report import Context, Part, PreviousRequest
from convokit.context.scale import TokenScale, compute_refusal_scale, compute_scale
from convokit.context.strategy import Item
from convokit.context.summary import format_transcript
from convokit.context.validity import list_call_ids
from convokit.domain.content import Blob, Content, inline_blobs
from convokit.domain.conversation import StoredSummary
from convokit.domain.message import USER, MessageRow
from convokit.domain.reply import Change
from convokit.errors import ContextOverflow, ModelError
from convokit.settings import Budget
from convokit.store.messages import MessagePath
from convokit.store.snapshot import Snapshot
from convokit.tokens.counter import count_message
from convokit.wire.message_encoding import to_wire_messages
from convokit.wire.request import RenderedRequest, drop_parameter, render_request


@dataclass(frozen=True, slots=True, repr=False)
class SummaryRequest:
    """The request that summarizes messages which fall out of a window. It is made before the request with that window."""

    request: PreparedRequest
    from_seq: int
    parent: MessageRow
    """The last message that it summarizes."""


@dataclass(frozen=True, slots=True, repr=False)
class PreparedRequest:
    """A request, and everything that has to be stored about it."""

    conversation_id: UUID
    snapshot: Snapshot
    options: ResolvedOptions
    items: tuple[Item, ...]
    blobs: Mapping[bytes, Blob]
    stream: bool
    context: Context
    rendered: RenderedRequest
    record: RequestRecord
    rendered_at: float
    """When the messages were made fit for the server (Unix time)."""
    held_start: int | None = None
    """The key before which the window may not start."""
    previous: PreviousRequest | None = None
    """The messages that the previous request on the path sent."""
    known_scale: TokenScale | None = None
    """The scale, where the path does not tell it: after the server's refusal of a longer request, and for summaries."""
    was_trimmed: bool = False
    """Whether the window was made smaller after the server refused it as too long."""
    changes: tuple[Change, ...] = ()
    """Parameters that were dropped because the server refused them, besides the changes of the renderer."""
    note: Part | None = None
    """A line of the report about a summary that was not made."""
    transcript_of: tuple[int, ...] = ()
    """The messages that a summary request holds as one text."""
    summary_request: SummaryRequest | None = None

    @property
    def first(self) -> PreparedRequest:
        """The request that is sent first: the summary's, where one is due."""
        return self if self.summary_request is None else self.summary_request.request

    def list_call_ids(self) -> frozenset[str]:
        """Return the ids of the tool calls in its window, and of their results."""
        ids = {call_id for item in self.items for call_id in list_call_ids(item.shape)}
        return frozenset(ids | {str(item.shape["tool_call_id"]) for item in self.items if "tool_call_id" in item.shape})


def prepare(
    kit: KitState, chat: ChatRef, call_options: Options, snapshot: Snapshot, content: Content, *, stream: bool
) -> PreparedRequest:
    """Return the request for new messages at the end of the path. Raises: SettingsError, ContextOverflow."""
    options = resolve_options(kit, chat, call_options, snapshot.conversation)
    items = tuple(start_items(options, snapshot, content))
    blobs = {**snapshot.blobs, **{blob.digest: blob for blob in content.blobs}}
    return _prepare_path(kit, chat, options, snapshot, items, blobs, stream=stream)


def prepare_stored(
    kit: KitState, chat: ChatRef, call_options: Options, snapshot: Snapshot, *, stream: bool
) -> PreparedRequest:
    """Return the request for a question that is stored already: the path ends with it."""
    options = resolve_options(kit, chat, call_options, snapshot.conversation)
    return _prepare_path(
        kit, chat, options, snapshot, tuple(turn_items(options, snapshot)), snapshot.blobs, stream=stream
    )


def _prepare_path(
    kit: KitState,
    chat: ChatRef,
    options: ResolvedOptions,
    snapshot: Snapshot,
    items: tuple[Item, ...],
    blobs: Mapping[bytes, Blob],
    *,
    stream: bool,
) -> PreparedRequest:
    assert chat.id is not None
    newest_first = snapshot.path.rows[::-1]
    return _build(
        kit,
        chat.id,
        snapshot,
        options,
        items,
        blobs,
        stream=stream,
        held_start=held_start(options, newest_first),
        previous=previous_request(options, newest_first),
    )


def _build(
    kit: KitState,
    conversation_id: UUID,
    snapshot: Snapshot,
    options: ResolvedOptions,
    items: tuple[Item, ...],
    blobs: Mapping[bytes, Blob],
    *,
    stream: bool,
    held_start: int | None = None,
    previous: PreviousRequest | None = None,
    known_scale: TokenScale | None = None,
    note: Part | None = None,
    transcript_of: tuple[int, ...] = (),
) -> PreparedRequest:
    context = assemble(options, snapshot, items, held_start, previous, known_scale).with_part(note)
    context = add_gaps(options, snapshot, context)
    now = kit.clock.time()
    messages = inline_blobs(context.messages, blobs)
    rendered = render_request(
        model=options.model,
        messages=to_wire_messages(messages, options.profile, unsupported=options.unsupported, now=now),
        params=options.params,
        profile=options.profile,
        stream=stream,
        tools=options.wire_tools,
        mode=options.mode,
    )
    return PreparedRequest(
        conversation_id=conversation_id,
        snapshot=snapshot,
        options=options,
        items=items,
        blobs=blobs,
        stream=stream,
        context=context,
        rendered=rendered,
        record=record_request(options, context, stream=stream, now=now, transcript_of=transcript_of),
        rendered_at=now,
        held_start=held_start,
        previous=previous,
        known_scale=known_scale,
        note=note,
        transcript_of=transcript_of,
    )


def _rebuild(
    kit: KitState, request: PreparedRequest, options: ResolvedOptions, held_start: int | None
) -> PreparedRequest:
    return _build(
        kit,
        request.conversation_id,
        request.snapshot,
        options,
        request.items,
        request.blobs,
        stream=request.stream,
        held_start=held_start,
        previous=request.previous,
        known_scale=request.known_scale,
        note=request.note,
        transcript_of=request.transcript_of,
    )


def prepare_next(kit: KitState, request: PreparedRequest, rows: Iterable[MessageRow]) -> PreparedRequest:
    """Return the next request of the same turn: the same window, and the messages that were added since."""
    options, start = request.options, request.context.report.start
    rows = list(rows)
    items = (*request.items, *(to_item(options, row) for row in rows))
    previous = None if start is None else PreviousRequest(start, request.items[-1].key)
    path = MessagePath([*request.snapshot.path.rows, *rows], request.snapshot.path.complete)
    snapshot = replace(request.snapshot, path=path)
    following = _rebuild(kit, replace(request, snapshot=snapshot, items=items, previous=previous), options, start)
    return replace(following, changes=request.changes, was_trimmed=request.was_trimmed)


def adapt_request(kit: KitState, request: PreparedRequest, error: Exception) -> PreparedRequest | None:
    """Return the request without what the server refused, if the retry policy allows that; None if nothing can be changed."""
    options, policy = request.options, request.options.retry
    if isinstance(error, ModelError) and policy.drop_unsupported:
        params = drop_parameter(options.params, error)
        if params is not None:
            dropped = Change(parameter=str(error.param), action="dropped", reason="the server does not support it")
            counted = None if error.param == "response_format" else options.fixed
            options = replace(options, params=params, counted=counted)
            adapted = _rebuild(kit, request, options, request.context.report.start)
            return replace(adapted, changes=(*request.changes, dropped), was_trimmed=request.was_trimmed)
    may_trim = policy.retrim and not request.was_trimmed and options.exact_start is None
    if isinstance(error, ContextOverflow) and may_trim:
        refused = compute_refusal_scale(error.needed, request.context.report.counted, request.options.counter)
        try:
            shrunk = _shrink_window(request, error, refused)
            adapted = _rebuild(kit, replace(request, known_scale=refused), shrunk, None)
        except ContextOverflow:  # the current turn alone is too long: the server's own refusal says it best
            return None
        return replace(adapted, changes=request.changes, was_trimmed=True)
    return None


def _shrink_window(request: PreparedRequest, error: ContextOverflow, refused: TokenScale | None) -> ResolvedOptions:
    """Return the options with the window that the server has, and a tenth to spare."""
    options, report = request.options, request.context.report
    share = error.available / error.needed if error.available and error.needed else 0.5
    tokens = report.tokens if refused is None else report.counted * refused.sent
    window = max(int(tokens * min(share, 1.0) * 0.9) + report.reply_tokens, report.reply_tokens + 1)
    step = options.builder.budget.step_tokens
    budget = Budget(context_tokens=window, reply_tokens=report.reply_tokens, step_tokens=step)
    return replace(options, builder=options.builder.with_budget(budget), counted=options.fixed)


def prepare_summary(
    kit: KitState, request: PreparedRequest, options: ResolvedOptions, sources: Sequence[MessageRow], scale: TokenScale
) -> PreparedRequest:
    """Return the request that summarizes messages; it holds them as one text. Raises: ContextOverflow."""
    shape = {"role": USER, "content": format_transcript([row.as_wire() for row in sources])}
    items = (Item(0, shape, count_message(options.counter, shape), 0),)
    seqs = tuple(row.seq for row in sources)
    return _build(
        kit,
        request.conversation_id,
        Snapshot(None),
        options,
        items,
        {},
        stream=False,
        known_scale=scale,
        transcript_of=seqs,
    )


def replace_summaries(
    kit: KitState, request: PreparedRequest, summaries: Sequence[StoredSummary], note: Part | None = None
) -> PreparedRequest:
    """Return the request with these summaries on its path, and without a summary request before it."""
    snapshot = replace(request.snapshot, summaries=list(summaries))
    return _rebuild(kit, replace(request, snapshot=snapshot, note=note), request.options, request.held_start)


def shift_request(request: PreparedRequest, after: int, by: int) -> PreparedRequest:
    """Return the request with its messages behind seq `after` moved back by `by`.

    A request names new messages by the seqs that they are expected to get. Other branches may take these seqs first.
    """
    if not by:
        return request

    def shift(key: int | None) -> int | None:
        return key + by if key is not None and key > after else key

    items = tuple(replace(item, key=item.key + by) if item.key > after else item for item in request.items)
    report = request.context.report
    parts = tuple(replace(part, key=shift(part.key)) for part in report.parts)
    shifted = report.model_copy(update={"parts": parts, "start": shift(report.start)})
    context = request.context.model_copy(update={"report": shifted})
    record = replace(request.record, manifest=request.record.manifest.shift(after, by))
    path = request.snapshot.path
    rows = [
        row if row.seq <= after else replace(row, seq=row.seq + by, parent_seq=shift(row.parent_seq))
        for row in path.rows
    ]
    snapshot = replace(request.snapshot, path=MessagePath(rows, path.complete))
    return replace(request, items=items, context=context, record=record, snapshot=snapshot)


def assemble(
    options: ResolvedOptions,
    snapshot: Snapshot,
    items: Sequence[Item],
    held_start: int | None,
    previous: PreviousRequest | None,
    known_scale: TokenScale | None = None,
) -> Context:
    """Return the context of counted messages, with the pins and summaries of the path."""
    scale = known_scale or compute_scale(snapshot.path.rows, options.window_rule, options.counter)
    # New messages are sent in any case, even if the caller expects them at other seqs.
    first_new = 1 if snapshot.conversation is None else snapshot.conversation.last_seq + 1
    given = ContextInput(
        items=items,
        fixed=options.fixed,
        reply_tokens=options.reply_tokens,
        complete=snapshot.path.complete,
        held_start=held_start,
        pins=pinned_items(options, snapshot, items),
        model=options.model,
        previous=previous,
        summaries=count_summaries(options, snapshot),
        summary_reserve=options.summary_reserve,
        scale=scale,
        server_decides=True,
        exact_start=None if options.exact_start is None else min(options.exact_start, first_new),
    )
    return options.builder.assemble(given)


def assemble_path(options: ResolvedOptions, snapshot: Snapshot, content: Content | None) -> Context:
    """Return the context of the path, with a new question if there is one."""
    items = turn_items(options, snapshot) if content is None else start_items(options, snapshot, content)
    newest_first = snapshot.path.rows[::-1]
    start, previous = held_start(options, newest_first), previous_request(options, newest_first)
    return assemble(options, snapshot, items, start, previous)
