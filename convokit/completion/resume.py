"""Resume a turn: return, follow or repeat its reply.

A turn that ended without a whole reply is reopened for another call. Its question is not stored twice, and tool results
that are stored are not made twice.
"""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from convokit.completion import follow, start_point, summarize
from convokit.completion.begin import check_api_key, check_subject
from convokit.completion.call import ActiveCall
from convokit.completion.call_rows import lease_us, longest_silence_s, new_call_row
from convokit.completion.effects import Emit, Flow, Sleep, read_flow
from convokit.completion.on_busy import (
    POLL_S,
    BusyPolicy,
    OnBusy,
    join_line,
    make_busy_policy,
    wait_in_line_flow,
    wait_or_take_over_flow,
)
from convokit.completion.options import Options
from convokit.completion.prepare import PreparedRequest, prepare_stored
from convokit.completion.read_path import read_snapshot_flow
from convokit.completion.recovery import is_worker_gone
from convokit.completion.result import end_error, parse_stored_reply, read_reply
from convokit.completion.saved_reply import Reply
from convokit.completion.state import (
    ChatRef,
    KitState,
    find_conversation_flow,
    find_response_type,
    find_timeouts,
    identify_flow,
    not_found,
)
from convokit.completion.turn import ask_flow, run_turn_flow, running_turn
from convokit.completion.write_retry import START_S, write_step_flow
from convokit.domain.content import Content
from convokit.domain.events import Started, TextDelta
from convokit.domain.message import ASSISTANT, MessageRow
from convokit.domain.turn import TurnRow
from convokit.errors import ConversationBusy, Interrupted, NotFound, Redacted
from convokit.store import messages, turns
from convokit.store.snapshot import Snapshot
from convokit.store.turn_start import TurnReopen
from convokit.store.write_batch import Conflict

MAX_TRIES = 8


def resume_flow(kit: KitState, chat: ChatRef, call_options: Options, *, on_busy: OnBusy = "raise") -> Flow[Reply]:
    """Finish the chat's last turn: return its reply, or ask for it again if it has no whole one.

    A question whose turn belongs to another branch, or whose reply is on another path, is answered in a turn of its own.
    So are tool results.
    """
    conversation_id = yield from identify_flow(kit, chat)
    for _ in range(MAX_TRIES):
        end = yield from read_flow(start_point.find_branch_end, kit.tenant, conversation_id, chat.branch)
        if end is None:
            raise not_found(chat)
        if end.turn is not None:
            return (yield from return_or_reopen_flow(kit, chat, call_options, end.turn, stream=False, on_busy=on_busy))
        if end.start_point is None:
            raise NotFound("turn", "to resume", "the branch has no question at its end, and no turn")
        try:
            return (
                yield from ask_flow(
                    kit, chat, end.results, call_options, stream=False, on_busy=on_busy, start_point=end.start_point
                )
            )
        except Conflict:
            continue
    raise ConversationBusy(chat.name, "several", None)


def return_or_reopen_flow(
    kit: KitState, chat: ChatRef, call_options: Options, turn: TurnRow, *, stream: bool, on_busy: OnBusy
) -> Flow[Reply]:
    """Return the turn's reply: the stored one, the one that is coming, or a new one on the branch that it was sent to."""
    chat = chat if chat.branch == turn.branch else replace(chat, branch=turn.branch)
    assert chat.id is not None
    if chat.subject is not None:
        check_subject((yield from find_conversation_flow(kit, chat)), chat)
    response_type = find_response_type(kit, chat, call_options)
    until_closed = make_busy_policy(kit, "wait", find_timeouts(kit, chat, call_options).total_s)
    for _ in range(MAX_TRIES):
        if stream and (turn.state == "completed" or (yield from _is_running_flow(kit, chat.id, turn))):
            try:
                conversation = yield from find_conversation_flow(kit, chat)
                reply = yield from follow.attach_flow(kit, conversation, turn.id, 0)
                return parse_stored_reply(reply, response_type)
            except Interrupted as error:
                if error.partial:  # the reader has this text already: another reply would come on top of it
                    raise
                turn = yield from _reread_flow(chat.id, turn)
        turn = yield from _wait_until_closed_flow(kit, chat, call_options, turn, until_closed)
        if turn.state == "completed":
            reply = yield from read_flow(read_reply, chat.id, turn)
            yield Emit([Started(turn.id), TextDelta(reply.text)])
            return parse_stored_reply(reply, response_type)
        if turn.state == "superseded":
            raise end_error(turn)
        try:
            return (yield from _reopen_flow(kit, chat, call_options, turn, stream=stream, on_busy=on_busy))
        except Conflict:
            turn = yield from _reread_flow(chat.id, turn)
    raise ConversationBusy(chat.name, turn.id, None)


