"""Ctrl-C while a reply is on its way: it ends the waiting for the server, and never a save.

A KeyboardInterrupt can strike anywhere, also in the middle of the transaction that keeps what came. So while a reply comes,
Ctrl-C raises only where the program waits for the server; elsewhere it is remembered until it waits again. The third one in a
row always raises.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from convokit.completion.effects import Head, Open
from convokit.run.http import Answer, Client, HttpxClient

_PATIENCE = 3


class Interrupts:
    """Holds Ctrl-C back to where it does no harm, inside `with interrupts:`."""

    def __init__(self) -> None:
        self.pressed = 0
        self.waits = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        self.pressed, self.waits = 0, False
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.pressed += 1
        if self.waits or self.pressed >= _PATIENCE:
            raise KeyboardInterrupt

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let Ctrl-C raise in the block, also one from before it."""
        self.waits = True
        try:
            if self.pressed:
                raise KeyboardInterrupt
            yield
        finally:
            self.waits = False


class StoppableClient:
    """A client whose waiting Ctrl-C may end."""

    def __init__(self, interrupts: Interrupts, client: Client | None = None) -> None:
        self._interrupts = interrupts
        self._client = client or HttpxClient()

    def open(self, request: Open) -> Answer:
        """Send, and wait for the head."""
        with self._interrupts.waiting():
            return _StoppableAnswer(self._interrupts, self._client.open(request))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _StoppableAnswer:
    def __init__(self, interrupts: Interrupts, answer: Answer) -> None:
        self.head: Head = answer.head
        self._interrupts = interrupts
        self._answer = answer

    def read(self, timeout_s: float) -> bytes:
        """Wait for the next piece."""
        with self._interrupts.waiting():
            return self._answer.read(timeout_s)

    def close(self) -> None:
        """Let go of the connection."""
        self._answer.close()
