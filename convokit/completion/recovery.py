"""Close the turns of dead workers and turns that are superseded.

A worker is gone when its lease ran out by the database's clock, or when its process on this host has ended. The partial
reply is kept and the conversation goes on. A takeover is one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, read_flow
from convokit.completion.options import NO_OPTIONS
from convokit.completion.state import (
    DEFAULT_TIMEOUTS,
    ChatRef,
    KitState,
    check_schema_flow,
    find_conversation_flow,
    resolve_options,
)
from convokit.completion.write_retry import SAVE_S, update_turn_flow
from convokit.domain import hashchain
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import parse_id
from convokit.domain.message import ASSISTANT, MessageRow, place_rows
from convokit.domain.turn import CallRow, OpenTurn, Recovered
from convokit.errors import NotFound, SettingsError
from convokit.settings import UNSET
from convokit.store import api_calls, chunks, conversations, message_tree, messages, turns
from convokit.store.turn_end import TurnEnd
from convokit.store.turn_start import Written
from convokit.tokens.counter import Counter, count_message
from convokit.tokens.estimate import CharacterEstimate

_TRUSTED_TURNS = 10
"""How many times `Timeouts.total_s` a living worker keeps its turn although its lease ran out by a clock that may jump."""


@dataclass(slots=True)
class _Remains:
    """The stored parts of a turn whose worker does not finish it."""

    text: str
    tail: MessageRow | None
    """The turn's last whole message, which a reply would follow."""
    at_head: bool
    """Whether the branch ends with this turn. A turn that was reopened may have later turns behind it."""
    call: CallRow | None


def is_worker_gone(kit: KitState, turn: OpenTurn) -> bool:
    """Return whether the worker of an open turn is known to be gone.

    Its process is asked first, if it is one of this host. The lease decides where that cannot be known. A server's clock
    also decides against a living process: it may have been stopped. This machine's own clock may have jumped.
    """
    alive = None if turn.owner is None else kit.is_alive(turn.owner, turn.id)
    if alive is None or (alive and not kit.has_local_clock):
        return turn.expired
    timeouts = DEFAULT_TIMEOUTS if kit.options.timeouts is UNSET else kit.options.timeouts
    return not alive or (turn.expired and turn.age_us > _TRUSTED_TURNS * timeouts.total_s * 1_000_000)


def close_turn_flow(
    kit: KitState, conversation: ConversationRow, branch: int, turn: OpenTurn, counter: Counter, state: str
) -> Flow[Written | None]:
    """Close another worker's turn and keep its partial reply. Return None if it was closed meanwhile.

    The partial reply of a superseded turn stays off the path: the new question follows the old one.
    """
    remains = yield from read_flow(_read_remains, conversation, branch, turn)
    now = kit.clock.now_us()
    call, text, tail = remains.call, remains.text, remains.tail
    if call is not None and call.ended_at is not None:
        call = None  # the worker died between two calls: this one is in the chain already, as it ended
    if call is not None:
        call.state, call.ended_at, call.salt = "abandoned", now, hashchain.new_salt()
        if text:
            call.usage_source, call.completion_tokens = "estimated", counter.count(text)
    rows = []
    if text and tail is not None and state != "superseded":
        rows.append(_make_partial_row(text, tail, counter, turn.id, now))
        place_rows(rows, conversation.last_seq, tail)
    end = TurnEnd(
        conversation=conversation,
        branch=branch,
        turn_id=turn.id,
        at=now,
        rows=rows,
        call=call,
        moves_head=remains.at_head,
        epoch=turn.epoch,
        state=state,
        takeover=True,
        tools_from_seq=turn.from_seq,
    )
    written = yield from update_turn_flow(kit, end, patience_s=SAVE_S, only_transient=True)
    if written is not None and kit.notifier is not None:
        kit.notifier.close_turn(conversation, branch, turn, state, written)
    return written


