"""Edit questions, regenerate replies, and make and move branches.

Nothing is copied. An edited question lies beside the old one, another reply beside the first. A branch is a number and
the message that its path ends with, so making one costs the same wherever it starts.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection

from convokit.completion.begin import check_subject
from convokit.completion.effects import Flow, read_flow, write_once_flow
from convokit.completion.on_busy import check_on_busy
from convokit.completion.recovery import close_turn_flow, is_worker_gone, resolve_counter
from convokit.completion.resume import MAX_TRIES
from convokit.completion.saved_reply import Reply
from convokit.completion.send import SendRequest, answer_again_flow, send_flow
from convokit.completion.start_point import (
    MessageLike,
    find_edit_start_point,
    find_path_end,
    find_question_start_point,
    resolve_seq_flow,
)
from convokit.completion.state import ChatRef, KitState, find_conversation_flow, identify_flow, not_found
from convokit.completion.write_retry import START_S, write_with_retry_flow
from convokit.domain.content import validate_question
from convokit.domain.conversation import MAIN, BranchRow
from convokit.domain.text import validate_name
from convokit.domain.turn import OpenTurn
from convokit.errors import ConversationBusy, InvalidInput, NotFound
from convokit.store import conversations, message_tree, turns
from convokit.store.write_batch import Conflict


def edit_flow(kit: KitState, chat: ChatRef, message: MessageLike, request: SendRequest, *, stream: bool) -> Flow[Reply]:
    """Ask a question in place of another one, beside it. Raises: NotFound, InvalidInput, and what `send_flow` raises."""
    validate_question(request.content, request.passages, kit.limits)
    check_on_busy(request.on_busy)
    seq = yield from resolve_seq_flow(kit, chat, message)
    conversation_id = yield from identify_flow(kit, chat)
    start_point = yield from read_flow(find_edit_start_point, kit.tenant, conversation_id, seq)
    if start_point is None:
        raise not_found(chat)
    return (yield from send_flow(kit, chat, request, stream=stream, start_point=start_point))


def regenerate_flow(
    kit: KitState, chat: ChatRef, message: MessageLike | None, request: SendRequest, *, stream: bool
) -> Flow[Reply]:
    """Make another reply to the question that a message belongs to, or to the branch's last question."""
    check_on_busy(request.on_busy)
    conversation_id = yield from identify_flow(kit, chat)
    seq = None if message is None else (yield from resolve_seq_flow(kit, chat, message))
    for _ in range(MAX_TRIES):
        start_point = yield from read_flow(find_question_start_point, kit.tenant, conversation_id, chat.branch, seq)
        if start_point is None:
            raise not_found(chat)
        try:
            return (yield from answer_again_flow(kit, chat, request, start_point, stream=stream))
        except Conflict:  # the branch has another last question now
            continue
    raise ConversationBusy(chat.name, "several", None)


def fork_flow(kit: KitState, chat: ChatRef, after: MessageLike | None, name: str | None) -> Flow[ChatRef]:
    """Make a branch that ends at a message or before the first one, or where this branch ends, and return a chat on it."""
    if name is not None:
        _check_name(kit, name)
    conversation_id = yield from identify_flow(kit, chat)
    seq = None if after is None else (yield from resolve_seq_flow(kit, chat, after))
    branch = BranchRow(0, name, None, kit.clock.now_us())
    number = yield from write_with_retry_flow(
        kit,
        conversation_id,
        lambda connection: _write_fork(connection, kit.tenant, chat, branch, seq),
        lambda connection: message_tree.find_created_branch(connection, conversation_id, branch),
        patience_s=START_S,
        only_transient=True,
    )
    if number is None:
        raise not_found(chat)
    return replace(chat, branch=number)


def _write_fork(connection: Connection, tenant: str, chat: ChatRef, branch: BranchRow, seq: int | None) -> int | None:
    """Insert the branch behind message `seq` and return its number, which a second try finds it by.

    `seq` 0 is before the first message; None is the end of the chat's branch.
    """
    conversation_id = chat.id
    assert conversation_id is not None
    conversations.lock(connection, conversation_id)  # two forks at once must not get the same number
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    check_subject(row, chat)
    if seq != 0:
        branch.head_seq = message_tree.read_head(connection, row, chat.branch) if seq is None else seq
        if branch.head_seq is None:
            raise NotFound("message", "to fork from", "the branch has no message yet; pass after=0")
        find_path_end(connection, conversation_id, branch.head_seq)
    name = branch.name
    if name is not None and message_tree.find_branch_number(connection, tenant, conversation_id, name) is not None:
        raise InvalidInput("name", f"there is a branch named {name!r} already: open it, or use another name")
    message_tree.create_branch(connection, conversation_id, branch)
    return branch.number


def _check_name(kit: KitState, name: str) -> None:
    validate_name("name", name, kit.limits.key_chars)
    if name == MAIN:
        raise InvalidInput("name", f"{MAIN!r} is the name of the main branch: use another name")


def checkout_flow(kit: KitState, chat: ChatRef, message: MessageLike) -> Flow[None]:
    """Move the branch head to a message, with 0 before the first. Raises: ConversationBusy while a turn is open there."""
    yield from identify_flow(kit, chat)
    seq = yield from resolve_seq_flow(kit, chat, message)
    while True:
        turn = yield from write_once_flow(_write_head, kit.tenant, chat, seq)
        if turn is None:
            return
        if not is_worker_gone(kit, turn):
            raise ConversationBusy(chat.name, turn.id, turn.age_us / 1_000_000)
        conversation = yield from find_conversation_flow(kit, chat)
        counter = resolve_counter(kit, conversation)
        yield from close_turn_flow(kit, conversation, chat.branch, turn, counter, "abandoned")


def _write_head(connection: Connection, tenant: str, chat: ChatRef, seq: int) -> OpenTurn | None:
    """Move the branch head, or return the turn that is open on the branch."""
    conversation_id, branch = chat.id, chat.branch
    assert conversation_id is not None
    conversations.lock(connection, conversation_id)
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        raise not_found(chat)
    check_subject(row, chat)
    if seq:
        find_path_end(connection, conversation_id, seq)
    turn = turns.find_open(connection, conversation_id, branch)
    if turn is None:
        message_tree.set_head(connection, row, branch, seq or None)
    return turn
