"""After a fork the child starts with connections of its own: two processes on one socket read each other's answers."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

from convokit.run import owner


class Forked(Protocol):
    """Holds something that must not cross a fork."""

    def forked(self) -> None:
        """Let go of it, in the child, without touching what the parent still uses."""


_holders: WeakSet[Forked] = WeakSet()


def watch(holder: Forked) -> None:
    """Have `holder.forked()` called in every child process."""
    _holders.add(holder)


def _in_child() -> None:
    owner.running.clear()
    for holder in list(_holders):
        holder.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
