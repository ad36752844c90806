"""Writes that outlive a restart of the database.

A commit whose acknowledgement was lost may have happened all the same, or may still be on its way. So nothing is written again
blindly: a second try first waits for whoever is writing the conversation, then looks whether the write is there, and only then
writes, all in one transaction. What has been paid for is tried for longer than what has not begun yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, Sleep, Sql
from convokit.completion.state import KitState
from convokit.errors import StoreUnavailable
from convokit.store import conversations, turn_changes

Given = TypeVar("Given", turn_changes.TurnStart, turn_changes.TurnReopen, turn_changes.TurnUpdate, turn_changes.TurnEnd)
Result = TypeVar("Result")
BEGIN_S = 10.0
"""How long a turn's beginning is tried while the database is away: nothing is lost if it does not happen."""
SAVE_S = 30.0
"""How long a reply, or a tool's result, is tried to be saved: it was paid for, and is nowhere else."""
LEAVING_S = 2.0
"""How long, when the caller has left and waits for us."""
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 2.0


def sure(
    scope: KitState,
    step: Callable[[Connection, Given], Result],
    found: Callable[[Connection, Given], Result | None],
    given: Given,
    *,
    patience_s: float,
    passing_only: bool = False,
) -> Flow[Result]:
    """Write what `step` writes, once: `written_once` for a step of a turn."""
    return (
        yield from write_with_retry_flow(
            scope,
            given.conversation.id,
            lambda connection: step(connection, given),
            lambda connection: found(connection, given),
            patience_s=patience_s,
            passing_only=passing_only,
        )
    )


def write_with_retry_flow(
    scope: KitState,
    conversation_id: UUID,
    write: Callable[[Connection], Result],
    found: Callable[[Connection], Result | None],
    *,
    patience_s: float,
    passing_only: bool = False,
) -> Flow[Result]:
    """Write to a conversation, once. `found` returns what an earlier try has written, None where it wrote nothing.

    Raises: StoreUnavailable after `patience_s`; at once, with `passing_only`, for one that does not pass by itself.
    """

    def again(connection: Connection) -> Result:
        conversations.lock(connection, conversation_id)
        there = found(connection)
        return write(connection) if there is None else there

    until: float | None = None
    wait, unknown = _FIRST_WAIT_S, False
    while True:
        try:
            result: Result = yield Sql(again if unknown else write, write=True, find_committed=found)
            return result
        except (
            turn_changes.Conflict
        ):  # with an earlier try of our own, perhaps, that was committed while this one waited for it
            there: Result | None = None
            if unknown:
                there = yield Sql(found, write=False)
            if there is None:
                raise
            return there
        except StoreUnavailable as error:
            now = scope.clock.monotonic()
            until = now + patience_s if until is None else until
            if now >= until or (passing_only and not error.transient):
                raise
            unknown = True
        yield Sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT_S)
