"""A client of the gateway's chat completions, as programs send them: with the whole history each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.gateway import MODEL, RunningGateway, StoredConversation

Message = dict[str, Any]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


@dataclass
class Answer:
    """What a request brought."""

    status: int
    body: Any
    place: str
    conversation: str

    @property
    def message(self) -> Message:
        """The reply as the client keeps it."""
        message: Message = self.body["choices"][0]["message"]
        return message

    @property
    def text(self) -> str:
        return str(self.message["content"])


@dataclass
class ConversationClient:
    """Sends requests to a gateway. `thread` names the conversation in the URL or a header; None names none."""

    gateway: RunningGateway
    thread: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def send(
        self, messages: Sequence[Message], *, retry: int = 0, headers: dict[str, str] | None = None, **body: Any
    ) -> Answer:
        """Send messages and return the answer."""
        named = {} if self.thread is None else {"x-conversation-id": self.thread}
        retried = {"x-stainless-retry-count": str(retry)} if retry else {}
        response = httpx.post(
            f"{self.gateway.base_url}/chat/completions",
            json={"model": MODEL, "messages": list(messages), **body},
            headers={**named, **self.headers, **retried, **(headers or {})},
            timeout=30,
        )
        of = response.headers.get
        return Answer(
            response.status_code, response.json(), of("x-conversation-place", ""), of("x-conversation-id", "")
        )

    def talk(self, *texts: str, system: str | None = None) -> list[Message]:
        """Ask questions one after the other, each with the whole history, and return the history."""
        history: list[Message] = []
        for text in texts:
            history.append(user(text))
            answer = self.send([{"role": "system", "content": system}, *history] if system else history)
            assert answer.status == 200, answer.body
            history.append(answer.message)
        return history

    @property
    def stored(self) -> list[StoredConversation]:
        """The conversations in the database, the last used first."""
        return self.gateway.list_stored()

    @property
    def only(self) -> StoredConversation:
        """The conversation in the database, which must be the only one."""
        [conversation] = self.stored
        return conversation
