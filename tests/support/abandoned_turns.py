"""Leave a turn open as a dead worker does: the question and a part of the reply are stored, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.faces import Face


class Dead(BaseException):
    """The process is gone. No `except Exception` may live on after it."""


class Watched:
    """A kit's store, with something that happens before each transaction, or inside it, right before its commit."""

    def __init__(
        self, store: Any, before: Callable[[bool], None], inside: Callable[[bool], None] = lambda write: None
    ) -> None:
        self._store, self._before, self._inside = store, before, inside

    def run(self, call: Any, *, write: bool) -> Any:
        def work(connection: Any) -> Any:
            answer = call(connection)
            self._inside(write)
            return answer

        self._before(write)
        return self._store.run(work, write=write)

    def close(self) -> Any:
        return self._store.close()


def leave(face: Face, kit: Any, key: str, text: str | None = None, *, after: int = 2, **arguments: Any) -> None:
    """Stream a turn and die before its `after` + 1st write: the question, and a piece of the reply, is all there is."""
    leave_stream(face, kit, lambda: kit.chat(key).stream(text, **arguments), after=after)


def leave_stream(face: Face, kit: Any, open_stream: Callable[[], Any], *, after: int = 2) -> None:
    """Die in the stream that `open_stream` returns, as `leave` does."""
    store, writes = kit._runtime._store, 0

    def die(write: bool) -> None:
        nonlocal writes
        writes += write
        if writes > after:
            raise Dead

    kit._runtime._store = Watched(store, die)
    try:
        streaming = open_stream()
    finally:
        kit._runtime._store = store
    with pytest.raises(Dead):
        face.collect(streaming)
    kit._state.running.clear()  # what a dead process runs
