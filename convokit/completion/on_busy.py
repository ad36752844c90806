"""Wait for a branch on which a turn is open.

The senders of a process wait in one line for each branch, first come, first served. Only the first of a line asks the database,
and it reads one row. Between processes, those who have waited longer ask more often.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from convokit.completion.effects import Flow, Sleep, read_flow
from convokit.completion.options import Options
from convokit.completion.process_turns import LinePosition
from convokit.completion.recovery import close_turn_flow, is_worker_gone
from convokit.completion.state import ChatRef, KitState, resolve_options
from convokit.domain.turn import OpenTurn
from convokit.errors import ConversationBusy, SettingsError
from convokit.store import turns
from convokit.store.snapshot import Snapshot

OnBusy = Literal["raise", "wait", "supersede"]
POLL_S = 0.1
_MIN_POLL_S = 0.01
_LINE_POLL_S = 0.02
"""How often a sender looks whether it is the first of its line. That reads nothing but memory."""


@dataclass(frozen=True, slots=True)
class BusyPolicy:
    """What a sender does while a turn is open on its branch: since when it waits, and how long, in monotonic seconds."""

    on_busy: OnBusy
    since: float
    until: float


def check_on_busy(on_busy: str) -> None:
    """Raise SettingsError unless `on_busy` is "raise", "wait" or "supersede"."""
    if on_busy not in ("raise", "wait", "supersede"):
        raise SettingsError("on_busy", f'must be "raise", "wait" or "supersede", not {on_busy!r}')


def make_busy_policy(kit: KitState, on_busy: OnBusy, patience_s: float) -> BusyPolicy:
    """Return the policy of a sender that comes now. Raises: SettingsError."""
    check_on_busy(on_busy)
    now = kit.clock.monotonic()
    return BusyPolicy(on_busy, now, now + patience_s)


def join_line(kit: KitState, chat: ChatRef, policy: BusyPolicy) -> AbstractContextManager[LinePosition | None]:
    """Return a block in which a sender that waits stands in the line of its branch. Other senders have no position."""
    assert chat.id is not None
    branch = (kit.database.name, chat.id, chat.branch)
    return kit.lines.join(branch) if policy.on_busy == "wait" else nullcontext()


def wait_in_line_flow(kit: KitState, chat: ChatRef, policy: BusyPolicy, position: LinePosition | None) -> Flow[None]:
    """Wait until nobody stands before the sender. Raises: ConversationBusy at the end of the policy's patience."""
    while position is not None and not position.is_first:
        if kit.clock.monotonic() >= policy.until:
            turn = yield from read_flow(turns.find_open, position.branch[1], chat.branch)
            raise make_busy_error(chat, turn)
        yield Sleep(_LINE_POLL_S)


def make_busy_error(chat: ChatRef, turn: OpenTurn | None) -> ConversationBusy:
    """Return the error that names the open turn; without one, several senders started turns one after the other."""
    return ConversationBusy(
        chat.name, "several" if turn is None else turn.id, None if turn is None else turn.age_us / 1_000_000
    )


def wait_or_take_over_flow(
    kit: KitState, chat: ChatRef, call_options: Options, snapshot: Snapshot, policy: BusyPolicy
) -> Flow[None]:
    """Close the branch's open turn if its worker is gone; else do what the policy says.

    Raises: ConversationBusy, for "wait" at the end of its patience.
    """
    turn, conversation = snapshot.open_turn, snapshot.conversation
    assert turn is not None
    assert conversation is not None
    if is_worker_gone(kit, turn) or policy.on_busy == "supersede":
        state = "abandoned" if is_worker_gone(kit, turn) else "superseded"
        counter = resolve_options(kit, chat, call_options, conversation).counter
        yield from close_turn_flow(kit, conversation, chat.branch, turn, counter, state)
    elif policy.on_busy == "raise":
        raise make_busy_error(chat, turn)
    else:
        yield from _wait_until_free_flow(kit, chat, conversation.id, turn, policy)


def _wait_until_free_flow(
    kit: KitState, chat: ChatRef, conversation_id: UUID, turn: OpenTurn, policy: BusyPolicy
) -> Flow[None]:
    """Wait until no turn is open on the branch, or the worker of one is gone. Raises: ConversationBusy."""
    open_turn: OpenTurn | None = turn
    while open_turn is not None and not is_worker_gone(kit, open_turn):
        now = kit.clock.monotonic()
        if now >= policy.until:
            raise make_busy_error(chat, open_turn)
        poll_s = max(POLL_S / (1 + now - policy.since), _MIN_POLL_S)
        yield Sleep(poll_s * (0.5 + kit.clock.random()))
        open_turn = yield from read_flow(turns.find_open, conversation_id, chat.branch)
