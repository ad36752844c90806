"""Writes that outlive a restart of the database.

A commit whose acknowledgement was lost may have happened all the same. So nothing is written again blindly: after a failure
the database is asked first whether the write is there, and only then is it repeated. What has been paid for is tried for
longer than what has not begun yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from convokit.completion.effects import Flow, Sleep, Sql
from convokit.completion.scope import Scope
from convokit.errors import StoreUnavailable

Given = TypeVar("Given")
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
    scope: Scope,
    step: Callable[[Connection, Given], Result],
    found: Callable[[Connection, Given], Result | None],
    given: Given,
    *,
    patience_s: float,
    passing_only: bool = False,
) -> Flow[Result]:
    """Write what `step` writes, once. `found` returns what an earlier try has written, None where it wrote nothing.

    Raises: StoreUnavailable after `patience_s`; at once, with `passing_only`, for one that does not pass by itself.
    """
    until: float | None = None
    wait, unknown = _FIRST_WAIT_S, False
    while True:
        try:
            if unknown:
                there: Result | None = yield Sql(lambda connection: found(connection, given), write=False)
                if there is not None:
                    return there
            result: Result = yield Sql(lambda connection: step(connection, given), write=True)
            return result
        except StoreUnavailable as error:
            now = scope.clock.monotonic()
            until = now + patience_s if until is None else until
            if now >= until or (passing_only and not error.transient):
                raise
            unknown = True
        yield Sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT_S)
