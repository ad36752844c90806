"""Know the turns and the waiting senders of this process.

Both are shared by all kits, threads and event loops of a process.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

BranchRef = tuple[str, UUID, int]
"""The name of a database, a conversation's id and the number of a branch. A copy of a database has the same ids."""


class RunningTurns:
    """Counts the callers that run a turn.

    Several callers may try to reopen one turn. One of them wins; the others must not make its turn look abandoned.
    """

    def __init__(self) -> None:
        self.clear()

    def __contains__(self, turn_id: UUID) -> bool:
        with self._lock:
            return turn_id in self._counts

    def add(self, turn_id: UUID) -> None:
        """Count one more caller."""
        with self._lock:
            self._counts[turn_id] += 1

    def remove(self, turn_id: UUID) -> None:
        """Count one caller less."""
        with self._lock:
            self._counts[turn_id] -= 1
            if self._counts[turn_id] <= 0:
                del self._counts[turn_id]

    def clear(self) -> None:
        """Forget everything: a child process runs no turn of its parent, and another thread may have held the lock."""
        self._lock = threading.Lock()
        self._counts: Counter[UUID] = Counter()


class WaitingLines:
    """One line of waiting senders for each branch: first come, first served."""

    def __init__(self) -> None:
        self.clear()

    @contextmanager
    def join(self, branch: BranchRef) -> Iterator[LinePosition]:
        """Stand in the line of a branch while the block runs."""
        position = LinePosition(self, branch)
        with self._lock:
            self._lines.setdefault(branch, deque()).append(position)
        try:
            yield position
        finally:
            self._remove(position)

    def clear(self) -> None:
        """Forget everything, in a child process."""
        self._lock = threading.Lock()
        self._lines: dict[BranchRef, deque[LinePosition]] = {}

    def is_first(self, position: LinePosition) -> bool:
        """Return whether nobody stands before this position."""
        with self._lock:
            line = self._lines.get(position.branch)
            return not line or line[0] is position

    def _remove(self, position: LinePosition) -> None:
        with self._lock:
            line = self._lines.get(position.branch)
            if line is None or position not in line:  # `clear` has forgotten the line
                return
            line.remove(position)
            if not line:
                del self._lines[position.branch]


class LinePosition:
    """The position of one sender in a line."""

    def __init__(self, lines: WaitingLines, branch: BranchRef) -> None:
        self.branch = branch
        self._lines = lines

    @property
    def is_first(self) -> bool:
        """Whether nobody stands before this sender."""
        return self._lines.is_first(self)
