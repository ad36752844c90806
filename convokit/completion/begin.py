"""Start a turn: commit the question before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from convokit.completion import summarize
from convokit.completion.call import ActiveCall
from convokit.completion.call_rows import lease_us, longest_silence_s, new_call_row
from convokit.completion.effects import Flow, Sleep, read_flow
from convokit.completion.on_busy import BusyPolicy, make_busy_error, wait_or_take_over_flow
from convokit.completion.options import NO_OPTIONS, Options
from convokit.completion.prepare import PreparedRequest, prepare, prepare_stored, shift_request
from convokit.completion.read_path import read_snapshot_flow
from convokit.completion.reply_anchors import compute_question_anchor
from convokit.completion.start_point import NO_DETAILS, StartPoint, TurnDetails, check_path_end, find_question
from convokit.completion.state import ChatRef, KitState, not_found, resolve_options
from convokit.completion.tool_results import ResultMatcher, make_result_row
from convokit.completion.write_retry import START_S, write_step_flow
from convokit.context.new_messages import make_rows, place_new_rows
from convokit.domain import hashchain
from convokit.domain.content import Blob, Content
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow, place_rows
from convokit.domain.text import dump_json
from convokit.domain.turn import IdempotencyKey
from convokit.errors import HeadMoved, InvalidInput, NotFound, SettingsError
from convokit.store import turns
from convokit.store.snapshot import Snapshot
from convokit.store.turn_start import TurnStart
from convokit.store.write_batch import Conflict

_MAX_REBUILDS = 3
_YIELD_S = 0.05


def start_when_free_flow(
    kit: KitState,
    chat: ChatRef,
    content: Content | None,
    call_options: Options,
    turn_id: UUID,
    policy: BusyPolicy,
    *,
    stream: bool,
    key: IdempotencyKey | None,
    start_point: StartPoint | None,
    details: TurnDetails,
) -> Flow[ActiveCall]:
    """Start the turn as soon as the policy allows it, and return its first call. Raises: as `ask_flow`.

    The request is built again if the conversation changed since it was read.
    """
    given = content
    matcher = ResultMatcher(given, policy.on_busy) if given is not None and given.results else None
    heads: set[int | None] = set()
    conflicts = 0
    while len(heads) <= _MAX_REBUILDS:
        at = None if start_point is None else start_point.seq
        snapshot = yield from read_snapshot_flow(kit, chat, call_options, content or Content(""), at)
        if snapshot.conversation is None and (chat.must_exist or chat.branch or at):
            raise not_found(chat)
        if snapshot.conversation is not None:
            check_subject(snapshot.conversation, chat)
        if at:
            check_start_point(snapshot, at)
        snapshot, content = _add_messages(kit, chat, call_options, snapshot, given, turn_id, matcher, details)
        if snapshot.open_turn is not None:
            yield from wait_or_take_over_flow(kit, chat, call_options, snapshot, policy)
            continue
        if start_point is not None and start_point.head not in (None, snapshot.head):
            raise Conflict
        if details.expect not in (None, snapshot.head or 0):
            raise HeadMoved(chat.name, chat.branch, details.expect or 0, snapshot.head or 0)
        if content is None:
            request = prepare_stored(kit, chat, call_options, snapshot, stream=stream)
        else:
            request = prepare(kit, chat, call_options, snapshot, content, stream=stream)
        request = yield from summarize.plan_summary_flow(kit, chat, call_options, request)
        check_api_key(kit, request)
        question_seq = None if matcher is None else (yield from _find_question_seq_flow(content, snapshot))
        try:
            return (yield from start_turn_flow(kit, chat, request, content, turn_id, key, question_seq, details))
        except Conflict:
            assert chat.id is not None
            if key is not None:
                same = yield from read_flow(turns.find_by_idempotency_key, kit.tenant, chat.id, key.hash)
                if same is not None:
                    raise
            if conflicts and snapshot.conversation is None:  # another tenant has this id
                raise not_found(chat) from None
            conflicts += 1
            if policy.on_busy == "raise":
                heads.add(snapshot.head)  # only this branch's own moves count: other branches may move as they like
            if kit.clock.monotonic() >= policy.until:
                break
            if len(heads) < conflicts:
                yield Sleep(_YIELD_S * kit.clock.random())
    raise make_busy_error(chat, None)


def check_start_point(snapshot: Snapshot, seq: int) -> None:
    """Check that a path can end with message `seq`, which it was read to. Raises: NotFound, InvalidInput."""
    rows = snapshot.path.rows
    if not rows or rows[-1].seq != seq:
        raise NotFound("message", seq)
    check_path_end(rows[-1])


def _add_messages(
    kit: KitState,
    chat: ChatRef,
    call_options: Options,
    snapshot: Snapshot,
    content: Content | None,
    turn_id: UUID,
    matcher: ResultMatcher | None,
    details: TurnDetails,
) -> tuple[Snapshot, Content | None]:
    """Return the snapshot with the caller's messages at the end of its path, and the content with matched results.

    Results come right behind the calls that they answer: before the messages, or behind messages that end with the calls.
    """
    if details.messages is None:
        return snapshot, content if matcher is None else matcher.match(snapshot)
    counter, now = resolve_options(kit, chat, call_options, snapshot.conversation).counter, kit.clock.now_us()
    rows = make_rows(details.messages, counter, now)
    last_seq = 0 if snapshot.conversation is None else snapshot.conversation.last_seq

    def add(before: Snapshot, added: list[MessageRow], blobs: Sequence[Blob]) -> Snapshot:
        end = before.path.rows[-1] if before.path.rows else None
        return before.add_messages(place_new_rows(added, last_seq + len(before.added), end), blobs)

    extended = add(snapshot, rows, details.messages.blobs)
    if matcher is None or content is None:
        return extended, content
    if extended.open_calls or not snapshot.open_calls or not content.has_question:
        return extended, matcher.match(extended)
    matched = matcher.match(snapshot)
    results = [make_result_row(result, counter, turn_id, now) for result in matched.results]
    answered = add(snapshot, results, matched.blobs)
    return add(answered, rows, details.messages.blobs), replace(matched, results=())


def _find_question_seq_flow(content: Content | None, snapshot: Snapshot) -> Flow[int | None]:
    """Return the stored question that tool results belong to, None if a new question comes with them. Raises: InvalidInput."""
    if content is None or content.has_question:
        return None
    rows = snapshot.path.rows
    question = next((row for row in reversed(rows) if row.is_question), None)
    if question is None and not snapshot.path.complete and snapshot.conversation is not None:
        question = yield from read_flow(find_question, snapshot.conversation.id, rows[0].parent_seq)
    if question is None:
        raise InvalidInput("tool_results", "there is no question before the calls: pass content too")
    return question.seq


def check_api_key(kit: KitState, request: PreparedRequest) -> None:
    """Raise SettingsError if the server needs an API key and there is none."""
    key = kit.api_key()  # asked for in any case: a bad key raises before anything is written
    if request.options.profile.needs_key and not key:
        raise SettingsError("api_key", f"{kit.base_url} needs a key: pass api_key=... or set OPENAI_API_KEY")


def start_turn_flow(
    kit: KitState,
    chat: ChatRef,
    request: PreparedRequest,
    content: Content | None,
    turn_id: UUID,
    key: IdempotencyKey | None,
    question_seq: int | None = None,
    details: TurnDetails = NO_DETAILS,
) -> Flow[ActiveCall]:
    """Write the start of a turn and return its first call. Without `content` the path ends with the question already.

    `question_seq` is the question that tool results belong to, if no new question comes with them.

    Raises: Conflict if the conversation changed since it was read.
    """
    now = kit.clock.now_us()
    snapshot, first = request.snapshot, request.first
    path_end = snapshot.path.rows[-1] if snapshot.path.rows else None
    row = snapshot.conversation
    redescribed = row is not None and fill_description(row, chat)
    conversation = row if row is not None else make_conversation_row(kit, chat, now)
    own = [] if content is None else _make_new_rows(request, content, turn_id, now)
    place_rows(own, conversation.last_seq + len(snapshot.added), path_end)
    rows = [*snapshot.added, *own]
    question = rows[-1] if rows else path_end
    assert question is not None
    call = new_call_row(first, turn_id, now)
    start = TurnStart(
        conversation=conversation,
        branch=chat.branch,
        head=snapshot.head,
        question=question,
        rows=rows,
        call=call,
        manifest=first.record.manifest,
        owner=kit.owner(),
        lease_us=lease_us(longest_silence_s(first)),
        at=now,
        created=row is None,
        redescribed=redescribed,
        movable=row is not None and not (redescribed or request.summary_request or snapshot.added),
        key=key,
        question_seq=question_seq,
        added=len(snapshot.added),
        metadata=details.metadata,
        anchor=compute_question_anchor(request.options.anchor, own) if own and request.options.anchor else None,
        prompts=first.record.prompts,
        blobs=(*(() if content is None else content.blobs), *(details.messages.blobs if details.messages else ())),
    )
    written = yield from write_step_flow(kit, start, patience_s=START_S, only_transient=True)
    if rows and written.rows[-1].seq != question.seq:
        request = shift_request(request, conversation.last_seq, written.rows[-1].seq - question.seq)
        question, call.manifest = written.rows[-1], request.record.manifest.to_json()
    return ActiveCall(
        request,
        written.conversation,
        call,
        chat.branch,
        question,
        epoch=1,
        deadline=kit.clock.monotonic() + request.options.timeouts.total_s,
        stream=request.stream,
    )


def make_conversation_row(kit: KitState, chat: ChatRef, now: int) -> ConversationRow:
    """Return the row of a conversation that its first messages create."""
    assert chat.id is not None
    return ConversationRow(
        id=chat.id,
        tenant=kit.tenant,
        key=chat.key,
        subject=chat.subject,
        title=chat.title,
        metadata=chat.metadata,
        settings=chat.options.to_json(),
        head_seq=None,
        last_seq=0,
        last_entry=0,
        chain_hash=hashchain.genesis_hash(chat.id),
        created_at=now,
        updated_at=now,
        archived_at=None,
    )


def fill_description(row: ConversationRow, chat: ChatRef) -> bool:
    """Put the settings of the handle into the row, and its subject, title and metadata where the row has none.

    Return whether anything changed.
    """
    if chat.options is NO_OPTIONS and (chat.subject, chat.title, chat.metadata) == (None, None, None):
        return False
    before = (row.settings, row.subject, row.title, row.metadata)
    row.settings = chat.options.over(Options.from_json(row.settings)).to_json()
    row.subject = row.subject if row.subject is not None else chat.subject
    row.title = row.title if row.title is not None else chat.title
    row.metadata = row.metadata if row.metadata is not None else chat.metadata
    return (row.settings, row.subject, row.title, row.metadata) != before


def check_subject(row: ConversationRow, chat: ChatRef) -> None:
    """Raise InvalidInput if the handle was opened for another subject than the conversation has."""
    if chat.subject is not None and row.subject not in (None, chat.subject):
        problem = f"is {chat.subject!r}, but conversation {chat.name} belongs to {row.subject!r}"
        raise InvalidInput("subject", f"{problem}: open it without a subject, or call chat.update(subject=...) first")


def _make_new_rows(request: PreparedRequest, content: Content, turn_id: UUID, now: int) -> list[MessageRow]:
    """Return the rows of the tool results, the passages and, last, the question, without their position.

    Passages add nothing to the tokens of the path: no later window holds them.
    """
    count = len(content.results) + len(content.passages) + content.has_question
    rows = []
    for item in request.items[-count:]:
        body = item.shape["content"]
        row = MessageRow(
            seq=0,
            parent_seq=None,
            run_start_seq=0,
            turn_id=turn_id,
            role=item.shape["role"],
            content=body if isinstance(body, str) else None,
            parts=None if isinstance(body, str) else dump_json(body),
            tool_call_id=item.shape.get("tool_call_id"),
            status=item.status,
            tokens=item.tokens,
            counter=request.options.counter.name,
            path_tokens=item.tokens_before + (0 if item.is_passage else item.tokens),
            created_at=now,
            salt=hashchain.new_salt(),
        )
        rows.append(row)
    if request.options.exact_start is None:
        # A turn that brings no reply does not make the next one choose another start.
        rows[-1].window_from_seq, rows[-1].window_rule = request.context.report.start, request.options.window_rule
    return rows