def _is_running_flow(kit: KitState, conversation_id: UUID, turn: TurnRow) -> Flow[bool]:
    if turn.state != "open":
        return False
    open_turn = yield from read_flow(turns.find_open, conversation_id, turn.branch)
    return open_turn is not None and open_turn.id == turn.id and not is_worker_gone(kit, open_turn)


def _wait_until_closed_flow(
    kit: KitState, chat: ChatRef, call_options: Options, turn: TurnRow, policy: BusyPolicy
) -> Flow[TurnRow]:
    """Wait until the turn is closed, and close it if its worker is gone."""
    assert chat.id is not None
    while turn.state == "open":
        snapshot = yield from read_snapshot_flow(kit, chat, call_options, Content(""))
        if snapshot.open_turn is not None and snapshot.open_turn.id == turn.id:
            yield from wait_or_take_over_flow(kit, chat, call_options, snapshot, policy)
        else:
            yield Sleep(POLL_S)
        turn = yield from _reread_flow(chat.id, turn)
    return turn


def _reread_flow(conversation_id: UUID, turn: TurnRow) -> Flow[TurnRow]:
    row = yield from read_flow(turns.find, conversation_id, turn.id)
    return turn if row is None else row


def _reopen_flow(
    kit: KitState, chat: ChatRef, call_options: Options, turn: TurnRow, *, stream: bool, on_busy: OnBusy
) -> Flow[Reply]:
    """Open the turn again, and make another call for its reply. Raises: Conflict."""
    snapshot = yield from _read_when_free_flow(kit, chat, call_options, turn, on_busy)
    assert snapshot.conversation is not None
    question = yield from read_flow(messages.find, snapshot.conversation.id, turn.question_seq)
    if question is None or question.status == "redacted":
        raise Redacted(snapshot.conversation.id, f"the question of turn {turn.id}")
    path_end = snapshot.path.rows[-1] if snapshot.path.rows else None
    is_last = path_end is not None and (path_end.turn_id == turn.id or path_end.seq == turn.question_seq)
    if is_last:
        snapshot.path.rows = _drop_broken_replies(snapshot.path.rows, turn)
    else:
        end_seq = yield from read_flow(
            messages.find_last_seq_of_turn, snapshot.conversation.id, turn.id, turn.question_seq, turn.from_seq
        )
        snapshot = yield from read_snapshot_flow(kit, chat, call_options, Content(""), at=end_seq)
    request = prepare_stored(kit, chat, call_options, snapshot, stream=stream)
    request = yield from summarize.plan_summary_flow(kit, chat, call_options, request)
    check_api_key(kit, request)
    with running_turn(kit, turn.id):
        call = yield from _write_reopen_flow(kit, request, turn, moves_head=is_last)
        return (yield from run_turn_flow(kit, call))


def _read_when_free_flow(
    kit: KitState, chat: ChatRef, call_options: Options, turn: TurnRow, on_busy: OnBusy
) -> Flow[Snapshot]:
    """Return the snapshot once no other turn is open on the branch."""
    policy = make_busy_policy(kit, on_busy, find_timeouts(kit, chat, call_options).busy_s)
    with join_line(kit, chat, policy) as position:
        yield from wait_in_line_flow(kit, chat, policy, position)
        while True:
            snapshot = yield from read_snapshot_flow(kit, chat, call_options, Content(""))
            if snapshot.open_turn is None or snapshot.open_turn.id == turn.id:
                return snapshot
            yield from wait_or_take_over_flow(kit, chat, call_options, snapshot, policy)


def _drop_broken_replies(rows: list[MessageRow], turn: TurnRow) -> list[MessageRow]:
    """Return the path without the replies of the turn that broke off: a new reply takes their position."""
    end = len(rows)
    while end and rows[end - 1].turn_id == turn.id and _is_broken(rows[end - 1]):
        end -= 1
    return rows[:end]


def _is_broken(row: MessageRow) -> bool:
    return row.status in ("partial", "late") or (row.status == "redacted" and row.role == ASSISTANT)


def _write_reopen_flow(kit: KitState, request: PreparedRequest, turn: TurnRow, *, moves_head: bool) -> Flow[ActiveCall]:
    snapshot, first = request.snapshot, request.first
    assert snapshot.conversation is not None
    call = new_call_row(first, turn.id, kit.clock.now_us(), number=turn.calls + 1)
    reopen = TurnReopen(
        conversation=snapshot.conversation,
        turn=turn,
        call=call,
        owner=kit.owner(),
        lease_us=lease_us(longest_silence_s(first)),
        prompts=first.record.prompts,
    )
    yield from write_step_flow(kit, reopen, patience_s=START_S, only_transient=True)
    return ActiveCall(
        request,
        snapshot.conversation,
        call,
        turn.branch,
        snapshot.path.rows[-1],
        epoch=turn.epoch + 1,
        deadline=kit.clock.monotonic() + request.options.timeouts.total_s,
        stream=request.stream,
        moves_head=moves_head,
    )
