"""Write once, also when the database restarts in the middle.

When the connection dies during COMMIT, nobody knows whether the transaction was committed, or still will be. So no write is
simply repeated. A second try waits for the conversation's lock, looks for what the first try committed, and writes only if
nothing is there, all in one transaction (ADR 0017). A write that was paid for is tried for longer than one that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, Sleep, Sql
from convokit.completion.state import KitState
from convokit.domain.conversation import ConversationRow
from convokit.errors import StoreUnavailable
from convokit.store import conversations
from convokit.store.write_batch import Conflict, TurnLost

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")
START_S = 10.0
"""How long the start of a turn is tried while the database is away. Nothing is lost if it fails."""
SAVE_S = 30.0
"""How long a reply or a tool result is tried. It was paid for and exists nowhere else."""
LEAVING_S = 2.0
"""How long a write is tried when the caller has left and waits for its end."""
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 2.0


class TurnStep(Protocol[Result_co]):
    """A write of a turn: `TurnStart`, `TurnReopen`, `TurnUpdate`, `TurnEnd` or `LateReply`."""

    conversation: ConversationRow

    def build_search_keys(self) -> None: ...
    def write(self, connection: Connection) -> Result_co: ...
    def find_written(self, connection: Connection) -> Result_co | None: ...


def write_step_flow(
    kit: KitState, step: TurnStep[Result], *, patience_s: float, only_transient: bool = False
) -> Flow[Result]:
    """Write one step of a turn, once. Raises: Conflict, StoreUnavailable."""
    if kit.search:
        step.build_search_keys()  # not in the transaction, where all other writers of a SQLite file would wait for it
    return write_with_retry_flow(
        kit,
        step.conversation.id,
        step.write,
        step.find_written,
        patience_s=patience_s,
        only_transient=only_transient,
    )


def update_turn_flow(
    kit: KitState, step: TurnStep[Result], *, patience_s: float, only_transient: bool = False
) -> Flow[Result | None]:
    """Write one step of a running turn, once. Return None if the turn is no longer ours. Raises: StoreUnavailable."""
    try:
        return (yield from write_step_flow(kit, step, patience_s=patience_s, only_transient=only_transient))
    except TurnLost:
        return None


def write_with_retry_flow(
    kit: KitState,
    conversation_id: UUID,
    write: Callable[[Connection], Result],
    find_written: Callable[[Connection], Result | None],
    *,
    patience_s: float,
    only_transient: bool = False,
) -> Flow[Result]:
    """Write to a conversation, once. `find_written` returns what an earlier try committed, None if it committed nothing.

    Raises: Conflict; StoreUnavailable after `patience_s`, and with `only_transient` at once for a permanent failure.
    """

    def write_if_missing(connection: Connection) -> Result:
        conversations.lock(connection, conversation_id)
        there = find_written(connection)
        return write(connection) if there is None else there

    give_up_at: float | None = None
    wait_s, may_be_there = _FIRST_WAIT_S, False
    while True:
        try:
            call = write_if_missing if may_be_there else write
            result: Result = yield Sql(call, write=True, find_committed=find_written)
            return result
        except Conflict:
            # The conflict may be with our own earlier try, which was committed while this one waited for the lock.
            there: Result | None = None
            if may_be_there:
                there = yield Sql(find_written, write=False)
            if there is None:
                raise
            return there
        except StoreUnavailable as error:
            now = kit.clock.monotonic()
            give_up_at = now + patience_s if give_up_at is None else give_up_at
            if now >= give_up_at or (only_transient and not error.transient):
                raise
            may_be_there = True
        yield Sleep(wait_s)
        wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