def _read_remains(connection: Connection, conversation: ConversationRow, branch: int, turn: OpenTurn) -> _Remains:
    head = message_tree.read_head(connection, conversation, branch)
    tail = None if head is None else messages.find(connection, conversation.id, head)
    at_head = tail is not None and (tail.turn_id == turn.id or tail.seq == turn.question_seq)
    if tail is None or not at_head or tail.status == "partial":
        last = messages.find_last_seq_of_turn(connection, conversation.id, turn.id, turn.question_seq, turn.from_seq)
        tail = messages.find(connection, conversation.id, last)
    return _Remains(
        text=chunks.read_partial_text(connection, conversation.id, turn.id),
        tail=tail,
        at_head=at_head,
        call=api_calls.find_call(connection, conversation.id, turn.id, turn.calls),
    )


def _make_partial_row(text: str, tail: MessageRow, counter: Counter, turn_id: UUID, now: int) -> MessageRow:
    """Return the row of a partial reply, without its position."""
    tokens = count_message(counter, {"role": ASSISTANT, "content": text})
    return MessageRow(
        seq=0,
        parent_seq=tail.seq,
        run_start_seq=0,
        turn_id=turn_id,
        role=ASSISTANT,
        content=text,
        status="partial",
        tokens=tokens,
        counter=counter.name,
        path_tokens=tail.path_tokens + tokens,
        created_at=now,
        salt=hashchain.new_salt(),
    )


def cancel_flow(kit: KitState, chat: ChatRef, turn: UUID | str | None) -> Flow[bool]:
    """End an open turn and keep its partial reply. Return whether it was open."""
    conversation = yield from find_conversation_flow(kit, chat)
    turn_id = None if turn is None else parse_id(turn, "turn")
    found = yield from read_flow(find_open_turn, conversation.id, chat.branch, turn_id)
    if found is None:
        return False
    branch, open_turn = found
    counter = resolve_counter(kit, conversation)
    return (yield from close_turn_flow(kit, conversation, branch, open_turn, counter, "cancelled")) is not None


def find_open_turn(
    connection: Connection, conversation_id: UUID, branch: int, turn_id: UUID | None
) -> tuple[int, OpenTurn] | None:
    """Return branch and open turn: the turn with `turn_id`, else the one of `branch`. Raises: NotFound."""
    if turn_id is not None:
        turn = turns.find(connection, conversation_id, turn_id)
        if turn is None:
            raise NotFound("turn", turn_id)
        branch = turn.branch
    open_turn = turns.find_open(connection, conversation_id, branch)
    if open_turn is None or (turn_id is not None and open_turn.id != turn_id):
        return None
    return branch, open_turn


def recover_all_flow(kit: KitState) -> Flow[list[Recovered]]:
    """Close every turn of the tenant whose worker is gone, one transaction each, and return them."""
    yield from check_schema_flow(kit)
    recovered: list[Recovered] = []
    for conversation_id, branch, turn in (yield from read_flow(turns.list_open, kit.tenant)):
        if not is_worker_gone(kit, turn):
            continue
        conversation = yield from read_flow(conversations.find, kit.tenant, conversation_id)
        if conversation is None:
            continue
        counter = resolve_counter(kit, conversation)
        written = yield from close_turn_flow(kit, conversation, branch, turn, counter, "abandoned")
        if written is not None:
            recovered.append(
                Recovered(
                    conversation_id=conversation_id,
                    key=conversation.key,
                    turn_id=turn.id,
                    open_s=turn.age_us / 1_000_000,
                    kept_chars=sum(len(row.content or "") for row in written.rows),
                )
            )
    return recovered


def resolve_counter(kit: KitState, conversation: ConversationRow | None, chat: ChatRef | None = None) -> Counter:
    """Return the counter that a turn would use: by the settings of `chat`, the conversation and the kit, where there are any.

    Where no model is known, an estimate.
    """
    try:
        return resolve_options(kit, chat or ChatRef(), NO_OPTIONS, conversation).counter
    except SettingsError:
        return CharacterEstimate()
