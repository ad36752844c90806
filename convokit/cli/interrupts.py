"""Delay Ctrl-C and SIGTERM until the program waits for the model's server.

Python raises KeyboardInterrupt at any line, also inside the code that reads or saves a reply. There it would lose the partial
text. So while a reply arrives, both signals are recorded, and raise where the program waits for the server.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from convokit import HttpxClient
from convokit.runtime.http_answer import Answer

_MAX_DELAYED = 2
_EXIT_CODE_BASE = 128
"""A program that a signal ended exits with this number plus the signal's: 130 for Ctrl-C, 143 for SIGTERM."""


def exit_on_sigterm() -> None:
    """Make SIGTERM leave all blocks of the program, so that connections and local servers are closed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(_EXIT_CODE_BASE + number))


class InterruptGuard:
    """Delays Ctrl-C and SIGTERM inside `with guard:`, except inside `with guard.allow_interrupt():`.

    The third signal raises anywhere. After SIGTERM, the program must not ask for another message.
    """

    def __init__(self) -> None:
        self.presses = 0
        self.is_waiting = False
        self.is_terminated = False
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> InterruptGuard:
        self.presses, self.is_waiting = 0, False
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """The exit code of a program whose reply was stopped."""
        return _EXIT_CODE_BASE + (signal.SIGTERM if self.is_terminated else signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.presses += 1
        self.is_terminated = self.is_terminated or number == signal.SIGTERM
        if self.is_waiting or self.presses > _MAX_DELAYED:
            raise KeyboardInterrupt

    @contextmanager
    def allow_interrupt(self) -> Iterator[None]:
        """Let the signals raise in the block. A recorded one raises at once."""
        self.is_waiting = True
        try:
            if self.presses:
                raise KeyboardInterrupt
            yield
        finally:
            self.is_waiting = False


class InterruptibleClient(HttpxClient):
    """An HTTP client whose waits for the server end at Ctrl-C and SIGTERM."""

    def __init__(self, guard: InterruptGuard) -> None:
        super().__init__()
        self._guard = guard

    def open(self, request: Any) -> Answer:
        """Send a request and wait for the head of the answer."""
        with self._guard.allow_interrupt():
            return _InterruptibleAnswer(self._guard, super().open(request))


class _InterruptibleAnswer:
    def __init__(self, guard: InterruptGuard, answer: Answer) -> None:
        self.head = answer.head
        self.close = answer.close
        self._guard = guard
        self._answer = answer

    def read(self, timeout_s: float) -> bytes:
        with self._guard.allow_interrupt():
            return self._answer.read(timeout_s)
