"""Whoever reads a reply beside the test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from convokit import Chat, Convokit, Reply, Stream
from tests.support.server import LoopbackServer


def counting(chat: Chat) -> Stream[Reply]:
    """Ask for a long reply."""
    return chat.stream("count")


class Running:
    """A stream that another kit reads in a thread, as another process would; made once some of it has come."""

    def __init__(
        self,
        database: str,
        server: LoopbackServer,
        *,
        key: str = "k",
        ask: Callable[[Chat], Stream[Reply]] = counting,
        **settings: Any,
    ) -> None:
        self.kit = Convokit(database, model="m", base_url=server.url, **settings)
        self.text = ""
        self.error: Exception | None = None
        self.begun = threading.Event()
        self.thread = threading.Thread(target=self._read, args=(ask(self.kit.chat(key)),))
        self.thread.start()
        assert self.begun.wait(10)

    def _read(self, stream: Stream[Reply]) -> None:
        try:
            with stream as events:
                for each in events:
                    self.text += each.text
                    if len(self.text) > 20:
                        self.begun.set()
        except Exception as error:
            self.error = error
        self.begun.set()

    def end(self) -> None:
        """Wait for its end."""
        self.thread.join(20)
        self.kit.close()
