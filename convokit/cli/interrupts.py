"""Delay Ctrl-C until the program waits for the model's server.

Python raises KeyboardInterrupt at any line, also inside the code that reads or saves a reply. There it would lose the partial
text. So while a reply arrives, Ctrl-C is recorded, and raises where the program waits for the server.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from convokit import HttpxClient
from convokit.runtime.http_answer import Answer

_MAX_DELAYED = 2


class InterruptGuard:
    """Delays Ctrl-C inside `with guard:`, except inside `with guard.allow_interrupt():`. The third one raises anywhere."""

    def __init__(self) -> None:
        self.presses = 0
        self.is_waiting = False
        self._previous_handler: Any = None

    def __enter__(self) -> InterruptGuard:
        self.presses, self.is_waiting = 0, False
        self._previous_handler = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.presses += 1
        if self.is_waiting or self.presses > _MAX_DELAYED:
            raise KeyboardInterrupt

    @contextmanager
    def allow_interrupt(self) -> Iterator[None]:
        """Let Ctrl-C raise in the block. A recorded one raises at once."""
        self.is_waiting = True
        try:
            if self.presses:
                raise KeyboardInterrupt
            yield
        finally:
            self.is_waiting = False


class InterruptibleClient(HttpxClient):
    """An HTTP client whose waits for the server end at Ctrl-C."""

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
